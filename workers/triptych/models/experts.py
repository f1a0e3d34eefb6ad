"""Mixture of experts as a feed-forward block: router, experts, and a block that every token goes through besides."""

from dataclasses import dataclass
from typing import assert_never

from torch import Tensor

from triptych.kernels import ClampedSilu, ExpertProjection, Experts, Gating, Routing, add_gated, moe, route
from triptych.models.feed_forward import FeedForward, load_feed_forward
from triptych.models.parameters import Linear, Parameters
from triptych.models.spec import ClampedGate, MoeSpec, SigmoidRouter, SoftmaxRouter
from triptych.models.step import StepInput
from triptych.models.workspace import Activations


@dataclass(frozen=True, slots=True)
class SharedExpert:
    """A block for every token; `gate` [1, H] says how much of it, None all."""

    block: FeedForward
    gate: Linear | None

    def add(self, step: StepInput, acts: Activations, share: Tensor) -> None:
        """Adds its output to `acts.delta`; `share` [T, 1] float32 is written."""
        self.block.into(step, acts, acts.shared)
        if self.gate is not None:
            self.gate(acts.normed, share)
        add_gated(acts.shared, None if self.gate is None else share, acts.delta)


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


def load_experts(prefix: str, spec: MoeSpec, parameters: Parameters) -> MixtureOfExperts:
    """Reads the block whose tensors begin with `prefix`."""
    correction = f"{prefix}.correction.weight"
    return MixtureOfExperts(
        router=parameters.linear(f"{prefix}.router"),
        correction=parameters.tensor(correction).float() if parameters.has(correction) else None,
        routing=_routing(spec.router),
        experts=Experts(*(_projection(prefix, name, spec, parameters) for name in ("gate", "up", "down"))),
        gating=_gating(spec),
        top_k=spec.top_k,
        shared=_load_shared(prefix, spec, parameters),
    )


def _projection(prefix: str, name: str, spec: MoeSpec, parameters: Parameters) -> ExpertProjection:
    linears = [parameters.linear(f"{prefix}.experts.{expert}.{name}") for expert in range(spec.num_experts)]
    biases = tuple(linear.bias for linear in linears if linear.bias is not None)
    return ExpertProjection(tuple(linear.weight for linear in linears), biases or None)


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


def _load_shared(prefix: str, spec: MoeSpec, parameters: Parameters) -> SharedExpert | None:
    if spec.shared is None:
        return None
    block = load_feed_forward(f"{prefix}.shared", spec.shared, parameters)
    return SharedExpert(block, parameters.linear(f"{prefix}.shared_gate") if spec.shared_gate else None)
