"""Every column as a finite alphabet: the levels of token columns, bins of continuous ones."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from recourse_gen.constraints import Feasible
from recourse_gen.rows import Rows
from recourse_gen.schema import Feature, Schema

SPACINGS = ("quantile", "uniform")


class Alphabet(nn.Module):
    """Codes, values and costs of each column's alphabet. Constants of the schema; nothing is learned.

    D columns in schema order, L codes in the largest alphabet; smaller ones are padded.
    spacing: ``quantile`` bins hold equal shares of the training rows and emit a uniform draw from their interval, a
    value that repeats across quantiles (a point mass) has a bin of its own; ``uniform`` is a grid of `bins` values.
    """

    def __init__(self, schema: Schema, *, bins: int, spacing: str) -> None:
        super().__init__()
        if spacing not in SPACINGS:
            raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, got {spacing!r}")
        if bins < 2:
            raise ValueError(f"bins must be at least 2, got {bins}")
        self.schema = schema
        cuts = [_cut(feature, bins, spacing) for feature in schema.features]
        self.sizes = [len(low) for low, _, _ in cuts]
        size = max(self.sizes)

        def table(part: int, fill: float) -> Tensor:
            return torch.tensor(
                np.stack([np.pad(c[part], (0, size - len(c[part])), constant_values=fill) for c in cuts])
            )

        # cover: where a bin begins; emit_low, emit_high: the interval that it stands for (equal when it is one value).
        for name, tensor in (
            ("cover", table(0, math.inf)),
            ("emit_low", table(1, 0.0)),
            ("emit_high", table(2, 0.0)),
            ("weight", torch.tensor([feature.weight for feature in schema.features])),
            ("is_category", torch.tensor([feature.kind == "categorical" for feature in schema.features])),
            ("token_at", torch.tensor([d for d, t, _ in schema.places if t is not None], dtype=torch.int64)),
            ("number_at", torch.tensor([d for d, _, n in schema.places if n is not None], dtype=torch.int64)),
        ):
            self.register_buffer(name, tensor.float() if tensor.is_floating_point() else tensor, persistent=False)
        self.register_buffer("value", (self.emit_low + self.emit_high) / 2, persistent=False)

    def codes(self, rows: Rows) -> Tensor:
        """int64 ``(B, D)`` code of each column."""
        codes = rows.cat.new_zeros(rows.batch_size, len(self.sizes))
        codes[:, self.token_at] = rows.cat
        inside = torch.searchsorted(self.cover[self.number_at], rows.num.T.contiguous(), right=True) - 1
        codes[:, self.number_at] = inside.clamp_(min=0).T
        return codes

    def numbers(self, rows: Rows) -> Tensor:
        """Float32 ``(B, D)`` value of each column in scaled units; 0 for categorical columns."""
        numbers = rows.num.new_zeros(rows.batch_size, len(self.sizes))
        numbers[:, self.token_at] = self.value[self.token_at[None], rows.cat].masked_fill(
            self.is_category[self.token_at], 0.0
        )
        numbers[:, self.number_at] = rows.num
        return numbers

    def costs(self, rows: Rows) -> Tensor:
        """C_d(x_d, code) ``(B, D, L)``: the cost of moving each column from its value in `rows` to each code."""
        distance = (self.value - self.numbers(rows)[..., None]).abs()
        if self.is_category.any():
            index = torch.arange(self.value.shape[1], device=self.value.device)
            mismatch = (index != self.codes(rows)[..., None]).float()
            distance = torch.where(self.is_category[:, None], mismatch, distance)
        return distance * self.weight[:, None]

    def blurred(self, codes: Tensor, numbers: Tensor, width: float) -> Tensor:
        """Targets ``(B, D, L)``: a Gaussian of standard deviation `width` around numbers, one-hot for categories."""
        logits = -0.5 * ((self.value - numbers[..., None]) / width) ** 2
        sizes = torch.tensor(self.sizes, device=codes.device)[:, None]
        padding = torch.arange(self.value.shape[1], device=codes.device) >= sizes
        targets = logits.masked_fill(padding, -math.inf).softmax(-1)
        return torch.where(self.is_category[:, None], nn.functional.one_hot(codes, targets.shape[2]).float(), targets)

    def log_width(self, codes: Tensor) -> Tensor:
        """log of the interval that a code ``(B, D)`` stands for, scaled units; 0 where it is a single value."""
        width = (self.emit_high - self.emit_low)[torch.arange(len(self.sizes), device=codes.device), codes]
        return torch.where(width > 0, width, torch.ones_like(width)).log()

    def draft(self, factual: Rows, owner: Tensor, feasible: Feasible | None) -> Draft:
        return Draft(self, factual, owner, feasible)


class Draft:
    """R counterfactuals filled in column by column, in schema order, inside what their factuals may become.

    owner: int64 ``(R,)``, each draft's factual. `mask` and `emit` are called once per column.
    """

    def __init__(self, alphabet: Alphabet, factual: Rows, owner: Tensor, feasible: Feasible | None) -> None:
        self.alphabet, self.factual, self.owner, self.feasible = alphabet, factual, owner, feasible
        self.own, self.places = alphabet.codes(factual), alphabet.schema.places
        self.num = factual.num.new_zeros(len(owner), factual.num.shape[1])
        self.cat = factual.cat.new_zeros(len(owner), factual.cat.shape[1])
        self.pinned = torch.zeros_like(owner, dtype=torch.bool)
        if feasible is not None:
            self.changes = torch.zeros_like(owner)
            # Columns after d that cannot stay as they are: their changes are spoken for.
            must = (~feasible.stay).long()
            self.forced_later = must.sum(1, keepdim=True) - must.cumsum(1)
            self.raw = torch.zeros(len(owner), len(self.places), dtype=torch.float64, device=owner.device)

    def mask(self, column: int) -> Tensor:
        """Bool ``(R, size)``: codes that the column may take, given the columns before it."""
        size, (_, t, n), f = self.alphabet.sizes[column], self.places[column], self.feasible
        if f is None:
            return torch.ones(len(self.owner), size, dtype=torch.bool, device=self.owner.device)
        own = self.own[:, column][self.owner]
        if t is not None:
            mask = f.tokens[:, t, :size][self.owner]
        else:
            self.low, self.high = f.low[self.owner, n], f.high[self.owner, n]
            mask = None
        below, above = self._limits(column)
        if n is not None:
            feature = self.alphabet.schema.features[column]
            assert feature.bounds is not None
            start, span = feature.bounds[0], feature.bounds[1] - feature.bounds[0]
            self.low = self.low if below is None else torch.maximum(self.low, ((below - start) / span).float())
            self.high = self.high if above is None else torch.minimum(self.high, ((above - start) / span).float())
            cover = self.alphabet.cover[column, :size]
            ends = torch.cat([cover[1:], cover.new_tensor([math.inf])])
            mask = (cover <= self.high[:, None]) & (ends > self.low[:, None])
        elif below is not None or above is not None:
            values = self._raw_levels(column)
            inside = torch.ones_like(values, dtype=torch.bool)
            inside &= True if below is None else values >= below[:, None]
            inside &= True if above is None else values <= above[:, None]
            mask = mask & inside
        if f.max_changes is not None:
            spent = self.changes + self.forced_later[self.owner, column]
            self.pinned = f.stay[self.owner, column] & (spent >= f.max_changes) & mask.gather(1, own[:, None])[:, 0]
        only_own = self.pinned | ~mask.any(1)  # an impossible draft keeps the value; the final check rejects it
        return torch.where(only_own[:, None], nn.functional.one_hot(own, size).bool(), mask)

    def emit(self, column: int, codes: Tensor, uniform: Tensor) -> Tensor:
        """Fill the column with the drawn codes ``(R,)``; returns the values ``(R,)`` in scaled units."""
        _, t, n = self.places[column]
        feature = self.alphabet.schema.features[column]
        own = self.own[:, column][self.owner]
        if t is not None:
            self.cat[:, t] = codes
            values = torch.zeros_like(uniform) if feature.kind == "categorical" else self.alphabet.value[column][codes]
            changed = codes != own
        else:
            low, high = self.alphabet.emit_low[column][codes], self.alphabet.emit_high[column][codes]
            if self.feasible is not None:
                low, high = low.clamp(self.low, self.high), high.clamp(self.low, self.high)
            today = self.factual.num[self.owner, n]
            values = torch.where(self.pinned, today, low + (high - low) * uniform)
            self.num[:, n] = values
            changed = values != today
        if self.feasible is not None:
            self.changes += changed
            if any(column in pair for pair in self.feasible.ordered):
                self.raw[:, column] = self._raw(column, codes, values)
        return values

    def rows(self) -> Rows:
        return Rows(self.num, self.cat)

    def _limits(self, column: int) -> tuple[Tensor | None, Tensor | None]:
        """Raw lower and upper limits ``(R,)`` that ordered pairs and the columns already drawn put on this one."""
        assert self.feasible is not None
        below = [self.raw[:, a] for a, b in self.feasible.ordered if b == column and a < column]
        above = [self.raw[:, b] for a, b in self.feasible.ordered if a == column and b < column]
        return (
            torch.stack(below).amax(0) if below else None,
            torch.stack(above).amin(0) if above else None,
        )

    def _raw_levels(self, column: int) -> Tensor:
        """Raw level values ``(R, size)``; the factual's own token stands for the factual's own number."""
        assert self.feasible is not None
        levels = torch.tensor(
            self.alphabet.schema.features[column].levels, dtype=torch.float64, device=self.owner.device
        )
        own = nn.functional.one_hot(self.own[:, column][self.owner], len(levels)).bool()
        return torch.where(own, self.feasible.raw[self.owner, column][:, None], levels)

    def _raw(self, column: int, codes: Tensor, values: Tensor) -> Tensor:
        if self.places[column][1] is not None:
            return self._raw_levels(column).gather(1, codes[:, None])[:, 0]
        bounds = self.alphabet.schema.features[column].bounds
        assert bounds is not None
        return bounds[0] + values.double() * (bounds[1] - bounds[0])


def _cut(feature: Feature, bins: int, spacing: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(where each code begins, lowest value it emits, highest value it emits), scaled units, ascending."""
    if feature.is_token:
        values = feature.level_values
        return values, values, values
    if spacing == "uniform":
        grid = np.linspace(0.0, 1.0, bins)
        return np.concatenate([[-np.inf], (grid[1:] + grid[:-1]) / 2]), grid, grid
    knots = np.interp(
        np.linspace(0, 1, bins + 1), np.linspace(0, 1, len(feature.quantiles)), feature.scaled(feature.quantiles)
    )
    knots = knots.astype(np.float32)
    edges, counts = np.unique(knots, return_counts=True)
    # A repeated quantile is a point mass: a bin of zero width, and the next bin begins just above it.
    atoms = edges[counts > 1]
    starts = np.where(np.isin(edges[:-1], atoms), np.nextafter(edges[:-1], np.float32(np.inf)), edges[:-1])
    low = np.concatenate([starts, atoms])
    high = np.concatenate([edges[1:], atoms])
    order = np.lexsort((high, low))
    low, high = low[order], high[order]
    begin = low.astype(np.float64)
    begin[0] = -np.inf
    return begin, low.astype(np.float64), high.astype(np.float64)
