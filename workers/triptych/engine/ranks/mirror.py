"""The input of a step as a follower makes it: from what it was told, and the tables that it keeps."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from triptych.engine.ranks.images import HeldEmbeddings
from triptych.engine.ranks.rows import Numbers, StepRows
from triptych.engine.ranks.tables import Table, apply
from triptych.kernels import AttentionBatch
from triptych.models.step import StepInput, TokenAxes


class Mirror:
    """Turns what rank 0 says of its steps into step inputs.

    Args:
        sequences: Of the largest step.
        blocks: Of the longest sequence.
        block_size: Tokens per block.
        device: Of the decoder.

    Attributes:
        embeddings: Of images.
    """

    def __init__(self, sequences: int, blocks: int, block_size: int, device: torch.device) -> None:
        self.embeddings = HeldEmbeddings()
        self._block_size = block_size
        self._device = device
        self._tables: Table = np.zeros((sequences, blocks), np.int32)

    def step(self, rows: StepRows) -> StepInput:
        """The input of the step that follows the last one; its tables are valid until the next call."""
        apply(rows.tables, self._tables)
        sequences = len(rows.kv_lengths)
        lengths = row_counts(rows)
        bounds = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        indices = token_indices(rows.kv_lengths, lengths)
        return StepInput(
            token_ids=self._index(rows.token_ids),
            positions=self._index(rows.positions if rows.positions.size else indices),
            slots=self._index(self._slots(np.repeat(np.arange(sequences), lengths), indices)),
            attention=AttentionBatch(
                torch.from_numpy(bounds),
                torch.from_numpy(rows.kv_lengths.copy()),
                torch.from_numpy(self._tables[:sequences]),
                tuple((s, first, stop) for s, first, stop in rows.whole.tolist()),
            ),
            logit_rows=self._index(bounds[1:][scored(rows)] - 1),
            embeddings=self.embeddings.rows(rows.shown),
            axes=TokenAxes(torch.from_numpy(rows.axes.astype(np.int64))) if rows.axes.size else None,
            adapters=torch.from_numpy(rows.adapters.copy()).to(self._device) if rows.adapters.size else None,
        )

    def _slots(self, sequences: Numbers, indices: Numbers) -> Numbers:
        page, offset = np.divmod(indices, self._block_size)
        slots: Numbers = self._tables[sequences, page] * np.int64(self._block_size) + offset
        return slots

    def _index(self, values: Numbers) -> Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self._device)


def row_counts(rows: StepRows) -> Numbers:
    """[S], rows of each sequence."""
    singles = len(rows.kv_lengths) - len(rows.chunks)
    return np.concatenate((np.ones(singles, np.int32), rows.chunks[:, 0]), dtype=np.int32)


def token_indices(kv_lengths: Numbers, lengths: Numbers) -> Numbers:
    """[T], the index of each row's token in its sequence: a sequence's rows are its newest tokens."""
    first = np.repeat(kv_lengths - np.cumsum(lengths, dtype=np.int32), lengths)
    return np.add(first, np.arange(len(first)), dtype=np.int32)


def scored(rows: StepRows) -> npt.NDArray[np.bool_]:
    """[S], whether the last row of each sequence is scored."""
    singles = len(rows.kv_lengths) - len(rows.chunks)
    return np.concatenate((np.ones(singles, np.bool_), rows.chunks[:, 1] != 0))
