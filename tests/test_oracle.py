"""With the exact posterior in place of the network, each sampler draws from Q: a failure here is the sampler's.

Q has K partners with known weights, so at every state x_t of a path the posterior of the endpoint is a sum over
partners, with weights in proportion to Q times the likelihood of x_t.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import gammaln
from scipy.stats import chisquare
from torch import Tensor, nn

from backbones.candidates import Candidates
from backbones.denoiser import Context, Endpoint
from backbones.diffusion import DiffusionBackbone
from backbones.endpoint import EndpointBackbone
from backbones.flow import FlowBackbone
from recourse_gen import Constraints, Feature, Schema
from recourse_gen.cost import RecourseCost
from recourse_gen.noise import Noise
from recourse_gen.rows import Rows
from recourse_gen.transform import TableTransform

LEVELS, PARTNERS = 4, 10
KNOTS = tuple(float(knot) for knot in np.linspace(0, 1, 65) ** 2)
TINY: dict[str, Any] = {"width": 4, "heads": 1, "layers": 1}
TOKENS, NUMBERS, MIXED = (5, 0), (0, 2), (3, 2)


def table(tokens: int, numbers: int) -> Schema:
    codes = [Feature(f"c{i}", "categorical", "int64", levels=tuple(range(LEVELS))) for i in range(tokens)]
    floats = [Feature(f"x{i}", "continuous", "float64", bounds=(0.0, 1.0), quantiles=KNOTS) for i in range(numbers)]
    return Schema((*codes, *floats))


class Oracle(nn.Module):
    """The exact posterior under a law Q of K partners; it stands in for a `Denoiser`. free: the first so many token
    columns have a choice."""

    def __init__(self, model: EndpointBackbone, partners: Rows, weight: Tensor, free: int) -> None:
        super().__init__()
        self.owner, self.free = [model], free
        self.partners, self.log_weight = model.encode(partners), weight.log()
        self.levels = nn.functional.one_hot(partners.cat, LEVELS).float()

    def context(self, factual: Rows, cost_weight: Tensor) -> Context:
        rows, columns = factual.cat.shape
        return Context(torch.zeros(rows, 0), torch.zeros(rows, 1), factual.cat, torch.zeros(rows, columns, LEVELS))

    def moments(self, context: Context, signal: Tensor, noise: Tensor) -> Iterator[tuple[Tensor, ...]]:
        return zip(signal, noise, strict=True)

    def forward(self, context: Context, state: Rows, moment: tuple[Tensor, ...]) -> Endpoint:
        model, scores, (signal, noise) = self.owner[0], self.partners.num, moment
        far = (state.num[:, None] - signal * scores).square().sum(2) / (2 * noise**2)
        log_p = self.log_weight - far
        flow = isinstance(model, FlowBackbone)
        progress = 1 - noise.item() ** 0.5
        decided = int(self.free * progress + 1e-4) if flow else 0
        if state.cat.shape[1]:
            log_p = log_p + self.shown(context.cat, state.cat, getattr(model, "source", "mask"), decided)
        # A sampler that is wrong, or takes too few steps, gets into states that are impossible under Q.
        weight = torch.where(log_p.isfinite().any(1, keepdim=True), log_p, self.log_weight - far).softmax(1)
        logits = torch.einsum("rk,kcl->rcl", weight, self.levels).log().clamp(min=-1e30)
        if flow and state.cat.shape[1]:  # the backbone itself adds the likelihood of each column's own state
            share = torch.tensor([[decided / self.free]])
            logits = logits - FlowBackbone._posterior(model, torch.zeros_like(logits), state.cat, share)
        return Endpoint(weight @ scores, logits)

    def shown(self, factual: Tensor, cat: Tensor, source: str, decided: int) -> Tensor:
        """log P(x_t | x⁺) ``(R, K)`` up to a constant: exactly `decided` random columns show the endpoint."""
        factual, cat, ends = (codes[:, : self.free] for codes in (factual, cat, self.partners.cat))
        same = cat[:, None] == ends
        if source == "mask":
            return torch.zeros(same.shape[:2]).masked_fill((~same & (cat < LEVELS)[:, None]).any(2), -math.inf)
        if source == "noise":  # decided columns are among those that agree
            return log_comb(same.sum(2), torch.tensor(decided))
        moved = (cat != factual)[:, None]
        can_hide = (factual[:, None] == ends) & ~moved
        ways = log_comb(can_hide.sum(2), decided - moved.sum(2))
        return ways.masked_fill((moved & ~same).any(2), -math.inf)


def log_comb(n: Tensor, k: Tensor) -> Tensor:
    inside = (k >= 0) & (k <= n)
    n, k = np.asarray(n, dtype=float), np.asarray(k.clamp(min=0), dtype=float)
    with np.errstate(invalid="ignore"):
        value = torch.from_numpy(gammaln(n + 1) - gammaln(k + 1) - gammaln(np.maximum(n - k, 0) + 1)).float()
    return value.masked_fill(~inside, -math.inf)


class Case:
    """A law over partners, one factual and a sampler that knows the law. immutable: so many of the last token columns
    must stay as they are, and do in every partner."""

    def __init__(self, model: EndpointBackbone, seed: int = 0, immutable: int = 0) -> None:
        tokens, numbers = len(model.schema.tokens), len(model.schema.numbers)
        free = tokens - immutable
        generator = torch.Generator().manual_seed(seed)
        cat = torch.randint(LEVELS, (PARTNERS, tokens), generator=generator)
        cat[0] = 0  # one partner is the factual's twin
        cat[1:4, 1:] = 0  # some leave most columns as they are
        cat[:, free:] = 0
        num = torch.rand(PARTNERS, numbers, generator=generator) ** 2 * 0.8 + 0.05
        self.partners = Rows(num, cat)
        if tokens:
            cat[:, 0] = torch.arange(PARTNERS) % LEVELS
            for k in range(1, PARTNERS):  # all different
                while (cat[:k] == cat[k]).all(1).any():
                    cat[k, :free] = torch.randint(LEVELS, (free,), generator=generator)
        self.weight = torch.rand(PARTNERS, generator=generator) + 0.1
        self.weight /= self.weight.sum()
        self.factual = Rows(torch.full((1, numbers), 0.3), torch.zeros(1, tokens, dtype=torch.long))
        self.model = model.eval()
        model.denoiser = Oracle(model, self.partners, self.weight, free)  # type: ignore[assignment]
        self.feasible = None
        if immutable:
            rules = Constraints(immutable=tuple(feature.name for feature in model.schema.tokens[free:]))
            frame = TableTransform(model.schema).decode(self.factual)
            self.feasible = rules.compile(model.schema, frame, self.factual)

    def sample(self, count: int) -> Rows:
        noise = Noise.of(self.factual, 3)
        drawn = self.model.sample(
            self.factual, num_samples=count, cost_weight=torch.ones(1), feasible=self.feasible, noise=noise
        )
        return drawn.flatten()

    def nearest(self, drawn: Rows) -> tuple[Tensor, Tensor]:
        """Each draw's nearest partner, and how far it is in the recourse cost."""
        away, index = RecourseCost(self.model.schema).pairwise(drawn, self.partners).min(1)
        return index, away

    def p_value(self, index: Tensor) -> float:
        hits = torch.bincount(index, minlength=PARTNERS).double()
        due = self.weight.double() / self.weight.double().sum()
        return float(chisquare(hits.numpy(), (due * hits.sum()).numpy()).pvalue)

    def skill(self, drawn: Rows) -> float:
        """1 − ED(draws, Q) / ED(uniform partners, Q), in the recourse cost."""
        cost, q = RecourseCost(self.model.schema), self.weight
        within = cost.pairwise(self.partners, self.partners)
        ours = cost.pairwise(drawn, drawn).sum() / (drawn.batch_size * (drawn.batch_size - 1))
        distance = 2 * (cost.pairwise(drawn, self.partners) @ q).mean() - ours - q @ within @ q
        uniform = torch.full_like(q, 1 / PARTNERS) - q
        return float(1 - distance / -(uniform @ within @ uniform))


