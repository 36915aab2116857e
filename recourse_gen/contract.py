"""What a backbone has to give: a plug-in that gives something else is told so in one sentence, by its name."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from recourse_gen.backbone import Backbone
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema

_SAMPLE = ("num_samples", "cost_weight", "feasible", "temperature", "noise")


def check_class(cls: type[Backbone]) -> None:
    """Raise ValueError unless the methods of `cls` can be called as the library calls them."""
    calls: list[tuple[str, str, int, tuple[str, ...]]] = [
        ("forward", "(factual, counterfactual, cost_weight)", 4, ()),
        ("sample", f"(factual, *, {', '.join(_SAMPLE)})", 2, _SAMPLE),
        ("log_prob", "(factual, counterfactual, cost_weight)", 4, ()),
    ]
    for name, due, places, named in calls:
        if callable(method := getattr(cls, name, None)):
            try:
                inspect.signature(method).bind(*[None] * places, **dict.fromkeys(named))
            except TypeError as error:
                raise ValueError(f"{cls.__name__}.{name} must take {due}, but {error}") from error


def check_module(model: Backbone) -> None:
    """Raise ValueError unless `Backbone` was initialised."""
    if "_parameters" not in vars(model) or not isinstance(getattr(model, "schema", None), Schema):
        raise ValueError(f"{type(model).__name__}.__init__ must call super().__init__(schema) first")


def check_loss(model: Backbone, loss: Any, count: int) -> Tensor:
    """`loss`, of a batch of that size. Raises ValueError unless it is float32 ``(B,)`` and, in training, has a
    gradient."""
    due = f"{type(model).__name__}.forward must return a loss per pair, float32 {(count,)}"
    if not isinstance(loss, Tensor) or loss.shape != (count,) or loss.dtype != torch.float32:
        raise ValueError(f"{due}, got {_told(loss)}")
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise ValueError(f"{due} with a gradient, got one without")
    return loss


def check_samples(model: Backbone, schema: Schema, drawn: Any, batch: int, count: int) -> Rows:
    """`drawn` on the CPU: `count` samples of each of `batch` factuals.

    Raises ValueError unless it is `Rows` of the right shapes and dtypes, without gradients, of numbers that are finite
    and tokens that are levels.
    """
    name = f"{type(model).__name__}.sample"
    if not isinstance(drawn, Rows):
        raise ValueError(f"{name} must return Rows, got {_told(drawn)}")
    for part, width, dtype in (("num", len(schema.numbers), torch.float32), ("cat", len(schema.tokens), torch.int64)):
        given, shape = getattr(drawn, part), (batch, count, width)
        if not isinstance(given, Tensor) or given.shape != shape or given.dtype != dtype:
            raise ValueError(f"{name} must return Rows with {part} {_dtype(dtype)} {shape}, got {_told(given)}")
    if drawn.num.requires_grad:
        raise ValueError(f"{name} must return numbers without a gradient; put @torch.no_grad() before it")
    drawn = drawn.to("cpu")  # before values are asked for: on a GPU, each question would wait for it
    if not drawn.num.isfinite().all():
        raise ValueError(f"{name} must return finite numbers, got {drawn.num[~drawn.num.isfinite()][0].item()}")
    levels = torch.tensor([len(feature.levels) for feature in schema.tokens], dtype=torch.int64)
    for *_, column in ((drawn.cat < 0) | (drawn.cat >= levels)).nonzero()[:1].tolist():
        wrong, feature = drawn.cat[..., column], schema.tokens[column]
        value = wrong[(wrong < 0) | (wrong >= len(feature.levels))][0].item()
        raise ValueError(
            f"{name} must return tokens from 0 to {len(feature.levels) - 1} for {feature.name!r}, got {value}"
        )
    return drawn


def check_log_prob(model: Backbone, found: Any, count: int) -> Tensor:
    """`found`, of `count` pairs. Raises ValueError unless it is a floating-point tensor ``(B,)``."""
    if not isinstance(found, Tensor) or found.shape != (count,) or not found.is_floating_point():
        raise ValueError(f"{type(model).__name__}.log_prob must return nats, float32 {(count,)}, got {_told(found)}")
    return found


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{_dtype(value.dtype)} {tuple(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
