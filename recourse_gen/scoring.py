"""From candidates to all that choosing asks about: frame, classifier, rules, cost and the auditor's opinions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from recourse_gen.audit import Auditor
from recourse_gen.classifier import Classifier
from recourse_gen.constraints import Feasible
from recourse_gen.cost import RecourseCost
from recourse_gen.personal import Rules
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema
from recourse_gen.selection import Pool
from recourse_gen.transform import TableTransform


@dataclass(frozen=True)
class People:
    """A batch of factuals: as a frame ``(B, D)``, encoded ``(B, ·)``, and what each may become."""

    transform: TableTransform
    frame: pd.DataFrame
    rows: Rows
    feasible: Feasible

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, keep: np.ndarray) -> People:
        """The people at `keep` (int64)."""
        rows, feasible = self.rows.take(torch.from_numpy(keep)), self.feasible.take(keep)
        return replace(self, frame=self.frame.iloc[keep], rows=rows, feasible=feasible)

    @cached_property
    def values(self) -> list[pd.Series]:
        """Of each column in the training dtype, as today's frame may have others, say fewer categories: its levels
        ``(L,)``, none for numbers, and then the people's own values ``(B,)``."""
        found = []
        for feature in self.transform.schema.features:
            own = self.transform.restore(feature, self.frame[feature.name].to_numpy())
            found.append(pd.concat([self.transform.values(feature), own]) if feature.is_token else own)
        return found


@dataclass(frozen=True)
class Scorer:
    """What is asked of every candidate. auditor: None where it is not to be asked. confidence: least probability.
    change_price: what a changed column adds to a candidate's burden."""

    transform: TableTransform
    classifier: Classifier
    constraints: Rules
    auditor: Auditor | None
    confidence: float
    change_price: float

    def __call__(self, people: People, person: np.ndarray, drawn: Rows) -> Pool:
        """Candidates ``(R, ·)`` of the people at `person`, int64 ``(R,)``, as a pool ``(R, 1)``."""
        drawn = _inside(people, person, drawn)
        frame = as_frame(people, person, drawn)
        drawn = self._rounded(frame, drawn)
        probability, valid = self.holds(people, person, frame)
        flat = {name: np.full(len(frame), np.nan) for name in ("consensus", "plausibility")}
        flat |= {"expected": np.zeros(len(frame)), "accepted": valid.copy()}
        if self.auditor is not None and valid.any():
            candidates = drawn.take(torch.from_numpy(valid))
            consensus, plausibility = self.auditor.consensus(candidates), self.auditor.plausibility(candidates)
            flat["consensus"][valid], flat["plausibility"][valid] = consensus, plausibility
            flat["expected"][valid] = self.auditor.expected(consensus, plausibility)
            flat["accepted"][valid] = self.auditor.accepts(consensus, plausibility)
        own, rows = people.rows.take(torch.from_numpy(person)), Rows(drawn.num[:, None], drawn.cat[:, None])
        cost = RecourseCost(self.transform.schema)(own, rows).numpy().astype(np.float64)[:, 0]
        cost += _between_levels(self.transform.schema, people, person, drawn)
        moved = (drawn.num != own.num).sum(1) + (drawn.cat != own.cat).sum(1)
        flat |= {"probability": probability, "valid": valid, "cost": cost}
        flat["burden"] = cost + self.change_price * moved.numpy()
        return Pool(rows=rows, **{name: values[:, None] for name, values in flat.items()})

    def holds(self, people: People, person: np.ndarray, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """The classifier's probability for each row of `frame`, and whether it is enough and the rules are kept."""
        probability = self.classifier.probability(frame)
        valid = (probability > 0.5) & (probability >= self.confidence)
        if self.concerned:
            before, after = people.frame[self.concerned].iloc[person[valid]], frame.loc[valid, self.concerned]
            valid[valid] &= ~self.constraints.violations(before, after)
        return probability, valid

    @cached_property
    def concerned(self) -> list[str]:
        """The columns that the constraints look at."""
        return self.constraints.concerns(self.transform.schema.names)

    def _rounded(self, frame: pd.DataFrame, drawn: Rows) -> Rows:
        """`drawn` with the whole numbers that the frame holds, so that equal answers count as equal."""
        num = drawn.num.clone()
        for n, feature in enumerate(self.transform.schema.numbers):
            if feature.storage.kind in "iu":
                num[:, n] = torch.from_numpy(feature.scaled(frame[feature.name])).float()
        return Rows(num, drawn.cat)


def _inside(people: People, person: np.ndarray, drawn: Rows) -> Rows:
    """Candidates as the frame will hold them: numbers that changed lie in their bounds."""
    at = torch.from_numpy(person)
    clipped = drawn.num.clamp(people.feasible.low[at], people.feasible.high[at])
    return Rows(torch.where(drawn.num == people.rows.num[at], drawn.num, clipped), drawn.cat)


def _between_levels(schema: Schema, people: People, person: np.ndarray, drawn: Rows) -> np.ndarray:
    """Float64 ``(R,)``: what is to be added to the cost between encoded rows, which takes a factual's number that its
    ordinal column never held for the nearest level, so that a change is paid from the number itself."""
    missed = np.zeros(len(person))
    for d, t, _ in schema.places:
        feature = schema.features[d]
        if feature.kind != "ordinal":
            continue
        code, level = people.rows.cat[:, t].numpy(), feature.level_values
        own, nearest = feature.scaled(people.feasible.raw[:, d]), level[code]
        if (own != nearest).any():
            to = drawn.cat[:, t].numpy()
            gap = np.abs(level[to] - own[person]) - np.abs(level[to] - nearest[person])
            missed += feature.weight * np.where(to == code[person], 0.0, gap)
    return missed


def as_frame(people: People, person: np.ndarray, drawn: Rows) -> pd.DataFrame:
    """Candidates ``(R, ·)`` of the people at `person`, int64 ``(R,)``, as a frame: what is unchanged has exactly the
    factual's value, and numbers keep to their raw bounds in spite of float32."""
    at, transform = torch.from_numpy(person), people.transform
    same_num, same_cat = (drawn.num == people.rows.num[at]).numpy(), (drawn.cat == people.rows.cat[at]).numpy()
    columns = {}
    for d, t, n in transform.schema.places:
        feature, values = transform.schema.features[d], people.values[d]
        if n is None:
            # Values are made once per person and level, not once per candidate.
            code = np.where(same_cat[:, t], len(feature.levels) + person, drawn.cat[:, t].numpy())
            columns[feature.name] = _taken(values, code)
            continue
        low, high = people.feasible.raw_low[person, n], people.feasible.raw_high[person, n]
        column = transform.restore(feature, transform.raw(feature, drawn.num[:, n]).clip(low, high))
        columns[feature.name] = column.mask(same_num[:, n], _taken(values, person))
    return pd.DataFrame(columns)


def _taken(values: pd.Series, at: np.ndarray) -> Any:
    taken = values.array.take(at)
    # With its dtype, or pandas would take objects that are all text for a column of text.
    return pd.Series(taken, dtype=object) if values.dtype == object else taken
