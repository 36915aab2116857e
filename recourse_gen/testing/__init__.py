"""The conformance suite: what every backbone keeps to, so that whatever is registered can stand in for another.

    from recourse_gen.testing import check_backbone

    def test_my_backbone():
        check_backbone("my_backbone", options={"width": 16})

Needs Hypothesis: ``pip install "recourse-gen[testing]"``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

try:
    import hypothesis as _  # noqa: F401
except ImportError as error:
    raise ImportError('recourse_gen.testing needs Hypothesis; pip install "recourse-gen[testing]"') from error

from recourse_gen import registry
from recourse_gen.backbone import Backbone
from recourse_gen.testing import learning, obedience, sampling
from recourse_gen.testing.subject import Subject

__all__ = ["CHECKS", "Subject", "check_backbone", "run_check", "subject_of"]

# One property each; the docstring of the function says which.
CHECKS: dict[str, Callable[[Subject], None]] = {
    "loss": learning.loss_is_a_finite_number_per_pair,
    "gradients": learning.every_parameter_gets_a_gradient,
    "learning": learning.the_loss_falls_on_eight_rows,
    "ranges": sampling.samples_are_rows_of_the_schema,
    "seeds": sampling.the_seed_decides,
    "dials": sampling.the_dials_turn,
    "global_state": sampling.global_generators_are_left_alone,
    "module_state": sampling.sampling_leaves_the_module_as_it_was,
    "company": sampling.rows_do_not_depend_on_their_company,
    "count": sampling.samples_do_not_depend_on_their_number,
    "round_trip": sampling.saved_weights_are_the_whole_law,
    "log_prob": sampling.log_prob_is_the_law_that_is_sampled,
    "constraints": obedience.constraints_are_obeyed,
    "ordered": obedience.ordered_pairs_are_obeyed,
}


def subject_of(
    backbone: str | type[Backbone], *, options: Mapping[str, Any] | None = None, examples: int = 25, seed: int = 0
) -> Subject:
    """What the functions of `CHECKS` take. Raises ValueError for a name that is not registered."""
    found = registry.load(backbone) if isinstance(backbone, str) else backbone
    return Subject(found, dict(options or {}), examples=examples, seed=seed)


def run_check(check: str, subject: Subject) -> None:
    """Run one of `CHECKS`. Raises AssertionError, with one sentence, if the backbone fails it or raises something."""
    try:
        CHECKS[check](subject)
    except AssertionError as error:
        raise AssertionError(f"{subject.backbone.__name__} fails the check {check!r}: {error}") from error
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise AssertionError(f"{subject.backbone.__name__} fails the check {check!r}, having raised {what}") from error


def check_backbone(
    name: str | type[Backbone], *, options: Mapping[str, Any] | None = None, examples: int = 25, seed: int = 0
) -> None:
    """Run all of `CHECKS` on a registered name or a class.

    options: keyword arguments of the class. examples: random tables and constraints that Hypothesis draws for each of
    the two checks of constraints. seed: of tables, weights, samples and Hypothesis.

    Raises AssertionError, with one sentence naming the property, for the first that fails.
    """
    subject = subject_of(name, options=options, examples=examples, seed=seed)
    for check in CHECKS:
        run_check(check, subject)
