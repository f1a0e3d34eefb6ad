"""What a generation yields: tokens with their log-probabilities, and why it ended."""

import enum
from dataclasses import dataclass


class FinishReason(enum.StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    """A stop text, a stop id or the model's end-of-sequence token."""
    LENGTH = "length"
    """`max_tokens` or the end of the context."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability before any sampling parameter is applied.

    Attributes:
        token: Its part of the text: bytes, because a character may lie across tokens. Empty where only ids are known.
    """

    token_id: int
    logprob: float
    token: bytes = b""


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """Log-probabilities at one generated position.

    Attributes:
        logprob: Of the token that was chosen.
        top: The likeliest tokens, best first; as many as were asked for.
        token: The chosen token's part of the text, as in `TokenLogprob`.
    """

    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    token: bytes = b""


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One token of an answer."""

    token_id: int
    logprobs: PositionLogprobs | None = None


@dataclass(frozen=True, slots=True)
class OperationKey:
    """Identity of one attempt at one request; an event of an older epoch is ignored."""

    request_id: str
    epoch: int = 0
