"""The text side of one generation in the offline engine."""

from dataclasses import dataclass

from triptych.core.generation import FinishReason, GeneratedToken, PositionLogprobs
from triptych.core.sampling import SamplingParams
from triptych.models.detokenize import IncrementalDetokenizer
from triptych.models.text import TextProcessor


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished generation.

    Attributes:
        token_ids: Generated tokens, the end-of-sequence token included when there was one.
        text: Their text, without special tokens and up to the stop text.
        logprobs: One entry per token when they were asked for.
    """

    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    logprobs: tuple[PositionLogprobs, ...] | None = None


class Answer:
    """Collects the tokens of one sequence, and finds its stop texts."""

    def __init__(self, prompt_token_ids: tuple[int, ...], params: SamplingParams, text: TextProcessor) -> None:
        self._prompt_token_ids = prompt_token_ids
        self._params = params
        self._detokenizer = IncrementalDetokenizer(text, params.stop)
        self._tokens: list[GeneratedToken] = []
        self._text: list[str] = []

    def push(self, token: GeneratedToken) -> bool:
        """Takes a token; True when a stop text is complete."""
        self._tokens.append(token)
        self._text.append(self._detokenizer.push([token.token_id]))
        return self._detokenizer.stopped

    def finish(self, reason: FinishReason) -> Completion:
        """The whole answer."""
        self._text.append(self._detokenizer.finish())
        logprobs = (
            tuple(t.logprobs for t in self._tokens if t.logprobs) if self._params.logprobs is not None else None
        )
        return Completion(
            prompt_token_ids=self._prompt_token_ids,
            token_ids=tuple(t.token_id for t in self._tokens),
            text="".join(self._text),
            finish_reason=reason,
            logprobs=logprobs,
        )
