"""Opens and closes jobs: the part that prefill and decode share."""

from triptych.core.errors import TriptychError
from triptych.engine.core import EngineCore
from triptych.engine.sequence import Goal, Media, Sequence
from triptych.inference.v1 import sampling_pb2
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages import events
from triptych.stages.jobs import Job, JobBook, Times, key_of
from triptych.stages.messages import Command
from triptych.stages.movers import Movers
from triptych.stages.session import Session
from triptych.wire.sampling import sampling_from_proto


class JobDesk:
    """All jobs of a decoder worker, from their command to the end of their Free.

    Args:
        core: The engine.
        movers: Transfers that run beside it.
    """

    def __init__(self, core: EngineCore, movers: Movers) -> None:
        self.core = core
        self.scheduler = core.scheduler
        self.movers = movers
        self.jobs = JobBook()

    def open(
        self, command: Command, key: pb.OperationKey, media: tuple[pb.MediaSpan, ...], timeout_ms: int
    ) -> Job | None:
        """A job for an operation that is not known yet; None when the command is a repetition."""
        if key_of(key) in self.jobs.by_key:
            return None
        deadline = command.received + timeout_ms / 1000 if timeout_ms else None
        job = Job(key_of(key), command.session, Times(command.received), deadline, media)
        self.jobs.add(job)
        return job

    def sequence(self, job: Job, token_ids: list[int], sampling: sampling_pb2.SamplingParams) -> Sequence:
        """The job's prompt as the engine takes it, its embeddings still elsewhere."""
        params = sampling_from_proto(sampling)
        return Sequence(
            key=job.key,
            token_ids=token_ids,
            prompt_length=len(token_ids),
            params=params,
            seed=params.seed or 0,
            limit=self.core.limit(len(token_ids), params.max_tokens),
            goal=Goal.FIRST_TOKEN if job.outgoing else Goal.ANSWER,
            media=tuple(Media(span.start, span.handle.rows, None) for span in job.media),
        )

    def fail(self, job: Job, error: TriptychError) -> None:
        """Tells the router, once; what is held stays held until Free."""
        if job.active:
            job.failed = True
            self.scheduler.park(job.key)
            job.session.send(events.failed(job.proto_key(), error))

    def free(self, session: Session, key: pb.OperationKey) -> None:
        """A router's Free; one for an unknown operation is acknowledged, because it holds nothing."""
        if job := self.jobs.by_key.get(key_of(key)):
            self.close(job)
        else:
            session.send(events.freed(key))

    def drop_session(self, session: Session) -> None:
        """A router is gone: everything it asked for is freed."""
        for job in [job for job in self.jobs.by_key.values() if job.session is session]:
            self.close(job)

    def close(self, job: Job) -> None:
        """Stops a job; its blocks come back once no transfer can touch them."""
        if job.freeing:
            return
        job.freeing = True
        self.scheduler.park(job.key)
        outgoing = job.outgoing.ticket.ticket_id if job.outgoing else ""
        incoming = job.incoming.ticket_id if job.incoming else ""
        if outgoing or incoming:
            self.movers.fence(job.key, outgoing, incoming)
        else:
            self.release(job)

    def release(self, job: Job) -> None:
        """Gives the blocks back and says so."""
        self.scheduler.release(job.key)
        self.jobs.remove(job)
        job.session.send(events.freed(job.proto_key()))
