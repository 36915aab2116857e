"""Who may become whom, and at what cost: what every way of finding partners starts from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd
import torch
from torch import Tensor

from recourse_gen.constraints import Constraints, Feasible
from recourse_gen.cost import RecourseCost, Targets
from recourse_gen.rows import Rows
from recourse_gen.transform import TableTransform


@dataclass(frozen=True)
class Matching:
    """F factuals and M candidates for partners, under constraints.

    frame: the factuals, raw; None where no rule will be asked. factuals: the same encoded, on the CPU. partners: on the
    device.
    """

    frame: pd.DataFrame | None
    factuals: Rows
    partners: Rows
    transform: TableTransform
    constraints: Constraints

    @property
    def device(self) -> torch.device:
        return self.partners.num.device

    @cached_property
    def cost(self) -> RecourseCost:
        return RecourseCost(self.transform.schema)

    def take(self, at: Tensor) -> Matching:
        """The same for the factuals at those positions (int64, on the CPU)."""
        frame = None if self.frame is None else self.frame.iloc[at.numpy()]
        return replace(self, frame=frame, factuals=self.factuals.take(at))

    def groups(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Positions of factuals and of the partners that agree with them on the immutable token columns: nobody can
        become anybody else, so the other distances need not be known. One group of all where groups would be tiny."""
        sizes = [self.factuals.batch_size, self.partners.batch_size]
        kind, count = self.kinds(numbers=False)
        if count > max(1, sizes[0] // 64):
            kind, count = torch.zeros_like(kind), 1
        groups = [
            side.argsort(stable=True).split(side.bincount(minlength=count).tolist()) for side in kind.split(sizes)
        ]
        return ((people, pool) for people, pool in zip(*groups, strict=True) if len(people) and len(pool))

    def kinds(self, *, numbers: bool) -> tuple[Tensor, int]:
        """int64 ``(F + M,)``: factuals, then partners, equal where the immutable token columns are (with `numbers`, the
        immutable continuous ones too); and how many kinds there are."""
        frozen, schema = self.constraints.immutable, self.transform.schema
        sides = [self.factuals, self.partners.to("cpu")]
        columns = [[side.cat[:, t] for side in sides] for t, f in enumerate(schema.tokens) if f.name in frozen]
        if numbers:
            columns += [[side.num[:, n] for side in sides] for n, f in enumerate(schema.numbers) if f.name in frozen]
        kind, count = torch.zeros(self.factuals.batch_size + self.partners.batch_size, dtype=torch.int64), 1
        for column in columns:
            values, code = torch.cat(column).unique(return_inverse=True)
            found, kind = (kind * len(values) + code).unique(return_inverse=True)
            count = len(found)
        return kind, count

    def rules(self, at: Tensor) -> Feasible:
        """What the factuals at `at` may become. To compile it for many at once is much faster than for a few."""
        assert self.frame is not None
        frame, rows = self.frame.iloc[at.numpy()], self.factuals.take(at)
        return self.constraints.compile(self.transform.schema, frame, rows)

    def block(self, at: Tensor, rules: Feasible, pool: Tensor, targets: Targets) -> Tensor:
        """Costs ``(b, m)`` of the factuals at `at`, under their rules (on the device), becoming each of the partners at
        `pool`, inf where they may not. targets: these partners, made ready."""
        own = self.factuals.take(at).to(self.device)
        admitted = rules.admits(self.transform.schema, own, self.partners.take(pool))
        return self.cost.distances(own, targets).masked_fill_(~admitted, math.inf)

    def costs(self, at: Tensor, choice: Tensor) -> Tensor:
        """``(b, P)``: of the factuals at `at` ``(b,)``, on the CPU, becoming partners of their own each, at `choice`
        ``(b, P)`` on the device."""
        own = self.cost.cells(self.factuals.take(at).to(self.device))
        return self.cost.apart(own[:, None], self._cells.index_select(0, choice.flatten()).view(*choice.shape, -1))

    def admits(self, at: Tensor, rules: Feasible, choice: Tensor) -> Tensor:
        """Bool ``(b, P)``: may the factuals at `at`, under their rules, become those partners?"""
        own, partners = self.factuals.take(at).to(self.device), self.partners
        theirs = Rows(partners.num[choice], partners.cat[choice])
        return rules.to(self.device).admits_each(self.transform.schema, own, theirs)

    @cached_property
    def _cells(self) -> Tensor:
        """Of the partners, ``(M, D)``."""
        return self.cost.cells(self.partners)

    @cached_property
    def lenient(self) -> bool:
        """Whether everybody may become every partner of the same kind (see `kinds`, with numbers)."""
        rules, num = self.constraints, self.partners.num
        free = not (rules.monotone or rules.ranges or rules.allowed or rules.ordered or rules.together)
        return free and not bool(((num < 0) | (num > 1)).any())  # no bounds of the schema that a partner exceeds
