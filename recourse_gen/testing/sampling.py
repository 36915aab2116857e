"""What a search asks of `Backbone.sample`, constraints apart."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from recourse_gen import checkpoint
from recourse_gen.backbone import Backbone
from recourse_gen.constraints import Constraints, Feasible
from recourse_gen.rows import Rows
from recourse_gen.testing.subject import Subject, require, same
from recourse_gen.testing.tables import Table, random_frame, table_of


def _people(table: Table) -> tuple[Rows, Feasible]:
    """Some rows of the table, and constraints that forbid them nothing."""
    frame = table.frame.iloc[:12]
    rows = table.transform.encode(frame)
    return rows, Constraints().compile(table.schema, frame, rows)


def samples_are_rows_of_the_schema(subject: Subject) -> None:
    """Shapes ``(B, S, ·)``, dtypes and device of `Rows`, tokens below their number of levels, numbers in 0 to 1.

    For one row and one sample as for many, sharpened or not, for any λ, with constraints that forbid nothing or with
    none.
    """
    asked = ((1, 1, 1.0, 3.0, False), (1, 5, 0.05, 0.5, True), (12, 4, 1.0, 1000.0, False), (12, 4, 1.5, 20.0, True))
    for sort, table in subject.tables.items():
        model, (everybody, free) = subject.build(table), _people(table)
        levels = torch.tensor([len(feature.levels) for feature in table.schema.tokens], dtype=torch.int64)
        for size, count, temperature, cost_weight, bound in asked:
            rows, told = everybody.take(torch.arange(size)), f"B = {size}, S = {count}, λ = {cost_weight:g}"
            where = f"for {told} and temperature {temperature:g} on the {sort} table"
            feasible = free.take(np.arange(size)) if bound else None
            drawn = subject.sample(
                model, rows, count, feasible=feasible, temperature=temperature, cost_weight=cost_weight
            )
            require(isinstance(drawn, Rows), f"sample must return Rows, got {type(drawn).__name__}")
            for part, own, dtype in ((drawn.num, rows.num, torch.float32), (drawn.cat, rows.cat, torch.int64)):
                shape, due = tuple(part.shape), (size, count, own.shape[1])
                require(shape == due, f"samples must have the shape {due}, got {shape} {where}")
                require(part.dtype == dtype, f"samples must be {dtype}, got {part.dtype} {where}")
                require(part.device == own.device, f"samples must stay on {own.device}, got {part.device}")
                require(not part.requires_grad, "samples must not carry a gradient; use torch.no_grad()")
            require(drawn.num.isfinite().all(), f"numbers must be finite {where}")
            inside = (drawn.num >= 0) & (drawn.num <= 1)
            require(inside.all(), f"numbers must stay in their column's range {where}")
            known = (drawn.cat >= 0) & (drawn.cat < levels)
            require(known.all(), f"tokens must be levels of their column {where}")


def the_seed_decides(subject: Subject) -> None:
    """The same seed gives the same samples; another seed gives others, unless there is nothing to train.

    What learned a law draws from it. A backbone without trainable parameters may give one fixed answer.
    """
    for sort, table in subject.tables.items():
        model, (rows, _) = subject.build(table), _people(table)
        one, again, other = (subject.sample(model, rows, 8, seed=seed) for seed in (0, 0, 1))
        require(same(one, again), f"the same seed must give the same samples on the {sort} table")
        if subject.learns:
            require(not same(one, other), f"another seed must give other samples on the {sort} table")


def the_dials_turn(subject: Subject) -> None:
    """Another λ gives other samples, and so does a low temperature, which does not spread them more, unless there is
    nothing to train.

    Samples of one row are as spread as they differ from each other: tokens by how often, numbers by how far.
    """
    for sort, table in subject.tables.items() if subject.learns else ():
        model, (rows, _) = subject.build(table), _people(table)
        _nudge(subject, model, table)
        low, high = (subject.sample(model.eval(), rows, 64, cost_weight=cost_weight) for cost_weight in (2.0, 20.0))
        require(not same(low, high), f"another λ must give other samples on the {sort} table")
        cold, warm = (subject.sample(model, rows, 64, temperature=value) for value in (0.05, 1.0))
        require(not same(cold, warm), f"another temperature must give other samples on the {sort} table")
        less, more = _spread(cold), _spread(warm)
        require(less <= more + 0.02, f"samples spread more at temperature 0.05 than at 1 on the {sort} table")


def _spread(drawn: Rows) -> float:
    """Mean difference of one sample and the next, over columns."""
    tokens = (drawn.cat[:, 1:] != drawn.cat[:, :-1]).float()
    return torch.cat([tokens, (drawn.num[:, 1:] - drawn.num[:, :-1]).abs()], 2).mean().item()


def global_generators_are_left_alone(subject: Subject) -> None:
    """Sampling neither reads nor moves the global generators of torch, NumPy and Python."""
    table = subject.tables["mixed"]
    model, (rows, feasible) = subject.build(table), _people(table)
    with _seeded_globals(1) as states:
        before = states()
        one, after = subject.sample(model, rows, 4, feasible=feasible), states()
    with _seeded_globals(2):
        other = subject.sample(model, rows, 4, feasible=feasible)
    moved = [name for name in before if after[name] != before[name]]
    require(not moved, f"sampling moved the global generator of {', '.join(moved)}; use `noise` instead")
    require(same(one, other), "samples depend on the state of a global generator; use `noise` instead")


@contextmanager
def _seeded_globals(seed: int) -> Iterator[Callable[[], dict[str, str]]]:
    """Seeds the global generators for a while; gives a function that tells their states."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield lambda: {
                "torch": str(torch.get_rng_state().tolist()),
                "Python": str(random.getstate()),
                "NumPy": str([str(np.asarray(part).tolist()) for part in np.random.get_state()]),  # noqa: NPY002
            }
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def sampling_leaves_the_module_as_it_was(subject: Subject) -> None:
    """Training and evaluation mode of every part, the weights and the gradients are as they were before."""
    table = subject.tables["mixed"]
    model, (rows, feasible) = subject.build(table), _people(table)
    for training in (True, False):
        model.train(training)
        list(model.modules())[-1].train(not training)  # a part that somebody froze, or left in training
        modes = [part.training for part in model.modules()]
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        subject.sample(model, rows, 2, feasible=feasible)
        now = model.state_dict()
        require([part.training for part in model.modules()] == modes, "sampling changed train() or eval() mode")
        unchanged = weights.keys() == now.keys() and all(weights[name].equal(now[name]) for name in weights)
        require(unchanged, "sampling changed the state_dict")
        require(all(each.grad is None for each in model.parameters()), "sampling left gradients behind")


