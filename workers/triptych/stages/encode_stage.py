"""The control of an encode worker: pictures in, held embeddings out, in batches across requests."""

import contextlib
import logging
import threading
from collections.abc import Callable

from triptych.core.errors import DeadlineExceeded, Internal, ResourceExhausted, TriptychError, Unavailable
from triptych.core.generation import OperationKey
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages import events
from triptych.stages.encode_batch import BatchEncoder, Encoded, EncodeJob
from triptych.stages.encode_queue import EncodeQueue
from triptych.stages.identity import Identity
from triptych.stages.messages import Command
from triptych.stages.session import Session
from triptych.stages.threads import VitalThread
from triptych.transfer import Embedding, EmbeddingStore

logger = logging.getLogger(__name__)


class EncodeStage:
    """Encodes on a thread of its own and keeps the embeddings until Free.

    Args:
        encoder: Pictures to embeddings.
        store: Keeps them.
        identity: Goes into the handles.
    """

    def __init__(self, encoder: BatchEncoder, store: EmbeddingStore, identity: Identity) -> None:
        self.store = store
        self.encoded_images = 0
        self._encoder = encoder
        self._identity = identity
        self._queue = EncodeQueue(lambda pictures: store.fits(pictures, encoder.picture_bytes))
        self._draining = False
        self._lock = threading.Lock()
        self._open: dict[OperationKey, Session] = {}
        self._thread = VitalThread("encode", self._run)

    @property
    def running(self) -> int:
        """Requests that hold embeddings or wait for them."""
        return len(self._open)

    @property
    def queued_images(self) -> int:
        """Pictures that nobody has begun to encode."""
        return self._queue.images

    def start(self, on_crash: Callable[[], None]) -> None:
        """Begins; `on_crash` as `VitalThread.start`."""
        self._thread.start(on_crash)

    def stop(self) -> None:
        """Ends after the current batch."""
        self._queue.close()
        self._thread.join()

    def encode(self, command: Command) -> None:
        """Queues pictures until there is room for their embeddings; a repeated command changes nothing."""
        job = EncodeJob(command, command.request.encode)
        with self._lock:
            if job.holder in self._open:
                return
            if not self._draining:
                self._open[job.holder] = command.session
        if self._draining:
            refusal = Unavailable(f"worker {self._identity.worker_id} is draining")
            command.session.send(events.failed(job.encode.key, refusal))
            return
        needed = len(job.pictures) * self._encoder.picture_bytes
        if needed <= self.store.budget_bytes:
            self._queue.put(job)
            return
        error = ResourceExhausted(
            f"the embeddings of {len(job.pictures)} images need {needed} bytes; "
            f"this worker keeps at most {self.store.budget_bytes}"
        )
        command.session.send(events.failed(job.encode.key, error))

    def drain(self) -> None:
        """No new operation from now on; on the thread that calls `encode`."""
        self._draining = True

    def free(self, key: pb.OperationKey) -> None:
        """Gives back what an operation holds; a batch under way will hold nothing for it."""
        self._forget(OperationKey(key.request_id, key.epoch))

    def drop_session(self, session: Session) -> None:
        """A router is gone: everything it asked for is freed."""
        with self._lock:
            gone = [holder for holder, owner in self._open.items() if owner is session]
        for holder in gone:
            self._forget(holder)

    def _forget(self, holder: OperationKey) -> None:
        with self._lock:
            self._open.pop(holder, None)
            self.store.release(holder)
        self._queue.drop(holder)

    def _run(self) -> None:
        while batch := self._queue.take():
            self._encode(batch)

    def _encode(self, batch: list[EncodeJob]) -> None:
        outcomes: dict[EncodeJob, Encoded | TriptychError] = {
            job: DeadlineExceeded("the deadline passed") for job in batch if job.expired
        }
        wanted = [job for job in batch if job not in outcomes and job.holder in self._open]
        known: dict[EncodeJob, dict[str, Embedding]] = {}
        try:
            known = {job: self._held(job) for job in wanted}
            outcomes |= self._encoder.encode(wanted, {hash_ for held in known.values() for hash_ in held})
        except Exception as error:
            logger.exception("a batch of pictures could not be encoded")
            outcomes |= dict.fromkeys(wanted, Internal(f"the worker failed to encode: {error}"))
        for job, outcome in outcomes.items():
            self._answer(job, outcome, known.get(job, {}))

    def _answer(self, job: EncodeJob, outcome: Encoded | TriptychError, known: dict[str, Embedding]) -> None:
        try:
            job.command.session.send(self._event(job, outcome, known))
        except Exception as error:  # of this job alone: the others wait for the thread
            logger.exception("an encode command could not be answered")
            failure = error if isinstance(error, TriptychError) else Internal(f"the worker failed to encode: {error}")
            with contextlib.suppress(Exception):
                job.command.session.send(events.failed(job.encode.key, failure))

    def _held(self, job: EncodeJob) -> dict[str, Embedding]:
        """Embeddings of the job that an earlier request left behind, held from now on."""
        with self._lock:
            if job.holder not in self._open:
                return {}
            found = {
                image.content_hash: self.store.hold(image.content_hash, job.holder) for image in job.encode.images
            }
        return {content_hash: embedding for content_hash, embedding in found.items() if embedding}

    def _event(
        self, job: EncodeJob, outcome: Encoded | TriptychError, known: dict[str, Embedding]
    ) -> pb.ConnectResponse:
        if isinstance(outcome, TriptychError):
            return events.failed(job.encode.key, outcome)
        with self._lock:
            if job.holder in self._open:
                for content_hash, data in outcome.data.items():
                    known[content_hash] = self.store.put(content_hash, data, job.holder)
        self.encoded_images += len(outcome.data)
        done = pb.EncodeDone(key=job.encode.key, times=outcome.times)
        for image in job.encode.images:
            if embedding := known.get(image.content_hash):
                done.handles.append(self._handle(image.index, embedding))
        return pb.ConnectResponse(encode_done=done)

    def _handle(self, index: int, embedding: Embedding) -> pb.EmbeddingHandle:
        rows, columns, dtype = self._encoder.shape
        return pb.EmbeddingHandle(
            index=index,
            worker_id=self._identity.worker_id,
            incarnation=self._identity.incarnation,
            content_hash=embedding.content_hash,
            endpoint=self._identity.endpoint,
            rows=rows,
            columns=columns,
            dtype=dtype,
            checksum=embedding.checksum,
        )
