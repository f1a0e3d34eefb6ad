"""What a recording holds: steps, their rows, and the experts that each row went through."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Demand = tuple[tuple[int, ...], ...]
"""Of a step, by layer: the experts that any of its rows needs, in ascending order."""


@dataclass(frozen=True, slots=True)
class TracedModel:
    """Whose routes they are.

    Attributes:
        name: As its user named it.
        digest: Of its routers: another checkpoint of the same name has another.
        layers: That have experts; only these are numbered, from 0.
        experts: E, of each of them.
        top_k: K, of each row.
        hidden: H, elements of a row.
        blob: Bytes of an expert, as it is read.
        resident: Bytes of it where all are in memory.
    """

    name: str
    digest: str
    layers: int
    experts: int
    top_k: int
    hidden: int
    blob: int
    resident: int


@dataclass(frozen=True, slots=True, eq=False)
class Foreseen:
    """Whom the router of every layer but the first would choose on what the layer before gives its own router.

    Attributes:
        experts: [L − 1, R, C], likeliest first; C is more than K.
        chances: [L − 1, R, C] float16, their softmax.
    """

    experts: npt.NDArray[np.integer]
    chances: npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """A recording of S steps with R rows in all.

    Attributes:
        model: Whose.
        vocabulary: [U] int32, the tokens that occur, in ascending order.
        embeddings: [U, H] float16: what each of them goes into the first layer as.
        steps: [S + 1] int64: the first row of each step, and the end of the last.
        tokens: [R] int32, the tokens that went in.
        sequences: [R] int32, numbered from 0 as they came.
        positions: [R] int32, of the tokens in their sequences.
        ids: [L, R, K], in the router's order.
        foreseen: By the routers of the layers to come.
    """

    model: TracedModel
    vocabulary: npt.NDArray[np.int32]
    embeddings: npt.NDArray[np.float16]
    steps: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int32]
    sequences: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    ids: npt.NDArray[np.integer]
    foreseen: Foreseen

    def __len__(self) -> int:
        """Steps."""
        return len(self.steps) - 1

    def rows(self) -> Iterator[slice]:
        """Of each step."""
        for start, stop in zip(self.steps[:-1].tolist(), self.steps[1:].tolist(), strict=True):
            yield slice(start, stop)

    def embedded(self) -> npt.NDArray[np.float32]:
        """[R, H]: what each row goes into the first layer as."""
        return self.embeddings[np.searchsorted(self.vocabulary, self.tokens)].astype(np.float32)

    def demands(self) -> tuple[Demand, ...]:
        """What the layers of each step needed."""
        layers = range(self.model.layers)
        return tuple(
            tuple(tuple(np.unique(self.ids[layer, rows]).tolist()) for layer in layers) for rows in self.rows()
        )

    def decoding(self) -> npt.NDArray[np.bool_]:
        """[S], whether every row of a step is a sequence's only one, and not its first."""
        return np.array(
            [
                bool(self.positions[rows].all()) and len(np.unique(self.sequences[rows])) == rows.stop - rows.start
                for rows in self.rows()
            ],
            dtype=np.bool_,
        )
