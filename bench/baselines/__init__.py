"""Published ways of finding recourse, over one interface: what GenRe (Garg et al., ICLR 2025) is compared with.

Each is written anew from its paper, one small file each; docstrings say where the settings come from. What they share:
they work on `recourse_gen.metrics.coordinates` (min-max scaled numbers, one-hot categories), keep immutable columns as
they are, know no other constraint, and answer with rows that could be in the table. They never see the judge.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from typing import Self

    from train import World

METHODS = {
    "cchvae": "bench.baselines.cchvae:Cchvae",
    "cruds": "bench.baselines.cruds:Cruds",
    "dice": "bench.baselines.dice:Dice",
    "forest": "bench.baselines.forest:Forest",
    "growing_spheres": "bench.baselines.growing_spheres:GrowingSpheres",
    "probe": "bench.baselines.probe:Probe",
    "roar": "bench.baselines.roar:Roar",
    "revise": "bench.baselines.revise:Revise",
    "wachter": "bench.baselines.wachter:Wachter",
}


class Baseline(ABC):
    """One method, fitted to one world.

    seed: fixes everything random. options: the method's own settings.
    """

    @abstractmethod
    def __init__(self, *, seed: int = 0, **options: Any) -> None: ...

    @abstractmethod
    def fit(self, world: World) -> Self:
        """Learn what the method needs from the training rows, their outcomes and the classifier.

        Raises ValueError, in one sentence, for a world that the method cannot work in.
        """

    @abstractmethod
    def counterfactuals(self, factuals: pd.DataFrame) -> pd.DataFrame:
        """One answer per factual ``(B, D)``: the factuals' index, columns and dtypes; a row of NaN where there is none.

        Beside missing values, integers are floats and booleans objects, for pandas knows no other way.
        """


def names() -> list[str]:
    """The methods that exist, sorted."""
    return sorted(METHODS)


def load(name: str) -> type[Baseline]:
    """The class of the method `name`. Raises ValueError, listing what exists, if there is none."""
    if name not in METHODS:
        raise ValueError(f"unknown baseline {name!r}; available are: {', '.join(names())}")
    return pkgutil.resolve_name(METHODS[name])
