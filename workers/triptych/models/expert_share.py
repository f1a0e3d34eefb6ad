"""The experts of a layer that this rank has, which change while it serves."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from triptych.kernels import ExpertProjection, Experts
from triptych.kernels.compact import plain
from triptych.models.offloaded import OffloadedLayer
from triptych.models.parameters import Linear, Parameters
from triptych.parallel import Mesh
from triptych.parallel.balance import Placement, Replicas, moves

Expert = tuple[Linear, Linear, Linear]
"""Gate, up and down."""

Source: TypeAlias = Callable[[int], Expert] | OffloadedLayer
"""Where a rank has its experts from: gives any expert of the layer, to be kept, or keeps some of them itself."""

_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Held:
    """What a rank has of a layer.

    Attributes:
        placement: Which rank has what.
        replicas: Where this rank's rows go.
        experts: Of its own slots, in their order.
    """

    placement: Placement
    replicas: Replicas
    experts: Experts


@dataclass(frozen=True, slots=True)
class Staged:
    """What a rank will have of a layer.

    Attributes:
        held: Ready to compute with.
        experts: How many had to be read.
        read_bytes: Their size.
    """

    held: Held
    experts: int
    read_bytes: int


@dataclass(slots=True)
class ExpertShare:
    """A layer's experts on one rank. One thread computes with `held` and replaces it; another may prepare the next.

    Attributes:
        layer: Number of the layer.
        held: What there is now; to be asked again at every step.
        source: Of its experts, as far as this rank computes them.
        groups: Equal ones that the experts are in, in their order; the router takes those of a row from a few.
        counts: [E] int64, how many rows were sent to each expert; None where nobody asks.
    """

    layer: int
    held: Held
    source: Source
    groups: int = 1
    counts: Tensor | None = None

    @classmethod
    def load(
        cls,
        layer: int,
        prefix: str,
        parameters: Parameters,
        placement: Placement,
        groups: int,
        mesh: Mesh,
        offloaded: OffloadedLayer | None = None,
    ) -> "ExpertShare":
        """Reads the experts that a placement gives this rank, where they are all kept.

        Args:
            layer: Number of the layer.
            prefix: That the names of its experts begin with, such as "layers.3.mlp".
            parameters: Give any expert's matrices, as far as this rank computes them.
            placement: Over the ranks of `mesh.expert`.
            groups: That its experts are in.
            mesh: The rank's.
            offloaded: What keeps them, where not all are.
        """

        def read(expert: int) -> Expert:
            gate, up, down = (parameters.linear(f"{prefix}.experts.{expert}.{n}") for n in ("gate", "up", "down"))
            return gate, up, down

        rank = mesh.expert.rank
        replicas = Replicas.of(placement, rank, parameters.device)
        if offloaded is not None:
            return cls(layer, Held(placement, replicas, offloaded.experts), offloaded, groups)
        experts = together([read(expert) for expert in placement.slots[rank]])
        return cls(layer, Held(placement, replicas, experts), read, groups)

    @property
    def experts(self) -> Experts:
        """Of the rank's slots."""
        return self.held.experts

    @property
    def placement(self) -> Placement:
        """Which rank has what."""
        return self.held.placement

    @property
    def replicas(self) -> Replicas:
        """Where rows go."""
        return self.held.replicas

    def ready(self, x: Tensor, slots: Tensor) -> Experts:
        """What rows x [n, H] are to be computed with, of slots [n, K] int32 of this rank's, −1 for none."""
        match self.source:
            case OffloadedLayer() as layer:
                return layer.ready(x, slots)
            case _:
                return self.experts

    def count(self, ids: Tensor) -> None:
        """Adds rows of ids [T, K] that this rank sends to experts; costs nothing where nobody asks."""
        if self.counts is not None:
            chosen = ids.flatten()
            self.counts.index_add_(0, chosen, torch.ones_like(chosen, dtype=torch.int64))

    def stage(self, placement: Placement) -> Staged:
        """Prepares another placement beside the steps: reads what the rank does not have, pages and all.

        Where not all experts are kept nothing is read before a row needs it. To be called where no other is prepared,
        nor this one's `held` replaced, at the same time.
        """
        old, rank, device = self.held, self.replicas.rank, self.replicas.slots.device
        wanted = [move.expert for move in moves(old.placement, placement) if move.rank == rank]
        with _beside(device):
            replicas = Replicas.of(placement, rank, device)
            match self.source:
                case OffloadedLayer():
                    return Staged(replace(old, placement=placement, replicas=replicas), len(wanted), 0)
                case read:
                    new = {expert: read(expert) for expert in wanted}
            read_bytes = sum(map(_make_ready, _tensors(list(new.values()))))
        have = {expert: _in_slot(old.experts, slot) for slot, expert in enumerate(old.placement.slots[rank])} | new
        experts = together([have[expert] for expert in placement.slots[rank]])
        return Staged(Held(placement, replicas, experts), len(wanted), read_bytes)

    def commit(self, held: Held) -> None:
        """Computes with what was prepared from now on; between two steps."""
        match self.source:
            case OffloadedLayer() as layer:
                layer.rebind(held.placement.slots[held.replicas.rank])
                self.held = replace(held, experts=layer.experts)
            case _:
                self.held = held


def together(experts: Sequence[Expert]) -> Experts:
    """Experts as the kernels take them."""
    return Experts(*(_projection(linears) for linears in zip(*experts, strict=True)))


def _projection(linears: Sequence[Linear]) -> ExpertProjection:
    biases = tuple(linear.bias for linear in linears if linear.bias is not None)
    return ExpertProjection(tuple(linear.weight for linear in linears), biases or None)


def _in_slot(experts: Experts, slot: int) -> Expert:
    gate, up, down = (Linear(plain(p.weight(slot)), p.bias(slot)) for p in (experts.gate, experts.up, experts.down))
    return gate, up, down


def _tensors(experts: Sequence[Expert]) -> list[Tensor]:
    return [tensor for linears in zip(*experts, strict=True) for tensor in _projection(linears).tensors]


def _beside(device: torch.device) -> AbstractContextManager[object]:
    """Where copies do not queue up with a step's kernels."""
    if device.type != "cuda":
        return nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def _make_ready(tensor: Tensor) -> int:
    """Waits until a tensor is where it will be read; its size in bytes."""
    if tensor.is_cuda:
        torch.cuda.current_stream(tensor.device).synchronize()
        tensor.record_stream(torch.cuda.default_stream(tensor.device))  # freed behind its kernels
    else:
        tensor.view(-1).view(torch.uint8)[::_PAGE].sum()  # a page of the file is mapped when it is first touched
    return tensor.nbytes
