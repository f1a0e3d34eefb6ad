"""The control of an encode worker: pictures in, held embeddings out, in batches across requests."""

import logging
import queue
import threading
from collections.abc import Callable

from triptych.core.errors import DeadlineExceeded, Internal, TriptychError
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages import events
from triptych.stages.encode_batch import BatchEncoder, Encoded, EncodeJob
from triptych.stages.messages import Command
from triptych.stages.reservations import Identity
from triptych.stages.session import Session
from triptych.stages.threads import VitalThread
from triptych.transfer import Embedding, EmbeddingStore, Holder

MAX_BATCH_REQUESTS = 16

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
        self.queued_images = 0
        self._encoder = encoder
        self._identity = identity
        self._jobs: queue.SimpleQueue[EncodeJob | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open: dict[Holder, Session] = {}
        self._thread = VitalThread("encode", self._run)

    @property
    def running(self) -> int:
        """Requests that hold embeddings or wait for them."""
        return len(self._open)

    def start(self, on_crash: Callable[[], None]) -> None:
        """Begins; `on_crash` as `VitalThread.start`."""
        self._thread.start(on_crash)

    def stop(self) -> None:
        """Ends after the current batch."""
        self._jobs.put(None)
        self._thread.join()

    def encode(self, command: Command) -> None:
        """Queues pictures; a repeated command changes nothing."""
        job = EncodeJob(command, command.request.encode)
        with self._lock:
            if job.holder in self._open:
                return
            self._open[job.holder] = command.session
            self.queued_images += len(job.encode.images)
        self._jobs.put(job)

    def free(self, key: pb.OperationKey) -> None:
        """Gives back what an operation holds; a batch under way will hold nothing for it."""
        self._forget(Holder(key.request_id, key.epoch))

    def drop_session(self, session: Session) -> None:
        """A router is gone: everything it asked for is freed."""
        with self._lock:
            gone = [holder for holder, owner in self._open.items() if owner is session]
        for holder in gone:
            self._forget(holder)

    def _forget(self, holder: Holder) -> None:
        with self._lock:
            self._open.pop(holder, None)
            self.store.release(holder)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            while len(batch) < MAX_BATCH_REQUESTS and not self._jobs.empty():
                following = self._jobs.get()
                if following is None:
                    return
                batch.append(following)
            self._encode(batch)

    def _encode(self, batch: list[EncodeJob]) -> None:
        with self._lock:
            self.queued_images -= sum(len(job.encode.images) for job in batch)
        wanted = [job for job in batch if job.holder in self._open]
        known = {job: self._held(job) for job in wanted}
        try:
            outcomes = self._encoder.encode(wanted, {hash_ for held in known.values() for hash_ in held})
        except Exception as error:
            logger.exception("a batch of pictures could not be encoded")
            failure = Internal(f"the worker failed to encode: {error}")
            outcomes = dict.fromkeys(wanted, failure)
        for job in wanted:
            outcome = DeadlineExceeded("the deadline passed") if job.expired else outcomes[job]
            job.command.session.send(self._answer(job, outcome, known[job]))

    def _held(self, job: EncodeJob) -> dict[str, Embedding]:
        """Embeddings of the job that an earlier request left behind, held from now on."""
        with self._lock:
            if job.holder not in self._open:
                return {}
            found = {
                image.content_hash: self.store.hold(image.content_hash, job.holder) for image in job.encode.images
            }
        return {content_hash: embedding for content_hash, embedding in found.items() if embedding}

    def _answer(
        self, job: EncodeJob, outcome: Encoded | TriptychError, known: dict[str, Embedding]
    ) -> pb.ConnectResponse:
        if isinstance(outcome, TriptychError):
            return events.failed(job.encode.key, outcome)
        try:
            with self._lock:
                if job.holder in self._open:
                    for content_hash, data in outcome.data.items():
                        known[content_hash] = self.store.put(content_hash, data, job.holder)
        except TriptychError as error:
            return events.failed(job.encode.key, error)
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
