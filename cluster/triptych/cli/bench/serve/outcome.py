"""What became of one request, as its client saw it."""

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Message:
    """Tokens that arrived together, and when, in seconds after the beginning of the run."""

    at: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request from the moment it was due. Times are seconds after the beginning of the run.

    Attributes:
        due: When it should have been sent; latencies count from here, so that a slow client hides nothing.
        sent: When it was.
        messages: The tokens as they came.
        ended: When the answer or the error was complete.
        error: Class of the error that ended it; None when it was answered.
    """

    due: float
    sent: float
    messages: tuple[Message, ...]
    ended: float
    error: str | None = None

    @property
    def tokens(self) -> int:
        """Tokens that arrived."""
        return sum(message.tokens for message in self.messages)

    @property
    def answered(self) -> bool:
        """It ended without error, and brought a token."""
        return self.error is None and bool(self.messages)

    @property
    def first_token(self) -> float:
        """Seconds from being due to the first token (TTFT); only of an answered request."""
        return self.messages[0].at - self.due

    @property
    def end_to_end(self) -> float:
        """Seconds from being due to the end (E2E)."""
        return self.ended - self.due

    @property
    def per_token(self) -> float | None:
        """Mean seconds per token after the first message (TPOT); None when everything came at once."""
        rest = self.tokens - self.messages[0].tokens
        return (self.messages[-1].at - self.messages[0].at) / rest if rest else None

    @property
    def gaps(self) -> tuple[float, ...]:
        """Seconds between one message and the next (ITL)."""
        return tuple(later.at - earlier.at for earlier, later in pairwise(self.messages))
