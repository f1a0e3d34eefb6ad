"""Builds a worker from its settings: loads what its role needs, and nothing else."""

import uuid

from triptych.core.encoding.limits import EncodeLimits
from triptych.core.errors import InvalidArgument
from triptych.core.fleet import Stage
from triptych.core.texts import TextControl
from triptych.core.trace import Recorder
from triptych.engine.dtypes import choose_dtype
from triptych.engine.embedder import batch_tokens, load_embedder
from triptych.engine.eyes import Eyes
from triptych.engine.ranks.seeing import DividedEyes
from triptych.engine.threads import use_threads
from triptych.models.config import read_config
from triptych.models.recipes.text_encoders import gives_embeddings
from triptych.models.spec import embedding_levels, read_spec
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.divided_batch import DividedBatchEncoder
from triptych.stages.encode_batch import BatchEncoder, Shape
from triptych.stages.encode_stage import EncodeStage
from triptych.stages.identity import Identity
from triptych.stages.language import Language
from triptych.stages.meeting import Convener
from triptych.stages.panel import WorkerPanel
from triptych.stages.settings import StageSettings
from triptych.stages.text_panel import TextPanel
from triptych.stages.text_stage import TextStage
from triptych.transfer import EmbeddingStore, TransferBackend, TransferServer


def build_panel(settings: StageSettings, convener: Convener | None = None) -> WorkerPanel | TextPanel:
    """A worker that is ready to start.

    Args:
        settings: What to run.
        convener: Of its other ranks, where there are any.

    Raises:
        TriptychError: the model or the settings are at fault.
    """
    if gives_embeddings(read_config(settings.files)):
        return _embedding(settings)
    incarnation, recorder = uuid.uuid4().hex, Recorder()
    backend = TransferBackend(settings.transfer_backend)
    store = EmbeddingStore(incarnation, backend=backend) if settings.encodes else None
    language = Language(settings, store, convener, recorder) if settings.decodes else None
    services = [service for service in (store, language and language.kv.receiver) if service]
    transfers = TransferServer(services, host=settings.host)
    endpoint = pb.DataEndpoint(address=transfers.endpoint.address, host_id=transfers.endpoint.host_id)
    identity = Identity(settings.worker_id, incarnation, endpoint)
    return WorkerPanel(
        identity,
        settings.role,
        settings.files.name,
        transfers,
        _encoding(settings, store, identity, convener, recorder) if store else None,
        language.decoding(identity) if language else None,
        recorder,
    )


def _embedding(settings: StageSettings) -> TextPanel:
    if settings.role is not Stage.ENCODE:
        raise InvalidArgument(f"{settings.files.name} gives embeddings: its workers encode", field="layout")
    use_threads(settings.threads)
    model = load_embedder(settings.files, settings.dtype)
    control = TextControl(settings.worker_id, batch_tokens(model.spec), settings.max_waiting_texts)
    stage = TextStage(model, control, settings.threads)
    return TextPanel(settings.worker_id, uuid.uuid4().hex, settings.files.name, stage)


def _encoding(
    settings: StageSettings,
    store: EmbeddingStore,
    identity: Identity,
    convener: Convener | None,
    recorder: Recorder,
) -> EncodeStage:
    spec = read_spec(settings.files)
    if spec.vision is None:
        raise InvalidArgument(f"{settings.files.name} has no vision tower to encode with", field="layout")
    dtype = choose_dtype(settings.dtype, read_config(settings.files))
    eyes = Eyes.load(settings.files, spec, dtype)
    shape = Shape(spec.decoder.hidden_size, embedding_levels(spec.vision), dtype)
    if convener:
        ranks = DividedEyes(convener.hub, settings.parallelism.size)
        encoder: BatchEncoder | DividedBatchEncoder = DividedBatchEncoder(shape, eyes, ranks, settings.threads)
    else:
        encoder = BatchEncoder(eyes, shape, settings.threads)
    limits = EncodeLimits(
        budget_bytes=settings.embedding_cache_bytes,
        max_entries=store.max_shared,
        max_waiting_images=settings.max_waiting_images,
    )
    return EncodeStage(encoder, store, limits, identity, recorder)
