"""Who is let in.

Both ends prove that they hold the group's key (`multiprocessing.connection`'s challenge) before either unpickles
anything. The key is new for every attempt to form a group: a late rank of an earlier attempt holds a wrong one.
"""

import socket
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import answer_challenge, deliver_challenge

from triptych.parallel.channel import frames
from triptych.parallel.channel.link import Link
from triptych.parallel.lost import RankLost

_CONNECTING = 30.0
"""Seconds for a connection and the words after it, between two processes that both run."""


@dataclass(frozen=True, slots=True)
class Hello:
    """A follower says which rank it is."""

    rank: int


@dataclass(frozen=True, slots=True)
class Welcome:
    """It is let in.

    Attributes:
        patience: Seconds of silence after which rank 0 gives a follower up, or a follower rank 0.
    """

    patience: float


@dataclass(frozen=True, slots=True)
class Refused:
    """It is not, and why."""

    reason: str


def meet(link: Link, key: bytes, patience: float) -> Hello:
    """Rank 0's side: hears who has come; `frames` may be sent to it from now on.

    Raises:
        OSError, EOFError, AuthenticationError: it is none of this group's ranks.
    """
    link.expect_within(patience)
    try:
        deliver_challenge(link.connection, key)
        answer_challenge(link.connection, key)
    except AssertionError as error:  # what Python 3.11 raises for a stranger's protocol
        raise AuthenticationError(str(error)) from error
    hello = frames.receive(link.connection)
    if not isinstance(hello, Hello):
        raise AuthenticationError(f"said {type(hello).__name__} instead of its rank")
    link.expect_within(0)
    return hello


def enter(address: tuple[str, int], key: bytes, rank: int) -> tuple[Link, Welcome]:
    """A follower's side.

    Raises:
        RankLost: rank 0 is not there or does not let this rank in.
    """
    try:
        link = Link.over(socket.create_connection(address, timeout=_CONNECTING))
    except OSError as error:
        raise RankLost(f"rank {rank} cannot reach rank 0 at {address[0]}:{address[1]}: {error}") from error
    try:
        link.expect_within(_CONNECTING)
        answer_challenge(link.connection, key)
        deliver_challenge(link.connection, key)
        link.send(frames.pack(Hello(rank)))
        answer = frames.receive(link.connection)
        link.expect_within(0)
    except (AuthenticationError, AssertionError) as error:
        link.end()
        raise RankLost(f"rank {rank} has the key of another group") from error
    except (OSError, EOFError) as error:
        link.end()
        raise RankLost(f"rank 0 broke the connection off before it had let rank {rank} in") from error
    if isinstance(answer, Welcome):
        return link, answer
    link.end()
    reason = answer.reason if isinstance(answer, Refused) else f"it said {type(answer).__name__}"
    raise RankLost(f"rank 0 does not let rank {rank} in: {reason}")
