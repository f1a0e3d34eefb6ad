"""Builds a worker from its settings: loads what its role needs, and nothing else."""

import math
import time
import uuid

import torch

from triptych.core.encoding.limits import EncodeLimits
from triptych.core.errors import InvalidArgument
from triptych.core.fleet import Stage
from triptych.core.jobs.events import KvComplete, KvFailed
from triptych.core.texts import TextControl
from triptych.engine.core import EngineCore, kv_blocks
from triptych.engine.dtypes import choose_dtype
from triptych.engine.embedder import batch_tokens, load_embedder
from triptych.engine.eyes import Eyes
from triptych.engine.loading import load_model
from triptych.engine.scheduler import SchedulerOptions
from triptych.engine.threads import use_threads
from triptych.models.config import read_config
from triptych.models.recipes.text_encoders import gives_embeddings
from triptych.models.spec import embedding_levels, read_spec
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.decoder_stage import DecoderStage
from triptych.stages.encode_batch import BatchEncoder, Shape
from triptych.stages.encode_stage import EncodeStage
from triptych.stages.identity import Identity
from triptych.stages.inbox import ComputeThread, Inbox
from triptych.stages.movers import Movers
from triptych.stages.panel import Decoding, WorkerPanel
from triptych.stages.pulling import Puller
from triptych.stages.settings import StageSettings
from triptych.stages.text_panel import TextPanel
from triptych.stages.text_stage import TextStage
from triptych.transfer import (
    EmbeddingStore,
    KvReceiver,
    KvSender,
    PoolGeometry,
    SharedSegment,
    TransferBackend,
    TransferServer,
)


def build_panel(settings: StageSettings) -> WorkerPanel | TextPanel:
    """A worker that is ready to start.

    Raises:
        TriptychError: the model or the settings are at fault.
    """
    if gives_embeddings(read_config(settings.files)):
        return _embedding(settings)
    if settings.decodes:
        use_threads(settings.threads)
    incarnation = uuid.uuid4().hex
    backend = TransferBackend(settings.transfer_backend)
    store = EmbeddingStore(incarnation, backend=backend) if settings.encodes else None
    pool = _Pool(settings, store, backend) if settings.decodes else None
    services = [service for service in (store, pool and pool.receiver) if service]
    transfers = TransferServer(services, host=settings.host)
    endpoint = pb.DataEndpoint(address=transfers.endpoint.address, host_id=transfers.endpoint.host_id)
    identity = Identity(settings.worker_id, incarnation, endpoint)
    return WorkerPanel(
        identity,
        settings.role,
        settings.files.name,
        transfers,
        _encoding(settings, store, identity) if store else None,
        pool.decoding(identity) if pool else None,
    )


def _embedding(settings: StageSettings) -> TextPanel:
    if settings.role is not Stage.ENCODE:
        raise InvalidArgument(f"{settings.files.name} gives embeddings: its workers encode", field="layout")
    use_threads(settings.threads)
    model = load_embedder(settings.files, settings.dtype)
    control = TextControl(settings.worker_id, batch_tokens(model.spec), settings.max_waiting_texts)
    stage = TextStage(model, control, settings.threads)
    return TextPanel(settings.worker_id, uuid.uuid4().hex, settings.files.name, stage)


def _encoding(settings: StageSettings, store: EmbeddingStore, identity: Identity) -> EncodeStage:
    spec = read_spec(settings.files)
    if spec.vision is None:
        raise InvalidArgument(f"{settings.files.name} has no vision tower to encode with", field="layout")
    dtype = choose_dtype(settings.dtype, read_config(settings.files))
    eyes = Eyes.load(settings.files, spec, dtype)
    shape = Shape(spec.decoder.hidden_size, embedding_levels(spec.vision), dtype)
    encoder = BatchEncoder(eyes, shape, settings.threads)
    limits = EncodeLimits(
        budget_bytes=settings.embedding_cache_bytes,
        max_entries=store.max_shared,
        max_waiting_images=settings.max_waiting_images,
    )
    return EncodeStage(encoder, store, limits, identity)


class _Pool:
    """The KV pool, its two transfer ends, and the engine over it."""

    def __init__(self, settings: StageSettings, store: EmbeddingStore | None, backend: TransferBackend) -> None:
        loaded = load_model(
            settings.files,
            settings.dtype,
            settings.quantization,
            context=settings.context_length,
            kv_memory=settings.kv_cache_bytes,
            adapters=settings.adapters,
        )
        blocks = kv_blocks(loaded.decoder, settings.block_size, loaded.dtype, settings.kv_cache_bytes)
        shape = loaded.decoder.kv_shape(blocks, settings.block_size)
        geometry = PoolGeometry(shape[0], blocks, math.prod(shape[2:]) * loaded.dtype.itemsize)
        memory = SharedSegment.create(geometry.size) if _shares(backend) else bytearray(geometry.size)
        buffer = memory.buffer if isinstance(memory, SharedSegment) else memory
        kv = torch.frombuffer(buffer, dtype=loaded.dtype).view(shape)
        self._inbox = Inbox()
        self._core = EngineCore(
            loaded.decoder,
            kv,
            loaded.spec.eos_token_ids,
            loaded.context_length,
            SchedulerOptions(settings.max_batch_tokens, settings.max_running, settings.prefix_caching),
        )
        self.receiver = KvReceiver(
            memory,
            geometry,
            on_complete=lambda ticket, size, seconds: self._inbox.post(KvComplete(ticket, size, seconds)),
            on_failed=lambda ticket, error: self._inbox.post(KvFailed(ticket, error)),
            backend=backend,
            lease_s=settings.lease_seconds,
        )
        self._movers = Movers(
            self.receiver, KvSender(memory, geometry, backend=backend), Puller(backend, store), self._inbox.post
        )

    def decoding(self, identity: Identity) -> Decoding:
        """The part of the worker that runs the language model."""
        stage = DecoderStage(self._core, self._movers, identity, time.monotonic)
        return Decoding(stage, self._inbox, ComputeThread(stage, self._inbox), self._movers)


def _shares(backend: TransferBackend) -> bool:
    return backend is not TransferBackend.TCP and SharedSegment.available()
