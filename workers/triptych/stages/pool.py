"""A rank's share of the model and its KV pool, in memory that other processes may read."""

from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.engine.expert_fit import settle
from triptych.engine.ranks.settings import RankSettings, Share
from triptych.models.progress import SILENT, Progress
from triptych.parallel import Mesh
from triptych.stages.ranks.layout import geometry_of, heads_of
from triptych.stages.settings import StageSettings
from triptych.transfer import Heads, PoolGeometry, SharedSegment, TransferBackend


@dataclass(frozen=True, slots=True)
class Pool:
    """What a rank computes with.

    Attributes:
        share: Its part of the model.
        heads: KV heads in the pool of each rank of a lane.
        geometry: Of the rank's pool, for transfers.
        memory: Of the pool.
        kv: The pool as a tensor, [layer, block, k|v, kv_head, token, dim].
    """

    share: Share
    heads: tuple[Heads, ...]
    geometry: PoolGeometry
    memory: SharedSegment | bytearray
    kv: Tensor

    @classmethod
    def load(cls, settings: StageSettings, mesh: Mesh, progress: Progress = SILENT) -> "Pool":
        """Reads the rank's share of the weights; `progress` hears of what takes long.

        Raises:
            TriptychError: the model or the settings are at fault.
        """
        share = Share.load(settle(rank_settings(settings)), mesh, progress)
        model, heads = share.model, heads_of(share.model.spec.decoder, settings.parallelism)
        geometry = geometry_of(share.kv_shape, model.dtype.itemsize, heads[mesh.attention.rank])
        shared = TransferBackend(settings.transfer_backend) is not TransferBackend.TCP and SharedSegment.available()
        memory = SharedSegment.create(geometry.size) if shared else bytearray(geometry.size)
        buffer = memory.buffer if isinstance(memory, SharedSegment) else memory
        return cls(share, heads, geometry, memory, torch.frombuffer(buffer, dtype=model.dtype).view(share.kv_shape))


def rank_settings(settings: StageSettings) -> RankSettings:
    """What every rank of the worker's engine is built from."""
    return RankSettings(
        files=settings.files,
        parallelism=settings.parallelism,
        dtype=settings.dtype,
        quantization=settings.quantization,
        context_length=settings.context_length,
        kv_memory=settings.kv_cache_bytes,
        block_size=settings.block_size,
        max_batch_tokens=settings.max_batch_tokens,
        max_running=settings.max_running,
        adapters=settings.adapters,
        threads=settings.threads,
        balance=settings.balance,
        offload=settings.offload,
    )
