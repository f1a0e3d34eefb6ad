"""The input of a step as tensors that stay where they are.

Every step writes into the same memory, so that a recorded step can be run again on the addresses that it recorded.
What a sequence keeps from one step to the next, its row of the block table, is only added to.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from triptych.engine.adapter_rows import AdapterRows
from triptych.engine.plan import Chunk, StepPlan
from triptych.engine.sequence import Sequence
from triptych.engine.step_images import Seen, see, token_axes
from triptych.kernels import AttentionBatch
from triptych.models.step import StepInput


@dataclass(frozen=True, slots=True, eq=False)
class _Foreseen:
    """Rows of the next step, should each of these sequences get its token and go on.

    Attributes:
        places: [2, sequences], position and slot of each.
        lengths: [sequences], tokens in the cache.
    """

    sequences: tuple[Sequence, ...]
    blocks: list[list[int]]
    places: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]

    def came(self, decodes: tuple[Sequence, ...]) -> bool:
        """Whether they did, all of them and nobody else, in the blocks that they had."""
        return self.sequences == decodes and self.blocks == [s.blocks for s in decodes]


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """The first rows of each tensor, on the CPU."""

    shape: tuple[int, int, int]
    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    logit_rows: Tensor
    query_start: Tensor
    kv_lengths: Tensor
    block_tables: Tensor


class BatchTable:
    """Turns plans into step inputs.

    Args:
        rows: Tokens of the largest step.
        sequences: Sequences of the largest step.
        blocks: Blocks of the longest sequence.
        block_size: Tokens per block.
        device: Of the decoder; anywhere but on the CPU the index tensors are copied there.
        whole_images: The tokens of an image see each other.
        adapters: Of the decoder, by number.
        first_block: Id of the first block of the pool, which is number 0 there.

    Attributes:
        rows: Tokens of the largest step.
        sequences: Sequences of the largest step.
        block_size: Tokens per block.
        block_tables: [sequences, blocks], the block numbers of each sequence of the last step; the rest is undefined.
        views: The last step's index tensors.
    """

    def __init__(
        self,
        rows: int,
        sequences: int,
        blocks: int,
        block_size: int,
        device: torch.device,
        *,
        whole_images: bool = False,
        adapters: tuple[str, ...] = (),
        first_block: int = 0,
    ) -> None:
        self._first_block = first_block
        self.rows = rows
        self.sequences = sequences
        self.block_size = block_size
        self._device = device
        self._whole_images = whole_images
        self._adapters = AdapterRows(rows, adapters, device) if adapters else None
        places = torch.zeros(2, rows, dtype=torch.int64)
        self._tensors = Views(
            (rows, sequences, sequences),
            token_ids=torch.zeros(rows, dtype=torch.int64),
            positions=places[0],
            slots=places[1],
            logit_rows=torch.zeros(sequences, dtype=torch.int64),
            query_start=torch.zeros(sequences + 1, dtype=torch.int32),
            kv_lengths=torch.zeros(sequences, dtype=torch.int32),
            block_tables=torch.zeros(sequences, blocks, dtype=torch.int32),
        )
        self._token_ids: npt.NDArray[np.int64] = self._tensors.token_ids.numpy()
        self._places: npt.NDArray[np.int64] = places.numpy()
        self._logit_rows: npt.NDArray[np.int64] = self._tensors.logit_rows.numpy()
        self._query_start: npt.NDArray[np.int32] = self._tensors.query_start.numpy()
        self._kv_lengths: npt.NDArray[np.int32] = self._tensors.kv_lengths.numpy()
        self.block_tables: npt.NDArray[np.int32] = self._tensors.block_tables.numpy()
        self._count = np.arange(max(rows, sequences) + 1)
        self._written: list[tuple[list[int] | None, int]] = [(None, 0)] * sequences  # the blocks in each table row
        self._single = 0  # so many leading sequences are known to be of one row each, which yields a token
        self._foreseen: _Foreseen | None = None
        self.views = self._tensors

    def of_lane(self, first_block: int) -> "BatchTable":
        """Another one alike, for the pool of another lane."""
        sequences, blocks = self.block_tables.shape
        adapters = self._adapters.names if self._adapters else ()
        return BatchTable(
            self.rows,
            sequences,
            blocks,
            self.block_size,
            self._device,
            whole_images=self._whole_images,
            adapters=adapters,
            first_block=first_block,
        )

    def fill(self, plan: StepPlan) -> StepInput:
        """The varlen batch of a plan; valid until the next call. No step may be computing on the last one."""
        self._write_block_tables(plan)
        self._write_decodes(plan.decodes)
        row = sampling = len(plan.decodes)
        seen: list[Seen] = []
        for place, sequence in enumerate(plan.decodes):
            if sequence.media:
                if sequence.computed < sequence.prompt_length:  # a prompt may end with an image
                    seen.append(self._see(sequence, range(sequence.computed, sequence.computed + 1), place, place))
                elif sequence.positions is not None:
                    self._places[0, place] += sequence.positions.shift
        if plan.prompts:
            self._single = len(plan.decodes)
        for place, chunk in enumerate(plan.prompts, len(plan.decodes)):
            self._write_prompt(place, row, chunk)
            if chunk.sequence.media:
                seen.append(self._see(chunk.sequence, range(chunk.start, chunk.start + chunk.length), place, row))
            row += chunk.length
            if chunk.samples:
                self._logit_rows[sampling] = row - 1
                sampling += 1
        adapters = self._adapters.of(plan) if self._adapters else None
        return self._input((row, len(plan.decodes) + len(plan.prompts), sampling), seen, adapters)

    def foresee(self, sequences: tuple[Sequence, ...]) -> None:
        """Works out the next step's rows of sequences that get a token in this one, while it computes.

        Args:
            sequences: In their order; each has the block that its next token goes to.
        """
        size = self.block_size
        lengths = [len(s.token_ids) for s in sequences]
        slots = [s.blocks[n // size] * size + n % size for s, n in zip(sequences, lengths, strict=True)]
        places = np.array((lengths, slots), np.int64)
        if self._first_block:
            places[1] -= self._first_block * size
        blocks = [s.blocks for s in sequences]
        self._foreseen = _Foreseen(sequences, blocks, places, (places[0] + 1).astype(np.int32))

    def _write_decodes(self, decodes: tuple[Sequence, ...]) -> None:
        n, foreseen = len(decodes), self._foreseen
        self._foreseen = None
        self._token_ids[:n] = [s.token_ids[-1] for s in decodes]
        if foreseen is not None and foreseen.came(decodes):
            self._places[:, :n] = foreseen.places
            self._kv_lengths[:n] = foreseen.lengths
        else:
            positions = self._places[0, :n]
            positions[:] = [s.computed for s in decodes]
            self._places[1, :n] = self._slots_of(self._count[:n], positions)
            self._kv_lengths[:n] = positions + 1
        if n > self._single:
            self._query_start[: n + 1] = self._count[: n + 1]
            self._logit_rows[:n] = self._count[:n]
            self._single = n

    def _write_prompt(self, place: int, row: int, chunk: Chunk) -> None:
        stop, end = chunk.start + chunk.length, row + chunk.length
        positions = np.arange(chunk.start, stop)
        self._token_ids[row:end] = chunk.sequence.token_ids[chunk.start : stop]
        self._places[:, row:end] = positions, self._slots_of(place, positions)
        self._kv_lengths[place] = stop
        self._query_start[place + 1] = end

    def _see(self, sequence: Sequence, tokens: range, place: int, row: int) -> Seen:
        """Looks at a sequence's images, and moves the rows of these tokens to their positions."""
        images = see(sequence, tokens, place, row, whole_images=self._whole_images)
        if images.axes is not None:
            self._places[0, row : row + len(tokens)] = images.axes[0]
        return images

    def _slots_of(
        self, table_rows: int | npt.NDArray[np.int64], positions: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        index, offset = np.divmod(positions, self.block_size)
        slots: npt.NDArray[np.int64] = self.block_tables[table_rows, index] * np.int64(self.block_size) + offset
        return slots

    def _write_block_tables(self, plan: StepPlan) -> None:
        for row, sequence in enumerate(plan.sequences):
            blocks, count = self._written[row]
            if blocks is not sequence.blocks or count != len(blocks):
                self._write_block_row(row, sequence.blocks)

    def _write_block_row(self, row: int, blocks: list[int]) -> None:
        """Adds to the row if it is the sequence's already, moves it up if it is further down, or writes it anew."""
        owner, done = self._written[row]
        if owner is not blocks:
            rows = range(row + 1, len(self._written))
            source = next((r for r in rows if self._written[r][0] is blocks), None)
            done = 0 if source is None else self._written[source][1]
            if source is not None:
                self.block_tables[row, :done] = self.block_tables[source, :done]
        self.block_tables[row, done : len(blocks)] = blocks[done:]
        if self._first_block:
            self.block_tables[row, done : len(blocks)] -= self._first_block
        self._written[row] = (blocks, len(blocks))

    def _input(self, shape: tuple[int, int, int], seen: list[Seen], adapters: Tensor | None) -> StepInput:
        if self.views.shape != shape:
            self.views = self._first(*shape)
        views = self.views
        return StepInput(
            token_ids=views.token_ids.to(self._device),
            positions=views.positions.to(self._device),
            slots=views.slots.to(self._device),
            attention=AttentionBatch(
                views.query_start,
                views.kv_lengths,
                views.block_tables,
                tuple([span for images in seen for span in images.whole]) if seen else (),
            ),
            logit_rows=views.logit_rows.to(self._device),
            embeddings=tuple([rows for images in seen for rows in images.embeddings]) if seen else (),
            axes=token_axes(self._places[0, : shape[0]], seen) if seen else None,
            adapters=adapters,
        )

    def _first(self, rows: int, sequences: int, sampling: int) -> Views:
        whole = self._tensors
        return Views(
            (rows, sequences, sampling),
            token_ids=whole.token_ids[:rows],
            positions=whole.positions[:rows],
            slots=whole.slots[:rows],
            logit_rows=whole.logit_rows[:sampling],
            query_start=whole.query_start[: sequences + 1],
            kv_lengths=whole.kv_lengths[:sequences],
            block_tables=whole.block_tables[:sequences],
        )
