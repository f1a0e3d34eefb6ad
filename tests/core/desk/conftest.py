"""A desk with workers that do as they are told, one answer at a time, and clients that write down what they hear."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pytest

from triptych.core.desk import Cut, Desk, Entry, Orders, Perform, Submission, TellDrain
from triptych.core.fleet import Introduction, Report, Stage
from triptych.core.fleet.observe import HealthLimits
from triptych.core.generation import FinishReason, GeneratedToken
from triptych.core.plan import Demand, RoutingPolicy
from triptych.core.request import Terms
from triptych.core.request import actions as do
from triptych.core.request import events as ev
from triptych.core.request.states import Prefilling

ROLES = {"E": Stage.ENCODE, "P": Stage.PREFILL, "D": Stage.DECODE}
DECODER = frozenset({Stage.PREFILL, Stage.DECODE})
Command = do.SendEncode | do.SendReserve | do.SendPrefill | do.SendDecode | do.SendFree


@dataclass
class Task:
    """A command on its way to being answered; a decoding one is answered token by token."""

    entry: Entry
    command: Command
    position: int = 0

    def of(self, entry: Entry, command: Command) -> bool:
        """Whether both are for one worker and one attempt."""
        mine = self.entry, self.command.worker_id, self.command.epoch
        return mine == (entry, command.worker_id, command.epoch)


@dataclass
class Scene:
    """Token i of every answer is 100 + i.

    Attributes:
        tasks: What workers still have to answer.
        sent: Commands since `commands` was last asked, in words.
        heard: Tokens by request, as the client got them.
        ends: Ends by request.
        cut: Streams that were cut.
        drained: Workers that were told to drain, each time.
    """

    desk: Desk
    now: float = 0.0
    incarnations: Counter[str] = field(default_factory=Counter)
    connected: set[str] = field(default_factory=set)
    lengths: dict[str, int] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    heard: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    ends: defaultdict[str, list[object]] = field(default_factory=lambda: defaultdict(list))
    cut: list[str] = field(default_factory=list)
    drained: list[str] = field(default_factory=list)

    def connect(self, *worker_ids: str, restarted: bool = True) -> None:
        for worker_id in worker_ids:
            self.incarnations[worker_id] += restarted
            role = ROLES[worker_id[0]]
            stages = DECODER if role is not Stage.ENCODE else frozenset({Stage.ENCODE})
            introduction = Introduction(worker_id, self.process(worker_id), role, stages, 100, 16)
            self.connected.add(worker_id)
            self.perform(self.desk.connect(introduction, self.now))

    def process(self, worker_id: str) -> str:
        return f"process {self.incarnations[worker_id]}"

    def lose(self, worker_id: str) -> None:
        self._disconnect(worker_id)
        self.perform(self.desk.lose(worker_id, self.now))

    def tick(self, seconds: float = 0.0, *, silent: str = "") -> None:
        """Time passes, in which every worker is heard of but the silent ones."""
        until = self.now + seconds
        while True:
            self.now = min(until, self.now + 0.5)
            for worker_id in sorted(self.connected - set(silent.split())):
                self.desk.hear(worker_id, self.process(worker_id), self.now, Report())
            self.perform(self.desk.tick(self.now))
            if self.now >= until:
                return

    def submit(self, request_id: str, length: int = 5, **more: object) -> Entry:
        """A request; keywords are those of Terms and Submission, `images`, and `prompt` tokens."""
        self.lengths[request_id] = length
        patches = (64,) * int(more.pop("images", 0))  # type: ignore[call-overload]
        demand = Demand(int(more.pop("prompt", 50)), patches)  # type: ignore[call-overload]
        names = Terms.__dataclass_fields__.keys() & more.keys()
        terms = Terms(**{name: more.pop(name) for name in names})  # type: ignore[arg-type]
        submission = Submission(request_id, demand, terms, **more)  # type: ignore[arg-type]
        entry, orders = self.desk.submit(submission, self.now)
        self.perform(orders)
        return entry

    def say(self, worker_id: str, entry: Entry, event: ev.FromWorker, incarnation: str = "") -> None:
        self.perform(self.desk.receive(worker_id, incarnation or self.process(worker_id), entry, event, self.now))

    def tell(self, entry: Entry, event: ev.Completed | ev.ClientLeft | ev.Abandoned) -> None:
        self.perform(self.desk.tell(entry, event, self.now))

    def answer(self, index: int = 0) -> None:
        """One command, or one token of it, is answered."""
        task = self.tasks.pop(index)
        entry, command = task.entry, task.command
        worker, epoch = command.worker_id, command.epoch
        match command:
            case do.SendEncode(_, _, indices):
                self.say(worker, entry, ev.ImagesEncoded(worker, epoch, frozenset(indices)))
            case do.SendReserve():
                self.say(worker, entry, ev.BlocksReserved(worker, epoch))
            case do.SendPrefill(_, _, emitted, with_ticket):
                assert isinstance(entry.record.state, Prefilling)
                receiver = entry.record.state.plan.decode
                if not with_ticket:
                    self._decode(entry, do.SendDecode(worker, epoch, emitted + 1), emitted + 1)
                self._token(entry, command, emitted)
                if with_ticket:
                    self.say(receiver, entry, ev.KvArrived(receiver, epoch))
            case do.SendFree():
                self.say(worker, entry, ev.HolderFreed(worker, epoch))
            case do.SendDecode():
                self._decode(entry, command, task.position + 1)
                self._token(entry, command, task.position)

    def run(self, *states: type, entry: Entry | None = None) -> None:
        """Everything is answered, until the request is in one of these states or nothing is left to answer."""
        while self.tasks and not (entry and isinstance(entry.record.state, states)):
            self.answer()

    def commands(self) -> list[str]:
        """What was sent since this was last asked, such as "prefill P1#0 after 0"."""
        sent, self.sent = self.sent, []
        return sent

    def perform(self, orders: Orders) -> None:
        for order in orders:
            match order:
                case Cut(worker_id):
                    self.cut.append(worker_id)
                    self._disconnect(worker_id)
                case TellDrain(worker_id):
                    self.drained.append(worker_id)
                case Perform(entry, do.Deliver(tokens)):
                    self.heard[entry.request_id] += [token.token_id for token in tokens]
                case Perform(entry, do.End(outcome)):
                    self.ends[entry.request_id].append(outcome)
                case Perform(entry, do.Place()):
                    self.sent.append("place")
                case Perform(
                    entry, do.SendEncode() | do.SendReserve() | do.SendPrefill() | do.SendDecode() as command
                ):
                    self._send(entry, command)
                case Perform(entry, do.SendFree() as command):
                    self._send(entry, command)

    def _send(self, entry: Entry, command: Command) -> None:
        verb = type(command).__name__.removeprefix("Send").lower()
        name = f"{command.worker_id}#{command.epoch & 255}"
        emitted = getattr(command, "emitted", None)
        self.sent.append(f"{verb} {name}" + (f" after {emitted}" if emitted is not None else ""))
        if command.worker_id in self.connected:
            if isinstance(command, do.SendFree):
                self.tasks = [task for task in self.tasks if not task.of(entry, command)]
            self.tasks.append(Task(entry, command, emitted or 0))

    def _decode(self, entry: Entry, command: do.SendDecode, position: int) -> None:
        if position < self.lengths[entry.request_id]:
            self.tasks.append(Task(entry, command, position))

    def _token(self, entry: Entry, command: do.SendPrefill | do.SendDecode, position: int) -> None:
        reason = FinishReason.LENGTH if position == self.lengths[entry.request_id] - 1 else None
        tokens = (GeneratedToken(100 + position),)
        event = ev.TokensArrived(command.worker_id, command.epoch, position, tokens, reason)
        self.say(command.worker_id, entry, event)

    def _disconnect(self, worker_id: str) -> None:
        self.connected.discard(worker_id)
        self.tasks = [task for task in self.tasks if task.command.worker_id != worker_id]


@pytest.fixture
def scene() -> Scene:
    """Two workers of each kind, none connected yet."""
    return Scene(Desk(RoutingPolicy(max_requests_per_worker=8), HealthLimits(), first_serial=7))
