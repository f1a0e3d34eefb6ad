"""Mixture of experts as a feed-forward block: router, experts, and a block that every token goes through besides."""

from dataclasses import dataclass
from typing import assert_never

from torch import Tensor

from triptych.kernels import ClampedSilu, Experts, Gating, Routing, moe, route
from triptych.models.expert_exchange import Exchange
from triptych.models.expert_parallel import ExpertParallelMixture
from triptych.models.expert_share import ExpertShare
from triptych.models.offloaded import OffloadedLayer, OffloadedMixture
from triptych.models.parameters import Linear, Parameters
from triptych.models.shared_expert import SharedExpert, load_shared
from triptych.models.spec import ClampedGate, MoeSpec, SigmoidRouter, SoftmaxRouter
from triptych.models.step import StepInput
from triptych.models.workspace import Activations
from triptych.parallel.balance import Placement


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """The weighted sum of a few experts of each token."""

    router: Linear
    correction: Tensor | None
    routing: Routing
    experts: Experts
    gating: Gating
    top_k: int
    shared: SharedExpert | None

    def __call__(self, step: StepInput, acts: Activations, kv: Tensor) -> None:
        """From `acts.normed` to `acts.delta`."""
        choice = acts.choices[self.experts.gate.experts, self.top_k]
        self.router(acts.normed, choice.logits)
        route(choice.logits, self.correction, self.routing, choice.ids, choice.weights)
        moe(acts.normed, self.experts, choice.ids, choice.weights, self.gating, acts.delta)
        if self.shared is not None:
            self.shared.add(step, acts, choice.share)


def load_experts(
    prefix: str, spec: MoeSpec, parameters: Parameters, offloaded: OffloadedLayer | None = None
) -> MixtureOfExperts | OffloadedMixture | ExpertParallelMixture:
    """Reads the block whose tensors begin with `prefix`: a rank's part, and no experts but its own.

    Where `offloaded` keeps them, none at all.
    """
    mesh, correction = parameters.mesh, f"{prefix}.correction.weight"
    router = parameters.linear(f"{prefix}.router")
    added = parameters.tensor(correction).float() if parameters.has(correction) else None
    routing, gating = _routing(spec.router), _gating(spec)
    shared = load_shared(prefix, spec, parameters)
    if offloaded is not None and mesh.expert.size == 1:
        return OffloadedMixture(router, added, routing, spec.num_experts, offloaded, gating, spec.top_k, shared)
    placement = Placement.even(spec.num_experts, mesh.expert.size, mesh.parallelism.redundant)
    share = ExpertShare.load(_layer(prefix), prefix, parameters, placement, routing.groups, mesh, offloaded)
    if mesh.expert.size == 1:
        return MixtureOfExperts(router, added, routing, share.experts, gating, spec.top_k, shared)
    exchange = Exchange(mesh.expert, mesh.parallelism.payload, gating)
    return ExpertParallelMixture(router, added, routing, spec.num_experts, spec.top_k, share, exchange, shared, mesh)


def _layer(prefix: str) -> int:
    """The number in a prefix such as "layers.3.mlp"."""
    return int(prefix.split(".")[1])


def _routing(router: SoftmaxRouter | SigmoidRouter) -> Routing:
    match router:
        case SoftmaxRouter(renormalise=renormalise):
            return Routing("softmax", renormalise)
        case SigmoidRouter(groups, top_groups, renormalise, scale):
            return Routing("sigmoid", renormalise, scale, groups, top_groups)
        case _:
            assert_never(router)


def _gating(spec: MoeSpec) -> Gating:
    match spec.activation:
        case ClampedGate(alpha, limit):
            return ClampedSilu(alpha, limit)
        case gate:
            return gate
