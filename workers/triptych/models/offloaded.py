"""Mixture of experts that memory does not hold all of: asks for those of its rows, and for later ones in advance."""

from dataclasses import dataclass

from torch import Tensor

from triptych.kernels import Experts, Gating, Routing, moe, route
from triptych.models.parameters import Linear
from triptych.models.predictor import Predictor
from triptych.models.rank_experts import RankExperts
from triptych.models.shared_expert import SharedExpert
from triptych.models.step import StepInput
from triptych.models.workspace import Activations


@dataclass(frozen=True, slots=True)
class OffloadedLayer:
    """The experts of one mixture.

    Attributes:
        number: Among the layers with experts.
        rank: Those of all mixtures.
        predictor: Has experts of later ones read.
    """

    number: int
    rank: RankExperts
    predictor: Predictor

    def ready(self, x: Tensor, ids: Tensor) -> Experts:
        """As `moe` takes them, until the next mixture asks.

        Args:
            x: [n, H], what goes through them.
            ids: [n, K] int32, whom each row goes through, −1 for nobody.
        """
        self.rank.residency.ensure(self.number, ids)
        self.predictor.ahead(self.number, x)
        return self.experts

    @property
    def experts(self) -> Experts:
        """Of the rank's slots; whoever is to be computed with has to be asked for first."""
        return self.rank.residency.experts(self.number)

    def rebind(self, experts: tuple[int, ...]) -> None:
        """See `RankExperts.rebind`."""
        self.rank.rebind(self.number, experts)


@dataclass(frozen=True, slots=True)
class OffloadedMixture:
    """The weighted sum of a few experts of each token; its bits are those of `MixtureOfExperts`.

    Experts are read while the router of the next layer is asked, and while those that are there are computed.
    """

    router: Linear
    correction: Tensor | None
    routing: Routing
    num_experts: int
    experts: OffloadedLayer
    gating: Gating
    top_k: int
    shared: SharedExpert | None

    def __call__(self, step: StepInput, acts: Activations, kv: Tensor) -> None:
        """From `acts.normed` to `acts.delta`."""
        choice = acts.choices[self.num_experts, self.top_k]
        self.router(acts.normed, choice.logits)
        route(choice.logits, self.correction, self.routing, choice.ids, choice.weights)
        experts = self.experts.ready(acts.normed, choice.ids)
        moe(acts.normed, experts, choice.ids, choice.weights, self.gating, acts.delta)
        if self.shared is not None:
            self.shared.add(step, acts, choice.share)
