"""The vision part of a worker: carries out what `core.encoding` decides."""

import logging
import threading
import time
from collections.abc import Callable
from typing import assert_never, cast

from triptych.core.encoding.actions import Acknowledge, Action, Answer, Compute, Evict, Refuse
from triptych.core.encoding.audit import EncodeAudit
from triptych.core.encoding.control import EncodeControl
from triptych.core.encoding.job import Batch
from triptych.core.encoding.limits import EncodeLimits
from triptych.core.generation import OperationKey
from triptych.core.trace import Recorder
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages import events
from triptych.stages.divided_batch import DividedBatchEncoder
from triptych.stages.encode_answers import EncodeAnswers, as_defect
from triptych.stages.encode_batch import BatchEncoder, Encoded, EncodeJob
from triptych.stages.identity import Identity
from triptych.stages.messages import Command
from triptych.stages.session import Session
from triptych.stages.threads import VitalThread
from triptych.transfer import EmbeddingStore

logger = logging.getLogger(__name__)


class EncodeStage:
    """Encodes on a thread of its own; whatever else it does takes microseconds and happens on the caller's.

    Args:
        encoder: Pictures to embeddings.
        store: Keeps their bytes.
        limits: What there is room for.
        identity: Goes into the handles.
        recorder: Of its batches.
    """

    def __init__(
        self,
        encoder: BatchEncoder | DividedBatchEncoder,
        store: EmbeddingStore,
        limits: EncodeLimits,
        identity: Identity,
        recorder: Recorder,
    ) -> None:
        self._recorder = recorder
        self.store = store
        self._encoder = encoder
        self._answers = EncodeAnswers(store, identity, encoder.shape)
        self._control: EncodeControl[EncodeJob] = EncodeControl(identity.worker_id, limits)
        self._changed = threading.Condition()
        self._closed = False
        self._thread = VitalThread("encode", self._run)

    @property
    def encoded_images(self) -> int:
        """Pictures that have passed the vision tower."""
        return self._control.encoded_images

    def start(self, on_crash: Callable[[Exception], None]) -> None:
        """Begins; `on_crash` as `VitalThread.start`."""
        self._thread.start(on_crash)

    def stop(self) -> None:
        """Ends after the current batch."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def encode(self, command: Command) -> None:
        """Pictures are wanted."""
        job = EncodeJob.of(command, self._encoder.shape.row_bytes)
        self._do(lambda now: self._control.submit(job, now))

    def free(self, command: Command) -> None:
        """They are wanted no longer; a batch under way will hold nothing for them."""
        self._do(lambda now: self._control.free(_freed_key(command), command.session, now))

    def forget(self, command: Command) -> None:
        """As `free`, for a worker whose other part acknowledges."""
        self._do(lambda now: self._control.forget(_freed_key(command), command.session, now))

    def drop_session(self, session: Session) -> None:
        """A router is gone: everything it asked for is freed."""
        self._do(lambda now: self._control.end_session(session, now))

    def drain(self) -> None:
        """No new operation from now on."""
        with self._changed:
            self._control.drain()

    def report(self, report: pb.LoadReport) -> None:
        """Adds this part to the worker's report."""
        with self._changed:
            report.running_requests += self._control.open
            report.runnable_requests += len(self._control.batch.jobs) if self._control.batch else 0
            report.steps += self._encoder.passes
            report.queued_images = self._control.queued_images
            report.held_embeddings = self._control.holdings.held_count
            report.held_embedding_bytes = self._control.holdings.held_bytes
            report.encoded_images = self._control.encoded_images

    def audit(self) -> EncodeAudit:
        """Who is where, and holds what."""
        with self._changed:
            return self._control.audit()

    def _run(self) -> None:
        while batch := self._next():
            started = time.monotonic()
            encoded = self._compute(batch)
            if (recording := self._recorder.recording) is not None:
                recording.step(f"{len(batch.pictures)} pictures", started, encoded.finished, len(encoded.data))
            self._finish(encoded)

    def _finish(self, encoded: Encoded) -> None:
        self._do(lambda now: self._control.encoded(encoded.data, encoded.failed, now), encoded)

    def _next(self) -> Batch[EncodeJob] | None:
        """Waits for a batch; None once the stage is closed."""
        with self._changed:
            while not self._closed and self._control.batch is None:
                due = self._control.next_deadline
                self._changed.wait(None if due is None else due - time.monotonic())
                now = time.monotonic()
                self._carry_out(self._control.tick(now), now, None)
            return None if self._closed else self._control.batch

    def _compute(self, batch: Batch[EncodeJob]) -> Encoded:
        try:
            encoded = self._encoder.encode(batch)
            for picture, data in encoded.data.items():
                self.store.put(picture, data)
        except Exception as error:
            logger.exception("a batch of pictures could not be encoded")
            for picture in batch.pictures:
                self.store.forget(picture)
            now, failure = time.monotonic(), as_defect(error)
            return Encoded({}, {job.key: failure for job in batch.jobs}, now, now)
        return encoded

    def _do(self, event: Callable[[float], list[Action[EncodeJob]]], encoded: Encoded | None = None) -> None:
        with self._changed:
            now = time.monotonic()
            self._carry_out(event(now), now, encoded)
            self._changed.notify()

    def _carry_out(self, actions: list[Action[EncodeJob]], now: float, encoded: Encoded | None) -> None:
        for action in actions:
            match action:
                case Evict(picture):
                    self.store.forget(picture)
                case Compute():
                    pass  # the thread is woken up by every event, and asks for the batch
                case Answer() | Refuse():
                    self._answers.send(action, now, encoded)
                case Acknowledge(session, key):
                    freed = pb.OperationKey(request_id=key.request_id, epoch=key.epoch)
                    cast(Session, session).send(events.freed(freed))
                case _:
                    assert_never(action)


def _freed_key(command: Command) -> OperationKey:
    key = command.request.free.key
    return OperationKey(key.request_id, key.epoch)
