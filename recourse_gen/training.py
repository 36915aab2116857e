"""The training loop: pairs in, best averaged weights out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast, parse_flag_from_env, tqdm
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from recourse_gen.backbone import Backbone
from recourse_gen.options import check_number, check_whole
from recourse_gen.pairs import PairSupervision
from recourse_gen.rows import Rows


@dataclass(frozen=True)
class TrainingOptions:
    """How a backbone is trained.

    steps, minutes: whichever ends first; the learning rate follows the budget that is nearer its end. A run that
        `steps` ends is reproducible to the bit, unless for a while it was a tenth of `minutes` behind the clock.
    batch_size: pairs per process and step. learning_rate: peak. warmup: share of the budget before the peak.
    clip: largest gradient norm. ema: decay of the averaged weights, which are what is validated and kept.
    holdout: share of factuals kept for validation, at least one of them. validation_pairs: fixed pairs drawn from them.
    validate_every: steps between validations. log_with: a tracker that Accelerate knows, e.g. "tensorboard".
    """

    steps: int = 5000
    minutes: float = 3.0
    batch_size: int = 256
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    clip: float = 1.0
    ema: float = 0.99
    holdout: float = 0.1
    validation_pairs: int = 2048
    validate_every: int = 100
    log_with: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validation_pairs", "validate_every"):
            check_whole(f"training.{name}", getattr(self, name))
        for name in ("minutes", "learning_rate", "clip"):
            check_number(f"training.{name}", getattr(self, name), 0, math.inf, closed=False)
        for name in ("warmup", "ema", "holdout"):
            check_number(f"training.{name}", getattr(self, name), 0, 1)
        check_number("training.weight_decay", self.weight_decay, 0, math.inf)


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


def processes() -> PartialState:
    """The processes of this run and this one's device.

    Whoever asks first decides, and without the flag a PartialState takes several processes on CPUs for one each.
    """
    # Apple's GPUs hold no float64, which raw units need.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or torch.backends.mps.is_available())


def fit(
    model: Backbone,
    pairs: PairSupervision,
    *,
    options: TrainingOptions,
    seed: int,
    folder: Path | None = None,
    save: Callable[[Backbone], None] | None = None,
) -> Trained:
    """Train `model` in place on draws from Q; it ends with the averaged weights of lowest validation loss.

    `save` is called on the main process whenever the validation loss improves; `folder` receives metrics.jsonl.
    Every process draws its own pairs, so one update sees processes × batch_size pairs. A model without trainable
    parameters is only put on the device and into evaluation mode.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        model.to(processes().device).eval()
        return Trained(steps=0, seconds=0.0, best_loss=None, best_step=0)
    device = processes().device
    # Losses may draw from the global generator: seeded here, and given back as it was.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_stream(seed, processes().process_index))
        return _fit(model, pairs, options=options, seed=seed, folder=folder, save=save)


def _fit(
    model: Backbone,
    pairs: PairSupervision,
    *,
    options: TrainingOptions,
    seed: int,
    folder: Path | None,
    save: Callable[[Backbone], None] | None,
) -> Trained:
    accelerator = Accelerator(log_with=options.log_with, project_dir=folder)
    device = accelerator.device
    if options.log_with:
        accelerator.init_trackers("recourse-gen")
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate, weight_decay=options.weight_decay)
    averaged = AveragedModel(model, multi_avg_fn=_warm_average(options.ema))
    network, optimizer = accelerator.prepare(model, optimizer)
    train_at, validation = _split(pairs, options, seed)
    generator = torch.Generator(device).manual_seed(_stream(seed, accelerator.process_index))
    step, progress, best_loss, best_step = 0, 0.0, math.inf, 0
    average: Backbone = averaged.module  # type: ignore[assignment]
    best: dict[str, Tensor] = {}
    started = time.monotonic()
    bar = tqdm(total=options.steps, desc="training", unit="step", leave=False, mininterval=1.0)
    while progress < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * schedule(progress, options.warmup)
        loss = network(*_draw(pairs, train_at, options.batch_size, generator)).mean()
        if not torch.isfinite(loss):
            bar.close()
            raise FloatingPointError(
                f"the training loss became {loss.item()} at step {step}; lower training.learning_rate"
            )
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), options.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if accelerator.sync_gradients:
            averaged.update_parameters(accelerator.unwrap_model(network))
        step += 1
        bar.update()
        progress = _progress(step, started, options, accelerator)
        if step % options.validate_every == 0 or progress >= 1.0:
            validation_loss = _validate(average, validation)
            if validation_loss < best_loss:
                best_loss, best_step = validation_loss, step
                best = {name: value.detach().clone() for name, value in average.state_dict().items()}
                if save is not None and accelerator.is_main_process:
                    save(average)
            record = {
                "step": step,
                "loss": loss.item(),
                "validation_loss": validation_loss if math.isfinite(validation_loss) else None,
                "seconds": time.monotonic() - started,
            }
            bar.set_postfix(validation=f"{validation_loss:.3f}")
            accelerator.log(record, step=step)
            if folder is not None and accelerator.is_main_process:
                with (folder / "metrics.jsonl").open("a") as lines:
                    lines.write(json.dumps(record, allow_nan=False) + "\n")
    bar.close()
    for tracker in accelerator.trackers:
        tracker.finish()  # end_training would take the process group away from the caller
    if not best:
        raise FloatingPointError("the validation loss was never finite; lower training.learning_rate")
    model.load_state_dict(best)
    model.eval()
    return Trained(step, time.monotonic() - started, best_loss, best_step)


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
    losses = [model(factual.take(at), counterfactual.take(at), cost_weight[at]) for at in blocks]
    model.train(was_training)
    return torch.cat(losses).mean().item()


def _progress(step: int, started: float, options: TrainingOptions, accelerator: Accelerator) -> float:
    """Share of the budget that is spent; the main process's clock decides for all."""
    # The clock gets a tenth of slack, or the slow first steps of any run would change the learning rate.
    clock = (time.monotonic() - started) / (60.0 * options.minutes)
    progress = max(step / options.steps, (clock - 0.1) / 0.9)
    if accelerator.num_processes > 1:
        progress = broadcast(torch.tensor(progress, device=accelerator.device)).item()
    return progress
