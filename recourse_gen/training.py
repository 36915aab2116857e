"""The training loop: pairs in, best averaged weights out."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import tqdm
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from recourse_gen import resumption
from recourse_gen.backbone import Backbone
from recourse_gen.contract import check_loss
from recourse_gen.files import writing
from recourse_gen.options import check_number, check_whole
from recourse_gen.pairs import PairSupervision
from recourse_gen.processes import ALONE, from_main, meet, processes, total
from recourse_gen.resumption import LOG, Terminated, TrainingState
from recourse_gen.rows import Rows


@dataclass(frozen=True)
class TrainingOptions:
    """How a backbone is trained.

    steps, minutes: whichever ends first; the learning rate follows the budget that is nearer its end. A run that
        `steps` ends is reproducible to the bit, unless for a while it was a tenth of `minutes` behind the clock.
    batch_size: pairs per process and forward pass. learning_rate: peak. warmup: share of the budget before the peak.
    weight_decay: of AdamW. clip: largest gradient norm. ema: decay of the averaged weights, which are what is validated
        and kept.
    holdout: share of factuals kept for validation, at least one of them. validation_pairs: fixed pairs drawn from them.
    validate_every: steps between validations. checkpoint_every: seconds between writings of the training's state, from
        which a run that was cut short can go on; 0 writes it after every step.
    log_with: a tracker that Accelerate knows, e.g. "tensorboard".
    """

    steps: int = 5000
    minutes: float = 3.0
    batch_size: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    clip: float = 1.0
    ema: float = 0.99
    holdout: float = 0.1
    validation_pairs: int = 2048
    validate_every: int = 100
    checkpoint_every: float = 30.0
    log_with: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validation_pairs", "validate_every"):
            check_whole(f"training.{name}", getattr(self, name))
        for name in ("minutes", "learning_rate", "clip"):
            check_number(f"training.{name}", getattr(self, name), 0, math.inf, closed=False)
        for name in ("warmup", "ema", "holdout"):
            check_number(f"training.{name}", getattr(self, name), 0, 1)
        for name in ("weight_decay", "checkpoint_every"):
            check_number(f"training.{name}", getattr(self, name), 0, math.inf)


@dataclass(frozen=True)
class Trained:
    """steps made, seconds taken, and the lowest validation loss per pair with the step that reached it.

    best_loss is None where there was nothing to train.
    """

    steps: int
    seconds: float
    best_loss: float | None
    best_step: int


Batch = tuple[Rows, Rows, Tensor]
REMEDY = "lower training.learning_rate"
FREE = ("steps", "minutes", "validate_every", "checkpoint_every", "log_with")  # may change when a run is resumed


def fit(
    model: Backbone,
    pairs: PairSupervision,
    *,
    options: TrainingOptions,
    seed: int,
    folder: Path | None = None,
    save: Callable[[Backbone], None] | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Trained:
    """Train `model` in place on draws from Q; it ends with the averaged weights of lowest validation loss.

    `save` is called on the main process whenever the validation loss improves; `folder`, which exists, receives
    metrics.jsonl and the state of the training, with which `resume` goes on (from the start, with a warning, where
    there is none). settings: what else a run must have in common with the one it goes on from. Precision, gradient
    accumulation and compilation are Accelerate's, from its environment. Every process draws its own pairs, so one
    update sees processes × accumulation × batch_size of them. A model without trainable parameters is only put on the
    device and into evaluation mode. Of several threads, one trains at a time.

    Raises ValueError for a state of other settings and for losses that are not float32 ``(B,)``, OSError if none can be
    written, FloatingPointError where losses are not finite, and `Terminated`, once the state is written, if a SIGTERM
    comes that nobody else handles.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        model.to(processes().device).eval()
        return Trained(steps=0, seconds=0.0, best_loss=None, best_step=0)
    device = processes().device
    # Losses may draw from the global generator: seeded here, and given back as it was.
    with (
        ALONE,
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        resumption.sigterm_noted(folder is not None) as told,
    ):
        torch.manual_seed(_stream(seed, processes().process_index))
        return _fit(model, pairs, told, options, seed, folder, save, resume, settings or {})


