"""The router: the core's desk, between clients and links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

from triptych.core.desk import Cut, Desk, Entry, Order, Perform, Seats, Submission, TellDrain
from triptych.core.errors import Cancelled, DataLoss, TriptychError
from triptych.core.fleet.observe import HealthLimits
from triptych.core.fleet.worker import Health, Introduction
from triptych.core.generation import FinishReason, OperationKey
from triptych.core.jobs.actions import Failed, Freed, KvReady, PrefillDone, Tokens
from triptych.core.jobs.events import Sampled
from triptych.core.pictures import PictureMemory
from triptych.core.plan import Demand, Placement, Plan, RoutingPolicy
from triptych.core.request import actions as do
from triptych.core.request import events as ev
from triptych.core.request.record import Terms
from triptych.core.request.states import Failed as RequestFailed
from triptych.core.request.states import Finished
from triptych.core.request.step import needed
from triptych.core.routing import choose
from triptych.simulator import messages as msg
from triptych.simulator.link import Link
from triptych.simulator.machine import Machine
from triptych.simulator.tokens import END_TOKEN

if TYPE_CHECKING:
    from triptych.simulator.client import Line
    from triptych.simulator.worker import Worker
    from triptych.simulator.world import World

TICK_SECONDS = 0.25
RETRY_AFTER = 1.0


@dataclass(slots=True, eq=False)
class Call:
    """What the core does not look at."""

    prompt: msg.Prompt
    line: Line | None
    handles: dict[int, msg.Handle] = field(default_factory=dict)
    ticket: msg.Ticket | None = None


class Router(Machine):
    """A router's process.

    Args:
        router_id: Names the process.
        first_serial: Tells its requests from those of an earlier one.
        world: What it is part of.
    """

    def __init__(self, router_id: str, first_serial: int, world: World) -> None:
        super().__init__("router", world, world.clock("router"))
        cluster = world.spec.cluster
        self.policy = RoutingPolicy(cluster.colocate_below_tokens, cluster.max_requests_per_worker, RETRY_AFTER)
        self.router_id = router_id
        self.desk = Desk(self.policy, HealthLimits(stalled=cluster.stall_seconds), first_serial)
        self.seats = Seats(cluster.max_running_requests, PictureMemory(0), RETRY_AFTER)
        self.links: dict[str, Link] = {}
        self.calls: dict[Entry, Call] = {}
        self.drained: dict[str, float] = {}
        self.was_drained: dict[str, Worker] = {}  # the processes; another in their place is none of them
        self.every(TICK_SECONDS, self._tick, self.io)

    def place(self, workers: Mapping[str, Worker | None]) -> None:
        """Where the controller has placed the workers; None while one is being started."""
        for worker_id, link in list(self.links.items()):
            if workers.get(worker_id) is not link.worker:
                del self.links[worker_id]
                self.drained.pop(worker_id, None)  # the process that was taken out is gone
                link.close()
        for worker_id, worker in workers.items():
            if worker is not None and worker_id not in self.links:
                self.links[worker_id] = Link(self, worker)
                if self.was_drained.get(worker_id) not in (None, worker):
                    self.drained.pop(worker_id, None)
                    del self.was_drained[worker_id]
        self.drained = {known: end for known, end in self.drained.items() if known in workers}
        self.was_drained = {known: worker for known, worker in self.was_drained.items() if known in workers}
        self.desk.retain(workers)

    def drain(self, worker_id: str, timeout: float) -> None:
        """A worker is to be taken out."""
        self.drained[worker_id] = self.now + timeout
        if link := self.links.get(worker_id):
            self.was_drained[worker_id] = link.worker
        self.carry_out(self.desk.drain(worker_id, timeout, self.now))

    def health(self) -> dict[str, Health]:
        """Of each connected worker."""
        return {worker_id: worker.health for worker_id, worker in self.desk.fleet.workers.items()}

    def holders(self) -> Counter[str]:
        """How many requests each worker holds something for, and is not being freed of."""
        held = [entry.record.holders for entry in self.calls]
        return Counter(worker_id for holdings in held for worker_id in {holding.worker_id for holding in holdings})

    def overstayed(self) -> Iterator[str]:
        """Drained workers whose time is over by two ticks, and that requests need which have room elsewhere."""
        over = {known for known, end in self.drained.items() if end + 2 * TICK_SECONDS < self.now}
        for entry in self.calls if over else ():
            for known in over.intersection(needed(entry.record)):
                if isinstance(choose(entry.demand, self.desk.fleet.snapshot(self.now), self.policy), Plan):
                    yield known

    def generate(self, ask: msg.Ask, line: Line) -> None:
        """A client asks, or comes back."""
        now, cluster = self.now, self.world.spec.cluster
        known = self.desk.named(ask.request_id)
        deadline = None if ask.timeout is None else now + ask.timeout
        terms = Terms(deadline, cluster.max_retries, cluster.replay_patience, ask.linger)
        submission = Submission(
            ask.request_id, _demand(ask), terms, ask.request_id.encode(), ask.received, _complete(ask)
        )
        try:
            if known is None:
                seat = self.seats.take(self.desk.running, 0)
                self.seats.give_back(seat)  # nothing comes between here and `submit`
            entry, orders = self.desk.submit(submission, now)
        except TriptychError as error:
            self.open.pop(line, None)
            line.send(msg.Refusal(error))
            return
        if call := self.calls.get(entry):
            call.line = line
        else:
            self.calls[entry] = Call(ask.prompt, line)
        line.entry = entry
        self.carry_out(orders)
        if known is not None and ask.received is not None:
            self._catch_up(entry, line, len(ask.received))

    def left(self, line: Line) -> None:
        """A client's connection has ended."""
        self.open.pop(line, None)
        entry = line.entry
        if entry and (call := self.calls.get(entry)) and call.line is line:
            call.line = None
            self.carry_out(self.desk.tell(entry, ev.ClientLeft(Cancelled("the client went away")), self.now))
            self._forget(entry)

    def connected(self, introduction: Introduction) -> None:
        """A worker has introduced itself."""
        self.carry_out(self.desk.connect(introduction, self.now))

    def lost(self, worker_id: str) -> None:
        """A worker's stream is gone."""
        self.carry_out(self.desk.lose(worker_id, self.now))
        self._sweep()

    def received(self, worker: Worker, message: msg.ToRouter) -> None:
        """What a worker says."""
        report = message.report if isinstance(message, msg.LoadReport) else None
        self.desk.hear(worker.name, worker.incarnation, self.now, report)
        for key, event in self._events(worker.name, message):
            if entry := self.desk.find(key):
                self.carry_out(self.desk.receive(worker.name, worker.incarnation, entry, event, self.now))
                self._forget(entry)

    def carry_out(self, orders: Iterable[Order]) -> None:
        """Does what the desk wants."""
        for order in orders:
            match order:
                case Perform(entry, action):
                    self._perform(entry, action)
                case Cut(worker_id):
                    self.note(worker_id, "gives it up")
                    if link := self.links.get(worker_id):
                        link.cut()
                case TellDrain(worker_id):
                    self._send(worker_id, msg.Drain())
                case unknown:
                    assert_never(unknown)

    def _events(self, worker_id: str, message: msg.ToRouter) -> list[tuple[OperationKey, ev.FromWorker]]:
        match message:
            case msg.EncodeDone(key, handles):
                if call := self._current(key):
                    call.handles |= {handle.index: handle for handle in handles}
                done = ev.ImagesEncoded(worker_id, key.epoch, frozenset(handle.index for handle in handles))
                return [(key, done)]
            case msg.Reserved(key, ticket):
                if call := self._current(key):
                    call.ticket = ticket
                return [(key, ev.BlocksReserved(worker_id, key.epoch))]
            case PrefillDone(token):
                return [(token.key, _arrived(worker_id, token))]
            case Tokens(tokens):
                return [(token.key, _arrived(worker_id, token)) for token in tokens]
            case KvReady(key):
                return [(key, ev.KvArrived(worker_id, key.epoch))]
            case Freed(key):
                return [(key, ev.HolderFreed(worker_id, key.epoch))]
            case Failed(key, error):
                return [(key, ev.StageFailed(worker_id, key.epoch, error))]
            case msg.LoadReport() | msg.Welcome():
                return []
            case unknown:
                assert_never(unknown)

    def _current(self, key: OperationKey) -> Call | None:
        """The payload of an operation, unless it is of an older attempt."""
        entry = self.desk.find(key)
        return self.calls.get(entry) if entry and entry.record.key == key else None

    def _perform(self, entry: Entry, action: do.Action) -> None:
        call = self.calls[entry]
        request_id = entry.request_id
        match action:
            case do.Place():
                call.handles, call.ticket = {}, None
            case do.SendEncode(worker, epoch, indices):
                images = tuple((index, call.prompt.spans[index].picture) for index in indices)
                key, anew = OperationKey(request_id, epoch), isinstance(entry.record.past.error, DataLoss)
                self._command(entry, worker, msg.Encode(key, images, self._timeout(entry), anew))
            case do.SendReserve(worker, epoch, emitted):
                key, handles = OperationKey(request_id, epoch), _in_order(call)
                answer = tuple(entry.token_ids(emitted))
                self._command(entry, worker, msg.Reserve(key, call.prompt, answer, handles, self._timeout(entry)))
            case do.SendPrefill(worker, epoch, emitted, with_ticket):
                key, ticket = OperationKey(request_id, epoch), call.ticket if with_ticket else None
                answer, timeout = tuple(entry.token_ids(emitted)), self._timeout(entry)
                self._command(entry, worker, msg.Prefill(key, call.prompt, answer, _in_order(call), ticket, timeout))
            case do.SendDecode(worker, epoch, emitted):
                answer = tuple(entry.token_ids(emitted))
                self._send(worker, msg.Decode(OperationKey(request_id, epoch), answer))
            case do.SendFree(worker, epoch):
                key = OperationKey(request_id, epoch)
                self.world.check.freed(self, worker, key)
                self._send(worker, msg.Free(key))
            case do.Deliver(tokens):
                if call.line:
                    call.line.send(msg.Said(tuple(token.token_id for token in tokens)))
            case do.End(outcome):
                self._end(entry, call, outcome)
            case unknown:
                assert_never(unknown)

    def _end(self, entry: Entry, call: Call, outcome: FinishReason | TriptychError) -> None:
        line, call.line = call.line, None
        if line:
            line.send(msg.Done(outcome))
            self.open.pop(line, None)
            self.after(0.0, lambda: self._has_its_end(entry), self.io)

    def _has_its_end(self, entry: Entry) -> None:
        call = self.calls.get(entry)
        if call is not None and call.line is None:
            self.carry_out(self.desk.tell(entry, ev.ClientLeft(None), self.now))
            self._forget(entry)

    def _catch_up(self, entry: Entry, line: Line, received: int) -> None:
        """What a client lacks that has come back to a request of this router."""
        if rest := entry.token_ids(len(entry.answer))[received:]:
            line.send(msg.Said(tuple(rest)))
        match entry.record.state:
            case Finished(outcome) | RequestFailed(outcome):
                self._end(entry, self.calls[entry], outcome)
            case _:
                pass

    def _command(self, entry: Entry, worker_id: str, message: msg.Encode | msg.Reserve | msg.Prefill) -> None:
        self.world.check.commanded(self, entry, worker_id, message)
        self._send(worker_id, message)

    def _send(self, worker_id: str, message: msg.ToWorker) -> None:
        if link := self.links.get(worker_id):
            link.send(message)

    def _timeout(self, entry: Entry) -> float | None:
        deadline = entry.record.terms.deadline
        return None if deadline is None else max(0.001, deadline - self.now)

    def _tick(self) -> None:
        self.carry_out(self.desk.tick(self.now))
        self._sweep()

    def _sweep(self) -> None:
        if len(self.calls) > self.desk.running + self.desk.awaiting_free:
            for entry in list(self.calls):
                self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        if entry.record.closed:
            self.calls.pop(entry, None)


def _arrived(worker_id: str, token: Sampled) -> ev.TokensArrived:
    return ev.TokensArrived(worker_id, token.key.epoch, token.position, (token.token,), token.finish_reason)


def _in_order(call: Call) -> tuple[msg.Handle, ...]:
    return tuple(call.handles[index] for index in sorted(call.handles))


def _demand(ask: msg.Ask) -> Demand:
    placement = {None: Placement.ANY, True: Placement.COLOCATED, False: Placement.DISAGGREGATED}[ask.colocated]
    return Demand(len(ask.prompt.token_ids), (1,) * len(ask.prompt.spans), placement)


def _complete(ask: msg.Ask) -> FinishReason | None:
    """How the answer ended, when its client has all of it but the end."""
    received = ask.received or ()
    if received and received[-1] == END_TOKEN:
        return FinishReason.STOP
    return FinishReason.LENGTH if len(received) >= ask.prompt.limit else None
