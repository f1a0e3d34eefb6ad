"""What a step is, for a rank that plans nothing: the numbers that it cannot work out itself."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from triptych.engine.ranks.tables import TableRuns
from triptych.engine.sampler import SamplingRow

Numbers: TypeAlias = npt.NDArray[np.int32]
"""Token ids, positions, lengths and numbers of blocks all fit 32 bits."""

NOTHING: Numbers = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class Draws:
    """How the tokens of a step are chosen.

    Attributes:
        rows: One for each row that is scored.
    """

    rows: tuple[SamplingRow, ...]


@dataclass(frozen=True, slots=True)
class Greedy:
    """The likeliest token of each scored row is taken, whatever its score.

    Attributes:
        rows: How many are scored; none where no row ends a sequence.
    """

    rows: int


Choice: TypeAlias = Greedy | Draws


@dataclass(frozen=True, slots=True)
class ShownRows:
    """Rows of a step that are rows of an image.

    Attributes:
        row: First row of the step.
        name: Of the embedding, as it was told.
        first: First row of the embedding.
        count: How many.
    """

    row: int
    name: str
    first: int
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class StepRows:
    """One step of one lane. Its first sequences run one row each, which is scored; then come the chunks of prompts.

    Slots, the bounds of the sequences and the rows that are scored follow from these (`engine.ranks.mirror`).

    Attributes:
        token_ids: [T].
        kv_lengths: [S], tokens in the cache, this step's included.
        chunks: [P, 2], for each of the last sequences: its rows, and 1 if the last of them is scored, else 0.
        tables: What has changed in the block tables.
        positions: [T]; empty where they are the indices of the tokens.
        axes: [3, T], where the three positions of a token differ; else empty.
        adapters: [T], -1 for none; empty when no row has one.
        whole: [N, 3], sequence, first token and the one after the last of images whose tokens see each other.
        shown: Rows that are not of the token table.
        choice: How the tokens are chosen.
    """

    token_ids: Numbers
    kv_lengths: Numbers
    chunks: Numbers
    tables: TableRuns
    positions: Numbers
    axes: Numbers
    adapters: Numbers
    whole: Numbers
    shown: tuple[ShownRows, ...]
    choice: Choice