def backbone(name: str, columns: tuple[int, int], **options: Any) -> EndpointBackbone:
    made = {"flow": FlowBackbone, "diffusion": DiffusionBackbone}[name]
    return made(table(*columns), **TINY, **options)


WAYS: list[tuple[str, dict[str, Any]]] = [
    ("flow", {"source": "factual"}),
    ("flow", {"source": "mask"}),
    ("flow", {"source": "noise"}),
    ("diffusion", {}),
]


@pytest.mark.parametrize(("name", "options"), WAYS)
@pytest.mark.parametrize("steps", [5, 16])
def test_tokens_follow_q_exactly_once_there_is_a_step_per_column(
    name: str, options: dict[str, Any], steps: int
) -> None:
    case = Case(backbone(name, TOKENS, **options))
    case.model.steps = steps  # more than there are columns: in some of them, nothing is due
    index, away = case.nearest(case.sample(20_000))
    assert away.max() == 0.0, "every draw is a partner"
    assert case.p_value(index) > 1e-4


@pytest.mark.parametrize(("name", "options"), WAYS)
@pytest.mark.parametrize("steps", [3, 5])
def test_columns_without_a_choice_take_no_steps(name: str, options: dict[str, Any], steps: int) -> None:
    case = Case(backbone(name, TOKENS, steps=steps, **options), immutable=2)
    index, away = case.nearest(case.sample(20_000))
    assert away.max() == 0.0, "every draw is a partner"
    assert case.p_value(index) > 1e-4


