"""Rows as points, and points as the nearest rows that could be in the table."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recourse_gen import metrics
from recourse_gen.constraints import Constraints
from recourse_gen.schema import Feature, Schema
from recourse_gen.transform import TableTransform

DTYPE = torch.float64


class Coordinates:
    """`recourse_gen.metrics.coordinates` as float64 tensors ``(B, E)``, and the way back.

    Numbers lie in 0 to 1, two-level categories at 0 or 1, and larger ones are half their one-hot vector. The *origin*
    of a point is the factual that it answers: immutable columns stay there, and its own values are always allowed,
    even where training never held them.
    """

    def __init__(self, schema: Schema, constraints: Constraints, train: pd.DataFrame) -> None:
        self.schema = schema
        self._transform = TableTransform(schema).fit(train)
        widths = [_width(feature) for feature in schema.features]
        self.ends = np.cumsum(widths)
        self.starts = self.ends - widths
        column = np.repeat(np.arange(len(widths)), widths)
        immutable = np.array([feature.name in constraints.immutable for feature in schema.features])
        # (E, D): 1 where a coordinate belongs to a column.
        self.columns = torch.from_numpy((column[:, None] == np.arange(len(widths))).astype(np.float64))
        self.fixed = torch.from_numpy(immutable[column])  # (E,)
        wide = torch.from_numpy((np.array(widths) > 1)[column])
        self.high = torch.where(wide, 0.5, 1.0).to(DTYPE)  # (E,), the largest value of each coordinate

    def encode(self, frame: pd.DataFrame) -> Tensor:
        """``(B, D)`` frame to ``(B, E)``. Raises ValueError as `TableTransform.check` does."""
        return torch.from_numpy(metrics.coordinates(self._transform.check(frame), self.schema))

    def clamp(self, x: Tensor, origin: Tensor) -> Tensor:
        """The point of the box of all rows that is nearest to `x` ``(..., E)``, immutable coordinates at the origin."""
        inside = torch.minimum(x.clamp(min=0.0), self.high)
        # A number of the factual's that is out of the training range widens the box.
        inside = torch.where((x - origin).abs() <= (x - inside).abs(), origin, inside)
        return torch.where(self.fixed, origin, inside)

    def squash(self, raw: Tensor) -> Tensor:
        """Any ``(..., E)`` to the inside of the box: a sigmoid, and half a softmax over the levels of a category."""
        together = (raw - raw.amax(-1, keepdim=True)).exp()
        share = together / (together @ self.columns @ self.columns.T).clamp(min=1e-30)
        return torch.where(self.high < 1, share / 2, raw.sigmoid())

    def snap(self, x: Tensor, origin: Tensor) -> Tensor:
        """The row nearest to `x` ``(..., E)``: in each column a level, a whole number, or the factual's own value."""
        given, x = x, self.clamp(x, origin)
        levels, index = self._levels, self._stepped
        steps = x[..., index].movedim(-1, 0).flatten(1).contiguous()
        right = torch.searchsorted(levels, steps).clamp(1, levels.shape[1] - 1)
        below, above = levels.gather(1, right - 1), levels.gather(1, right)
        near = torch.where(steps - below <= above - steps, below, above)
        near = near.reshape(len(index), *x.shape[:-1]).movedim(0, -1)
        snapped = x.clone()
        snapped[..., index] = near
        span, low = self._span, self._low
        snapped = torch.where(self._whole, ((low + x * span).round() - low) / span, snapped)
        snapped = torch.where((x - origin).abs() <= (x - snapped).abs(), origin, snapped)
        members = self._members
        if members.numel():
            padded = torch.cat([given, torch.full_like(x[..., :1], -torch.inf)], -1)
            chosen = members.gather(1, padded[..., members].argmax(-1).movedim(-1, 0).flatten(1))
            hot = torch.zeros_like(x).scatter_(-1, chosen.reshape(len(members), *x.shape[:-1]).movedim(0, -1), 0.5)
            snapped = torch.where(self.high < 1, hot, snapped)
        return torch.where(self.fixed, origin, snapped)

    def decode(self, x: Tensor, origin: Tensor, factuals: pd.DataFrame) -> pd.DataFrame:
        """The rows ``(B, D)`` nearest to `x` ``(B, E)``, in the factuals' index and the training dtypes.

        factuals: the frame that `origin` ``(B, E)`` encodes. Where coordinates are the origin's, a column keeps its
        value.
        """
        points, own = self.snap(x, origin).numpy(), origin.numpy()
        factuals = self._transform.check(factuals)
        columns = {}
        for feature, start, end in zip(self.schema.features, self.starts, self.ends, strict=True):
            moved = (points[:, start:end] != own[:, start:end]).any(1)
            values = factuals[feature.name].astype(object).to_numpy(copy=True)
            values[moved] = _values(feature, points[moved, start:end])
            column = pd.Series(values).infer_objects() if feature.kind != "categorical" else pd.Series(values)
            columns[feature.name] = self._transform.restore(feature, column.to_numpy())
        return pd.DataFrame(columns).set_axis(factuals.index)

    @cached_property
    def _stepped(self) -> Tensor:
        """The coordinates of ordinal columns and of two-level categories."""
        flags = [f.is_token and _width(f) == 1 for f in self.schema.features]
        return torch.from_numpy(self.starts[np.array(flags, dtype=bool)])

    @cached_property
    def _levels(self) -> Tensor:
        """The levels of these coordinates, ``(stepped, L)``, ascending, filled up with the last one."""
        levels = [f.level_values for f in self.schema.features if f.is_token and _width(f) == 1]
        size = max(2, *map(len, levels), 0) if levels else 2
        table = [np.pad(values, (0, size - len(values)), mode="edge") for values in levels]
        return torch.tensor(np.array(table).reshape(-1, size), dtype=DTYPE)

    @cached_property
    def _members(self) -> Tensor:
        """The coordinates of each larger category, ``(categories, L)``, filled up with E."""
        wide = [(s, e) for s, e in zip(self.starts, self.ends, strict=True) if e - s > 1]
        size = max((e - s for s, e in wide), default=0)
        rows = [np.pad(np.arange(s, e), (0, size - (e - s)), constant_values=self.ends[-1]) for s, e in wide]
        return torch.tensor(np.array(rows, dtype=np.int64).reshape(len(wide), size))

    @cached_property
    def _whole(self) -> Tensor:
        flags = [f.kind == "continuous" and f.storage.kind in "iu" for f in self._spread]
        return torch.tensor(flags)

    @cached_property
    def _low(self) -> Tensor:
        return torch.tensor([f.bounds[0] if f.bounds else 0.0 for f in self._spread], dtype=DTYPE)

    @cached_property
    def _span(self) -> Tensor:
        return torch.tensor([f.bounds[1] - f.bounds[0] if f.bounds else 1.0 for f in self._spread], dtype=DTYPE)

    @property
    def _spread(self) -> list[Feature]:
        """The column of each coordinate."""
        return [feature for feature in self.schema.features for _ in range(_width(feature))]


def _width(feature: Feature) -> int:
    """How many coordinates a column has."""
    return len(feature.levels) if feature.kind == "categorical" and len(feature.levels) > 2 else 1


def _values(feature: Feature, points: np.ndarray) -> np.ndarray:
    """Raw values, as objects ``(B,)``, of snapped coordinates ``(B, width)`` of one column."""
    if feature.kind == "continuous":
        assert feature.bounds is not None
        low, high = feature.bounds
        raw = low + points[:, 0] * (high - low)
        return (np.rint(raw) if feature.storage.kind in "iu" else raw).astype(object)
    if points.shape[1] > 1:
        codes = points.argmax(1)
    else:
        codes = np.abs(points - feature.level_values).argmin(1) if len(points) else np.zeros(0, dtype=np.int64)
    levels = np.empty(len(feature.levels), dtype=object)
    levels[:] = feature.levels
    return levels[codes]
