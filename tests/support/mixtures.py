"""A mixture of experts of random weights, whole on one rank and divided among several."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from triptych.kernels import ClampedSilu, DenseWeight, ExpertProjection, Experts, Gating, Projection, Routing
from triptych.models.expert_exchange import Exchange
from triptych.models.expert_parallel import ExpertParallelMixture
from triptych.models.expert_share import ExpertShare, Held
from triptych.models.experts import MixtureOfExperts
from triptych.models.feed_forward import FeedForward
from triptych.models.parameters import Linear
from triptych.models.shared_expert import SharedExpert
from triptych.models.spec import (
    AttentionSpec,
    DecoderSpec,
    LayerSpec,
    MlpSpec,
    MoeSpec,
    Norms,
    NormSpec,
    SoftmaxRouter,
)
from triptych.models.workspace import Workspace
from triptych.parallel import Group, Mesh
from triptych.parallel.balance import Placement, Replicas

HIDDEN, WIDTH, SHARED = 64, 24, 48


@dataclass(frozen=True)
class Shape:
    """Of a mixture."""

    experts: int
    top_k: int
    routing: Routing
    gating: Gating = "silu"
    correction: bool = False
    bias: bool = False
    shared: bool = False
    shared_gate: bool = False


SHAPES = {
    "mixtral": Shape(6, 2, Routing("softmax", True)),
    "qwen2_moe": Shape(6, 3, Routing("softmax", False), shared=True, shared_gate=True),
    "olmoe": Shape(8, 3, Routing("softmax", False)),
    "gpt_oss": Shape(7, 3, Routing("softmax", True), ClampedSilu(1.7, 0.7), bias=True),
    "deepseek_v3": Shape(8, 3, Routing("sigmoid", True, 1.7, 4, 2), correction=True, shared=True),
}


@dataclass(frozen=True)
class Whole:
    """A mixture, and what divides it."""

    shape: Shape
    mixture: MixtureOfExperts
    dtype: torch.dtype

    @classmethod
    def random(cls, shape: Shape, dtype: torch.dtype = torch.float32) -> "Whole":
        def weights(outputs: int, inputs: int) -> DenseWeight:
            return DenseWeight(torch.randn(outputs, inputs).mul_(inputs**-0.5).to(dtype))

        def projection(outputs: int, inputs: int) -> ExpertProjection:
            biases = tuple(torch.randn(outputs).to(dtype) for _ in range(shape.experts)) if shape.bias else None
            return ExpertProjection(tuple(weights(outputs, inputs) for _ in range(shape.experts)), biases)

        experts = Experts(projection(WIDTH, HIDDEN), projection(WIDTH, HIDDEN), projection(HIDDEN, WIDTH))
        block = FeedForward(
            Linear(weights(SHARED, HIDDEN), None),
            Linear(weights(SHARED, HIDDEN), None),
            Linear(weights(HIDDEN, SHARED), None),
            "silu",
            SHARED,
        )
        gate = Linear(weights(1, HIDDEN), None) if shape.shared_gate else None
        bias = torch.randn(shape.experts).to(dtype) if shape.bias else None
        mixture = MixtureOfExperts(
            router=Linear(weights(shape.experts, HIDDEN), bias),
            correction=torch.rand(shape.experts) if shape.correction else None,
            routing=shape.routing,
            experts=experts,
            gating=shape.gating,
            top_k=shape.top_k,
            shared=SharedExpert(block, gate) if shape.shared else None,
        )
        return cls(shape, mixture, dtype)

    def part(self, mesh: Mesh, placement: Placement) -> ExpertParallelMixture:
        """That of one rank."""
        whole = self.mixture
        slots = placement.slots[mesh.expert.rank]
        experts = Experts(
            *(
                _cut(projection, slots, mesh.tensor, columns=projection is whole.experts.down)
                for projection in (whole.experts.gate, whole.experts.up, whole.experts.down)
            )
        )
        held = Held(placement, Replicas.of(placement, mesh.expert.rank, torch.device("cpu")), experts)
        share = ExpertShare(0, held, _unread)
        shared = None if whole.shared is None else _cut_shared(whole.shared, mesh.attention)
        return ExpertParallelMixture(
            router=whole.router,
            correction=whole.correction,
            routing=whole.routing,
            num_experts=self.shape.experts,
            top_k=whole.top_k,
            share=share,
            exchange=Exchange(mesh.expert, mesh.parallelism.payload, whole.gating),
            shared=shared,
            mesh=mesh,
        )

    def run(self, mixer: MixtureOfExperts | ExpertParallelMixture, x: Tensor, shared_width: int = SHARED) -> Tensor:
        """What a mixer leaves of rows [T, H]."""
        shared = MlpSpec(shared_width) if self.shape.shared else None
        moe = MoeSpec(self.shape.experts, self.shape.top_k, WIDTH, SoftmaxRouter(False), shared=shared)
        norms = Norms(NormSpec(1e-6))
        layer = LayerSpec(AttentionSpec(1, 1, HIDDEN, None, 1.0), moe, norms, norms)
        acts = Workspace(DecoderSpec(8, HIDDEN, (layer,), NormSpec(1e-6), True), x.dtype, x.device).rows(len(x))
        acts.normed.copy_(x)
        acts.delta.fill_(torch.nan)
        step: Any = NoStep()
        mixer(step, acts, torch.empty(0))
        return acts.delta.clone()


def _unread(expert: int) -> Any:
    raise AssertionError(f"expert {expert} is read")


@dataclass(frozen=True)
class NoStep:
    """What a feed-forward block asks of a step."""

    adapters: None = None


def _cut(projection: Projection, slots: tuple[int, ...], group: Group, *, columns: bool) -> ExpertProjection:
    weights = tuple(projection.weight(slot) for slot in slots)
    dense = tuple(_part(weight, group, columns=columns) for weight in weights if isinstance(weight, DenseWeight))
    biases = tuple(bias for slot in slots if (bias := projection.bias(slot)) is not None)
    if not biases or (columns and group.rank):
        return ExpertProjection(dense)
    return ExpertProjection(dense, tuple(b if columns else b.chunk(group.size)[group.rank] for b in biases))


def _cut_shared(shared: SharedExpert, group: Group) -> SharedExpert:
    block = shared.block
    gate, up, down = (
        replace(linear, weight=_part(linear.weight, group, columns=linear is block.down))
        for linear in (block.gate, block.up, block.down)
        if isinstance(linear.weight, DenseWeight)
    )
    return SharedExpert(FeedForward(gate, up, down, block.activation, block.width // group.size), shared.gate)


def _part(weight: DenseWeight, group: Group, *, columns: bool) -> DenseWeight:
    return DenseWeight(weight.values.chunk(group.size, int(columns))[group.rank].contiguous())


def off(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of a row, as a part of its largest number."""
    if not len(theirs):
        return 0.0
    return ((ours.float() - theirs.float()).abs().amax(-1) / theirs.float().abs().amax(-1)).max().item()


def rows_of(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random rows [count, H]."""
    return functional.layer_norm(torch.randn(count, HIDDEN), (HIDDEN,)).to(dtype)
