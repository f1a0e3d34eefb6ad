"""The text of one answer as its tokens come, up to the first stop text."""

from collections.abc import Iterable, Sequence
from typing import Protocol, Self

from triptych.core.sampling import SamplingParams
from triptych.models.token_stream import TokenStream


class OpensStreams(Protocol):
    """What a detokenizer needs of a `TextProcessor`."""

    def open_stream(self, hidden: frozenset[int] | None = None) -> TokenStream:
        """A stream for one sequence; see `TextProcessor.open_stream`."""


class IncrementalDetokenizer:
    """Turns the tokens of one answer into text that is final.

    Held back are the bytes of an unfinished character and any end of the text that may be the beginning of a stop
    text. Everything returned, put together, is the text of all tokens without special ones, cut before the stop text;
    it does not depend on how the tokens were split into calls. Of several stop texts the one that is complete first
    counts, and of those complete at the same character the longest.

    Args:
        processor: Of the model.
        stop: Texts that end the answer.
        min_tokens: A stop text has to begin behind so many tokens.
        hidden: Tokens without text; None for every special token.

    Attributes:
        stopped: A stop text is complete; later tokens are ignored.
        tokens: How many tokens were taken, the one that completed the stop text included.
    """

    def __init__(
        self,
        processor: OpensStreams,
        stop: Sequence[str] = (),
        *,
        min_tokens: int = 0,
        hidden: frozenset[int] | None = None,
    ) -> None:
        self.stopped = False
        self.tokens = 0
        self._stream = processor.open_stream(hidden)
        self._stop = tuple(stop)
        self._min_tokens = min_tokens
        self._held = ""

    @classmethod
    def of(cls, processor: OpensStreams, params: SamplingParams, eos_token_ids: Iterable[int]) -> Self:
        """For an answer with these parameters; `eos_token_ids` are the model's."""
        hidden = None if params.skip_special_tokens else params.ends(eos_token_ids)
        return cls(processor, params.stop, min_tokens=params.min_tokens, hidden=hidden)

    def push(self, token_ids: Iterable[int]) -> str:
        """Takes tokens; returns the text that became final, often empty."""
        pieces = []
        for token_id in token_ids:
            if self.stopped:
                break
            self.tokens += 1
            pieces.append(self._advance(self._stream.push(token_id)))
        return "".join(pieces)

    def prime(self, token_ids: Iterable[int]) -> None:
        """Takes tokens whose text is known elsewhere: what `push` and `finish` return goes on behind it."""
        self.push(token_ids)

    def finish(self) -> str:
        """Ends the answer; returns what was held back, nothing after a stop text."""
        if self.stopped:
            return ""
        text = self._advance(self._stream.flush()) + self._held
        self._held = ""
        return text

    def _advance(self, piece: str) -> str:
        if not piece or self.tokens <= self._min_tokens:
            return piece
        text = self._held + piece
        cut = _first_stop(text, self._stop)
        if cut is not None:
            self.stopped, self._held = True, ""
            return text[:cut]
        keep = _possible_stop(text, self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _first_stop(text: str, stop: tuple[str, ...]) -> int | None:
    """Where the stop text begins that is complete first; the longest of those that end together."""
    found = [(start + len(word), start) for word in stop if (start := text.find(word)) >= 0]
    return min(found)[1] if found else None


def _possible_stop(text: str, stop: tuple[str, ...]) -> int:
    """Length of the longest end of `text` that begins a stop text."""
    for length in range(min(len(text), max(map(len, stop), default=1) - 1), 0, -1):
        if any(word.startswith(text[-length:]) for word in stop):
            return length
    return 0
