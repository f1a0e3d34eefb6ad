"""A further rank of a worker in this process: it computes what rank 0 says, and moves its share of the KV."""

import logging
import threading
from concurrent.futures import Future

from triptych.core.errors import describe
from triptych.engine.ranks.following import Following
from triptych.engine.ranks.readiness import ToldProgress
from triptych.engine.threads import use_threads
from triptych.stages.meeting import Meeting, Reachable, join
from triptych.stages.pool import Pool
from triptych.stages.ranks import RankKv, ServedRank
from triptych.stages.ranks.messages import Order
from triptych.stages.ranks.served import reporting
from triptych.stages.settings import StageSettings
from triptych.transfer import TransferBackend, TransferServer

logger = logging.getLogger(__name__)


class RankHost:
    """Runs a rank until rank 0 says that it is over, or a rank of the worker is lost.

    Args:
        settings: Of the worker.
        rank: Its number, from 1.
        meeting: Where the others are.

    Attributes:
        ended: Done when the rank computes no longer: with the reason why it could not go on.

    Raises:
        RankLost: another rank does not come, or is gone again.
        TriptychError: the model or the settings are at fault; rank 0 has been told.
    """

    def __init__(self, settings: StageSettings, rank: int, meeting: Meeting) -> None:
        use_threads(settings.threads)
        self._member, self._mesh = join(meeting, settings.parallelism, rank)
        self.ended: Future[str] = Future()
        try:
            self.pool = Pool.load(settings, self._mesh, ToldProgress(self._member.send))
            self.kv = self._open_transfers(settings, self.pool)
            self._transfers = TransferServer([self.kv.receiver], host=settings.host)
            self._following = Following(self._member, self._mesh, self.pool.share, self.pool.kv, settings.threads)
        except Exception as error:
            self._member.give_up(error)
            raise
        self._served = ServedRank(self.kv, reporting(self._member.send))
        self._thread = threading.Thread(target=self._run, name=f"rank {rank} of {settings.worker_id}", daemon=True)

    def _open_transfers(self, settings: StageSettings, pool: Pool) -> RankKv:
        """Both ends of this rank's transfers."""
        return RankKv.over(
            pool.memory,
            pool.geometry,
            reporting(self._member.send),
            backend=TransferBackend(settings.transfer_backend),
            lease_s=settings.lease_seconds,
            recorder=self._mesh.recorder,
        )

    def start(self) -> None:
        """Begins to follow."""
        self._member.subscribe(Order, self._served.handle)
        self._thread.start()

    def stop(self) -> None:
        """Leaves the others, which ends all of them; returns when nothing runs here any more."""
        self._member.close()
        self._mesh.abort()
        self._thread.join()

    def _run(self) -> None:
        reason = ""
        try:
            self._member.send(Reachable(self._transfers.endpoint))
            self._following.run()
        except Exception as error:
            reason = describe(error)
            logger.warning("rank %d ends: %s", self._mesh.rank, reason)
        finally:
            self._member.close()
            self._mesh.abort()
            self._following.close()
            self._served.close()
            self._transfers.shutdown()
            self.ended.set_result(reason)
