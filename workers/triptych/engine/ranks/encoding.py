"""A step as bytes: the sizes of its parts, then the parts.

    sizes    [14] int32: of each array of numbers, rows that are scored, bytes of their records, bytes of the names
    numbers  int32, array after array
    records  one of 80 bytes for each row that is drawn; none where every row takes its likeliest token
    names    of embeddings, UTF-8, ended by zeros

All little-endian. A step of n answers that are not sampled takes 56 + 8 n bytes, and 16 more for each new block.
"""

from itertools import accumulate, pairwise

import numpy as np

from triptych.engine.ranks.choices import pack_choice, unpack_choice
from triptych.engine.ranks.rows import Numbers, ShownRows, StepRows
from triptych.engine.ranks.tables import TableRuns

_ARRAYS = 11
_INT32 = np.dtype("<i4")
_HEADER = (_ARRAYS + 3) * _INT32.itemsize


def encode(step: StepRows) -> bytes:
    """The bytes of a step."""
    scored, records, tokens = pack_choice(step.choice)
    shown = np.array([(s.row, s.first, s.count) for s in step.shown], _INT32)
    arrays = (
        step.token_ids, step.kv_lengths, step.chunks, step.tables.bounds, step.tables.blocks,
        step.positions, step.axes, step.adapters, step.whole, shown, tokens,
    )  # fmt: skip
    names = b"".join(s.name.encode() + b"\0" for s in step.shown)
    sizes = np.array([*(a.size for a in arrays), scored, len(records), len(names)], _INT32)
    return b"".join([sizes.tobytes(), *(a.astype(_INT32, copy=False).tobytes() for a in arrays), records, names])


def decode(data: bytes) -> StepRows:
    """The step of some bytes; its arrays are views of them."""
    sizes = np.frombuffer(data, _INT32, _ARRAYS + 3).tolist()
    ends = list(accumulate([_HEADER, *(size * _INT32.itemsize for size in sizes[:_ARRAYS])]))
    arrays = [np.frombuffer(data[a:b], _INT32) for a, b in pairwise(ends)]
    token_ids, kv_lengths, chunks, bounds, blocks, positions, axes, adapters, whole, shown, tokens = arrays
    scored, records, names = sizes[_ARRAYS:]
    drawn = data[ends[-1] : ends[-1] + records]
    return StepRows(
        token_ids=token_ids,
        kv_lengths=kv_lengths,
        chunks=chunks.reshape(-1, 2),
        tables=TableRuns(bounds.reshape(-1, 3), blocks),
        positions=positions,
        axes=axes.reshape(3, -1),
        adapters=adapters,
        whole=whole.reshape(-1, 3),
        shown=_shown(shown.reshape(-1, 3), data[len(data) - names :]),
        choice=unpack_choice(scored, drawn, tokens),
    )


def _shown(rows: Numbers, names: bytes) -> tuple[ShownRows, ...]:
    each = names.decode().split("\0")
    return tuple(
        ShownRows(row, name, first, count) for (row, first, count), name in zip(rows.tolist(), each, strict=False)
    )
