"""How close a generator's law R(x⁺ | x) is to the law Q(x⁺ | x) that it was trained on.

Q is known in closed form for every factual, held-out ones too, so only the generator's side is sampled.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from rich.table import Table
from torch import Tensor

from recourse_gen.backbone import Backbone
from recourse_gen.constraints import Feasible
from recourse_gen.noise import Noise
from recourse_gen.options import check_dial, check_whole
from recourse_gen.pairs import PairSupervision
from recourse_gen.rows import Rows

if TYPE_CHECKING:
    from recourse_gen.recourse import RecourseGenerator

COLUMNS = {  # key of a row: (table heading, format)
    "cost_weight": ("λ", "{:g}"),
    "skill": ("skill ↑", "{:.3f}"),
    "skill_se": ("± s.e.", "{:.3f}"),
    "joint_skill": ("joint skill ↑", "{:.3f}"),
    "kl": ("KL(Q‖R), nats ↓", "{:.2f}"),
    "effective_cost_weight": ("effective λ", "{:.1f}"),
    "cost": ("cost", "{:.3f}"),
    "cost_q": ("cost, Q", "{:.3f}"),
    "unchanged": ("unchanged", "{:.3f}"),
    "unchanged_q": ("unchanged, Q", "{:.3f}"),
    "off_support": ("off support", "{:.3f}"),
}
DISTANCES = 2**23  # between partners of one factual, held at a time
DRAFTS = 2**15  # samples asked of the model at a time
HIGHEST = 1e6  # no effective λ above it is looked for
POWERS = {"": 1.0, "_joint": 0.5}


def measure(
    generator: RecourseGenerator,
    factuals: pd.DataFrame,
    *,
    cost_weights: Sequence[float] = (5.0, 10.0),
    samples: int = 32,
    limit: int = 200,
    seed: int | None = None,
) -> list[dict[str, Any]]:
    """Distance between a fitted generator and Q, one mapping per λ of `cost_weights`; [] if nobody has a partner.

    factuals: people as for `generate`, best ones that training did not see; the first `limit` of them count, without
    those who have no admissible partner. samples: draws per factual and λ, at least 2. seed: replaces the generator's.

    Both laws are held to the generator's constraints, as far as Q knows them: not to `max_changes` and `ordered`, so
    neither counts here. All means are over factuals first. Keys:

    energy_distance: 2 E C(X, Y) − E C(X, X′) − E C(Y, Y′), X drawn from the generator, Y from Q, C the recourse cost;
        the unbiased form, so that it may be below 0. energy_distance_uniform: the same of the uniform law over the K
        partners, exactly.
    skill: 1 − energy_distance / energy_distance_uniform: 1 for Q itself, 0 for uniform partners. skill_se: its standard
        error over factuals.
    joint_skill: the same with √C in place of C. C is a sum over columns, so the energy distance in C compares the
        columns' laws one by one; that in √C is 0 for equal joint laws only (Lyons, Distance covariance in metric
        spaces, 2013, remark 3.19).
    kl: E_Q[log Q − log R] in nats, from `samples` draws of Q. None if the backbone has no ``log_prob``, or if the table
        has continuous columns: there R is a density while Q is a set of atoms.
    effective_cost_weight: the λ at which Q would cost what the generator's draws cost on average; 0 if uniform partners
        are cheaper than these, inf if not even the nearest partner is as cheap. cost, cost_q: the average costs.
    unchanged, unchanged_q: share of columns that keep the factual's value.
    off_support: share of draws whose token columns, taken together, no partner has (continuous columns are left out);
        None without token columns.
    factuals, samples: how many were used.

    Raises ValueError for a generator that is not fitted or was loaded, and for wrong options or columns.
    """
    check(cost_weights=cost_weights, samples=samples, limit=limit)
    check_whole("seed", generator.seed if seed is None else seed, -math.inf)
    if generator.model is None:
        raise ValueError("this generator is not fitted; call fit first")
    if generator.pairs is None:
        raise ValueError("fidelity needs the training rows, which a loaded generator no longer holds; call fit")
    people = generator.transform.check(factuals).iloc[:limit]
    law = generator.pairs.of(people)
    if not len(law):
        return []
    people = people[law.has_partner.cpu().numpy()]
    feasible = generator.constraints.compile(law.transform.schema, people, law.factuals.to("cpu"))
    feasible = replace(feasible, max_changes=None, ordered=[]).to(law.device)
    weights = [float(value) for value in cost_weights]
    seed = generator.seed if seed is None else int(seed)
    drawn = [_draw(generator.model, law, feasible, value, samples, seed) for value in weights]
    distances = _distances(law, drawn, weights)
    rows = []
    for i, (value, mine) in enumerate(zip(weights, drawn, strict=True)):
        cost = law.cost(law.factuals, mine).mean().item()
        q = law.log_weights(_all(law), law.costs.new_full((len(law),), value)).exp()
        skill, error = _skill(distances["model"][i], distances["uniform"][i])
        rows.append(
            {
                "cost_weight": value,
                "skill": skill,
                "skill_se": error,
                "joint_skill": _skill(distances["model_joint"][i], distances["uniform_joint"][i])[0],
                "energy_distance": distances["model"][i].mean().item(),
                "energy_distance_uniform": distances["uniform"][i].mean().item(),
                "kl": _divergence(generator.model, law, feasible, value, samples, seed),
                "effective_cost_weight": _effective_cost_weight(law, cost),
                "cost": cost,
                "cost_q": _mean_cost(law, value),
                "unchanged": _unchanged(law.factuals, mine).mean().item(),
                "unchanged_q": _expected_unchanged(law, q),
                "off_support": _off_support(law.partners, mine),
                "factuals": len(law),
                "samples": samples,
            }
        )
    return rows


def check(*, cost_weights: Sequence[float], samples: int, limit: int) -> None:
    """Raise ValueError unless `measure` can take these options."""
    listed: object = cost_weights
    if not isinstance(listed, (list, tuple)) or not listed:
        raise ValueError(f"cost_weights must list at least one number, got {cost_weights!r}")
    for value in cost_weights:
        check_dial("cost_weights", value)
    check_whole("samples", samples, 2)
    check_whole("limit", limit)


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line per λ, for ``rich.print``; what could not be measured stays empty. rows: from `measure`."""
    people = rows[0]["factuals"] if rows else 0
    drawn = Table(title=f"fidelity to Q on {people} held-out people", title_justify="left")
    for heading, _ in COLUMNS.values():
        drawn.add_column(heading, justify="right")
    for row in rows:
        cells = [(row[key], form) for key, (_, form) in COLUMNS.items()]
        drawn.add_row(*("" if value is None else form.format(value) for value, form in cells))
    return drawn


