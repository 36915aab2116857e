"""Sample, check, audit, choose: from factuals to recommendations, in batches."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from recourse_gen.audit import Auditor
from recourse_gen.backbone import Backbone
from recourse_gen.classifier import Classifier
from recourse_gen.constraints import Constraints, Feasible, changed_cells
from recourse_gen.cost import RecourseCost
from recourse_gen.counterfactuals import REPORT, Counterfactuals
from recourse_gen.noise import Noise
from recourse_gen.options import check_number, check_whole
from recourse_gen.rows import Rows
from recourse_gen.selection import Pool, policy
from recourse_gen.transform import TableTransform


@dataclass(frozen=True)
class SearchOptions:
    """What one call of `generate` asks for; see there."""

    n: int
    candidates: int
    select: str
    confidence: float
    audit: bool
    max_candidates: int | None
    cost_weight: float
    temperature: float
    seed: int
    batch_size: int

    def __post_init__(self) -> None:
        for name in ("n", "candidates", "batch_size"):
            check_whole(name, getattr(self, name))
        if self.max_candidates is not None:
            check_whole("max_candidates", self.max_candidates)
        if self.budget < self.candidates:
            raise ValueError(f"max_candidates={self.max_candidates} is below candidates={self.candidates}")
        check_whole("seed", self.seed, -math.inf)
        check_number("confidence", self.confidence, 0.5, 1)
        for name in ("cost_weight", "temperature"):
            check_number(name, getattr(self, name), 0, math.inf, closed=False)
        policy(self.select)

    @property
    def budget(self) -> int:
        """Most candidates per person."""
        return 8 * self.candidates if self.max_candidates is None else self.max_candidates


class Search:
    """One configured search; call it with a checked frame of factuals whose index has no repeats."""

    def __init__(
        self,
        model: Backbone,
        transform: TableTransform,
        classifier: Classifier,
        auditor: Auditor | None,
        constraints: Constraints,
        options: SearchOptions,
    ) -> None:
        self.model, self.transform, self.classifier = model, transform, classifier
        self.auditor, self.constraints, self.options = auditor, constraints, options
        self.cost = RecourseCost(transform.schema)
        tensors = itertools.chain(model.parameters(), model.buffers())
        self.device = next((tensor.device for tensor in tensors), torch.device("cpu"))

    def __call__(self, factuals: pd.DataFrame) -> Counterfactuals:
        batches = range(0, len(factuals), self.options.batch_size)
        parts = [self._batch(factuals.iloc[start : start + self.options.batch_size]) for start in batches]
        parts = parts or [self._batch(factuals)]
        keys = pd.MultiIndex.from_product([factuals.index, range(self.options.n)], names=["factual", "rank"])
        report = pd.concat([part for part, _ in parts]).set_axis(keys)
        answers = pd.concat([part for _, part in parts])
        return Counterfactuals(factuals, report, answers.set_axis(keys[(report["status"] == "ok").to_numpy()]))

    def _batch(self, factuals: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Report ``(B·n, ·)`` in order of (factual, rank), and the answers of its ``ok`` rows."""
        n = self.options.n
        probability = self.classifier.probability(factuals)
        rows = self.transform.encode(factuals)
        feasible = self.constraints.compile(self.transform.schema, factuals, rows)
        report = pd.DataFrame({name: np.full(len(factuals) * n, np.nan) for name in REPORT})
        report["status"], report["reason"] = "not_found", ""
        report["probability"] = probability.repeat(n)
        report["audited"], report["candidates"] = False, 0
        favoured, impossible = probability > 0.5, np.array([bool(reason) for reason in feasible.reasons], dtype=bool)
        self._mark(report, favoured, "already_favourable", ["the classifier already says yes"] * len(factuals))
        self._mark(report, impossible & ~favoured, "infeasible", feasible.reasons)
        open_rows = np.flatnonzero(~favoured & ~impossible)
        if not len(open_rows):
            return report, self.transform.decode(rows.take(torch.from_numpy(open_rows)))
        people, open_feasible = factuals.iloc[open_rows], feasible.take(open_rows)
        chosen, known = self._choose(people, rows.take(torch.from_numpy(open_rows)), open_feasible)
        return self._fill_in(report, people, open_feasible, open_rows, chosen, known)

    def _mark(self, report: pd.DataFrame, which: np.ndarray, status: str, reasons: list[str]) -> None:
        wide = which.repeat(self.options.n)
        report.loc[wide, "status"] = status
        report.loc[wide, "reason"] = np.repeat(np.array(reasons, dtype=object), self.options.n)[wide]

    def _choose(self, factuals: pd.DataFrame, rows: Rows, feasible: Feasible) -> tuple[Rows, dict[str, np.ndarray]]:
        """The chosen candidates ``(B, n, ·)`` and what is known of them, ``(B, n)`` each; ``found``: which exist."""
        o, batch, choosing = self.options, rows.batch_size, policy(self.options.select)
        num = torch.zeros(batch, o.n, rows.num.shape[1])
        cat = torch.zeros(batch, o.n, rows.cat.shape[1], dtype=torch.int64)
        known = {name: np.full((batch, o.n), np.nan) for name in ("cost", "consensus", "plausibility")}
        known |= {name: np.zeros((batch, o.n), dtype=bool) for name in ("found", "audited")}
        known["candidates"] = np.zeros((batch, o.n), dtype=np.int64)
        open_rows, pool, tried = np.arange(batch), None, 0
        while len(open_rows):
            count = min(o.candidates if pool is None else tried, o.budget - tried)
            keep = torch.from_numpy(open_rows)
            drawn = self._draw(factuals.iloc[open_rows], rows.take(keep), feasible.take(open_rows), count, tried)
            pool, tried = drawn if pool is None else pool.extend(drawn), tried + count
            done = choosing.done(pool, o.n) | (tried >= o.budget)
            at, ready = open_rows[done], pool.take(np.flatnonzero(done))
            index = choosing.choose(ready, o.n)
            picked = torch.from_numpy(index.clip(min=0))[:, :, None]
            num[at] = ready.rows.num.take_along_dim(picked, 1)
            cat[at] = ready.rows.cat.take_along_dim(picked, 1)
            for name in ("cost", "consensus", "plausibility", "audited"):
                values = ready.accepted if name == "audited" else getattr(ready, name)
                known[name][at] = np.take_along_axis(values, index.clip(min=0), 1)
            known["found"][at], known["candidates"][at] = index >= 0, tried
            left = np.flatnonzero(~done)
            open_rows, pool = open_rows[left], pool.take(left)
        return Rows(num, cat), known

    def _draw(self, factuals: pd.DataFrame, rows: Rows, feasible: Feasible, count: int, first: int) -> Pool:
        """`count` scored candidates per factual, numbered from `first`."""
        o, batch = self.options, rows.batch_size
        # As many drafts at a time as in the first round, or memory would grow with every round.
        size = max(1, o.batch_size * o.candidates // count)
        blocks = [np.arange(start, min(start + size, batch)) for start in range(0, batch, size)]
        parts = [self._sample(rows.take(torch.from_numpy(at)), feasible.take(at), count, first) for at in blocks]
        drawn = Rows(torch.cat([part.num for part in parts]), torch.cat([part.cat for part in parts]))
        frame = as_frame(self.transform, factuals, rows, feasible, drawn)
        drawn = self._rounded(frame, drawn)
        probability = self.classifier.probability(frame)
        valid = (probability > 0.5) & (probability >= o.confidence)
        before = factuals.iloc[np.arange(batch).repeat(count)]
        valid[valid] &= ~self.constraints.violations(before[valid], frame[valid])
        opinions = {name: np.full(len(frame), np.nan) for name in ("consensus", "plausibility")}
        opinions |= {"expected": np.zeros(len(frame)), "accepted": valid.copy()}
        if self.auditor is not None and valid.any():
            candidates = drawn.flatten().take(torch.from_numpy(valid))
            consensus, plausibility = self.auditor.consensus(candidates), self.auditor.plausibility(candidates)
            opinions["consensus"][valid], opinions["plausibility"][valid] = consensus, plausibility
            opinions["expected"][valid] = self.auditor.expected(consensus, plausibility)
            opinions["accepted"][valid] = self.auditor.accepts(consensus, plausibility)
        cost = self.cost(rows, drawn).numpy().astype(np.float64)
        flat = {"probability": probability, "valid": valid, **opinions}
        shaped = {name: values.reshape(batch, count) for name, values in flat.items()}
        return Pool(rows=drawn, cost=cost, **shaped).without_repeats()

    def _sample(self, rows: Rows, feasible: Feasible, count: int, first: int) -> Rows:
        here = rows.to(self.device)
        return self.model.sample(
            here,
            num_samples=count,
            cost_weight=torch.full((rows.batch_size,), float(self.options.cost_weight), device=self.device),
            feasible=feasible.to(self.device),
            temperature=self.options.temperature,
            noise=Noise.of(here, int(self.options.seed), first_sample=first),
        ).to("cpu")

    def _rounded(self, frame: pd.DataFrame, drawn: Rows) -> Rows:
        """`drawn` with the whole numbers that the frame holds, so that equal answers count as equal."""
        num = drawn.num.clone()
        for n, feature in enumerate(self.transform.schema.numbers):
            if feature.storage.kind in "iu":
                num[..., n] = torch.from_numpy(feature.scaled(frame[feature.name])).float().view(num.shape[:2])
        return Rows(num, drawn.cat)

    def _fill_in(
        self,
        report: pd.DataFrame,
        people: pd.DataFrame,
        feasible: Feasible,
        open_rows: np.ndarray,
        chosen: Rows,
        known: dict[str, Any],
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Fill in the report from the frame that is really returned: classifier and constraints are asked again."""
        n = self.options.n
        frame = as_frame(self.transform, people, self.transform.encode(people), feasible, chosen)
        before = people.iloc[np.arange(len(people)).repeat(n)]
        probability = self.classifier.probability(frame)
        found = known["found"].reshape(-1)
        held = found & (probability > 0.5) & (probability >= self.options.confidence)
        held &= ~self.constraints.violations(before, frame)
        at = (open_rows[:, None] * n + np.arange(n)).reshape(-1)
        report.loc[at, "candidates"] = known["candidates"].reshape(-1)
        tried = known["candidates"].reshape(-1).astype(str)
        report.loc[at, "reason"] = np.where(held, "", "none of " + tried.astype(object) + " candidates was valid")
        good = at[held]
        report.loc[good, "status"] = "ok"
        report.loc[good, "probability"] = probability[held]
        report.loc[good, "n_changed"] = changed_cells(before, frame).sum(1)[held]
        for name in ("cost", "consensus", "plausibility"):
            report.loc[good, name] = known[name].reshape(-1)[held]
        if self.auditor is not None:
            audited = known["audited"].reshape(-1)[held]
            report.loc[good, "audited"] = audited
            report.loc[good[~audited], "reason"] = "valid for the classifier, but the auditor does not accept it"
        return report, frame[held]


def as_frame(
    transform: TableTransform, factuals: pd.DataFrame, rows: Rows, feasible: Feasible, drawn: Rows
) -> pd.DataFrame:
    """Candidates ``(B, S, ·)`` as a frame of B·S rows: what is unchanged has exactly the factual's value, and
    numbers keep to their raw bounds in spite of float32."""
    count = drawn.cat.shape[1]
    repeat = np.arange(rows.batch_size).repeat(count)
    flat, own = drawn.flatten(), rows.repeat(count)
    frame = transform.decode(flat)
    same_num, same_cat = (flat.num == own.num).numpy(), (flat.cat == own.cat).numpy()
    columns = {}
    for d, t, n in transform.schema.places:
        feature = transform.schema.features[d]
        column = frame[feature.name]
        if n is not None:
            low, high = feasible.raw_low[repeat, n], feasible.raw_high[repeat, n]
            column = transform.restore(feature, column.to_numpy(dtype=np.float64).clip(low, high))
        same = same_num[:, n] if n is not None else same_cat[:, t]
        # In the training dtype: today's frame may have others, say fewer categories.
        today = transform.restore(feature, factuals[feature.name].to_numpy()).take(repeat).set_axis(frame.index)
        columns[feature.name] = column.mask(same, today).astype(column.dtype) if same.any() else column
    return pd.DataFrame(columns)
