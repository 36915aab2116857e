"""The YAML files and the constructors say the same, so `train.py` and the library build the same model."""

import dataclasses
import inspect
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import train
from recourse_gen import RecourseGenerator, fidelity, registry
from recourse_gen.options import construct
from recourse_gen.pairs import PairOptions
from recourse_gen.training import TrainingOptions

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
DATA_SETS = {"heloc", "compas", "adult", "german", "csv", "moons", "circles", "corr"}
# Given once per run, at the top of the configuration, instead of in the node `generate`; the evaluation asks for one.
PER_RUN = {"constraints", "seed", "n", "progress"}


def stems(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
        return compose(config_name="train", overrides=list(overrides))


def values(node: Any) -> dict[str, Any]:
    """A configuration node as a plain dictionary, interpolations resolved."""
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def keyword_defaults(function: Callable[..., Any], *, skip: int) -> dict[str, Any]:
    """Defaults of a function's parameters after the first ``skip``; `inspect.Parameter.empty` where there is none."""
    return {name: each.default for name, each in list(inspect.signature(function).parameters.items())[skip:]}


def field_defaults(options: type) -> dict[str, Any]:
    """Defaults of a dataclass's fields; `dataclasses.MISSING` where there is none."""
    return {
        each.name: each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
        for each in dataclasses.fields(options)
    }


def plain(value: Any) -> Any:
    """YAML has no tuples and no difference between 1 and 1.0, but it does tell true from 1."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return ("bool", value) if isinstance(value, bool) else value


def mismatches(configured: Mapping[str, Any], defaults: Mapping[str, Any], optional: set[str] | None = None) -> list:
    """(key, configured, default) wherever the two differ; keys in ``optional`` may be missing from ``configured``."""
    absent = "(absent)"
    keys = sorted(set(configured) | (set(defaults) - (optional or set())))
    pairs = [(key, configured.get(key, absent), defaults.get(key, absent)) for key in keys]
    return [(key, ours, theirs) for key, ours, theirs in pairs if plain(ours) != plain(theirs)]


@pytest.mark.parametrize("name", sorted({*stems("backbone")} - {"plugin"}))
def test_backbone_yaml_equals_constructor_defaults(name: str) -> None:
    configured = values(composed(f"backbone={name}").backbone)
    assert configured.pop("name") == name
    assert mismatches(configured, keyword_defaults(registry.load(name).__init__, skip=2)) == []


def test_each_entry_point_has_one_backbone_yaml() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert stems("backbone") == sorted([*project["entry-points"]["recourse_gen.backbones"], "plugin"])


def test_plugin_yaml_takes_any_name_and_no_option_of_its_own() -> None:
    assert values(composed("backbone=plugin", "backbone.name=mine").backbone) == {"name": "mine"}


def test_training_yaml_equals_training_options() -> None:
    assert mismatches(values(composed().training), field_defaults(TrainingOptions)) == []


def test_pairs_yaml_equals_pair_options() -> None:
    assert mismatches(values(composed().pairs), field_defaults(PairOptions)) == []


def test_generate_yaml_equals_generate_defaults() -> None:
    defaults = keyword_defaults(RecourseGenerator.generate, skip=2)
    assert mismatches(values(composed().generate), defaults, optional=PER_RUN) == []


def test_fidelity_yaml_equals_measure_defaults() -> None:
    defaults = keyword_defaults(fidelity.measure, skip=2)
    assert mismatches(values(composed().evaluation.fidelity), defaults, optional=PER_RUN) == []


def test_documented_data_sets_are_there() -> None:
    assert set(stems("data")) >= DATA_SETS


@pytest.mark.parametrize("name", stems("data"))
def test_data_yaml_composes(name: str) -> None:
    assert composed(f"data={name}").data


@pytest.mark.parametrize("name", stems("experiment"))
def test_experiment_yaml_sets_existing_options_only(name: str) -> None:
    default, experiment = composed(), composed(f"experiment={name}")
    for node in ("training", "pairs", "generate"):
        assert set(experiment[node]) == set(default[node])
    known = keyword_defaults(registry.load(experiment.backbone.name).__init__, skip=2)
    assert set(experiment.backbone) - {"name"} <= set(known)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"width": 65}, "width"),
        ({"widht": 64}, "widht"),
        ({"bias": 1}, "bias"),
        ({"rate": None}, "rate"),
        ({"range": [2, 21]}, "range"),
    ],
)
def test_comparison_reports_a_doctored_value(change: dict[str, Any], key: str) -> None:
    defaults = {"width": 64, "bias": True, "rate": 1.0, "range": (2, 20)}
    configured = {"width": 64, "bias": True, "rate": 1, "range": [2, 20]}
    assert mismatches(configured, defaults) == []
    assert [found for found, *_ in mismatches(configured | change, defaults)] == [key]


def test_comparison_reports_an_omitted_key_unless_optional() -> None:
    assert mismatches({}, {"seed": None}) == [("seed", "(absent)", None)]
    assert mismatches({}, {"seed": None}, optional={"seed"}) == []
    assert mismatches({"seed": 1}, {"seed": None}, optional={"seed"}) == [("seed", 1, None)]


def test_defaults_are_read_from_signatures_and_dataclasses() -> None:
    def build(self: object, schema: object, *, width: int = 64, depth: int) -> None: ...

    @dataclasses.dataclass
    class Options:
        steps: int = 5
        betas: list[float] = dataclasses.field(default_factory=lambda: [0.9])

    assert keyword_defaults(build, skip=2) == {"width": 64, "depth": inspect.Parameter.empty}
    assert field_defaults(Options) == {"steps": 5, "betas": [0.9]}


UNREAD: dict[str, str] = {
    "overwrite=no": "overwrite must be true or false, got 'no'",
    "data.relabel=off": "data.relabel must be true or false, got 'off'",
    "classifier.balanced=7": "classifier.balanced must be true or false, got 7",
    "generate.audit=no": "generate.audit must be true or false, got 'no'",
    "generate.sparsify=off": "generate.sparsify must be true or false, got 'off'",
    "+generate.n=3": "generate.n is no setting",
    "+training_minutes=3": "unknown option training_minutes; known are: seed, run, overwrite",
    "+evaluation.people=3": "unknown option evaluation.people; known are: factuals, tradeoff, fidelity",
    "run=5": "run must be the path of a folder, got 5",
    "run=": "run must be the path of a folder, got ''",
    "run=pyproject.toml": "pyproject.toml is a file, or lies below one",
    "run=pyproject.toml/x": "pyproject.toml/x is a file, or lies below one",
    "schema.kinds=3": "schema.kinds must map columns to values, got 3",
    "+data.monotone=[x1]": "data.monotone must map columns to values, got ['x1']",
    "data.kinds=null": "data.kinds must map columns to values, got None",
    "run=null": "run must be the path of a folder, got None",
    "seed=-1": "seed must be a whole number of at least 0, got -1",
    "seed=9223372036854775808": "seed must be less than 9223372036854775808",
    "constraints.immutable=age": "constraints.immutable must list columns, got 'age'",
    "evaluation.tradeoff.candidates=4": "evaluation.tradeoff.candidates must be a list, got 4",
    **{
        f"{group}={value}": f"{group} must map options to values"
        for group in ("generate", "evaluation", "evaluation.fidelity", "constraints", "schema", "pairs")
        for value in ("null", "3")
    },
}


@pytest.mark.parametrize("override", UNREAD)
def test_what_nothing_would_read_is_refused_before_the_start(override: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=re.escape(UNREAD[override])):
        train.check(values(composed(override)))


@pytest.mark.parametrize(
    ("backbone", "option", "value", "told"),
    [
        ("ar", "cost_prior", 7, "true or false, got 7"),
        ("flow", "steps", 2.5, "a whole number or None, got 2.5"),
        ("flow", "steps", True, "a whole number or None, got True"),
        ("diffusion", "rho", "seven", "a number, got 'seven'"),
        ("flow", "source", 1, "text, got 1"),
    ],
)
def test_options_are_of_the_type_that_they_are_annotated_with(
    backbone: str, option: str, value: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=f"^backbone.{option} must be {told}$"):
        construct(registry.load(backbone), "backbone", {option: value}, None)
