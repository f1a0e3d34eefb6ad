"""Block tables that followers have too: only what changes in them is told."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.int32]
"""[S, M], the block ids of each sequence of a batch."""


@dataclass(frozen=True, slots=True, eq=False)
class TableRuns:
    """Entries of a block table that have changed.

    Attributes:
        bounds: [N, 3], of each run of entries: row, first column, and the column after the last.
        blocks: [sum of their lengths], the new entries, run after run.
    """

    bounds: Table
    blocks: Table


def changes(table: Table, mirror: Table, lengths: Table) -> TableRuns:
    """What a step needs of a table and its mirror does not have.

    Args:
        table: As it is.
        mirror: As the others have it; at least as large.
        lengths: [S], entries of each of the first rows that are read.
    """
    rows, width = len(lengths), int(lengths.max(initial=0))
    columns = np.arange(width)
    read = columns < lengths[:, None]
    changed = (table[:rows, :width] != mirror[:rows, :width]) & read
    if not changed.any():
        return TableRuns(np.empty((0, 3), np.int32), np.empty(0, np.int32))
    edges = np.diff(changed, axis=1, prepend=False, append=False)
    row, column = np.nonzero(edges)  # of each run its beginning and its end, in turn
    bounds = np.stack((row[::2], column[::2], column[1::2]), axis=1).astype(np.int32)
    return TableRuns(bounds, table[:rows, :width][changed])


def apply(runs: TableRuns, mirror: Table) -> None:
    """Brings a mirror up to date."""
    done = 0
    for row, first, stop in runs.bounds.tolist():
        mirror[row, first:stop] = runs.blocks[done : done + stop - first]
        done += stop - first
