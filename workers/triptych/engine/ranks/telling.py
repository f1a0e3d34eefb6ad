"""What rank 0 tells the ranks of a lane: its plan, as far as they cannot work it out themselves."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from triptych.engine.batch_table import BatchTable
from triptych.engine.plan import StepPlan
from triptych.engine.ranks.encoding import encode
from triptych.engine.ranks.images import DropEmbedding, HeldNames, HoldEmbedding, images_of
from triptych.engine.ranks.messages import Step
from triptych.engine.ranks.mirror import token_indices
from triptych.engine.ranks.rows import NOTHING, Choice, Draws, Greedy, Numbers, StepRows
from triptych.engine.ranks.tables import Table, apply, changes
from triptych.engine.sampler import SamplingRow
from triptych.models.step import StepInput

Told: TypeAlias = HoldEmbedding | DropEmbedding | Step


class Teller:
    """Knows what the followers of one lane have been told.

    Args:
        table: The tensors of the lane's steps.
    """

    def __init__(self, table: BatchTable) -> None:
        self._table = table
        self._mirror: Table = np.zeros_like(table.block_tables)
        self._names = HeldNames()

    def tell(self, plan: StepPlan, step: StepInput, choice: Choice) -> Iterator[Told]:
        """All that they have to know of a step.

        Args:
            plan: The step.
            step: What `BatchTable.fill` has made of it.
            choice: How its tokens are chosen.
        """
        images = images_of(plan)
        yield from self._names.before(media for media, _ in images)
        kv_lengths = step.attention.kv_lengths.numpy()
        blocks = -(-kv_lengths // self._table.block_size)
        runs = changes(self._table.block_tables, self._mirror, blocks)
        apply(runs, self._mirror)
        rows = StepRows(
            token_ids=_numbers(self._table.views.token_ids.numpy()),
            kv_lengths=kv_lengths,
            chunks=np.array([(chunk.length, chunk.samples) for chunk in plan.prompts], np.int32).reshape(-1, 2),
            tables=runs,
            positions=self._positions(kv_lengths, step),
            axes=NOTHING if step.axes is None else _numbers(step.axes.values.numpy()),
            adapters=NOTHING if step.adapters is None else step.adapters.cpu().numpy(),
            whole=np.array(step.attention.images, np.int32).reshape(-1, 3),
            shown=tuple(rows for _, rows in images),
            choice=choice,
        )
        yield Step(encode(rows))

    def _positions(self, kv_lengths: Numbers, step: StepInput) -> Numbers:
        """Nothing, where positions are the indices of the tokens."""
        positions = self._table.views.positions.numpy()
        indices = token_indices(kv_lengths, np.diff(step.attention.query_start.numpy()))
        return NOTHING if np.array_equal(positions, indices) else _numbers(positions)


def choice_of(plan: StepPlan) -> Choice:
    """How the tokens of a step are chosen."""
    sampling = plan.sampling
    if all(sequence.params.plain for sequence in sampling):
        return Greedy(len(sampling))
    return Draws(tuple(SamplingRow.of(sequence) for sequence in sampling))


def _numbers(values: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Numbers:
    return values.astype(np.int32)
