"""Steps as they come, until they are a recording."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from triptych.experts.traces.routes import Foreseen, Routes, TracedModel


@dataclass(slots=True)
class RouteLog:
    """Collects steps of one model."""

    model: TracedModel
    _tokens: list[npt.NDArray[np.int32]] = field(default_factory=list)
    _sequences: list[npt.NDArray[np.int32]] = field(default_factory=list)
    _positions: list[npt.NDArray[np.int32]] = field(default_factory=list)
    _ids: list[npt.NDArray[np.integer]] = field(default_factory=list)
    _foreseen: list[Foreseen] = field(default_factory=list)

    def add(
        self,
        tokens: npt.NDArray[np.int32],
        sequences: npt.NDArray[np.int32],
        positions: npt.NDArray[np.int32],
        ids: npt.NDArray[np.integer],
        foreseen: Foreseen,
    ) -> None:
        """A step of T rows: [T] each, ids [L, T, K], foreseen [L − 1, T, C]."""
        small = np.uint8 if self.model.experts <= 256 else np.uint16
        self._tokens.append(tokens)
        self._sequences.append(sequences)
        self._positions.append(positions)
        self._ids.append(ids.astype(small))
        self._foreseen.append(Foreseen(foreseen.experts.astype(small), foreseen.chances))

    def __len__(self) -> int:
        """Steps so far."""
        return len(self._tokens)

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """Those that went in, each once, in ascending order: [U]."""
        return np.unique(np.concatenate(self._tokens))

    def routes(self, embeddings: npt.NDArray[np.floating]) -> Routes:
        """All steps, of which there is at least one.

        Args:
            embeddings: [U, H], of `tokens`.
        """
        return Routes(
            self.model,
            self.tokens,
            embeddings.astype(np.float16),
            np.cumsum([0, *(len(step) for step in self._tokens)], dtype=np.int64),
            np.concatenate(self._tokens),
            np.concatenate(self._sequences),
            np.concatenate(self._positions),
            np.concatenate(self._ids, axis=1),
            Foreseen(
                np.concatenate([step.experts for step in self._foreseen], axis=1),
                np.concatenate([step.chances for step in self._foreseen], axis=1),
            ),
        )
