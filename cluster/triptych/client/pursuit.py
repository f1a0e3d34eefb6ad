"""One request until its answer is complete: the next message to send, how long it may take, when to give up."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc

from triptych.client.recovery import Again, Answered, Broken, Failure, Known, Lost, New, State, Unreached, after
from triptych.core.errors import Cancelled, DeadlineExceeded
from triptych.inference.v1 import inference_pb2 as pb
from triptych.wire.status import error_from_rpc, is_answer
from triptych.wire.transport import never_connected

logger = logging.getLogger("triptych.client")

_BROKEN: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a request is pursued.

    Attributes:
        timeout: Seconds until its deadline, over all connections; None means none.
        patience: Seconds that a lost connection may be away.
    """

    timeout: float | None
    patience: float


class Pursuit:
    """What both clients do alike. It reads no clock and opens no connection.

    Args:
        body: The request; `resume` is set in it once the connection was lost.
        address: The server's, for error messages.
        terms: How long.
        now: When it begins, in seconds.

    Attributes:
        over: The answer is whole, or the request has failed for good.
    """

    def __init__(self, body: pb.GenerationInput, address: str, terms: Terms, now: float) -> None:
        self.body: Final = body
        self._address: Final = address
        self._patience: Final = terms.patience
        self._deadline: Final = None if terms.timeout is None else now + terms.timeout
        self._state: State = New()
        self.over = False

    def timeout(self, now: float) -> float | None:
        """Seconds that the next call may take.

        Raises:
            DeadlineExceeded: the deadline has passed.
        """
        if self._deadline is None:
            return None
        if self._deadline <= now:
            raise DeadlineExceeded(
                f"{self._address} did not finish before the deadline", request_id=self.body.request_id
            )
        return self._deadline - now

    def heard(self) -> None:
        """A message has arrived."""
        if isinstance(self._state, Lost):
            logger.info("%s answers again", self._address)
        self._state = Known()

    def done(self) -> None:
        """The answer is whole."""
        self.over = True

    def failed(self, error: grpc.RpcError, received: Sequence[Sequence[int]], now: float, chance: float) -> float:
        """Seconds to wait before the request is sent again, for what follows the `received` tokens of each answer.

        Raises:
            TriptychError: it is not sent again.
        """
        failure = self._failure(error)
        decision = after(self._state, failure, self._patience, now, chance)
        if not isinstance(decision, Again):
            self.over = True
            raise decision from error
        if not isinstance(self._state, Lost):
            logger.warning("%s; trying again for %g s", failure.error.message, self._patience)
        self._state = decision.state
        first = received[0] if received else ()
        others = [pb.TokenIds(ids=token_ids) for token_ids in received[1:]]
        self.body.resume.CopyFrom(pb.Resume(received_token_ids=first, other_choices=others))
        return decision.wait if self._deadline is None else min(decision.wait, max(0.0, self._deadline - now))

    def cancelled(self) -> Cancelled:
        """The error of a request that its caller has given up."""
        return Cancelled("the request was cancelled", request_id=self.body.request_id)

    def _failure(self, error: grpc.RpcError) -> Failure:
        broken = not is_answer(error) and error.code() in _BROKEN
        unreached = broken and never_connected(error)
        unseen = unreached and isinstance(self._state, New)
        typed = error_from_rpc(error, address=self._address, request_id="" if unseen else self.body.request_id)
        if unreached:
            return Unreached(typed)
        return Broken(typed) if broken else Answered(typed)
