"""The language part of a worker: the core's jobs, between the modelled engine and the modelled transfers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from triptych.core.errors import TriptychError
from triptych.core.generation import OperationKey
from triptych.core.jobs import actions as do
from triptych.core.jobs import commands
from triptych.core.jobs import events as ev
from triptych.core.jobs.book import Jobs
from triptych.core.leases import Reservation
from triptych.simulator import messages as msg
from triptych.simulator.engine import Engine, Sequence, Step
from triptych.simulator.memory import KvMemory
from triptych.simulator.pulling import pull
from triptych.simulator.receiver import Receiver
from triptych.simulator.sender import Job, Sender

if TYPE_CHECKING:
    from triptych.simulator.worker import Session, Worker

Post = tuple["Session", msg.Prefill | msg.Reserve | msg.Decode | msg.Free]


@dataclass(slots=True, eq=False)
class Payload:
    """What the core does not look at."""

    order: msg.Prefill | msg.Reserve
    deadline: float | None
    embeddings: dict[str, int] | None = None


class Decoder:
    """Everything that runs on the compute thread of a decoder worker.

    Args:
        worker: Whose part it is.
    """

    def __init__(self, worker: Worker) -> None:
        spec = worker.world.spec
        cluster, costs = spec.cluster, spec.costs
        memory = KvMemory(cluster.kv_blocks, cluster.block_size, caching=cluster.prefix_caching)
        self.jobs = Jobs(worker.name, cluster.block_size)
        self.engine = Engine(memory, cluster.max_batch_tokens, cluster.max_running, costs)
        self.sender = Sender(worker, memory, costs.block_bytes)
        self.receiver = Receiver(
            worker,
            memory,
            cluster.lease_seconds,
            lambda ticket, blocks: self.tell(ev.KvComplete(ticket, blocks * costs.block_bytes, 0.0)),
            lambda ticket, error: self.tell(ev.KvFailed(ticket, error)),
        )
        self.payloads: dict[OperationKey, Payload] = {}
        self.inbox: list[Post | commands.Command | ev.Event] = []
        self._worker = worker
        self._tickets = 0
        self._woken = False
        self._stepping = False

    @property
    def waiting(self) -> int:
        """Of the core's `Pool`."""
        return self.engine.waiting

    def reserve(self, key: OperationKey) -> bool:
        """Of the core's `Pool`."""
        return self.engine.reserve(self._sequence(key))

    def post(self, message: Post) -> None:
        """A message of a router."""
        self._put(message)

    def tell(self, event: commands.Command | ev.Event) -> None:
        """Something that happened beside the compute thread."""
        self._put(event)

    def drain(self) -> None:
        """No new work."""
        self._put(commands.Drain())

    def end_session(self, session: Session) -> None:
        """A router is gone."""
        self._put(ev.SessionEnded(session.number))

    def remains(self) -> Iterator[str]:
        """What is still held."""
        name, memory = self._worker.name, self.engine.memory
        if self.jobs.operations:
            yield f"{name}: {self.jobs.operations} operations, {self.jobs.audit().by_state}"
        if memory.held or self.engine.sequences:
            yield f"{name}: {memory.held} blocks of {len(self.engine.sequences)} sequences"
        if held := self.receiver.ledger.audit(self._worker.now).held:
            yield f"{name}: {len(held)} leases"
        if self.payloads or self.sender.busy:
            yield f"{name}: {len(self.payloads)} payloads, {self.sender.busy} chunks on their way"

    def _put(self, item: Post | commands.Command | ev.Event) -> None:
        self.inbox.append(item)
        if not self._stepping:
            self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._worker.after(0.0, self._turn, self._worker.compute)

    def _turn(self) -> None:
        """Takes the messages, then begins a step."""
        self._woken = False
        if self._stepping:
            return
        now = self._worker.now
        messages, self.inbox = self.inbox, []
        for message in messages:
            self._take(message, now)
        self._run(self.jobs.expire(now))
        self._run(self.jobs.grant(self))
        step = self.engine.plan()
        for sequence in self.engine.stalled:
            self._run(self.jobs.handle(ev.Stalled(sequence.key), now))
        if step is not None:
            self._stepping = True
            seconds = step.seconds * self._worker.slowness
            self._worker.after(seconds, lambda: self._stepped(step, now), self._worker.compute)
        elif self.inbox:
            self._wake()
        elif (due := self.jobs.next_deadline) is not None:
            self._worker.clock.at(due, self._turn, self._worker.compute)

    def _take(self, message: Post | commands.Command | ev.Event, now: float) -> None:
        if not isinstance(message, tuple):
            self._run(self.jobs.handle(message, now))
            return
        session, order = message
        self._run(self.jobs.handle(self._command(session, order), now))
        if self.jobs.find(order.key) is None:
            self.payloads.pop(order.key, None)  # it was refused

    def _stepped(self, step: Step, started: float) -> None:
        self._stepping = False
        for sequence, _ in step.chunks:
            self._worker.world.check.computed_in_time(self._worker, sequence.key, sequence.deadline, started)
        computed, sampled = self.engine.finish(step)
        self._run(self.jobs.handle(ev.Stepped(started, computed, sampled), self._worker.now))
        self._worker.touch()
        self._turn()

    def _command(
        self, session: Session, message: msg.Prefill | msg.Reserve | msg.Decode | msg.Free
    ) -> commands.Command:
        now, number = self._worker.now, session.number
        match message:
            case msg.Free(key):
                return commands.Free(number, key)
            case msg.Decode(key, emitted):
                return commands.Decode(number, key, emitted)
            case msg.Prefill(key, prompt, emitted, handles, ticket, timeout):
                deadline = self._keep(message, timeout)
                length, name = len(prompt.token_ids) + len(emitted), ticket.ticket_id if ticket else ""
                return commands.Prefill(number, key, now, length, len(emitted), len(handles), name, deadline)
            case msg.Reserve(key, prompt, emitted, _, timeout):
                deadline = self._keep(message, timeout)
                self._tickets += 1
                name = f"{self._worker.incarnation}/t{self._tickets}"
                length = len(prompt.token_ids) + len(emitted)
                return commands.Reserve(number, key, now, length, name, len(emitted), deadline)
            case unknown:
                assert_never(unknown)

    def _keep(self, order: msg.Prefill | msg.Reserve, timeout: float | None) -> float | None:
        deadline = None if timeout is None else self._worker.now + timeout
        if order.key not in self.payloads:
            self.payloads[order.key] = Payload(order, deadline)
        return deadline

    def _run(self, actions: Iterable[do.Action]) -> None:
        for action in actions:
            self._do(action)

    def _do(self, action: do.Action) -> None:  # noqa: C901  (one line per action)
        match action:
            case do.Tell(number, answer):
                self._answer(number, answer)
            case do.PullEmbeddings(key):
                payload = self.payloads[key]
                pull(self._worker, payload.order.handles, lambda outcome: self._pulled(key, payload, outcome))
            case do.DropPull():
                pass  # an answer that comes all the same is ignored
            case do.Add(key):
                self.engine.add(self._sequence(key))
            case do.Park(key):
                self.engine.park(key)
            case do.Release(key):
                self.engine.release(key)
            case do.Start(key, emitted):
                self.engine.start(key, emitted)
            case do.Supply(key):
                self.engine.supply(key, self.payloads[key].embeddings or {})
            case do.PushBlocks(key, _, first, until, last):
                self._push(key, first, until, last)
            case do.OpenLease(key, ticket_id):
                self._open(key, ticket_id)
            case do.CloseLease(ticket_id):
                self.receiver.close(ticket_id)
            case do.StopSending(key, ticket_id):
                self.sender.fence(ticket_id, lambda: self.tell(ev.Fenced(key)))
            case do.StopReceiving(key, ticket_id):
                self.receiver.fence(ticket_id, lambda: self.tell(ev.Fenced(key)))
            case do.Forget(key):
                del self.payloads[key]
            case unknown:
                assert_never(unknown)

    def _answer(self, number: int, answer: do.Answer) -> None:
        worker = self._worker
        if session := worker.sessions.get(number):
            if isinstance(answer, do.Reserved):
                blocks = len(self.engine.sequences[answer.key].blocks)
                ticket = msg.Ticket(answer.ticket_id, worker.name, worker.incarnation, blocks)
                session.send(msg.Reserved(answer.key, ticket))
            else:
                session.send(answer)
        worker.touch()

    def _pulled(self, key: OperationKey, payload: Payload, outcome: dict[str, int] | TriptychError) -> None:
        if isinstance(outcome, TriptychError):
            self.tell(ev.EmbeddingsFailed(key, outcome))
        else:
            payload.embeddings = outcome
            self.tell(ev.EmbeddingsPulled(key, 0.0))

    def _push(self, key: OperationKey, first: int, until: int, last: bool) -> None:
        order = self.payloads[key].order
        assert isinstance(order, msg.Prefill)
        assert order.ticket is not None

        def done(error: TriptychError | None) -> None:
            self.tell(ev.ChunkFailed(key, error) if error else ev.ChunkAcknowledged(key))

        blocks = self.engine.sequences[key].blocks[first:until]
        self.sender.send(Job(key, order.ticket, first, blocks, last, done))

    def _open(self, key: OperationKey, ticket_id: str) -> None:
        blocks = tuple(self.engine.sequences[key].blocks)
        operation = self.jobs.find(key)
        assert operation is not None
        router_id = self._worker.sessions[operation.task.session].router_id
        self.receiver.open(Reservation(ticket_id, router_id, key.request_id, key.epoch, blocks, len(blocks)))

    def _sequence(self, key: OperationKey) -> Sequence:
        payload = self.payloads[key]
        order = payload.order
        first_only = isinstance(order, msg.Prefill) and order.ticket is not None
        tokens = [*order.prompt.token_ids, *order.emitted]
        return Sequence(key, order.prompt, tokens, first_only, payload.deadline, payload.embeddings)