def _fit(
    model: Backbone,
    pairs: PairSupervision,
    told: Callable[[], bool],
    options: TrainingOptions,
    seed: int,
    folder: Path | None,
    save: Callable[[Backbone], None] | None,
    resume: bool,
    settings: Mapping[str, Any],
) -> Trained:
    accelerator = Accelerator(log_with=options.log_with, project_dir=folder)
    device, main = accelerator.device, accelerator.is_main_process
    if options.log_with:
        accelerator.init_trackers("recourse-gen")
    model.to(device).train()
    # Fused: a network of two million weights on a CPU waits 2 ms for it instead of 9.
    optimizer = torch.optim.AdamW(
        model.parameters(), options.learning_rate, weight_decay=options.weight_decay, fused=True
    )
    averaged = AveragedModel(model, multi_avg_fn=_warm_average(options.ema))
    average: Backbone = averaged.module  # type: ignore[assignment]
    network, stepper = accelerator.prepare(model, optimizer)
    train_at, validation = _split(pairs, options, seed)
    generator = torch.Generator(device).manual_seed(_stream(seed, accelerator.process_index))
    if accelerator.num_processes > 1:
        # In what order gradients are summed is settled by the first pass, which a resumed run would have elsewhere.
        accelerator.backward(_losses(model, network, _draw(pairs, train_at, options.batch_size, generator)).mean())
        optimizer.zero_grad(set_to_none=True)
    generators = {"pairs": generator, **resumption.global_generators(device)}
    state = TrainingState(model, averaged, optimizer, generators, accelerator.scaler)
    common: dict[str, Any] = {}
    if folder is not None:
        common = {**settings, **_settings(accelerator, pairs, options, seed)}
        if resume and not state.read(folder, common):
            warnings.warn(f"there is nothing to resume in {folder}, so training starts afresh", stacklevel=4)
        if total(state.step) != [state.step * accelerator.num_processes]:
            raise ValueError(f"every process has to see the same {folder}, and the state of the training in it")
        if main:
            resumption.cut(folder / LOG, state.step)
    started, written = time.monotonic() - state.seconds, time.monotonic()
    progress = _progress(state.step, state.seconds, options)
    if progress >= 1.0 and not state.best:
        raise ValueError(
            f"training.steps={options.steps} and training.minutes={options.minutes:g} ask for no more than the "
            f"{state.step} steps that were made already, and none of these was validated"
        )
    with tqdm(total=options.steps, initial=state.step, desc="training", unit="step", leave=False, mininterval=1) as bar:
        while progress < 1.0:
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * schedule(progress, options.warmup)
            batch = _draw(pairs, train_at, options.batch_size * accelerator.gradient_accumulation_steps, generator)
            loss = _update(accelerator, model, network, stepper, batch, options.clip)
            averaged.update_parameters(model)
            state.step += 1
            state.seconds = time.monotonic() - started
            bar.update()
            mean, progress, due, stop = total(  # decided together
                loss.item() / accelerator.num_processes,
                main * _progress(state.step, state.seconds, options),
                main * (time.monotonic() - written >= options.checkpoint_every),
                told(),
            )
            if not math.isfinite(mean):
                raise FloatingPointError(f"the training loss became {mean} at step {state.step}; {REMEDY}")
            if state.step % options.validate_every == 0 or progress >= 1.0:
                validation_loss = from_main(lambda: _validate(average, validation))
                if validation_loss < state.best_loss:
                    state.best_loss, state.best_step = validation_loss, state.step
                    state.best = {name: value.detach().clone() for name, value in average.state_dict().items()}
                    if save is not None and main:
                        save(average)
                bar.set_postfix(validation=f"{validation_loss:.3f}")
                _log(accelerator, state, mean, validation_loss, folder)
            if folder is not None and (due or stop or progress >= 1.0):
                state.write(folder, common)
                written = time.monotonic()
                if stop:
                    meet()  # whoever leaves first has the launcher end the others
                    raise Terminated(folder / resumption.FILE, state.step)
    for tracker in accelerator.trackers:
        tracker.finish()  # end_training would take the process group away from the caller
    if not state.best:
        raise FloatingPointError(f"the validation loss was never finite; {REMEDY}")
    for wrapper in ("forward", "_original_forward"):  # of mixed precision
        vars(model).pop(wrapper, None)
    model.load_state_dict(state.best)
    model.eval()
    return Trained(state.step, state.seconds, state.best_loss, state.best_step)


def _losses(model: Backbone, network: nn.Module, batch: Batch) -> Tensor:
    """The loss of each pair ``(B,)``. network: what stands for `model` in this process."""
    return check_loss(model, network(*batch), len(batch[2]))