def _all(law: PairSupervision) -> Tensor:
    return torch.arange(len(law), device=law.device)


@torch.no_grad()
def _draw(
    model: Backbone, law: PairSupervision, feasible: Feasible, cost_weight: float, samples: int, seed: int
) -> Rows:
    """Model draws ``(F, S, ·)``."""
    parts = []
    for at in _all(law).split(max(1, DRAFTS // samples)):
        factual = law.factuals.take(at)
        parts.append(
            model.sample(
                factual,
                num_samples=samples,
                cost_weight=law.costs.new_full((len(at),), cost_weight),
                feasible=feasible.take(at.cpu().numpy()),
                noise=Noise.of(factual, seed),
            )
        )
    return Rows(torch.cat([part.num for part in parts]), torch.cat([part.cat for part in parts]))


def _distances(law: PairSupervision, drawn: list[Rows], cost_weights: list[float]) -> dict[str, Tensor]:
    """Energy distances to Q, float64 ``(λ, F)`` each: of the model and of uniform partners, in C and (joint) in √C."""
    parts: dict[str, list[Tensor]] = {}
    k = law.costs.shape[1]
    mine, theirs = [law.cost.coordinates(rows) for rows in drawn], law.cost.coordinates(law.partners)
    top = torch.cat([theirs, *(x.flatten(0, 1) for x in mine)])
    top = torch.where(((top == 0) | (top == top.amax(0))).all(0), top.amax(0), 0.0)
    for at in _all(law).split(max(1, DISTANCES // k**2)):
        points = theirs[law.index[at].long()]
        between = _pairwise(points, points, top)
        admissible = law.costs[at].isfinite().float()
        laws = [admissible / admissible.sum(1, keepdim=True)]
        laws += [law.log_weights(at, law.costs.new_full((len(at),), value)).exp() for value in cost_weights]
        weights = torch.stack(laws, 1)  # (b, 1 + λ, K), the uniform law first
        samples = mine[0].shape[1]
        within = [_pairwise(x[at], x[at], top) for x in mine]
        across = [_pairwise(x[at], points, top) for x in mine]
        for name, power in POWERS.items():
            # Means between any two of the laws, (b, 1 + λ, 1 + λ).
            means = (weights @ (between**power) @ weights.mT).double()
            own = means.diagonal(dim1=1, dim2=2)
            parts.setdefault("uniform" + name, []).append((2 * means[:, 0, 1:] - own[:, :1] - own[:, 1:]).T)
            # Each draw's distance to itself is 0, so leaving these pairs out only changes the number of pairs.
            x_x = torch.stack([d.double().pow(power).sum((1, 2)) for d in within]) / (samples * (samples - 1))
            x_y = torch.stack(
                [(d.pow(power) @ weights[:, i + 1, :, None])[..., 0].double().mean(1) for i, d in enumerate(across)]
            )
            parts.setdefault("model" + name, []).append(2 * x_y - x_x - own[:, 1:].T)
    return {name: torch.cat(blocks, 1) for name, blocks in parts.items()}


def _pairwise(a: Tensor, b: Tensor, top: Tensor) -> Tensor:
    """Costs ``(F, A, B)`` between coordinates ``(F, A, E)`` and ``(F, B, E)``.

    top: ``(E,)``, v where a coordinate is 0 or v everywhere, as those of categories are, otherwise 0. There
    |a − b| = a + b − 2ab / v, a matrix product, which is many times faster.
    """
    two = top > 0
    x, y = a[..., two], b[..., two]
    costs = torch.cdist(a[..., ~two], b[..., ~two], p=1.0)
    costs += x.sum(-1)[..., :, None] + y.sum(-1)[..., None, :] - 2 * (x / top[two]) @ y.mT
    return costs.masked_fill_(costs < 1e-6, 0.0)  # rounding, which a square root would blow up


def _skill(model: Tensor, uniform: Tensor) -> tuple[float | None, float | None]:
    """1 − ratio of the means, and its standard error over factuals (delta method); None where Q is uniform itself."""
    if uniform.mean() < 1e-6:
        return None, None
    ratio = model.mean() / uniform.mean()
    error = (model - ratio * uniform).std() / (math.sqrt(len(model)) * uniform.mean()) if len(model) > 1 else None
    return 1.0 - ratio.item(), None if error is None else error.item()


def _divergence(
    model: Backbone, law: PairSupervision, feasible: Feasible, cost_weight: float, samples: int, seed: int
) -> float | None:
    """Mean of log Q − log R over `samples` draws of Q per factual, by strata of equal probability."""
    log_prob = getattr(model, "log_prob", None)
    if log_prob is None or law.transform.schema.numbers:
        return None
    constrained = "feasible" in inspect.signature(log_prob).parameters
    # Equal partners are one row, and Q of a row is the sum over them.
    distinct, row = torch.unique(law.partners.cat, dim=0, return_inverse=True)
    uniform = Noise.of(law.factuals, seed).uniform(samples, 1)[:, :, 0]
    strata = (torch.arange(samples, device=law.device) + uniform) / samples
    total = 0.0
    for at in _all(law).split(max(1, DRAFTS // (8 * samples))):
        weights = law.log_weights(at, law.costs.new_full((len(at),), cost_weight)).exp()
        choice = torch.searchsorted(weights.cumsum(1), strata[at])
        choice = torch.minimum(choice, law.costs[at].isfinite().sum(1, keepdim=True) - 1)
        rows = row[law.index[at].long()]
        mass = weights.new_zeros(len(at), len(distinct)).scatter_add_(1, rows, weights)
        picked = rows.gather(1, choice)
        factual = law.factuals.take(at).repeat(samples)
        given = {"feasible": feasible.take(at.cpu().numpy().repeat(samples))} if constrained else {}
        with torch.no_grad():
            log_r = log_prob(
                factual,
                Rows(factual.num, distinct[picked].flatten(0, 1)),
                law.costs.new_full((factual.batch_size,), cost_weight),
                **given,
            )
        total += (mass.gather(1, picked).log().flatten() - log_r).double().sum().item()
    return total / (len(law) * samples)


def _mean_cost(law: PairSupervision, cost_weight: float) -> float:
    """E_Q[C] under λ, the mean over factuals."""
    costs = law.costs.double()
    weights = torch.softmax(-cost_weight * costs, 1)
    return (weights * costs.masked_fill(costs.isinf(), 0.0)).sum(1).mean().item()


def _effective_cost_weight(law: PairSupervision, cost: float) -> float:
    """The λ at which `_mean_cost` is `cost`, by bisection of log(1 + λ): it falls as λ grows."""
    if cost >= _mean_cost(law, 0.0):
        return 0.0
    low, high = 0.0, math.log1p(HIGHEST)
    if cost < _mean_cost(law, HIGHEST):
        return math.inf
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _mean_cost(law, math.expm1(middle)) > cost else (low, middle)
    return math.expm1((low + high) / 2)


def _unchanged(factual: Rows, rows: Rows) -> Tensor:
    """Share of columns ``(F, S)`` in which `rows` ``(F, S, ·)`` equal their factual."""
    same = [rows.num == factual.num[:, None], rows.cat == factual.cat[:, None]]
    return torch.cat(same, 2).float().mean(2)


def _expected_unchanged(law: PairSupervision, q: Tensor) -> float:
    """E_Q of the share of unchanged columns, for weights ``(F, K)``."""
    shares = [
        (q[at] * _unchanged(law.factuals.take(at), _take(law.partners, law.index[at]))).sum(1)
        for at in _all(law).split(max(1, DISTANCES // (8 * q.shape[1])))
    ]
    return torch.cat(shares).mean().item()


def _take(partners: Rows, index: Tensor) -> Rows:
    return Rows(partners.num[index.long()], partners.cat[index.long()])


def _off_support(partners: Rows, drawn: Rows) -> float | None:
    """Share of draws ``(F, S, ·)`` whose tokens are together in no partner."""
    if not partners.cat.shape[1]:
        return None
    _, row = torch.unique(torch.cat([partners.cat, drawn.cat.flatten(0, 1)]), dim=0, return_inverse=True)
    held, mine = row.split([partners.batch_size, row.shape[0] - partners.batch_size])
    return 1.0 - torch.isin(mine, held).double().mean().item()
