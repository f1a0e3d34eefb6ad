"""The control of a decoder worker: commands and transfer results in, steps, tokens and events out.

`core.jobs` decides; this tells it what happens, has `Hands` carry out what it says, and drives the engine. Everything
here runs on the compute thread, between two steps.
"""

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from triptych.core.errors import Internal, TriptychError, Unavailable
from triptych.core.generation import OperationKey
from triptych.core.jobs import Jobs
from triptych.core.jobs import actions as do
from triptych.core.jobs import commands as cmd
from triptych.core.jobs import events as ev
from triptych.core.trace import Lane, Recorder
from triptych.engine.core import EngineCore
from triptych.engine.loop import StepFailed, StepOutcome
from triptych.engine.sequence import Media
from triptych.experts.settings import OffloadSettings
from triptych.parallel import RankLost
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages import events
from triptych.stages.expert_offload import offload_to_proto
from triptych.stages.hands import Hands
from triptych.stages.identity import Identity
from triptych.stages.messages import Command, Drained, MediaPulled, Message, SessionEnded
from triptych.stages.movers import Movers
from triptych.stages.operations import emitted_of, key_of, payload_of, prefill_of, reserve_of
from triptych.stages.session import Session
from triptych.stages.steps import stepped

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
        recorder: Of steps.
        offload: How the engine keeps experts, where not all of them are in memory.
    """

    def __init__(
        self,
        core: EngineCore,
        movers: Movers,
        identity: Identity,
        clock: Callable[[], float],
        recorder: Recorder,
        offload: OffloadSettings | None = None,
    ) -> None:
        self.core = core
        self.jobs = Jobs(identity.worker_id, core.scheduler.block_size)
        self.generated_tokens = 0
        self.prefilled_tokens = 0
        self._hands = Hands(core.scheduler, movers, identity)
        self._clock = clock
        self._recorder = recorder
        self._offload = offload
        self._unpublished: _Step | None = None

    @property
    def step_messages(self) -> int:
        """Messages with the tokens of a step, so far."""
        return self._hands.step_messages

    def handle(self, message: Message) -> None:
        """Takes one message."""
        match message:
            case Command():
                self._answer(message)
            case SessionEnded(session):
                if number := self._hands.sessions.remove(session):
                    self._decide(ev.SessionEnded(number))
            case Drained():
                self._decide(cmd.Drain())
            case MediaPulled(key, media, seconds):
                self._pulled(key, media, seconds)
            case _:
                self._decide(message)

    def turn(self) -> bool:
        """Reserves what can be reserved, then runs one step; False when there was nothing to compute.

        What the step before yielded is sent while this one computes.

        Raises:
            RankLost: a rank of the worker is gone, and with it the worker: its requests are begun anew elsewhere.
        """
        started = self._clock()
        self._carry_out(self.jobs.expire(started))
        self._carry_out(self.jobs.grant(self._hands))
        try:
            outcome = self._step()
        except StepFailed as failure:
            if isinstance(failure.__cause__, RankLost):
                raise failure.__cause__ from failure
            logger.exception("a step failed")
            self._publish()
            error = _told(failure)
            for sequence in failure.sequences:
                self._decide(ev.Faulted(sequence.key, error))
            return True
        if outcome:
            self._unpublished = _Step(outcome, started, self._clock())
        for sequence in self.core.scheduler.stalled():
            self._decide(ev.Stalled(sequence.key))
        return outcome is not None

    def _step(self) -> StepOutcome | None:
        if (recording := self._recorder.recording) is None:
            return self.core.step(self._publish)

        def publish() -> None:
            if self._unpublished is None:
                return
            started = self._clock()
            self._publish()
            recording.add(Lane.TEXT, "tell tokens", started, self._clock())

        started = self._clock()
        if outcome := self.core.step(publish):
            name = "prefill" if outcome.plan.prompts else "decode"
            recording.step(name, started, self._clock(), outcome.plan.tokens)
        return outcome

    def load(self) -> pb.LoadReport:
        """What there is to do, what is held, and what was done."""
        scheduler, residency = self.core.scheduler, self.core.decoder.residency
        return pb.LoadReport(
            running_requests=self.jobs.operations,
            queued_requests=scheduler.waiting + len(scheduler.stalled()) + self.jobs.waiting,
            queued_tokens=scheduler.waiting_tokens,
            runnable_requests=scheduler.runnable,
            open_leases=self.jobs.open_leases,
            held_blocks=scheduler.pool.held_count,
            free_blocks=scheduler.pool.free_count,
            steps=self.core.steps,
            step_messages=self.step_messages,
            generated_tokens=self.generated_tokens,
            prefilled_tokens=self.prefilled_tokens,
            prefix_query_tokens=scheduler.kv.query_tokens,
            prefix_hit_tokens=scheduler.kv.hit_tokens,
            offload=offload_to_proto(residency, self._offload) if residency and self._offload else None,
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
            if self.jobs.find(key_of(key)):
                self._decide(ev.Faulted(key_of(key), failure))
            else:
                command.session.send(events.failed(key, failure))

    def _command(self, command: Command) -> None:
        session, request = self._hands.sessions.number(command.session), command.request
        match request.WhichOneof("command"):
            case "prefill":
                task = prefill_of(request.prefill, session, command.received)
                self._begin(task, request.prefill, command.session)
            case "reserve":
                reserve = reserve_of(request.reserve, session, command.received, uuid.uuid4().hex)
                self._begin(reserve, request.reserve, command.session)
            case "decode":
                self._decode(request.decode, session)
            case "free":
                self._decide(cmd.Free(session, key_of(request.free.key)))

    def _begin(self, task: cmd.Prefill | cmd.Reserve, request: pb.Prefill | pb.Reserve, session: Session) -> None:
        payload = None if self.jobs.find(task.key) else payload_of(request, session.router_id, self.core)
        if payload and payload.complete:  # nothing is held for it, and Free will find nothing
            session.send(events.complete(request.key, task.answered))
            return
        actions = self.jobs.handle(task, self._clock())
        if payload and self.jobs.find(task.key):
            self._hands.payloads[task.key] = payload
        self._carry_out(actions)

    def _decode(self, request: pb.Decode, session: cmd.SessionId) -> None:
        key = key_of(request.key)
        payload = self._hands.payloads.get(key)
        if payload:
            emitted = emitted_of(request, payload.sequence, self.core.decoder.spec.vocab_size)
            self._decide(cmd.Decode(session, key, emitted))

    def _pulled(self, key: OperationKey, media: tuple[Media, ...] | TriptychError, seconds: float) -> None:
        if isinstance(media, TriptychError):
            self._decide(ev.EmbeddingsFailed(key, media))
        elif payload := self._hands.payloads.get(key):
            payload.pulled = media
            self._decide(ev.EmbeddingsPulled(key, seconds))

    def _publish(self) -> None:
        """Sends what the last step yielded, unless that is done; nothing goes to who has been answered since."""
        step, self._unpublished = self._unpublished, None
        if step:
            self.prefilled_tokens += sum(chunk.length for chunk in step.outcome.plan.prompts)
            self.generated_tokens += len(step.outcome.emitted)
            event = stepped(step.outcome, step.started, self._hands.payloads)
            self._carry_out(self.jobs.handle(event, step.ended))

    def _decide(self, message: cmd.Command | ev.Event) -> None:
        self._carry_out(self.jobs.handle(message, self._clock()))

    def _carry_out(self, actions: tuple[do.Action, ...]) -> None:
        for fault in self._hands.carry_out(actions):
            self._decide(fault)


def _told(failure: StepFailed) -> TriptychError:
    """What the requests of a step hear."""
    match failure.__cause__:
        case Unavailable() as error:  # of this worker: another may do better
            return error
        case error:
            return Internal(f"the worker failed to compute: {error}")
