"""What every rank of a replica is built from, and the share of the model that it loads."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.engine.blocks import blocks_for
from triptych.engine.core import kv_blocks
from triptych.engine.eyes import Eyes
from triptych.engine.heap import give_back
from triptych.engine.loading import LoadedModel, load_model
from triptych.engine.ranks.computer import RankComputer
from triptych.engine.ranks.mirror import Mirror
from triptych.experts.settings import OffloadSettings
from triptych.models.files import ModelFiles
from triptych.models.progress import SILENT, Progress
from triptych.models.sharding import local_spec
from triptych.models.spec import DecoderSpec, MoeSpec
from triptych.parallel import Mesh, Parallelism
from triptych.parallel.balance import DEFAULT_POLICY, BalancePolicy, Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSettings:
    """Equal on all ranks of a replica.

    Attributes:
        files: The model.
        parallelism: How the ranks divide it.
        dtype: auto, float32 or bfloat16.
        quantization: none, int8 or gguf.
        device: A torch device.
        context_length: Tokens of prompt and answer; None means the model's own.
        kv_memory: Bytes of each rank's KV pool.
        block_size: Tokens per block.
        max_batch_tokens: Rows of a step.
        max_running: Sequences of a step.
        adapters: Folders of low-rank adapters, by name.
        threads: Of each rank's computation.
        balance: When experts move among the ranks.
        offload: How each rank keeps its experts, where they do not all fit; None keeps them all.

    Raises:
        InvalidArgument: the nodes of `balance` do not divide the rows of expert ranks, or `offload` wants steps made
            by what their rows ask of a rank, and there are several.
    """

    files: ModelFiles
    parallelism: Parallelism
    dtype: str = "auto"
    quantization: str = "none"
    device: str = "cpu"
    context_length: int | None = None
    kv_memory: int
    block_size: int = 16
    max_batch_tokens: int = 512
    max_running: int = 64
    adapters: Mapping[str, Path]
    threads: int = 1
    balance: BalancePolicy = DEFAULT_POLICY
    offload: OffloadSettings | None = None

    def __post_init__(self) -> None:
        """Refuses rows of ranks that could not be on so many nodes, and ranks that have parts of a row's experts."""
        if self.parallelism.expert % self.balance.nodes:
            raise InvalidArgument(
                f"expert_balance.nodes must divide expert_parallel, which is {self.parallelism.expert}, "
                f"got {self.balance.nodes}",
                field="expert_balance.nodes",
            )
        if self.offload is not None and self.offload.regroup and self.parallelism.size > 1:
            raise InvalidArgument(
                f"experts.regroup needs a single rank, got {self.parallelism.size}", field="experts.regroup"
            )

    def of_rank(self, rank: int) -> "RankSettings":
        """The same, on the rank's own GPU of this host, where it is computed on GPUs."""
        return replace(self, device=f"cuda:{rank}") if self.device == "cuda" else self


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank has of a model.

    Attributes:
        settings: Of all ranks.
        model: The rank's decoder, and what the whole model is.
        blocks: Of the KV pool; equal on all ranks.
    """

    settings: RankSettings
    model: LoadedModel
    blocks: int

    @classmethod
    def load(cls, settings: RankSettings, mesh: Mesh, progress: Progress = SILENT) -> "Share":
        """Reads it from the checkpoint.

        Raises:
            TriptychError: as `load_model`, and as `kv_blocks`.
        """
        model = load_model(
            settings.files,
            settings.dtype,
            settings.quantization,
            settings.device,
            context=settings.context_length,
            kv_memory=settings.kv_memory,
            adapters=settings.adapters,
            mesh=mesh,
            offload=settings.offload,
            progress=progress,
        )
        try:
            blocks = kv_blocks(model.decoder, settings.block_size, model.dtype, settings.kv_memory)
        except BaseException:
            model.decoder.close()
            raise
        give_back()
        return cls(settings, model, blocks)

    def close(self) -> None:
        """Lets go of what keeps experts; no step may follow. Idempotent."""
        self.model.decoder.close()

    @property
    def kv_shape(self) -> tuple[int, int, int, int, int, int]:
        """[layer, block, k|v, kv_head, token, dim], of this rank's heads."""
        return self.model.decoder.kv_shape(self.blocks, self.settings.block_size)

    def pool(self) -> Tensor:
        """Memory for the KV, not shared with anybody."""
        return torch.empty(self.kv_shape, dtype=self.model.dtype, device=self.settings.device)

    def eyes(self) -> Eyes:
        """The vision tower, whole on every rank.

        Raises:
            TriptychError: as `Eyes.load`.
        """
        return Eyes.load(self.settings.files, self.model.spec, self.model.dtype, self.settings.device)

    def computer(self, kv: Tensor) -> RankComputer:
        """The rank's part of steps over a pool of `kv_shape`."""
        return RankComputer(self.model.decoder, kv, self.settings.max_batch_tokens, self.settings.max_running)

    def mirror(self) -> Mirror:
        """What a follower keeps of the steps."""
        size = self.settings.block_size
        capacity = min(self.model.context_length, self.blocks * size)
        return Mirror(self.settings.max_running, blocks_for(capacity, size), size, self.model.decoder.device)


def require_divisible(spec: DecoderSpec, parallelism: Parallelism) -> None:
    """Refuses ranks that would have nothing to do, before any of them is started.

    Raises:
        InvalidArgument: names the field, its limit and the value.
    """
    experts = {layer.mlp.num_experts for layer in spec.layers if isinstance(layer.mlp, MoeSpec)}
    if parallelism.expert > 1 and not experts:
        raise InvalidArgument(
            f"expert_parallel must be 1 for a model without experts, got {parallelism.expert}",
            field="expert_parallel",
        )
    for count in experts:
        Placement.even(count, parallelism.expert, parallelism.redundant)
    for rank in range(parallelism.size):
        local_spec(spec, parallelism, rank)


def require_gpus(device: str, ranks: int) -> None:
    """Refuses ranks that this host has no GPUs for, before any of them is started.

    Raises:
        InvalidArgument: several ranks are to share a GPU, which nccl cannot.
        FailedPrecondition: there are too few, or torch was built without nccl.
    """
    if torch.device(device).type != "cuda":
        return
    if device != "cuda":
        raise InvalidArgument(
            f"device must be cpu or cuda for {ranks} ranks, each of which has a GPU of its own, got {device}",
            field="device",
        )
    if (there := torch.cuda.device_count()) < ranks:
        raise FailedPrecondition(f"device cuda needs a GPU for each of {ranks} ranks, got {there}", field="device")
    if not dist.is_nccl_available():
        raise FailedPrecondition(f"device cuda needs a torch with nccl for {ranks} ranks", field="device")