def rows_do_not_depend_on_their_company(subject: Subject) -> None:
    """A row's samples are the same alone, in any batch and in any order."""
    for sort, table in subject.tables.items():
        model, (rows, feasible) = subject.build(table), _people(table)
        everybody = subject.sample(model, rows, 5, feasible=feasible)
        order = torch.randperm(12, generator=torch.Generator().manual_seed(subject.seed))
        batches = {"alone": torch.arange(2).split(1), "in another batch": [torch.arange(3, 8)], "reordered": [order]}
        for how, parts in batches.items():
            for at in parts:
                drawn = subject.sample(model, rows.take(at), 5, feasible=feasible.take(at.numpy()))
                require(same(drawn, everybody.take(at)), f"{sort} rows got other samples {how}")


def samples_do_not_depend_on_their_number(subject: Subject) -> None:
    """The first s of S samples are the s samples, and those numbered from s on are the rest."""
    for sort, table in subject.tables.items():
        model, (rows, _) = subject.build(table), _people(table)
        whole = subject.sample(model, rows, 9)
        for first, count in ((0, 4), (4, 5)):
            due = Rows(whole.num[:, first : first + count], whole.cat[:, first : first + count])
            what = f"samples {first} to {first + count - 1} of {sort} rows"
            require(same(subject.sample(model, rows, count, first=first), due), f"{what} depend on how many are drawn")


def saved_weights_are_the_whole_law(subject: Subject) -> None:
    """A module built anew with other weights samples the same once it has loaded the saved ones."""
    for sort, table in subject.tables.items():
        model, (rows, _) = subject.build(table), _people(table)
        if subject.learns:  # a little training, so that what only training fills is filled
            _nudge(subject, model, table)
        other = subject.blank(table, weights=1)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.write_weights(Path(folder), model)
            checkpoint.read_weights(Path(folder), other)
        a, b = (subject.sample(each.eval(), rows, 5) for each in (model, other))
        told = f"a copy with the same state_dict samples differently on the {sort} table: some state is not in it"
        require(a.cat.equal(b.cat) and a.num.equal(b.num), told)


def _nudge(subject: Subject, model: Backbone, table: Table) -> None:
    optimizer, batch = torch.optim.Adam(model.parameters(), 1e-2), subject.pairs(table, 32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(subject.seed)
        for _ in range(3):
            optimizer.zero_grad()
            model.train()(*batch).mean().backward()
            optimizer.step()
    model.zero_grad(set_to_none=True)


def log_prob_is_the_law_that_is_sampled(subject: Subject) -> None:
    """`log_prob`, where there is one, is finite for training pairs, sums to one over a table of tokens, and is the law
    that samples follow there."""
    if not hasattr(subject.backbone, "log_prob"):
        return
    for sort, table in subject.tables.items():
        model, batch = subject.build(table), subject.pairs(table, 20)
        with torch.no_grad():
            found = model.log_prob(*batch)  # type: ignore[operator]
        right = found.shape == (20,) and bool(found.isfinite().all())
        require(right, f"log_prob must be finite and (B,) for pairs of the {sort} table")
    table = table_of(random_frame(["bool", "string", "steps"], 24, subject.seed))
    codes = list(itertools.product(*(range(len(feature.levels)) for feature in table.schema.features)))
    model, (rows, _), every, count = subject.build(table), _people(table), torch.tensor(codes), 2000
    for at, cost_weight in ((0, 1.0), (5, 6.0)):
        one = rows.take(torch.tensor([at]))
        with torch.no_grad():
            given = one.repeat(len(every)), Rows(torch.zeros(len(every), 0), every)
            log_prob = model.log_prob(*given, torch.full((len(every),), cost_weight))  # type: ignore[operator]
        probability = log_prob.double().exp()
        total = probability.sum().item()
        require(abs(total - 1) < 1e-3, f"log_prob sums to a probability of {total:.4f} over all rows, not to 1")
        drawn = subject.sample(model, one, count, cost_weight=cost_weight).cat[0]
        share = (drawn[:, None] == every).all(-1).double().mean(0)
        distance = 0.5 * (share - probability).abs().sum().item()
        # By chance: below 0.5·√(2·24 / (π·2000)) on average, whatever the law.
        require(distance < 0.12, f"samples are {distance:.2f} (total variation) away from log_prob")
