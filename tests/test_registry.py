from importlib.metadata import EntryPoint

import pytest
import torch

from recourse_gen import registry
from recourse_gen.backbone import Backbone


@pytest.fixture
def registered(monkeypatch):
    """Replaces what is installed by the given (name, target) pairs."""

    def register(*pairs):
        entries = [EntryPoint(name, target, registry.GROUP) for name, target in pairs]
        monkeypatch.setattr(registry, "entry_points", lambda group: entries if group == registry.GROUP else [])

    return register


AR = "backbones.ar:AutoregressiveBackbone"


def test_what_is_installed_can_be_loaded():
    assert "ar" in registry.names() and registry.names() == sorted(registry.names())
    for name in registry.names():
        assert issubclass(registry.load(name), Backbone)


def test_an_unknown_name_lists_what_exists(registered):
    registered(("flow", AR), ("ar", AR))
    with pytest.raises(ValueError, match="unknown backbone 'arr'; registered are: ar, flow"):
        registry.load("arr")
    registered()
    with pytest.raises(ValueError, match="registered are: none; install the package"):
        registry.load("ar")


def test_two_targets_of_one_name_collide(registered):
    registered(("ar", AR), ("ar", "other.package:Backbone"), ("flow", AR))
    for look in (registry.load, registry.origin):
        with pytest.raises(ValueError, match=r"two installed packages register the backbone 'ar': backbones.ar.* and"):
            look("ar")
    assert registry.names() == ["ar", "flow"]
    assert registry.load("flow").__name__ == "AutoregressiveBackbone"  # what others share is nobody else's harm


def test_one_target_listed_twice_is_no_collision(registered):
    registered(("ar", AR), ("ar", AR))
    assert registry.names() == ["ar"]


@pytest.mark.parametrize("target", ["collections:OrderedDict", "math:pi", "torch.nn:Linear"])
def test_a_target_that_is_no_backbone_is_refused(registered, target):
    registered(("odd", target))
    with pytest.raises(ValueError, match=f"the entry point 'odd' .{target}. is not a recourse_gen.backbone.Backbone"):
        registry.load("odd")


@pytest.mark.parametrize(
    ("target", "reason"),
    [("backbones.ar:Missing", "has no attribute 'Missing'"), ("no_such_package:Backbone", "No module named")],
)
def test_a_target_that_is_missing_is_named(registered, target, reason):
    registered(("gone", target))
    with pytest.raises(ValueError, match=f"^the entry point 'gone' .{target}. cannot be loaded: .*{reason}"):
        registry.load("gone")


def test_the_interface_is_abstract():
    class Half(Backbone):
        def forward(self, factual, counterfactual, cost_weight):
            return torch.zeros(factual.batch_size)

    with pytest.raises(TypeError, match="sample"):
        Half(None)
