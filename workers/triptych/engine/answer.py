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
        others: Answers 1 to n - 1 where several were asked for; this is answer 0.
    """

    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    logprobs: tuple[PositionLogprobs, ...] | None = None
    others: tuple["Completion", ...] = ()


class Answer:
    """Collects the tokens of one sequence, and finds its stop texts."""

    def __init__(
        self,
        prompt_token_ids: tuple[int, ...],
        params: SamplingParams,
        text: TextProcessor,
        eos_token_ids: tuple[int, ...],
    ) -> None:
        self._prompt_token_ids = prompt_token_ids
        self._params = params
        self._processor = text
        self._detokenizer = IncrementalDetokenizer.of(text, params, eos_token_ids)
        self._token_ids: list[int] = []
        self._logprobs: list[PositionLogprobs] = []
        self._text: list[str] = []

    def push(self, token_id: int, logprobs: PositionLogprobs | None) -> bool:
        """Takes a token; True when a stop text is complete."""
        self._token_ids.append(token_id)
        if logprobs is not None and (named := self._processor.named(GeneratedToken(token_id, logprobs))):
            self._logprobs.append(named)
        self._text.append(self._detokenizer.push([token_id]))
        return self._detokenizer.stopped

    def finish(self, reason: FinishReason) -> Completion:
        """The whole answer."""
        self._text.append(self._detokenizer.finish())
        return Completion(
            prompt_token_ids=self._prompt_token_ids,
            token_ids=tuple(self._token_ids),
            text="".join(self._text),
            finish_reason=reason,
            logprobs=tuple(self._logprobs) if self._params.logprobs is not None else None,
        )
