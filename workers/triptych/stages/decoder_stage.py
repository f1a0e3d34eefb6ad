"""The control of a decoder worker: commands and transfer results in, steps, tokens and events out.

Everything here runs on the compute thread, between two steps.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import assert_never

from triptych.core.errors import DeadlineExceeded, Internal, TriptychError, Unavailable
from triptych.engine.core import EngineCore
from triptych.engine.loop import StepFailed, StepOutcome
from triptych.engine.scheduler import Emitted
from triptych.engine.sequence import Sequence
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages import events
from triptych.stages.desk import JobDesk
from triptych.stages.identity import Identity
from triptych.stages.jobs import Job, key_of
from triptych.stages.messages import (
    ChunkSent,
    Command,
    Drained,
    Fenced,
    KvComplete,
    KvFailed,
    MediaPulled,
    Message,
    SessionEnded,
)
from triptych.stages.movers import Movers
from triptych.stages.prefills import Prefills
from triptych.stages.reservations import Reservations
from triptych.stages.session import Session

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Step:
    """A finished step whose tokens have not been sent; monotonic seconds."""

    outcome: StepOutcome
    started: float
    ended: float


class DecoderStage:
    """Prefills, decodes, or both: the router decides by what it sends.

    Args:
        core: The engine.
        movers: Transfers that run beside it.
        identity: Goes into tickets.
        clock: Monotonic seconds.
    """

    def __init__(self, core: EngineCore, movers: Movers, identity: Identity, clock: Callable[[], float]) -> None:
        self.core = core
        self.desk = JobDesk(core, movers)
        self.reservations = Reservations(self.desk, identity)
        self.prefills = Prefills(self.desk)
        self.step_messages = 0
        self.generated_tokens = 0
        self.prefilled_tokens = 0
        self._worker_id = identity.worker_id
        self._clock = clock
        self._unpublished: _Step | None = None

    def handle(self, message: Message) -> None:
        """Takes one message."""
        by_key = self.desk.jobs.by_key
        match message:
            case Command():
                self._answer(message)
            case SessionEnded(session):
                self.desk.drop_session(session)
            case Drained():
                self.desk.refuses = Unavailable(f"worker {self._worker_id} is draining")
            case MediaPulled(key, media, seconds):
                if job := by_key.get(key):
                    self.prefills.pulled(job, media, seconds)
            case ChunkSent(key, error):
                if error and (job := by_key.get(key)):
                    self.desk.fail(job, error)
            case KvComplete(ticket_id, size, seconds):
                self.reservations.kv_arrived(ticket_id, size, seconds)
            case KvFailed(ticket_id, error):
                self.reservations.kv_failed(ticket_id, error)
            case Fenced(key):
                self.desk.release(by_key[key])
            case unknown:
                assert_never(unknown)

    def turn(self) -> bool:
        """Reserves what can be reserved, then runs one step; False when there was nothing to compute.

        What the step before yielded is sent while this one computes.
        """
        started = self._clock()
        self._expire(started)
        self.reservations.open_waiting()
        try:
            outcome = self.core.step(self._publish)
        except StepFailed as failure:
            logger.exception("a step failed")
            self._publish()
            error = Internal(f"the worker failed to compute: {failure.__cause__}")
            for sequence in failure.sequences:
                self.desk.fail(self.desk.jobs.by_key[sequence.key], error)
            return True
        if outcome:
            self._unpublished = _Step(outcome, started, self._clock())
        for sequence in self.core.scheduler.stalled():
            self.prefills.pull(self.desk.jobs.by_key[sequence.key])
        return outcome is not None

    def load(self) -> pb.LoadReport:
        """What there is to do, what is held, and what was done."""
        scheduler = self.core.scheduler
        return pb.LoadReport(
            running_requests=len(self.desk.jobs.by_key),
            queued_requests=scheduler.waiting + self.reservations.waiting,
            queued_tokens=scheduler.waiting_tokens,
            held_blocks=scheduler.pool.held_count,
            free_blocks=scheduler.pool.free_count,
            steps=self.core.steps,
            step_messages=self.step_messages,
            generated_tokens=self.generated_tokens,
            prefilled_tokens=self.prefilled_tokens,
            prefix_query_tokens=scheduler.kv.query_tokens,
            prefix_hit_tokens=scheduler.kv.hit_tokens,
        )

    def _answer(self, command: Command) -> None:
        """Obeys a command; one that cannot be obeyed is answered, so that its router does not wait for ever."""
        try:
            self._command(command)
        except Exception as error:
            failure = error if isinstance(error, TriptychError) else Internal(f"the worker failed: {error}")
            if failure is not error:
                logger.exception("a command could not be obeyed")
            key = getattr(command.request, command.request.WhichOneof("command") or "").key
            if job := self.desk.jobs.by_key.get(key_of(key)):
                self.desk.fail(job, failure)
            else:
                command.session.send(events.failed(key, failure))

    def _command(self, command: Command) -> None:
        request = command.request
        match request.WhichOneof("command"):
            case "prefill":
                self.prefills.start(command, request.prefill)
            case "reserve":
                self.reservations.request(command, request.reserve)
            case "decode":
                self.reservations.decode(request.decode)
            case "free":
                self.desk.free(command.session, request.free.key)

    def _publish(self) -> None:
        """Sends what the last step yielded, unless that is done; nothing goes to who has been answered since."""
        step, self._unpublished = self._unpublished, None
        if step is None:
            return
        plan = step.outcome.plan
        self.prefilled_tokens += sum(chunk.length for chunk in plan.prompts)
        for sequence in plan.sequences:
            if job := self._job_of(sequence):
                job.times.first_step = job.times.first_step or step.started
                with self._failing(job):
                    self._push(job)
        self._send_tokens(step.outcome.emitted, step.ended)

    def _send_tokens(self, emitted: tuple[Emitted, ...], now: float) -> None:
        """One message per step and router, besides the answers to Prefill."""
        deltas: dict[Session, list[pb.TokenDelta]] = {}
        for item in emitted:
            self.generated_tokens += 1
            job = self._job_of(item.sequence)
            if job is None:
                continue
            with self._failing(job):
                if job.awaits_first_token:
                    job.awaits_first_token = False
                    job.session.send(events.prefill_done(job, item, now))
                else:
                    deltas.setdefault(job.session, []).append(events.token_delta(item, job.proto_key()))
        for session, batch in deltas.items():
            self.step_messages += 1
            session.send(events.step_tokens(batch))

    def _push(self, job: Job) -> None:
        if job.outgoing:
            self.prefills.push_blocks(job, job.outgoing, job.sequence)

    @contextmanager
    def _failing(self, job: Job) -> Iterator[None]:
        """What goes wrong with one job's results ends that job, and leaves the others theirs."""
        try:
            yield
        except Exception as error:
            logger.exception("a result could not be sent")
            self.desk.fail(job, Internal(f"the worker failed to send a result: {error}"))

    def _job_of(self, sequence: Sequence) -> Job | None:
        """Whose sequence it is, if its router still expects something."""
        job = self.desk.jobs.by_key.get(sequence.key)
        return job if job and job.active and job.sequence is sequence else None

    def _expire(self, now: float) -> None:
        for job in list(self.desk.jobs.by_key.values()):
            if job.deadline is not None and job.deadline <= now:
                self.desk.fail(job, DeadlineExceeded("the deadline passed"))
