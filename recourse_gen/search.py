"""Sample, check, audit, choose: from factuals to recommendations, in batches."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from recourse_gen.audit import Auditor
from recourse_gen.backbone import Backbone
from recourse_gen.classifier import Classifier
from recourse_gen.constraints import changed_cells
from recourse_gen.contract import check_log_prob, check_samples
from recourse_gen.cost import RecourseCost
from recourse_gen.counterfactuals import REPORT, Counterfactuals
from recourse_gen.deadline import Deadline
from recourse_gen.noise import Noise
from recourse_gen.options import check_dial, check_flag, check_function, check_number, check_seed, check_whole
from recourse_gen.personal import Rules
from recourse_gen.rows import Rows
from recourse_gen.scoring import People, Scorer, as_frame
from recourse_gen.selection import Pool, policy, ranked
from recourse_gen.sparsify import sparsify
from recourse_gen.transform import TableTransform

Report = dict[str, np.ndarray]  # columns ``(B·n,)`` by the names of `REPORT`
Opened = tuple[Report, np.ndarray, People]
SPARE = 7  # finalists beyond n that are made sparse: the best before need not be the best after
SPARED = 3  # those of them that go on after their first moves
TEXT = {"status": "not_found", "reason": "", "forced": ""}  # columns of text in a report, as they begin
IDLE = "the constraints let no column change"
WHOLE = ("n", "candidates", "batch_size", "max_candidates")


@dataclass(frozen=True)
class SearchOptions:
    """What one call of `generate` asks for; see there."""

    n: int
    candidates: int
    select: str
    confidence: float
    audit: bool
    sparsify: bool
    max_candidates: int | None
    cost_weight: float
    temperature: float
    seed: int
    batch_size: int
    time_budget: float | None = None
    change_price: float = 0.12

    def __post_init__(self) -> None:
        whole = ("n", "candidates", "batch_size") if self.max_candidates is None else WHOLE
        for name in whole:
            check_whole(name, getattr(self, name))
        check_seed(self.seed)
        for name in (*whole, "seed"):  # NumPy's overflow
            object.__setattr__(self, name, int(getattr(self, name)))
        if self.budget < self.candidates:
            raise ValueError(f"max_candidates={self.max_candidates} is below candidates={self.candidates}")
        for name in ("audit", "sparsify"):
            check_flag(name, getattr(self, name))
        check_number("confidence", self.confidence, 0.5, 1)
        check_number("change_price", self.change_price, 0, 1e6)
        for name in ("cost_weight", "temperature"):
            check_dial(name, getattr(self, name))
        if self.time_budget is not None:
            check_number("time_budget", self.time_budget, 0, math.inf, closed=False)
        policy(self.select)

    @property
    def budget(self) -> int:
        """Most candidates per person."""
        return 8 * self.candidates if self.max_candidates is None else self.max_candidates


class Search:
    """One configured search; call it with a checked frame of factuals whose index has no repeats.

    deadline: by default the time budget of the options, from now on.
    """

    def __init__(
        self,
        model: Backbone,
        transform: TableTransform,
        classifier: Classifier,
        auditor: Auditor | None,
        constraints: Rules,
        options: SearchOptions,
        deadline: Deadline | None = None,
    ) -> None:
        price = float(options.change_price) if options.sparsify else 0.0
        self.scorer = Scorer(transform, classifier, constraints, auditor, options.confidence, price)
        self.model, self.options = model, options
        self.deadline = deadline or Deadline(options.time_budget)
        self.policy, self.cost = policy(options.select), RecourseCost(transform.schema)
        tensors = itertools.chain(model.parameters(), model.buffers())
        self.device = next((tensor.device for tensor in tensors), torch.device("cpu"))

    def __call__(self, factuals: pd.DataFrame, progress: Callable[[int], Any] | None = None) -> Counterfactuals:
        check_function("progress", progress)
        size, n = self.options.batch_size, self.options.n
        alike = self.scorer.constraints.alike(factuals)
        batches = [at[start : start + size] for at in alike for start in range(0, max(len(at), 1), size)]
        opened: Iterable[Opened] = (self._open(factuals.iloc[at]) for at in batches)
        if self.deadline.seconds is not None:
            opened = list(opened)  # so that nobody is left without a status when the time is over
        parts = []
        for at, batch in zip(batches, opened, strict=True):
            parts.append(self._serve(*batch))
            if progress is not None:
                progress(len(at))
        keys = pd.MultiIndex.from_product([factuals.index, range(n)], names=["factual", "rank"])
        place = (np.concatenate(batches)[:, None] * n + np.arange(n)).reshape(-1)  # of each row of the parts
        whole = {name: np.concatenate([part[name] for part, _ in parts]) for name in REPORT}
        report = pd.DataFrame(whole, index=keys[place]).astype(dict.fromkeys(TEXT, "str"))
        answers = pd.concat([part for _, part in parts])
        place, order = place[(report["status"] == "ok").to_numpy()], np.argsort(place)
        answers = answers.set_axis(keys[place]).iloc[np.argsort(place)]
        return Counterfactuals(factuals, report.iloc[order], self.scorer.transform.schema, answers)

    def _open(self, factuals: pd.DataFrame) -> Opened:
        """What can be said before anything is drawn; and who is asking, as positions and in full."""
        n, transform = self.options.n, self.scorer.transform
        probability = self.scorer.classifier.probability(factuals)
        rows = transform.encode_checked(factuals)
        feasible = self.scorer.constraints.compile(transform.schema, factuals, rows)
        size, unserved = len(factuals) * n, self.deadline.reason + "0 candidates"
        report = {name: np.full(size, np.nan) for name in REPORT}
        report |= {name: np.full(size, told, dtype=object) for name, told in {**TEXT, "reason": unserved}.items()}
        report["probability"], report["probability_before"] = probability.repeat(n), probability.repeat(n)
        report["audited"], report["candidates"] = np.zeros(size, dtype=bool), np.zeros(size, dtype=np.int64)
        reasons = [told or IDLE * idle for told, idle in zip(feasible.reasons, feasible.idle.tolist(), strict=True)]
        favoured, impossible = probability > 0.5, np.array([bool(reason) for reason in reasons], dtype=bool)
        self._mark(report, favoured, "already_favourable", ["the classifier already says yes"] * len(factuals))
        self._mark(report, impossible & ~favoured, "infeasible", reasons)
        asking = np.flatnonzero(~favoured & ~impossible)
        people = People(transform, factuals, rows, feasible).take(asking)
        report["forced"][self._ranks(asking)] = np.repeat(people.feasible.forced(transform.schema), n)
        return report, asking, people

    def _serve(self, report: Report, asking: np.ndarray, people: People) -> tuple[Report, pd.DataFrame]:
        """The report filled in, in order of (factual, rank), and the answers of its ``ok`` rows."""
        answers = [self.scorer.transform.decode(people.rows.take(torch.arange(0)))]
        for some in self.deadline.portions(len(people)):
            part = people.take(some)
            answers.append(self._fill_in(report, asking[some], part, *self._choose(part)))
        return report, pd.concat(answers)

    def _ranks(self, people: np.ndarray) -> np.ndarray:
        """Int64 ``(P·n,)``: the rows of the report of the people at these positions."""
        n = self.options.n
        return (people[:, None] * n + np.arange(n)).reshape(-1)

    def _mark(self, report: Report, which: np.ndarray, status: str, reasons: list[str]) -> None:
        wide = which.repeat(self.options.n)
        report["status"][wide] = status
        report["reason"][wide] = np.repeat(np.array(reasons, dtype=object), self.options.n)[wide]

    def _choose(self, people: People) -> tuple[Pool, np.ndarray, np.ndarray, np.ndarray]:
        """The chosen candidates ``(B, n)``; and ``(B,)``: how many were drawn for each factual, how many of them were
        valid, and who would have got more but for the time budget: what is chosen for them does not count."""
        o = self.options
        finalists = o.n + SPARE if o.sparsify else o.n
        pool, valid = self._draw(people, o.candidates, 0)
        chosen, candidates = self._best(pool, finalists), np.full(len(people), o.candidates)
        tried, waiting, late = o.candidates, np.arange(len(people)), np.zeros(len(people), dtype=bool)
        while True:
            left = np.flatnonzero(~self.policy.done(pool, o.n))
            count = min(tried, o.budget - tried)
            if not len(left) or not count:
                break
            if self.deadline.passed():
                late[waiting[left]] = True
                break
            waiting, tried = waiting[left], tried + count
            more, valid_more = self._draw(people.take(waiting), count, tried - count)
            pool = pool.take(left).extend(more)
            chosen = chosen.put(waiting, self._best(pool, finalists))
            candidates[waiting] = tried
            valid[waiting] += valid_more
        if o.sparsify and self.deadline.passed():
            late[:] = True
        if late.any():  # an answer never depends on the clock, only whether there is one
            chosen = chosen.pick(np.where(late[:, None], -1, np.arange(finalists)))
        if o.sparsify:
            chosen = self._best(self._sparser(people, chosen), o.n)
        return chosen, candidates, valid, late

    def _best(self, pool: Pool, count: int) -> Pool:
        """The `count` candidates ``(B, count)`` that the policy chooses."""
        return pool.pick(self.policy.choose(pool, count, self.cost))

    def _sparser(self, people: People, chosen: Pool) -> Pool:
        """Finalists ``(B, m)`` with what need not change put back; themselves too, where that makes too few of them
        or the policy keeps them."""
        batch, count = chosen.valid.shape
        person = np.arange(batch).repeat(count)
        sparse = sparsify(
            chosen.reshape(batch * count, 1),
            people.rows.repeat(count),
            self.scorer.transform.schema,
            self.policy,
            lambda drawn, at: self.scorer(people, person[at], drawn),
            people.feasible.together,
            rivals=count,
            # Where several are chosen together, the best alone need not be among them.
            keep=self.options.n + SPARED if self.policy.choice is ranked else None,
        )
        sparse = sparse.reshape(batch, count).without_repeats()
        enough = (sparse.valid.sum(1) >= self.options.n) & (not self.policy.keeps_origins)
        both = sparse.extend(chosen)
        return replace(both, valid=both.valid & ~(enough[:, None] & (np.arange(2 * count) >= count)))

    def _draw(self, people: People, count: int, first: int) -> tuple[Pool, np.ndarray]:
        """`count` scored candidates per person, numbered from `first`, and how many of them are valid, ``(B,)``."""
        o, batch = self.options, len(people)
        # As many drafts at a time as in the first round, or memory would grow with every round.
        size = max(1, o.batch_size * o.candidates // count)
        blocks = [np.arange(start, min(start + size, batch)) for start in range(0, batch, size)]
        parts = [self._sample(people.take(at), count, first) for at in blocks]
        drawn = Rows(torch.cat([part.num for part in parts]), torch.cat([part.cat for part in parts])).flatten()
        pool = self.scorer(people, np.arange(batch).repeat(count), drawn).reshape(batch, count)
        return pool.without_repeats(), pool.valid.sum(1)

    def _sample(self, people: People, count: int, first: int) -> Rows:
        here = people.rows.to(self.device)
        drawn = self.model.sample(
            here,
            num_samples=count,
            cost_weight=self._cost_weight(len(people)),
            feasible=people.feasible.to(self.device),
            temperature=self.options.temperature,
            noise=Noise.of(here, self.options.seed, first_sample=first),
        )
        return check_samples(self.model, self.scorer.transform.schema, drawn, len(people), count)

    def _cost_weight(self, people: int) -> torch.Tensor:
        return torch.full((people,), float(self.options.cost_weight), dtype=torch.float32, device=self.device)

    def _log_likelihood(self, people: People, person: np.ndarray, rows: Rows) -> np.ndarray:
        """log R(x⁺ | x) of rows ``(A, ·)`` for the people at `person`, int64 ``(A,)``; NaN without a ``log_prob``."""
        log_prob, found = getattr(self.model, "log_prob", None), np.full(len(person), np.nan)
        if log_prob is None:
            return found
        constrained = "feasible" in inspect.signature(log_prob).parameters
        for start in range(0, len(person), self.options.batch_size):
            at = slice(start, start + self.options.batch_size)
            theirs, given = people.take(person[at]), Rows(rows.num[at], rows.cat[at]).to(self.device)
            weight = self._cost_weight(len(theirs))
            rules = {"feasible": theirs.feasible.to(self.device)} if constrained else {}
            with torch.no_grad():
                told = log_prob(theirs.rows.to(self.device), given, weight, **rules)
                found[at] = check_log_prob(self.model, told, len(theirs)).cpu().numpy()
        return found

    def _fill_in(
        self,
        report: Report,
        asking: np.ndarray,
        people: People,
        chosen: Pool,
        candidates: np.ndarray,
        valid: np.ndarray,
        late: np.ndarray,
    ) -> pd.DataFrame:
        """Fill in the report from the frame that is really returned: classifier and constraints are asked again."""
        n = self.options.n
        person, rows = np.arange(len(people)).repeat(n), chosen.rows.flatten()
        frame = as_frame(people, person, rows)
        probability, held = self.scorer.holds(people, person, frame)
        held &= chosen.valid.reshape(-1)
        at = self._ranks(asking)
        tried = candidates.repeat(n)
        report["candidates"][at] = tried
        report["acceptance"][at] = (valid / candidates).repeat(n)
        answered = held.reshape(-1, n).any(1).repeat(n)
        counted = tried.astype(str).astype(object) + " candidates"
        none = np.where(answered, f"{self.policy.no_other} among " + counted, "none of " + counted + " was valid")
        none = np.where(late.repeat(n), self.deadline.reason + counted, none)
        report["reason"][at] = np.where(held, "", none)
        good = at[held]
        report["status"][good] = "ok"
        report["probability"][good] = probability[held]
        report["n_changed"][good] = changed_cells(people.frame.iloc[person], frame).sum(1)[held]
        kept = torch.from_numpy(held)
        report["log_likelihood"][good] = self._log_likelihood(people, person[held], rows.take(kept))
        for name in ("cost", "consensus", "plausibility"):
            report[name][good] = getattr(chosen, name).reshape(-1)[held]
        if self.scorer.auditor is not None:
            audited = chosen.accepted.reshape(-1)[held]
            report["audited"][good] = audited
            report["reason"][good[~audited]] = "valid for the classifier, but the auditor does not accept it"
        return frame[held]
