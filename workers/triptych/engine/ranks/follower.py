"""A rank that plans nothing: it does what rank 0 says, in the order in which it is said."""

from collections.abc import Callable, Mapping
from time import monotonic
from types import MappingProxyType
from typing import Any, TypeAlias

from triptych.engine.ranks.computer import RankComputer
from triptych.engine.ranks.encoding import decode
from triptych.engine.ranks.images import DropEmbedding, HoldEmbedding
from triptych.engine.ranks.messages import Ready, Step, Stop
from triptych.engine.ranks.mirror import Mirror
from triptych.parallel.channel import Member

Handler: TypeAlias = Callable[[Any], object]
"""Takes a message of one kind, between two steps."""

_NO_HANDLERS: Mapping[type, Handler] = MappingProxyType({})


class Follower:
    """Computes a rank's part of every step, and has the messages of others handled.

    What `run` is called on is the compute thread: handlers run there too, and may touch the decoder and its pool.

    Args:
        member: The rank's end of the channel.
        computer: Of the rank.
        mirror: What the rank keeps of steps.
        handlers: For further kinds of messages.
    """

    def __init__(
        self,
        member: Member,
        computer: RankComputer,
        mirror: Mirror,
        handlers: Mapping[type, Handler] = _NO_HANDLERS,
    ) -> None:
        self._member = member
        self._computer = computer
        self._mirror = mirror
        self._reports = computer.mesh.attention.rank == 0
        self._handlers: dict[type, Handler] = {
            Step: self._compute,
            HoldEmbedding: mirror.embeddings.hold,
            DropEmbedding: mirror.embeddings.drop,
            **handlers,
        }

    def run(self) -> None:
        """Obeys until `Stop`.

        Raises:
            RankLost: rank 0, or another rank of the replica, is gone.
            Exception: what this rank could not do; rank 0 has been told.
        """
        self._member.send(Ready())
        try:
            while not isinstance(message := self._member.receive(), Stop):
                self._handlers[type(message)](message)
        except Exception as error:
            self._member.give_up(error)
            raise

    def _compute(self, message: Step) -> None:
        started = monotonic()
        rows = decode(message.rows)
        done = self._computer.compute(self._mirror.step(rows), rows.choice)
        if (recording := self._computer.mesh.recorder.recording) is not None:
            recording.step("step", started, monotonic(), len(rows.token_ids))
        if self._reports:
            self._member.send(done)
