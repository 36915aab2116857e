"""What models return for a frame, read as one probability of the favourable class per row."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch

_ENOUGH = 20  # rows, of which the outputs tell whether they are logits


class OutputError(ValueError):
    """A model's output has an unusable shape or type; told apart from errors that the model itself raises."""


def of_class(scores: Any, position: Any) -> np.ndarray:
    """Float64 ``(B,)`` of ``(B,)``, ``(B, 1)`` or the column at `position` of ``(B, L)``."""
    if isinstance(scores, torch.Tensor):
        scores = scores.detach().cpu().numpy()
    try:
        scores = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise OutputError(f"the classifier returned {type(scores).__name__}, not an array of numbers") from error
    if scores.ndim == 2 and scores.shape[1] > 1:
        return scores[:, _position(position, scores.shape[1])]
    position = None if isinstance(position, str) else position  # a name cannot say which of two classes is meant
    if position is not None and position not in (0, 1):
        raise OutputError(f"target_class must be 0 or 1 for a classifier with one output, got {position!r}")
    scores = scores.reshape(-1) if scores.ndim == 2 else scores
    return 1.0 - scores if position is not None and position == 0 else scores


def _position(target_class: Any, width: int) -> int:
    if target_class is None and width == 2:
        return 1
    if isinstance(target_class, (int, np.integer, np.bool_)) and 0 <= int(target_class) < width:
        return int(target_class)
    raise OutputError(f"target_class must be the favourable class's position, 0 to {width - 1}, got {target_class!r}")


def module_scores(module: torch.nn.Module, target_class: Any, frame: pd.DataFrame) -> np.ndarray:
    """Float64 ``(B,)`` from the logits of a module. Raises OutputError for columns that it cannot take, and for outputs
    that are none; warns where all of them look like probabilities."""
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name].dtype):
            raise OutputError(
                f"column {name!r} is not numeric ({frame[name].dtype}), which a torch module cannot take; "
                "pass a callable that encodes the frame"
            )
    weight: torch.Tensor = next(module.parameters(), torch.zeros(0, dtype=torch.float32))
    dtype = np.float64 if weight.dtype == torch.float64 else np.float32
    with _evaluating(module), torch.no_grad():
        logits = module(torch.tensor(frame.to_numpy(dtype=dtype), device=weight.device))
        if not isinstance(logits, torch.Tensor) or logits.dim() not in (1, 2):
            raise OutputError("the torch module must return one tensor of logits, (B,), (B, 1) or (B, L)")
        wide, logits = logits.dim() == 2 and logits.shape[1] > 1, logits.double()
        _check_logits(logits, wide)
        # float64 before the squashing, so that confident logits do not all round to 1.
        return of_class(logits.softmax(-1) if wide else logits.sigmoid(), target_class)


def _check_logits(logits: torch.Tensor, wide: bool) -> None:
    """Warn where they look like probabilities, which would all come near to one another if they were squashed again."""
    within = bool(((logits >= 0) & (logits <= 1)).all())
    if len(logits) >= _ENOUGH and within and (not wide or bool(((logits.sum(1) - 1).abs() < 1e-4).all())):
        told = f"all {len(logits)} outputs of the torch module lie in [0, 1]{' and add up to 1' * wide}"
        warnings.warn(
            f"{told}, as probabilities do; they are taken for logits, so leave out its last "
            f"{'softmax' if wide else 'sigmoid'}, or pass a callable from a frame to probabilities",
            stacklevel=2,
        )


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule gets its own flag back (some may be frozen in eval mode)."""
    flags = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in flags:
            part.training = training
