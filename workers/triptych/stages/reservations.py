"""The decode side of a decoder worker: blocks reserved, KV received, decoding taken over."""

import uuid
from collections import deque

from triptych.core.errors import TriptychError
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.desk import JobDesk
from triptych.stages.identity import Identity
from triptych.stages.jobs import Incoming, Job, key_of
from triptych.stages.messages import Command
from triptych.stages.prompts import check_tokens


class Reservations:
    """Gives tickets in the order of the requests, and starts decoding when KV and first token are here.

    Args:
        desk: Where jobs are opened.
        identity: Goes into the tickets.
    """

    def __init__(self, desk: JobDesk, identity: Identity) -> None:
        self._desk = desk
        self._identity = identity
        self._waiting: deque[Job] = deque()

    @property
    def waiting(self) -> int:
        """Reservations that there are no blocks for yet."""
        return sum(job.active for job in self._waiting)

    def request(self, command: Command, reserve: pb.Reserve) -> None:
        """Blocks are wanted for a prompt."""
        if job := self._desk.open(command, reserve, list(reserve.prompt_token_ids), Incoming()):
            self._waiting.append(job)

    def open_waiting(self) -> None:
        """First come, first served: a large prompt is not overtaken for ever by small ones.

        Sequences that wait for blocks to compute in come before all of them, answers that gave way above all.
        """
        while self._waiting and not self._desk.scheduler.waiting:
            job = self._waiting[0]
            if job.active and not self._desk.scheduler.reserve(job.sequence):
                return
            self._waiting.popleft()
            if job.active and job.incoming:
                self._give_ticket(job, job.incoming, job.sequence.blocks)

    def decode(self, decode: pb.Decode) -> None:
        """The router says what the prefill worker has emitted."""
        job = self._desk.jobs.by_key.get(key_of(decode.key))
        if job and job.incoming and job.incoming.emitted is None:
            emitted = list(decode.emitted_token_ids)
            check_tokens(emitted, self._desk.core.decoder.spec.vocab_size)
            job.incoming.emitted = emitted
            self._start(job, job.incoming)

    def kv_arrived(self, ticket_id: str, size: int, seconds: float) -> None:
        """Every block of a ticket is here and verified."""
        job = self._desk.jobs.by_ticket.get(ticket_id)
        if job and job.incoming:
            job.incoming.arrived = True
            self._desk.movers.receiver.close(ticket_id)
            ready = pb.KvReady(key=job.proto_key(), bytes=size, transfer_us=round(seconds * 1e6))
            job.session.send(pb.ConnectResponse(kv_ready=ready))
            self._start(job, job.incoming)

    def kv_failed(self, ticket_id: str, error: TriptychError) -> None:
        """The blocks of a ticket will never be complete, and nothing writes them any more."""
        job = self._desk.jobs.by_ticket.get(ticket_id)
        if job and job.incoming and not job.incoming.arrived:
            self._desk.lose_blocks(job, error)

    def _start(self, job: Job, incoming: Incoming) -> None:
        """Once the KV is here and the router has said what was emitted, whichever comes last."""
        if job.active and incoming.arrived and incoming.emitted is not None:
            job.sequence.computed = job.sequence.prompt_length
            job.sequence.token_ids += incoming.emitted
            self._desk.scheduler.start(job.key)

    def _give_ticket(self, job: Job, incoming: Incoming, blocks: list[int]) -> None:
        incoming.ticket_id = uuid.uuid4().hex
        self._desk.jobs.by_ticket[incoming.ticket_id] = job
        self._desk.movers.receiver.open(
            incoming.ticket_id,
            job.key.request_id,
            job.key.epoch,
            blocks,
            len(blocks),
            router_id=job.session.router_id,
        )
        ticket = pb.Ticket(
            ticket_id=incoming.ticket_id,
            worker_id=self._identity.worker_id,
            incarnation=self._identity.incarnation,
            endpoint=self._identity.endpoint,
            blocks=len(blocks),
        )
        job.session.send(pb.ConnectResponse(reserved=pb.Reserved(key=job.proto_key(), ticket=ticket)))
