"""Numbered messages: how each side of a stream notices that something between them was lost, doubled or swapped.

Both directions of a router's stream to a worker count from 1, every message included. A number that was left out ends
the stream, and with it the worker's session: the worker frees everything of it, the router begins the requests anew
elsewhere. So a lost message becomes a lost session, which heals like any other loss, and nobody waits for a message
that never comes. Heartbeats and load reports are numbered too: behind a lost message, even the last of an answer,
there is another one within a heartbeat.

A swapped message is a number left out: waiting for the one before it would need a buffer and a timer to save what
ordered transports do not lose.
"""

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from triptych.core.errors import DataLoss, InvalidArgument


@dataclass(frozen=True, slots=True)
class Fresh:
    """The next message, to be handled."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """A message that was there before, to be dropped."""


@dataclass(frozen=True, slots=True)
class Missing:
    """At least one message before this one has not come: the stream has to end.

    Attributes:
        expected: The number that should have come.
        number: The one that did.
    """

    expected: int
    number: int

    def __str__(self) -> str:
        return f"message {self.expected} of the stream is missing: number {self.number} came instead"


Arrival: TypeAlias = Fresh | Repeated | Missing

_FRESH = Fresh()
_REPEATED = Repeated()


class Numbering:
    """Counts the messages that leave in one direction of one stream."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """The number of the next message."""
        self._last += 1
        return self._last


class Ordering:
    """Judges the messages that arrive in one direction of one stream."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def accept(self, number: int) -> Arrival:
        """What the message with that number is; after `Missing` the next one expected is still the same.

        Raises:
            InvalidArgument: the message has no number.
        """
        if number < 1:
            raise InvalidArgument(f"a message of a stream has a number from 1 on, not {number}", field="number")
        if number <= self._last:
            return _REPEATED
        if number > self._last + 1:
            return Missing(self._last + 1, number)
        self._last = number
        return _FRESH

    def is_new(self, number: int) -> bool:
        """Whether to handle the message with that number; one that was there before is to be dropped.

        Raises:
            DataLoss: a message before it has not come: the stream has to end.
            InvalidArgument: the message has no number.
        """
        match self.accept(number):
            case Fresh():
                return True
            case Repeated():
                return False
            case Missing() as gap:
                raise DataLoss(str(gap))
            case unknown:
                assert_never(unknown)
