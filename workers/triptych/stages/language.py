"""The part of a worker that runs the language model, put together: the engine over its pool, and the transfers."""

import time

from triptych.core.trace import Recorder
from triptych.engine.core import EngineCore
from triptych.engine.ranks.leader import LeaderRunner
from triptych.engine.ranks.leading import leading
from triptych.engine.runner import ModelRunner
from triptych.engine.scheduler import SchedulerOptions
from triptych.engine.threads import use_threads
from triptych.parallel import Mesh
from triptych.stages.decoder_stage import DecoderStage
from triptych.stages.identity import Identity
from triptych.stages.inbox import ComputeThread, Inbox
from triptych.stages.meeting import Convener
from triptych.stages.movers import Movers
from triptych.stages.panel import Decoding
from triptych.stages.pool import Pool
from triptych.stages.pulling import Puller
from triptych.stages.ranks import KvLayout, RankKv, ReplicaKv, remote_ranks
from triptych.stages.settings import StageSettings
from triptych.transfer import EmbeddingStore, Endpoint, TransferBackend


class Language:
    """Rank 0's pool and its transfer ends, before anybody knows where they are.

    Args:
        settings: Of the worker.
        store: Embeddings that the worker makes itself.
        convener: Of its other ranks, where there are any.
        recorder: Of what rank 0 does.

    Attributes:
        kv: The transfer ends.

    Raises:
        TriptychError: the model or the settings are at fault, or a rank is lost.
    """

    def __init__(
        self,
        settings: StageSettings,
        store: EmbeddingStore | None,
        convener: Convener | None,
        recorder: Recorder,
    ) -> None:
        use_threads(settings.threads)
        backend = TransferBackend(settings.transfer_backend)
        self._convener = convener
        self._inbox = Inbox()
        self._pool = pool = Pool.load(settings, convener.open(recorder) if convener else Mesh())
        model = pool.share.model
        self._core = EngineCore(
            model.decoder,
            pool.kv,
            model.spec.eos_token_ids,
            model.context_length,
            SchedulerOptions(settings.max_batch_tokens, settings.max_running, settings.prefix_caching),
            leading(convener.hub, settings.balance) if convener else ModelRunner,
        )
        self.kv = RankKv.over(
            pool.memory,
            pool.geometry,
            lambda report: self._replica.heard(0, report),
            backend=backend,
            lease_s=settings.lease_seconds,
            recorder=recorder,
        )
        self._puller = Puller(backend, store)

    def decoding(self, identity: Identity) -> Decoding:
        """All parts; returns when every rank has its share of the model.

        Raises:
            RankLost: a rank is lost, or cannot load its share.
        """
        own = Endpoint(identity.endpoint.address, identity.endpoint.host_id)
        others = self._convener.endpoints() if self._convener else ()
        layout = KvLayout(self._pool.heads, self._pool.geometry.blocks, (own, *others))
        remote = remote_ranks(self._convener.hub, 1 + len(others)) if self._convener else ()
        self._replica = ReplicaKv(self.kv, layout, remote, self._inbox.post)
        if self._convener:
            self._replica.follow(self._convener.hub)
        movers = Movers(self._replica, self._puller, self._inbox.post)
        offload = self._pool.share.settings.offload
        stage = DecoderStage(self._core, movers, identity, time.monotonic, self.kv.recorder, offload)
        return Decoding(stage, self._inbox, ComputeThread(stage, self._inbox), movers, self._dismiss)

    def _dismiss(self) -> None:
        if isinstance(self._core.runner, LeaderRunner):
            self._core.runner.close()
        if self._convener:
            self._convener.close()
        self._pool.share.close()
