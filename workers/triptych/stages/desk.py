"""Opens and closes jobs: the part that prefill and decode share."""

from triptych.core.errors import TriptychError
from triptych.engine.core import EngineCore
from triptych.engine.sequence import Goal
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages import events
from triptych.stages.jobs import Incoming, Job, JobBook, Outgoing, Times, key_of
from triptych.stages.messages import Command
from triptych.stages.movers import Movers
from triptych.stages.prompts import checked_sequence
from triptych.stages.session import Session


class JobDesk:
    """All jobs of a decoder worker, from their command to the end of their Free.

    Args:
        core: The engine.
        movers: Transfers that run beside it.

    Attributes:
        refuses: Why no new job is opened.
    """

    def __init__(self, core: EngineCore, movers: Movers) -> None:
        self.core = core
        self.scheduler = core.scheduler
        self.movers = movers
        self.jobs = JobBook()
        self.refuses: TriptychError | None = None

    def open(
        self,
        command: Command,
        prompt: pb.Prefill | pb.Reserve,
        token_ids: list[int],
        role: Outgoing | Incoming | None,
    ) -> Job | None:
        """A job for a prompt; None when the command is a repetition, or when it is wrong and has been refused.

        Args:
            command: Where it came from.
            prompt: What it asks.
            token_ids: The prompt's tokens.
            role: Whether KV is sent away or received; None when all happens here.
        """
        key = key_of(prompt.key)
        if key in self.jobs.by_key:
            return None
        if self.refuses:
            command.session.send(events.failed(prompt.key, self.refuses))
            return None
        goal = Goal.FIRST_TOKEN if isinstance(role, Outgoing) else Goal.ANSWER
        try:
            sequence = checked_sequence(key, token_ids, prompt.media, prompt.sampling, goal, self.core)
        except TriptychError as error:
            command.session.send(events.failed(prompt.key, error))
            return None
        job = Job(
            session=command.session,
            times=Times(command.received),
            deadline=command.received + prompt.timeout_ms / 1000 if prompt.timeout_ms else None,
            sequence=sequence,
            media=tuple(prompt.media),
            outgoing=role if isinstance(role, Outgoing) else None,
            incoming=role if isinstance(role, Incoming) else None,
        )
        self.jobs.add(job)
        return job

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

    def lose_blocks(self, job: Job, error: TriptychError) -> None:
        """The transfer into a job's blocks has ended for good: they come back now, whenever its Free comes."""
        self.fail(job, error)
        self.scheduler.release(job.key)

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
            self.movers.drop_pull(job.key)
            self.release(job)

    def release(self, job: Job) -> None:
        """Gives the blocks back and says so."""
        self.scheduler.release(job.key)
        self.jobs.remove(job)
        job.session.send(events.freed(job.proto_key()))
