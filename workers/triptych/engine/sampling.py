"""How the engine chooses the tokens of one sequence: a request's parameters with nothing left open."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from triptych.core.sampling import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """See `SamplingParams` for limits and meaning; this is what a step reads, once per token.

    Attributes:
        ends: Tokens that end the answer: the request's stop ids, and the model's own unless they are ignored.
        min_tokens: Before so many tokens none of `ends` can be chosen.
        plain: The likeliest token is taken as the scores are, and nothing is reported: no score has to be looked at.
    """

    ends: frozenset[int] = frozenset()
    min_tokens: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    logprobs: int | None = None
    plain: bool = field(init=False)

    def __post_init__(self) -> None:
        """Works `plain` out, which is asked for in every step."""
        plain = self.greedy and not self.penalised and self.logprobs is None and not (self.min_tokens and self.ends)
        object.__setattr__(self, "plain", plain)

    @classmethod
    def of(cls, params: SamplingParams, eos_token_ids: Iterable[int]) -> Self:
        """The parameters of a request; one that is still unset gets the neutral value.

        Args:
            params: With the model's own defaults already in it.
            eos_token_ids: The model's.
        """
        given = {
            "repetition_penalty": params.repetition_penalty,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "min_p": params.min_p,
        }
        return cls(
            ends=params.ends(eos_token_ids),
            min_tokens=params.min_tokens,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            top_k=params.top_k or 0,
            logprobs=params.logprobs,
            **{name: value for name, value in given.items() if value is not None},
        )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0.0

    @property
    def penalised(self) -> bool:
        """Whether logits depend on the tokens seen so far."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0
