"""Generative algorithmic recourse: sample changes that turn a classifier's no into a yes."""

from recourse_gen.constraints import Constraints
from recourse_gen.counterfactuals import Counterfactuals
from recourse_gen.recourse import RecourseGenerator
from recourse_gen.schema import Feature, Schema

__version__ = "0.1.0"
__all__ = ["Constraints", "Counterfactuals", "Feature", "RecourseGenerator", "Schema"]
