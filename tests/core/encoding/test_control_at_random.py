"""Any interleaving of commands, results, deadlines and losses."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from triptych.core.encoding.actions import Acknowledge, Action, Answer, Compute, Evict, Refuse
from triptych.core.encoding.batching import MAX_PICTURES
from triptych.core.encoding.control import EncodeControl
from triptych.core.encoding.job import Job
from triptych.core.encoding.limits import EncodeLimits
from triptych.core.errors import InvalidArgument
from triptych.core.generation import OperationKey

SIZE, ROOM, ENTRIES, WAITING = 4, 6, 4, 8

_names = st.sampled_from("abcd")
_epochs = st.integers(1, 2)
_sessions = st.integers(1, 2)
_pictures = st.lists(st.sampled_from("pqrstuvwxyz"), max_size=ROOM + 1)
_seconds = st.floats(0.0, 4.0)


def size_of(picture: str) -> int:
    """Of an embedding: large, small, or in between."""
    return SIZE * (1 + ord(picture) % 3) // 2


def bytes_of(pictures: Iterable[str]) -> int:
    return sum(map(size_of, pictures))


class Worker(RuleBasedStateMachine):
    """The bytes of the embeddings, and what every router was told."""

    def __init__(self) -> None:
        super().__init__()
        self.control: EncodeControl[Job] = EncodeControl("e", EncodeLimits(ROOM * SIZE, ENTRIES, WAITING))
        self.now = 0.0
        self.stored: set[str] = set()
        self.open: dict[OperationKey, Job] = {}
        self.answered: set[OperationKey] = set()
        self.computed: Counter[str] = Counter()
        self.reported: dict[str, int] = {}
        self.before: dict[OperationKey, Counter[str]] = {}

    def carry_out(self, actions: Sequence[Action[Job]]) -> None:
        acknowledged = [action for action in actions if isinstance(action, Acknowledge)]
        assert len(acknowledged) <= 1
        for action in actions:
            match action:
                case Evict(picture):
                    assert not any(picture in self.open[key].pictures for key in self.held())
                    self.stored.remove(picture)
                case Compute(batch):
                    assert batch.pictures
                    assert len(batch.jobs) == 1 or len(batch.pictures) <= MAX_PICTURES
                    assert all(self.is_distrusted(picture) for picture in self.stored.intersection(batch.pictures))
                    assert bytes_of(self.stored.union(batch.pictures)) <= ROOM * SIZE
                    assert all(self.open[job.key] is job and job.key not in self.answered for job in batch.jobs)
                case Answer(job, began):
                    assert self.stored.issuperset(job.pictures)
                    before = self.before[job.key]
                    assert not job.anew or all(self.computed[picture] > before[picture] for picture in job.pictures)
                    assert began is not None or not any(self.is_distrusted(picture) for picture in job.pictures)
                    self.conclude(job)
                case Refuse(job):
                    self.conclude(job)

    def conclude(self, job: Job) -> None:
        assert self.open[job.key] is job
        assert job.key not in self.answered
        self.answered.add(job.key)

    def held(self) -> tuple[OperationKey, ...]:
        return self.control.audit().held

    def is_distrusted(self, picture: str) -> bool:
        """Whether nothing was made of it since somebody found it damaged."""
        return self.reported.get(picture) == self.computed[picture]

    @rule(
        name=_names,
        epoch=_epochs,
        session=_sessions,
        pictures=_pictures,
        patience=st.none() | _seconds,
        anew=st.booleans(),
    )
    def submit(
        self, name: str, epoch: int, session: int, pictures: list[str], patience: float | None, anew: bool
    ) -> None:
        deadline = None if patience is None else self.now + patience
        sizes = tuple(map(size_of, pictures))
        job = Job(OperationKey(name, epoch), session, tuple(pictures), sizes, deadline, anew)
        known = self.open.setdefault(job.key, job)
        if known is job:
            self.before[job.key] = self.computed.copy()
        making = set(self.control.batch.pictures) if self.control.batch else set()
        actions = self.control.submit(job, self.now)
        if known is not job:
            assert [type(action) for action in actions] == [Refuse] * (known.session != session)
        else:
            if anew and not any(isinstance(action, Refuse) and action.job is job for action in actions):
                self.reported |= {picture: self.computed[picture] for picture in set(pictures) - making}
            self.carry_out(actions)

    @precondition(lambda self: self.control.batch)
    @rule(data=st.data())
    def end_batch(self, data: st.DataObject) -> None:
        batch = self.control.batch
        assert batch
        bad = data.draw(st.sets(st.sampled_from(batch.pictures))) if data.draw(st.booleans()) else set()
        made = set(batch.pictures) - bad
        failed = {job.key: InvalidArgument("bad") for job in batch.jobs if not bad.isdisjoint(job.pictures)}
        self.stored |= made
        self.computed.update(made)
        self.carry_out(self.control.encoded(made, failed, self.now))

    @rule(name=_names, epoch=_epochs, session=_sessions)
    def free(self, name: str, epoch: int, session: int) -> None:
        key = OperationKey(name, epoch)
        if key in self.open and self.open[key].session == session:
            self.forget(key)
        actions = self.control.free(key, session, self.now)
        assert [action for action in actions if isinstance(action, Acknowledge)] == [Acknowledge(session, key)]
        self.carry_out(actions)

    @rule(session=_sessions)
    def end_session(self, session: int) -> None:
        for key in [key for key, job in self.open.items() if job.session == session]:
            self.forget(key)
        self.carry_out(self.control.end_session(session, self.now))

    @rule(seconds=_seconds)
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.carry_out(self.control.tick(self.now))
        waiting = [self.open[key] for key in self.control.audit().waiting]
        assert all(job.deadline is None or job.deadline > self.now for job in waiting)
        deadlines = [job.deadline for job in waiting if job.deadline is not None]
        if deadlines:
            assert self.control.next_deadline is not None
            assert self.now < self.control.next_deadline <= min(deadlines)

    def forget(self, key: OperationKey) -> None:
        del self.open[key]
        self.answered.discard(key)

    @invariant()
    def the_books_are_in_order(self) -> None:
        audit = self.control.audit()
        assert audit.problems == ()
        assert set(audit.waiting + audit.encoding + audit.held + audit.failed) == self.open.keys()
        assert set(audit.held + audit.failed) == self.answered
        assert self.control.open == len(self.open)
        assert audit.holdings.stored_bytes <= ROOM * SIZE
        making = set(self.control.batch.pictures) if self.control.batch else set()
        assert audit.holdings.stored_bytes == bytes_of(self.stored | making)
        assert self.control.queued_images == sum(len(self.open[key].pictures) for key in audit.waiting) <= WAITING
        assert self.control.encoded_images == self.computed.total()

    @invariant()
    def the_first_waits_for_a_reason(self) -> None:
        audit = self.control.audit()
        if audit.waiting and not self.control.batch:
            held = {picture for key in audit.held for picture in self.open[key].pictures}
            assert bytes_of(held | set(self.open[audit.waiting[0]].pictures)) > ROOM * SIZE

    def teardown(self) -> None:
        for session in (1, 2):
            self.end_session(session)
        while self.control.batch:
            pictures = self.control.batch.pictures
            self.stored.update(pictures)
            self.carry_out(self.control.encoded(pictures, {}, self.now))
        assert self.control.audit().quiescent


TestWorker: Any = Worker.TestCase
TestWorker.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