def _update(
    accelerator: Accelerator, model: Backbone, network: nn.Module, optimizer: Any, batch: Batch, clip: float
) -> Tensor:
    """One step of the optimizer on a batch, in as many parts as gradients are accumulated over; its mean loss."""
    count = accelerator.gradient_accumulation_steps
    mean = torch.zeros((), dtype=torch.float32, device=accelerator.device)
    columns = (part.chunk(count) for part in (*batch[0], *batch[1], batch[2]))
    for num, cat, to_num, to_cat, weight in zip(*columns, strict=True):
        with accelerator.accumulate(network):
            loss = _losses(model, network, (Rows(num, cat), Rows(to_num, to_cat), weight)).mean()
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()  # does nothing between synchronisations, and neither does the next
            optimizer.zero_grad(set_to_none=True)
            mean += loss.detach() / count
    return mean


def schedule(progress: float, warmup: float) -> float:
    """Factor of the peak learning rate at `progress` (0 to 1): linear warm-up, then cosine to zero."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))


def _stream(seed: int, process: int) -> int:
    return (seed * 1_000_003 + process * 7919 + 1) % 2**63


def _warm_average(decay: float) -> Callable[..., None]:
    """Exponential average whose memory grows with the updates seen, so early weights are forgotten quickly."""

    @torch.no_grad()
    def update(averages: Any, currents: Any, count: Any) -> None:
        warm = min(decay, (1.0 + float(count)) / (10.0 + float(count)))
        torch._foreach_lerp_(averages, currents, 1.0 - warm)
        # On a GPU that changes them without a word to autograd, which modules ask whether weights are still the same.
        torch.autograd.graph.increment_version(averages)

    return update


def _split(pairs: PairSupervision, options: TrainingOptions, seed: int) -> tuple[Tensor, Batch]:
    """Positions of the training factuals, and fixed pairs of the held-out ones (of all, if there is only one)."""
    generator = torch.Generator(pairs.device).manual_seed(_stream(seed, -1))
    train_at, held_at = pairs.split(options.holdout, generator)
    return train_at, _draw(pairs, held_at, options.validation_pairs, generator)


def _draw(pairs: PairSupervision, at: Tensor, count: int, generator: torch.Generator) -> Batch:
    chosen = at[torch.randint(len(at), (count,), generator=generator, device=pairs.device)]
    cost_weight = pairs.draw_cost_weight(count, generator)
    return pairs.factuals.take(chosen), pairs.draw(chosen, cost_weight, generator).flatten(), cost_weight


@torch.no_grad()
def _validate(model: Backbone, batch: Batch) -> float:
    was_training = model.training
    model.eval()
    factual, counterfactual, cost_weight = batch
    blocks = torch.arange(factual.batch_size, device=cost_weight.device).split(1024)
    losses = [_losses(model, model, (factual.take(at), counterfactual.take(at), cost_weight[at])) for at in blocks]
    model.train(was_training)
    return torch.cat(losses).mean().item()


def _progress(step: int, seconds: float, options: TrainingOptions) -> float:
    """Share of the budget that is spent."""
    # The clock gets a tenth of slack, or the slow first steps of any run would change the learning rate.
    clock = seconds / (60.0 * options.minutes)
    return max(step / options.steps, (clock - 0.1) / 0.9)


def _log(accelerator: Accelerator, state: TrainingState, loss: float, validated: float, folder: Path | None) -> None:
    record = {
        "step": state.step,
        "loss": loss,
        "validation_loss": validated if math.isfinite(validated) else None,
        "seconds": state.seconds,
    }
    accelerator.log(record, step=state.step)
    if folder is not None and accelerator.is_main_process:
        with writing(folder / LOG), (folder / LOG).open("a") as lines:
            lines.write(json.dumps(record, allow_nan=False) + "\n")


def _settings(accelerator: Accelerator, pairs: PairSupervision, options: TrainingOptions, seed: int) -> dict[str, Any]:
    """What decides a run's weights, as far as training knows of it."""
    return {
        "seed": seed,
        "number of processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "mixed precision": accelerator.mixed_precision,
        "gradient accumulation": accelerator.gradient_accumulation_steps,
        "training": {name: value for name, value in asdict(options).items() if name not in FREE},
        "data": resumption.common_digest(*pairs.factuals, *pairs.partners),
    }
