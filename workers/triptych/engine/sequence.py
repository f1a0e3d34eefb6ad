"""A request as the engine sees it: tokens, lengths and blocks."""

import enum
from dataclasses import dataclass, field

from torch import Tensor

from triptych.core.generation import FinishReason, OperationKey
from triptych.core.positions import Grid
from triptych.engine.positions import Positions, positions_of
from triptych.engine.sampling import Sampling


class Goal(enum.Enum):
    """How far a sequence is taken on this engine."""

    FIRST_TOKEN = enum.auto()
    """Prefill and one token; somebody else decodes."""
    ANSWER = enum.auto()
    """Up to the end of the answer."""


@dataclass(frozen=True, slots=True)
class Media:
    """Rows of an embedding that stand for tokens of the prompt.

    Attributes:
        start: Index of the first token.
        length: Number of tokens.
        values: [length, hidden]; None on a decode worker, which received KV instead and would have to fetch them
            before it could compute that KV again.
        content: Names what was embedded, as `triptych.models.images.content_hash` does: equal names, equal values.
        row: First row of the embedding.
        grid: How the rows lie, where the model has three positions.
        deepstack: [levels, length, hidden], what is added behind the first layers.
    """

    start: int
    length: int
    values: Tensor | None
    content: str
    row: int = 0
    grid: Grid | None = None
    deepstack: Tensor | None = None


@dataclass(slots=True, eq=False)
class Sequence:
    """One attempt at one request. The lengths are the state: `computed <= len(token_ids) <= limit`.

    Attributes:
        token_ids: Prompt and emitted tokens.
        prompt_length: How many of them are the prompt.
        limit: Length at which generation ends.
        computed: Leading tokens whose KV is in the cache.
        blocks: Block ids; token i lies in blocks[i // block_size]. The list only grows; a new one follows when all
            blocks were given back.
        findable: Leading blocks that others may find by their content.
        digests: Names of the leading full blocks, as far as they have been worked out (`engine.digests`).
        cached_tokens: Prompt tokens whose KV was there when the sequence first got blocks; None before.
        positions: Of its tokens, where they are not the indices.
        adapter: Name of the adapter that computes it; empty for the model as it is.
    """

    key: OperationKey
    token_ids: list[int]
    prompt_length: int
    params: Sampling
    seed: int
    limit: int
    goal: Goal = Goal.ANSWER
    media: tuple[Media, ...] = ()
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    findable: int = 0
    digests: list[bytes] = field(default_factory=list)
    cached_tokens: int | None = None
    finish_reason: FinishReason | None = None
    adapter: str = ""
    positions: Positions | None = field(init=False)

    def __post_init__(self) -> None:
        self.positions = positions_of(self.prompt_length, self.media)

    @property
    def pending(self) -> int:
        """Tokens whose KV is still to be computed; 1 while decoding."""
        return len(self.token_ids) - self.computed

    @property
    def generated(self) -> int:
        """Tokens emitted so far, by this engine or before it."""
        return len(self.token_ids) - self.prompt_length

    @property
    def can_recompute(self) -> bool:
        """Whether the KV could be computed again from what is at hand."""
        return all(media.values is not None for media in self.media)
