"""The part of a worker that turns texts into vectors: carries out what `core.texts` decides."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import assert_never, cast

import numpy as np
from numpy.typing import NDArray

from triptych.core.errors import Internal, InvalidArgument, TriptychError
from triptych.core.generation import OperationKey
from triptych.core.texts import Acknowledge, Action, Answer, Batch, Refuse, TextControl, TextJob
from triptych.core.trace import Recorder
from triptych.engine.threads import torch_threads
from triptych.models.embedding.embedder import TextEmbedder
from triptych.models.embedding.pooling import shortened
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages import events
from triptych.stages.messages import Command
from triptych.stages.session import Session
from triptych.stages.threads import VitalThread

logger = logging.getLogger(__name__)


class TextStage:
    """Computes on a thread of its own, texts of several requests together.

    Args:
        model: Token ids to vectors.
        control: Decides which.
        threads: Threads of the computation.

    Attributes:
        recorder: Of its batches.
    """

    def __init__(self, model: TextEmbedder, control: TextControl, threads: int) -> None:
        self.recorder = Recorder()
        self._model = model
        self._control = control
        self._threads = threads
        self._work: dict[OperationKey, _Work] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._batches = 0
        self._tokens = 0
        self._thread = VitalThread("embed", self._run)

    def start(self, on_crash: Callable[[Exception], None]) -> None:
        """Begins; `on_crash` as `VitalThread.start`."""
        self._thread.start(on_crash)

    def stop(self) -> None:
        """Ends after the current batch."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def embed(self, command: Command) -> None:
        """Vectors are wanted."""
        embed = command.request.embed
        if sum(embed.lengths) != len(embed.token_ids) or not embed.lengths or min(embed.lengths) < 1:
            error = InvalidArgument(f"{len(embed.token_ids)} token ids do not make {len(embed.lengths)} texts")
            command.session.send(events.failed(embed.key, error))
            return
        key = OperationKey(embed.key.request_id, embed.key.epoch)
        deadline = command.received + embed.timeout_ms / 1000 if embed.timeout_ms else None
        job = TextJob(key, command.session, tuple(embed.lengths), command.received, deadline)
        with self._changed:
            self._work.setdefault(key, _Work(embed, self._model.spec.size))
            self._carry_out(self._control.submit(job))
            self._changed.notify()

    def free(self, command: Command) -> None:
        """They are wanted no longer."""
        key = command.request.free.key
        with self._changed:
            self._carry_out(self._control.free(OperationKey(key.request_id, key.epoch), command.session))

    def drop_session(self, session: Session) -> None:
        """A router is gone: everything it asked for is freed."""
        with self._changed:
            self._carry_out(self._control.end_session(session))

    def drain(self) -> None:
        """No new operation from now on."""
        with self._changed:
            self._control.drain()

    def report(self, report: pb.LoadReport) -> None:
        """Fills the worker's report; batches are its steps."""
        with self._changed:
            report.running_requests = self._control.open
            report.queued_requests = self._control.waiting
            report.queued_tokens = self._control.waiting_tokens
            report.runnable_requests = self._control.open
            report.steps = self._batches
            report.prefilled_tokens = self._tokens

    def _run(self) -> None:
        while batch := self._next():
            started = time.monotonic()
            vectors = self._compute(batch)
            if (recording := self.recorder.recording) is not None:
                recording.step(f"{len(batch.texts)} texts", started, time.monotonic(), batch.tokens)
            with self._changed:
                self._batches += 1
                self._tokens += batch.tokens
                self._carry_out(self._kept(batch, vectors))

    def _next(self) -> Batch | None:
        """Waits for a batch; None once the stage is closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                self._carry_out(self._control.tick(now))
                if batch := self._control.next_batch(now):
                    return batch
                due = self._control.next_deadline
                self._changed.wait(None if due is None else max(0.0, due - now))
            return None

    def _compute(self, batch: Batch) -> NDArray[np.float32] | TriptychError:
        """[N, D], or why there are none."""
        with self._changed:
            texts = [work.texts[place] if (work := self._work.get(job.key)) else (0,) for job, place in batch.texts]
        try:
            with torch_threads(self._threads):
                return self._model.embed(texts).cpu().numpy()
        except Exception as error:
            logger.exception("a batch of texts could not be embedded")
            return error if isinstance(error, TriptychError) else Internal(f"the worker failed to embed: {error}")

    def _kept(self, batch: Batch, vectors: NDArray[np.float32] | TriptychError) -> list[Action]:
        if isinstance(vectors, TriptychError):
            return self._control.failed(batch, vectors)
        for (job, place), vector in zip(batch.texts, vectors, strict=True):
            if work := self._work.get(job.key):
                work.vectors[place] = vector
        return self._control.computed(batch)

    def _carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Answer(job, began):
                    work = self._work[job.key]
                    cast(Session, job.session).send(self._answer(work, job, began))
                    work.clear()
                case Refuse(job, error):
                    work = self._work[job.key]
                    cast(Session, job.session).send(events.failed(work.embed.key, error))
                    work.clear()
                case Acknowledge(session, key):
                    self._work.pop(key, None)
                    freed = pb.OperationKey(request_id=key.request_id, epoch=key.epoch)
                    cast(Session, session).send(events.freed(freed))
                case _:
                    assert_never(action)

    def _answer(self, work: "_Work", job: TextJob, began: float) -> pb.ConnectResponse:
        vectors = shortened(work.vectors, work.embed.dimensions, normalise=self._model.spec.normalise)
        times = pb.StageTimes(
            queue_us=round((began - job.received) * 1e6), compute_us=round((time.monotonic() - began) * 1e6)
        )
        data = vectors.astype("<f4", copy=False).tobytes()
        return pb.ConnectResponse(embedded=pb.Embedded(key=work.embed.key, vectors=data, times=times))


class _Work:
    """What an operation needs besides what is decided about it: its texts, and the vectors that there are."""

    def __init__(self, embed: pb.Embed, size: int) -> None:
        self.embed = embed
        self.texts: list[Sequence[int]] = [
            embed.token_ids[start:stop] for start, stop in pairwise(accumulate(embed.lengths, initial=0))
        ]
        self.vectors = np.empty((len(embed.lengths), size), np.float32)

    def clear(self) -> None:
        """It has its answer: the key alone is kept, until its Free."""
        self.embed = pb.Embed(key=self.embed.key)
        self.texts = []
        self.vectors = np.empty((0, 0), np.float32)
