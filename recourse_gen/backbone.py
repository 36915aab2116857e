"""The interface that every generator implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from recourse_gen.noise import Noise
from recourse_gen.rows import Rows
from recourse_gen.schema import Schema

if TYPE_CHECKING:
    from recourse_gen.constraints import Feasible
    from recourse_gen.pairs import PairSupervision


class Backbone(nn.Module, ABC):
    """A conditional generator R(counterfactual | factual) over the rows of one schema.

    The schema fixes the shapes, keyword arguments the hyperparameters; both are all that is needed to rebuild the
    module before its weights are loaded. A subclass is found through the entry-point group
    ``recourse_gen.backbones``.

    A backbone without trainable parameters is not trained; what it needs to know it takes from `observe`.
    observed: names of the buffers whose number of rows is known only then. They are registered with no rows, and
    loading weights gives them as many as the file holds.

    Optional: ``log_prob(factual, counterfactual, cost_weight) -> (B,)``, log R(x⁺ | x) in nats, a probability of tokens
    times a density of continuous columns; it may take ``feasible=None`` as `sample` does.
    """

    observed: ClassVar[tuple[str, ...]] = ()

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema

    @abstractmethod
    def forward(self, factual: Rows, counterfactual: Rows, cost_weight: Tensor) -> Tensor:
        """Training loss per pair, ``(B,)``: nats, or what the path regresses. `cost_weight` is λ, float32 ``(B,)``."""

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

    def observe(self, pairs: PairSupervision) -> None:
        """Look at the pairs; called once, before training. Does nothing unless a subclass wants it."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in self.observed:
            held, given = getattr(self, name), state_dict.get(prefix + name)
            if given is not None and given.dim():
                setattr(self, name, held.new_zeros(len(given), *held.shape[1:]))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
