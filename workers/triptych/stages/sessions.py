"""Numbers for streams: what `core.jobs` calls a session."""

import itertools

from triptych.core.jobs.commands import SessionId
from triptych.stages.session import Session


class Sessions:
    """The streams that have asked for something and have not ended."""

    def __init__(self) -> None:
        self._numbers: dict[Session, SessionId] = {}
        self._by_number: dict[SessionId, Session] = {}
        self._count = itertools.count(1)

    def number(self, session: Session) -> SessionId:
        """Its number; no two streams ever have the same."""
        number = self._numbers.get(session)
        if number is None:
            number = self._numbers[session] = next(self._count)
            self._by_number[number] = session
        return number

    def find(self, number: SessionId) -> Session | None:
        """The stream, unless it has ended."""
        return self._by_number.get(number)

    def remove(self, session: Session) -> SessionId | None:
        """It has ended; None when it never asked for anything."""
        number = self._numbers.pop(session, None)
        if number is not None:
            del self._by_number[number]
        return number
