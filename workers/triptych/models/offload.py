"""The experts of a model that are not all kept in memory: the file, who keeps some of it, and who reads ahead."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from triptych.experts.opening import open_residency
from triptych.experts.residency import Residency
from triptych.experts.settings import OffloadSettings
from triptych.experts.store import PackedStore
from triptych.experts.taken import TakenExperts
from triptych.models.compact_pack import CompactPack, expandable
from triptych.models.expert_pack import ExpertPack
from triptych.models.expert_route import ExpertRoute
from triptych.models.files import ModelFiles
from triptych.models.lossy_pack import LossyPack
from triptych.models.offloaded import OffloadedLayer
from triptych.models.parameters import Parameters
from triptych.models.predictor import NextGate, Nobody, Predictor, Ring, Routed, ScoreRows
from triptych.models.progress import Progress
from triptych.models.rank_experts import RankExperts
from triptych.models.rank_mend import RankMend
from triptych.models.spec import DecoderSpec, MoeSpec
from triptych.parallel import Mesh
from triptych.parallel.balance import Placement


@dataclass(frozen=True, slots=True)
class Offload:
    """Of one rank.

    Attributes:
        store: The packed file, as it was opened.
        residency: Keeps experts.
        predictor: Has them read in advance.
        layers: Those with experts, by their numbers in the model.
        taken: What the rows of each step took, where steps are made by it.
    """

    store: PackedStore
    residency: Residency
    predictor: Predictor
    layers: Mapping[int, OffloadedLayer]
    taken: TakenExperts | None

    @classmethod
    def open(
        cls,
        files: ModelFiles,
        spec: DecoderSpec,
        parameters: Parameters,
        settings: OffloadSettings,
        progress: Progress,
    ) -> "Offload":
        """Packs a model's experts where that has not been done yet, and opens the pool.

        Args:
            files: The model.
            spec: What this rank has of it.
            parameters: The rank's.
            settings: How experts are kept.
            progress: Told about the packing.

        Raises:
            InvalidArgument: the budget is below the experts of one layer, or what is to be rounded is not plain.
            FailedPrecondition: the model has no experts, or `settings.route` is of another one.
            ResourceExhausted: the disk has no room for the packed file.
        """
        pack = pack_of(files, spec, parameters, settings)
        store = pack.open(progress)
        mixtures = {n: layer.mlp for n, layer in enumerate(spec.layers) if isinstance(layer.mlp, MoeSpec)}
        mesh, device = parameters.mesh, parameters.device
        held = [held_at_first(mixture, mesh) for mixture in mixtures.values()]
        residency = open_residency(
            store,
            pack.mend if mesh.parallelism.size == 1 else RankMend(pack.mend, mesh, device),
            settings,
            device=device,
            dtype=parameters.weights.dtype,
            experts=held,
            top_k=[mixture.top_k for mixture in mixtures.values()],
            rank=mesh.rank,
            ranks=mesh.parallelism.size,
        )
        totals = [mixture.num_experts for mixture in mixtures.values()]
        rank = RankExperts(residency, totals, held, device)
        try:
            predictor = _predictor(settings, mixtures, parameters, rank)
        except BaseException:
            residency.close()
            raise
        layers = {layer: OffloadedLayer(number, rank, predictor) for number, layer in enumerate(mixtures)}
        taken = TakenExperts(residency, max(totals)) if settings.regroup else None
        return cls(store, residency, predictor, layers, taken)


def pack_of(
    files: ModelFiles, spec: DecoderSpec, parameters: Parameters, settings: OffloadSettings
) -> ExpertPack | CompactPack | LossyPack:
    """The place of the file, or files, that a rank with these settings reads from; raises as `ExpertPack.of`.

    Twelve bits are for kernels that expand them in registers: without a compiler each step would make plain weights.
    """
    pack = ExpertPack.of(files, spec, parameters)
    if (to := settings.rounding) is not None:
        return LossyPack.of(pack, to)
    twelve_bits = settings.twelve_bits(parameters.device.type) and expandable()
    return CompactPack.of(pack) if twelve_bits else pack


def held_at_first(spec: MoeSpec, mesh: Mesh) -> tuple[int, ...]:
    """The experts of a layer that a rank has before anything is known of their load."""
    return Placement.even(spec.num_experts, mesh.expert.size, mesh.parallelism.redundant).slots[mesh.expert.rank]


def _predictor(
    settings: OffloadSettings, mixtures: Mapping[int, MoeSpec], parameters: Parameters, rank: RankExperts
) -> Predictor:
    device, specs = parameters.device, tuple(mixtures.values())
    if settings.prefetch == "none":
        return Nobody()
    if settings.policy == "ring":
        return Ring(tuple(torch.zeros(1, spec.num_experts, device=device) for spec in specs), rank.prefetch)
    tops = tuple(min(spec.top_k + settings.widen, spec.num_experts) for spec in specs)
    routers = tuple(parameters.linear(f"layers.{number}.mlp.router") for number in mixtures)
    if settings.prefetch == "route" and settings.route is not None:
        route = ExpertRoute.load(settings.route, routers, parameters.weights.dtype, device)
        return Routed(route, tops, rank.prefetch, ScoreRows(route.weight.outputs, device))
    rows = {spec.num_experts: ScoreRows(spec.num_experts, device) for spec in specs}
    return NextGate(routers, tops, rank.prefetch, rows)
