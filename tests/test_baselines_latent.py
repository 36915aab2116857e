"""Methods that search the latent space of an autoencoder end among the people who were approved."""

import gc

import pandas as pd
import pytest
import torch
from worlds import clusters

from bench import baselines
from bench.baselines import vae
from bench.baselines.space import Space
from recourse_gen import metrics
from train import World

STEPS = 500


@pytest.fixture(scope="module")
def given() -> World:
    return clusters()


@pytest.fixture(scope="module")
def answers(given: World) -> dict[str, pd.DataFrame]:
    asked = given.denied.iloc[:50]
    options = {
        "revise": {"training_steps": STEPS, "steps": 200},
        "cchvae": {"training_steps": STEPS},
        "cruds": {"training_steps": STEPS, "steps": 800},
        "wachter": {"steps": 200},
    }
    return {name: baselines.load(name)(**given_).fit(given).counterfactuals(asked) for name, given_ in options.items()}


@pytest.mark.parametrize("name", ["revise", "cchvae", "cruds"])
def test_answers_lie_where_people_are(given: World, answers: dict[str, pd.DataFrame], name: str) -> None:
    asked, found = given.denied.iloc[:50], metrics.answered(answers[name])
    assert found.mean() > 0.95
    rows = answers[name][found]
    assert (rows["x"] > 0.5).all()
    assert (rows["group"] == asked["group"][found]).all()
    assert set(rows["job"]) <= {"none", "part", "full"} and (rows["count"] % 1 == 0).all()
    # People have x = y, give or take 0.06. A search through points moves x alone.
    apart = (rows["x"] - rows["y"]).abs().median()
    assert apart < 0.12 and (answers["wachter"]["x"] - answers["wachter"]["y"]).abs().median() > 0.25


def test_points_are_reconstructed_and_drawn_where_people_are(given: World) -> None:
    space = Space.of(given)
    model = vae.autoencoder(given, space, seed=0, steps=STEPS)
    decoded = model.decode(model.encode(space.train)[0], space.train)
    assert (decoded - space.train)[:, :2].abs().mean() < 0.05
    fixed = space.coordinates.fixed
    assert torch.equal(decoded[:, fixed], space.train[:, fixed])
    z = torch.randn(500, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = model.decode(z, space.train[:1].expand(500, -1))[:, :2]
    assert (drawn[:, 0] - drawn[:, 1]).abs().mean() < 0.06
    assert 0.1 < (drawn.sum(1) > 1).double().mean() < 0.9


def test_one_autoencoder_per_world_and_seed() -> None:
    given = clusters(60)
    space = Space.of(given)
    model = vae.autoencoder(given, space, seed=0, steps=3)
    assert vae.autoencoder(given, space, seed=0, steps=3) is model
    other = vae.autoencoder(given, space, seed=1, steps=3)
    assert other is not model and not torch.equal(other.decoder[0].weight, model.decoder[0].weight)
    again = clusters(60)
    twin = vae.autoencoder(again, Space.of(again), seed=0, steps=3)
    assert twin is not model and torch.equal(twin.decoder[0].weight, model.decoder[0].weight)
    held = len(vae._TRAINED)
    del given, space
    gc.collect()
    assert len(vae._TRAINED) == held - 2


def test_the_divergence_is_that_of_normal_laws() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log, prior, prior_log = torch.randn(4, 6, 3, generator=generator, dtype=torch.float64)
    ours = torch.distributions.Normal(mean, (log / 2).exp())
    theirs = torch.distributions.Normal(prior, (prior_log / 2).exp())
    expected = torch.distributions.kl_divergence(ours, theirs).sum(1)
    torch.testing.assert_close(vae.divergence(mean, log, prior, prior_log), expected)


def test_the_outcome_is_in_the_subspace_and_not_in_the_rest(given: World) -> None:
    method = baselines.load("cruds")(training_steps=STEPS).fit(given)
    model, space = method.model, method.space
    z, _, w, _ = model.encode(space.train, space.outcome)
    assert (model.guess(z, space.train).argmax(1) == space.outcome).double().mean() < 0.8
    swapped = model.decode(z, w[space.outcome == 1].mean(0).expand_as(w), space.train)
    assert (swapped[:, :2].sum(1) > 1).double().mean() > 0.9
