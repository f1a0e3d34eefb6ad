"""Carries out what `core.jobs` decides: at the scheduler, with the movers, to the routers."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import assert_never

from triptych.core.errors import Internal
from triptych.core.generation import OperationKey
from triptych.core.jobs import actions as do
from triptych.core.jobs.commands import SessionId
from triptych.core.jobs.events import Faulted, Sampled
from triptych.engine.lanes import Lanes
from triptych.engine.scheduler import Scheduler
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages import events
from triptych.stages.identity import Identity
from triptych.stages.movers import Movers
from triptych.stages.operations import Payload
from triptych.stages.sessions import Sessions

logger = logging.getLogger(__name__)


class Hands:
    """A decoder worker's actions, one after the other.

    Args:
        scheduler: The engine's.
        movers: Transfers that run beside it.
        identity: Goes into tickets.

    Attributes:
        payloads: Of every operation that is not over.
        sessions: Who can be told something.
        step_messages: Messages with the tokens of a step, so far.
    """

    def __init__(self, scheduler: Scheduler | Lanes, movers: Movers, identity: Identity) -> None:
        self.payloads: dict[OperationKey, Payload] = {}
        self.sessions = Sessions()
        self.step_messages = 0
        self._scheduler = scheduler
        self._movers = movers
        self._identity = identity

    @property
    def waiting(self) -> int:
        """Sequences that wait for blocks or for a place in the batch, and not for embeddings."""
        return self._scheduler.waiting

    def reserve(self, key: OperationKey) -> bool:
        """Takes the blocks of a reservation; False when there are not enough now."""
        return self._scheduler.reserve(self.payloads[key].sequence)

    def carry_out(self, actions: Iterable[do.Action]) -> list[Faulted]:
        """Carries actions out in their order.

        Returns:
            The operations for which one has raised. They are not told of a success then; what is given back is given
            back all the same, and the other operations have theirs.
        """
        faults: dict[OperationKey, Faulted] = {}
        for action in actions:
            match action:
                case do.Tell(session, do.Tokens(tokens)):
                    self._send_tokens(session, tokens, faults)
                case do.Tell(_, do.Reserved(key) | do.PrefillDone(Sampled(key)) | do.KvReady(key)) if key in faults:
                    continue
                case do.Tell(
                    session, (do.Reserved() | do.PrefillDone() | do.KvReady() | do.Freed() | do.Failed()) as one
                ):
                    with _noting(one.key, faults):
                        self._tell(session, one)
                case do.Tell():
                    continue
                case do.Add() | do.Park() | do.Release() | do.Start() | do.Supply():
                    with _noting(action.key, faults):
                        self._schedule(action)
                case do.Forget(key):
                    del self.payloads[key]
                case _:
                    with _noting(action.key, faults):
                        self._move(action)
        return list(faults.values())

    def _schedule(self, action: do.Add | do.Park | do.Release | do.Start | do.Supply) -> None:
        match action:
            case do.Add(key):
                self._scheduler.add(self.payloads[key].with_embeddings())
            case do.Park(key):
                self._scheduler.park(key)
            case do.Release(key):
                self._scheduler.release(key)
            case do.Start(key, emitted):
                self.payloads[key].go_on_after(emitted)
                self._scheduler.start(key)
            case do.Supply(key):
                self._scheduler.supply(key, self.payloads[key].pulled)
            case _:
                assert_never(action)

    def _move(
        self,
        action: do.PullEmbeddings
        | do.DropPull
        | do.PushBlocks
        | do.OpenLease
        | do.CloseLease
        | do.StopSending
        | do.StopReceiving,
    ) -> None:
        match action:
            case do.PullEmbeddings(key):
                self._movers.pull(key, self.payloads[key].media)
            case do.DropPull(key):
                self._movers.drop_pull(key)
            case do.PushBlocks(key, _, first, until, last):
                payload = self.payloads[key]
                self._movers.push(key, payload.ticket, first, payload.sequence.blocks[first:until], last=last)
            case do.OpenLease(key, ticket_id):
                payload = self.payloads[key]
                self._movers.open_lease(key, ticket_id, payload.sequence.blocks, payload.router_id)
            case do.CloseLease(ticket_id):
                self._movers.close_lease(ticket_id)
            case do.StopSending(key, ticket_id):
                self._movers.stop_sending(key, ticket_id)
            case do.StopReceiving(key, ticket_id):
                self._movers.stop_receiving(key, ticket_id)
            case _:
                assert_never(action)

    def _tell(
        self, number: SessionId, answer: do.Reserved | do.PrefillDone | do.KvReady | do.Freed | do.Failed
    ) -> None:
        if session := self.sessions.find(number):
            match answer:
                case do.Reserved(key, ticket_id):
                    session.send(events.reserved(key, self._ticket(key, ticket_id)))
                case _:
                    session.send(events.answer(answer))

    def _ticket(self, key: OperationKey, ticket_id: str) -> pb.Ticket:
        blocks = self.payloads[key].sequence.blocks
        return pb.Ticket(
            ticket_id=ticket_id,
            worker_id=self._identity.worker_id,
            incarnation=self._identity.incarnation,
            endpoint=self._identity.endpoint,
            blocks=len(blocks),
            shares=self._movers.shares(blocks),
        )

    def _send_tokens(
        self, number: SessionId, tokens: tuple[Sampled, ...], faults: dict[OperationKey, Faulted]
    ) -> None:
        """One message for all; a token that cannot be told is left out."""
        deltas: list[pb.TokenDelta] = []
        for token in tokens:
            try:
                deltas.append(events.token_delta(token, events.key_to_proto(token.key)))
            except Exception as error:
                _note(token.key, error, faults)
        if (session := self.sessions.find(number)) and deltas:
            self.step_messages += 1
            session.send(events.step_tokens(deltas))


@contextmanager
def _noting(key: OperationKey, faults: dict[OperationKey, Faulted]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        _note(key, error, faults)


def _note(key: OperationKey, error: Exception, faults: dict[OperationKey, Faulted]) -> None:
    logger.error("operation %s/%d: an action failed", key.request_id, key.epoch, exc_info=error)
    faults[key] = Faulted(key, Internal(f"the worker failed to carry a result out: {error}"))
