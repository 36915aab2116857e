"""The interface that every generator implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

from recourse_gen.noise import Noise
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema

if TYPE_CHECKING:
    from recourse_gen.constraints import Feasible


class Backbone(nn.Module, ABC):
    """A conditional generator R(counterfactual | factual) over the rows of one schema.

    The schema fixes the shapes, keyword arguments the hyperparameters; both are all that is needed to rebuild the
    module before its weights are loaded. A subclass is found through the entry-point group
    ``recourse_gen.backbones``.
    """

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema

    @abstractmethod
    def forward(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        """Training loss per pair, ``(B,)`` in nats. `cost_weight` is λ, float32 ``(B,)``."""

    @abstractmethod
    def sample(
        self,
        factual: Rows,
        *,
        num_samples: int,
        cost_weight: Tensor,
        feasible: Feasible | None = None,
        temperature: float = 1.0,
        noise: Noise,
    ) -> Rows:
        """Draw S counterfactuals per factual: `Rows` of shape ``(B, S, N)`` and ``(B, S, C)``.

        Samples obey `feasible` exactly. All randomness comes from `noise`. `temperature` 1 is the learned law,
        smaller values concentrate on its modes.
        """
