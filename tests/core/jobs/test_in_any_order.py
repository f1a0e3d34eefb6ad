"""Whatever happens in whatever order: one Failed, one Freed per Free, no block and no lease without an operation."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from triptych.core.errors import Internal, Unavailable
from triptych.core.generation import FinishReason, GeneratedToken, OperationKey
from triptych.core.jobs import Jobs
from triptych.core.jobs import actions as do
from triptych.core.jobs import events as ev
from triptych.core.jobs.commands import Decode, Drain, Free, Prefill, Reserve
from triptych.core.jobs.states import Computing, Decoding, Delivered, Failed, Finished, Freeing, Sending

BLOCK, POOL = 4, 12
NAMES = [OperationKey(name, epoch) for name in "abc" for epoch in (1, 2)]
keys = st.sampled_from(NAMES)
sessions = st.integers(1, 2)
error = Unavailable("gone")


class Worker:
    """The rest of a worker: carries actions out, and notes when one makes no sense."""

    def __init__(self) -> None:
        self.blocks: dict[OperationKey, int] = {}
        self.lengths: dict[OperationKey, int] = {}
        self.leases: dict[str, OperationKey] = {}
        self.pulls: Counter[OperationKey] = Counter()
        self.chunks: Counter[OperationKey] = Counter()
        self.pushed: dict[OperationKey, int] = {}
        self.fences: list[OperationKey] = []
        self.running: set[OperationKey] = set()
        self.told: list[tuple[int, do.Answer]] = []
        self.forgotten: Counter[OperationKey] = Counter()
        self.waiting = 0

    def reserve(self, key: OperationKey) -> bool:
        needed = -(-self.lengths[key] // BLOCK)
        if sum(self.blocks.values()) + needed > POOL:
            return False
        assert key not in self.blocks
        self.blocks[key] = needed
        return True

    def carry_out(self, actions: tuple[do.Action, ...]) -> None:
        for action in actions:
            self._carry_out(action)

    def _carry_out(self, action: do.Action) -> None:
        match action:
            case do.Add(key):
                assert key not in self.blocks
                self.blocks[key] = 0
                self.running.add(key)
            case do.Park(key):
                assert key in self.blocks
                self.running.discard(key)
            case do.Start(key, emitted):
                assert emitted
                assert key in self.blocks
                assert key not in self.leases.values()
                self.running.add(key)
            case do.Supply(key):
                assert key in self.running
            case do.Release(key):
                assert not self.chunks[key], "blocks are given back while they are read"
                assert key not in self.leases.values(), "blocks are given back while they are written"
                del self.blocks[key]
                self.running.discard(key)
            case do.Forget(key):
                self.forgotten[key] += 1
                self.pushed.pop(key, None)
            case do.Tell(session, answer):
                self.told.append((session, answer))
            case _:
                self._move(action)

    def _move(self, action: do.Action) -> None:
        match action:
            case do.PullEmbeddings(key):
                self.pulls[key] += 1
            case do.PushBlocks(key, _, first, until, last):
                assert self.pushed.get(key, 0) == first < until
                assert last == (until == -(-self.lengths[key] // BLOCK))
                self.pushed[key] = until
                self.chunks[key] += 1
            case do.OpenLease(key, ticket_id):
                assert key in self.blocks
                self.leases[ticket_id] = key
            case do.CloseLease(ticket_id):
                del self.leases[ticket_id]
            case do.StopSending(key) | do.StopReceiving(key):
                self.fences.append(key)
            case _:
                assert isinstance(action, do.DropPull)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.jobs = Jobs("decode-0", BLOCK)
        self.worker = Worker()
        self.now = 0.0
        self.frees: Counter[tuple[int, OperationKey]] = Counter()
        self.ended: set[int] = set()
        self.begun: Counter[OperationKey] = Counter()
        self.failures_before: Counter[OperationKey] = Counter()
        self.tickets = 0

    def send(self, message: object) -> None:
        self.worker.carry_out(self.jobs.handle(message, self.now))  # type: ignore[arg-type]

    def begin(self, task: Prefill | Reserve) -> None:
        fresh = self.jobs.find(task.key) is None
        self.send(task)
        if fresh and (operation := self.jobs.find(task.key)):
            assert operation.task is task
            self.begun[task.key] += 1
            self.worker.lengths[task.key] = task.length

    @rule(session=sessions, key=keys, length=st.integers(1, 20), ticket=st.booleans(), embeddings=st.integers(0, 1))
    def prefill(self, session: int, key: OperationKey, length: int, ticket: bool, embeddings: int) -> None:
        ticket_id = "elsewhere" if ticket else ""
        self.begin(Prefill(session, key, self.now, length, 0, embeddings, ticket_id, self.now + 5))

    @rule(session=sessions, key=keys, length=st.integers(1, 20), late=st.booleans())
    def reserve(self, session: int, key: OperationKey, length: int, late: bool) -> None:
        self.tickets += 1
        self.begin(Reserve(session, key, self.now, length, f"t{self.tickets}", 0, self.now + 5 if late else None))

    @rule(session=sessions, key=keys, count=st.integers(0, 2))
    def decode(self, session: int, key: OperationKey, count: int) -> None:
        self.send(Decode(session, key, (7,) * count))

    @rule(session=sessions, key=keys)
    def free(self, session: int, key: OperationKey) -> None:
        self.frees[session, key] += 1
        self.send(Free(session, key))

    @rule(session=sessions)
    def end_session(self, session: int) -> None:
        before = len(self.worker.told)
        self.send(ev.SessionEnded(session))
        assert len(self.worker.told) == before
        for key in NAMES:  # a new stream of that router begins with nothing owed to it
            self.frees[session, key] = self.freed(session, key)

    @rule()
    def grant(self) -> None:
        self.worker.carry_out(self.jobs.grant(self.worker))

    @rule(key=keys, works=st.booleans())
    def end_pull(self, key: OperationKey, works: bool) -> None:
        if self.worker.pulls[key]:
            self.worker.pulls[key] -= 1
            self.send(ev.EmbeddingsPulled(key, 0.1) if works else ev.EmbeddingsFailed(key, error))

    @rule(key=keys, works=st.booleans())
    def end_chunk(self, key: OperationKey, works: bool) -> None:
        if self.worker.chunks[key]:
            self.worker.chunks[key] -= 1
            self.send(ev.ChunkAcknowledged(key) if works else ev.ChunkFailed(key, error))

    @rule(pick=st.integers(0, 5), works=st.booleans())
    def end_lease(self, pick: int, works: bool) -> None:
        if not self.worker.leases:
            return
        ticket_id = list(self.worker.leases)[pick % len(self.worker.leases)]
        if self.worker.leases[ticket_id] in self.worker.fences:
            return
        if works:
            self.send(ev.KvComplete(ticket_id, 100, 0.1))
            assert ticket_id not in self.worker.leases
        else:
            del self.worker.leases[ticket_id]
            self.send(ev.KvFailed(ticket_id, error))

    @rule(pick=st.integers(0, 5))
    def end_fence(self, pick: int) -> None:
        if self.worker.fences:
            key = self.worker.fences.pop(pick % len(self.worker.fences))
            self.worker.leases = {t: k for t, k in self.worker.leases.items() if k != key}
            self.worker.chunks[key] = 0
            self.send(ev.Fenced(key))

    @rule(key=keys, tokens=st.integers(1, 20), ends=st.booleans())
    def step(self, key: OperationKey, tokens: int, ends: bool) -> None:
        """A step of what runs, and sometimes of what no longer does."""
        operation = self.jobs.find(key)
        if operation is None:
            return
        done, reason = min(tokens, operation.task.length), FinishReason.STOP if ends else None
        sampled: tuple[ev.Sampled, ...] = ()
        if isinstance(operation.state, Decoding) or done == operation.task.length:
            sampled = (ev.Sampled(key, 0, GeneratedToken(7), reason),)
        if key in self.worker.running and isinstance(operation.state, Computing):
            self.worker.blocks[key] = -(-operation.task.length // BLOCK)
        self.send(ev.Stepped(self.now, (ev.Computed(key, done),), sampled))
        if (after := self.jobs.find(key)) and isinstance(after.state, Sending | Delivered | Finished):
            self.worker.running.discard(key)  # an engine stops by itself who has its last token

    @rule(key=keys)
    def stall(self, key: OperationKey) -> None:
        self.send(ev.Stalled(key))

    @rule(key=keys)
    def fault(self, key: OperationKey) -> None:
        self.send(ev.Faulted(key, Internal("a bug")))

    @rule(seconds=st.floats(0, 3))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.worker.carry_out(self.jobs.expire(self.now))
        assert self.jobs.next_deadline is None or self.jobs.next_deadline > self.now

    @invariant()
    def the_books_are_in_order(self) -> None:
        assert self.jobs.audit().problems(self.worker.blocks, self.worker.leases) == ()
        assert self.jobs.operations == sum(self.begun.values()) - sum(self.worker.forgotten.values())
        assert self.jobs.waiting == self.jobs.audit().by_state.get("AwaitingBlocks", 0)
        assert self.jobs.open_leases == len(self.jobs.audit().leases)

    @invariant()
    def nothing_runs_for_nobody(self) -> None:
        states = {key: self.jobs.find(key) for key in self.worker.running}
        assert all(op and not isinstance(op.state, Failed | Freeing) for op in states.values())

    @invariant()
    def each_operation_fails_at_most_once(self) -> None:
        refused = "for another router"
        failures = Counter(
            answer.key
            for _, answer in self.worker.told
            if isinstance(answer, do.Failed) and refused not in answer.error.message
        )
        assert all(failures[key] <= self.begun[key] for key in failures)

    @invariant()
    def nobody_is_told_twice_that_it_is_free(self) -> None:
        assert all(self.freed(*asked) <= count for asked, count in self.frees.items())

    def freed(self, session: int, key: OperationKey) -> int:
        return self.worker.told.count((session, do.Freed(key)))

    def teardown(self) -> None:
        """Each Free gets its Freed in the end, and then there is nothing left."""
        for key in NAMES:
            if operation := self.jobs.find(key):
                self.free(operation.task.session, key)
        while self.worker.fences:
            self.end_fence(0)
        assert self.jobs.operations == 0
        assert (self.worker.blocks, self.worker.leases) == ({}, {})
        assert all(self.freed(*asked) == count for asked, count in self.frees.items())
        assert self.worker.forgotten == +self.begun
        assert self.jobs.next_deadline is None


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyOrder = Machine.TestCase


def test_a_draining_worker_takes_nothing_new() -> None:
    jobs, key = Jobs("decode-0", BLOCK), NAMES[0]
    known = Prefill(1, key, 0.0, 3)
    assert jobs.handle(known, 0.0) == (do.Add(key),)
    assert jobs.handle(Drain(), 0.0) == ()
    assert jobs.handle(known, 0.0) == ()
    for task in (Prefill(1, NAMES[1], 0.0, 3), Reserve(1, NAMES[1], 0.0, 3, "t")):
        [told] = jobs.handle(task, 0.0)
        assert isinstance(told, do.Tell)
        assert isinstance(told.answer, do.Failed)
        assert isinstance(told.answer.error, Unavailable)
        assert "decode-0 is draining" in told.answer.error.message
    assert jobs.operations == 1