@pytest.mark.parametrize(("name", "options"), WAYS)
@pytest.mark.parametrize("columns", [NUMBERS, MIXED])
def test_numbers_and_mixed_rows_follow_q_with_many_steps(
    name: str, options: dict[str, Any], columns: tuple[int, int]
) -> None:
    case = Case(backbone(name, columns, steps=50, **options))
    index, away = case.nearest(case.sample(4000))
    assert away.quantile(0.95) < 0.02, "draws lie on partners"
    assert case.p_value(index) > 1e-3


@pytest.mark.parametrize(("name", "options"), WAYS)
@pytest.mark.parametrize("columns", [TOKENS, NUMBERS, MIXED, (0, 1), (2, 1)])
def test_the_default_number_of_steps_is_enough(name: str, options: dict[str, Any], columns: tuple[int, int]) -> None:
    case = Case(backbone(name, columns, **options))
    skill = case.skill(case.sample(4000))
    assert skill > 0.95


@pytest.mark.parametrize(("free", "steps"), [(3, 12), (3, 3), (5, 2), (5, 3), (5, 5), (2, 7)])
def test_diffusion_masks_as_many_columns_as_in_training(free: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    masked, asked = [], Candidates.endpoint
    case = Case(backbone("diffusion", (5, 2), steps=steps), immutable=5 - free)

    def noted(candidates: Candidates, state: Rows, moment: Any) -> Endpoint:
        masked.append((state.cat == LEVELS).sum(1).unique().tolist())
        return asked(candidates, state, moment)

    monkeypatch.setattr(Candidates, "endpoint", noted)
    case.sample(100)
    assert masked == [[math.ceil(free * (steps - k) / steps)] for k in range(steps)]


def test_a_step_for_several_columns_costs_little_where_few_change() -> None:
    case = Case(backbone("flow", TOKENS, steps=3))
    assert case.skill(case.sample(4000)) > 0.8


class WrongRate(FlowBackbone):
    """Forgets that fewer columns are left to be decided."""

    def _jump(self, draft: Any, cat: Tensor, logits: Tensor, odds: Tensor, rate: Tensor) -> Tensor:
        return super()._jump(draft, cat, logits, odds, rate.masked_fill(rate < 1, 1.0 / cat.shape[1]))


class Independent(FlowBackbone):
    """Lets columns jump together."""

    @staticmethod
    def _due(chance: Tensor, uniform: Tensor) -> Tensor:
        return torch.rand_like(chance) < chance


class Unweighted(FlowBackbone):
    """Takes what the other columns say for the whole posterior."""

    def _jump(self, draft: Any, cat: Tensor, logits: Tensor, odds: Tensor, rate: Tensor) -> Tensor:
        return super()._jump(draft, cat, logits, torch.ones_like(odds), rate)


class ManyAtOnce(DiffusionBackbone):
    """Unmasks everything in the last of two steps."""

    def walk(self, candidates: Any) -> Any:
        self.steps = 2
        return super().walk(candidates)


@pytest.mark.parametrize("broken", [WrongRate, Independent, Unweighted, ManyAtOnce])
def test_a_broken_sampler_is_noticed(broken: type[EndpointBackbone]) -> None:
    case = Case(broken(table(*TOKENS), **TINY))  # type: ignore[call-arg]
    index, away = case.nearest(case.sample(20_000))
    assert away.max() > 0 or case.p_value(index) < 1e-6


@pytest.mark.parametrize("name", ["flow", "diffusion"])
def test_a_network_that_is_told_the_wrong_noise_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Candidates.moments
    monkeypatch.setattr(Candidates, "moments", lambda c, signal, noise: asked(c, signal, 2.0 * noise))
    case = Case(backbone(name, NUMBERS, steps=50))
    index, away = case.nearest(case.sample(4000))
    assert case.p_value(index) < 1e-6 or away.quantile(0.95) > 0.02


def test_bayes_rule_of_one_column_is_that_of_the_path() -> None:
    """One column alone: x_t is x⁺ with probability κ, else the source."""
    model, law, share = FlowBackbone(table(1, 0), **TINY), torch.tensor([0.1, 0.2, 0.3, 0.4]), 0.6
    for source, start in (("factual", torch.eye(LEVELS)[0]), ("noise", torch.full((LEVELS,), 1 / LEVELS))):
        model.source = source
        for code in range(LEVELS):
            if start[code] == 0:
                continue  # known
            likelihood = share * torch.eye(LEVELS)[code] + (1 - share) * start[code]
            expected = law * likelihood / (law * likelihood).sum()
            logits = model._posterior(law.log()[None, None], torch.tensor([[code]]), torch.tensor([[share]]))
            torch.testing.assert_close(logits.softmax(2)[0, 0], expected)
