"""The vision part of a worker: the core's control, a modelled vision tower, and the embeddings' bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from triptych.core.encoding.actions import Acknowledge, Action, Answer, Compute, Evict, Refuse
from triptych.core.encoding.control import EncodeControl
from triptych.core.encoding.job import Batch, Job
from triptych.core.encoding.limits import EncodeLimits
from triptych.core.generation import OperationKey
from triptych.core.jobs.actions import Failed, Freed
from triptych.simulator import messages as msg
from triptych.simulator.tokens import checksum

if TYPE_CHECKING:
    from triptych.simulator.worker import Session, Worker


def embed(picture: str) -> int:
    """What the vision tower makes of a picture."""
    return checksum(picture.encode())


@dataclass(frozen=True, slots=True)
class Task(Job):
    """One Encode."""

    images: tuple[tuple[int, str], ...]
    owner: Session


class Encoder:
    """Encodes pictures on a thread of its own.

    Args:
        worker: Whose part it is.
    """

    def __init__(self, worker: Worker) -> None:
        spec = worker.world.spec
        size, room = spec.costs.embedding_bytes, spec.cluster.embeddings
        limits = EncodeLimits(size * room, room, spec.cluster.waiting_images)
        self.control: EncodeControl[Task] = EncodeControl(worker.name, limits)
        self.values: dict[str, int] = {}
        self._worker = worker
        self._seconds = spec.costs.picture
        self._size = size

    @property
    def runnable(self) -> int:
        """Operations that something could be computed for."""
        return len(self.control.batch.jobs) if self.control.batch else 0

    def encode(self, session: Session, message: msg.Encode) -> None:
        """A router wants embeddings."""
        now = self._worker.now
        deadline = None if message.timeout is None else now + message.timeout
        pictures = tuple(picture for _, picture in message.images)
        sizes = (self._size,) * len(pictures)
        task = Task(message.key, session.number, pictures, sizes, deadline, message.anew, message.images, session)
        self._run(self.control.submit(task, now))
        self._watch()

    def free(self, session: Session, key: OperationKey) -> None:
        """A router's Free."""
        self._run(self.control.free(key, session.number, self._worker.now))

    def forget(self, session: Session, key: OperationKey) -> None:
        """A Free that the language part acknowledges."""
        self._run(self.control.forget(key, session.number, self._worker.now))

    def end_session(self, session: Session) -> None:
        """A router is gone."""
        self._run(self.control.end_session(session.number, self._worker.now))

    def drain(self) -> None:
        """No new work."""
        self.control.drain()

    def remains(self) -> Iterator[str]:
        """What is still held."""
        audit = self.control.audit()
        if not audit.quiescent:
            holders = len(audit.holdings.holdings)
            yield f"{self._worker.name}: {len(audit.held)} operations, {holders} holders of embeddings"

    def _run(self, actions: Iterable[Action[Task]]) -> None:
        worker = self._worker
        for action in actions:
            match action:
                case Compute(batch):
                    seconds = self._seconds * max(1, len(batch.pictures)) * worker.slowness
                    worker.note("", f"sees {', '.join(batch.pictures)}")
                    worker.after(seconds, lambda batch=batch: self._computed(batch), worker.compute)  # type: ignore[misc]
                case Evict(picture):
                    del self.values[picture]
                case Answer(job):
                    handles = tuple(self._handle(index, picture) for index, picture in job.images)
                    job.owner.send(msg.EncodeDone(job.key, handles))
                case Refuse(job, error):
                    job.owner.send(Failed(job.key, error))
                case Acknowledge(number, key):
                    if isinstance(number, int) and (session := worker.sessions.get(number)):
                        session.send(Freed(key))
                case unknown:
                    assert_never(unknown)

    def _computed(self, batch: Batch[Task]) -> None:
        worker = self._worker
        for job in batch.jobs:
            worker.world.check.computed_in_time(worker, job.key, job.deadline, batch.began)
        for picture in batch.pictures:
            self.values[picture] = embed(picture)
        self._run(self.control.encoded(batch.pictures, {}, worker.now))
        worker.touch()

    def _handle(self, index: int, picture: str) -> msg.Handle:
        worker = self._worker
        value = self.values[picture]
        return msg.Handle(index, picture, worker.name, worker.incarnation, checksum((value,)))

    def _watch(self) -> None:
        """Calls `tick` when the first deadline has passed."""
        due = self.control.next_deadline
        if due is not None:
            self._worker.clock.at(due, self._expire, self._worker.io)

    def _expire(self) -> None:
        self._run(self.control.tick(self._worker.now))
