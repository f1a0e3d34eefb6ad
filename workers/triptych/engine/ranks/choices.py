"""How the rows of a step are drawn, as bytes: a record of fixed size for each, and the token ids that it needs."""

import struct
from itertools import accumulate, pairwise
from typing import Any, assert_never

import numpy as np

from triptych.engine.penalties import Seen
from triptych.engine.ranks.rows import NOTHING, Choice, Draws, Greedy, Numbers
from triptych.engine.sampler import SamplingRow
from triptych.engine.sampling import Sampling

_NONE = -1
_FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_RECORD = struct.Struct("<Q6d6i")
"""Seed; `_FLOATS`; generated, top_k, min_tokens, logprobs; how many tokens end the answer, and how many were seen."""


def pack_choice(choice: Choice) -> tuple[int, bytes, Numbers]:
    """Rows, records and token ids; there are no records where every row takes the likeliest token."""
    match choice:
        case Greedy(rows):
            return rows, b"", NOTHING
        case Draws(rows):
            lists = [np.array(tokens, np.int32) for row in rows for tokens in _tokens(row)]
            return len(rows), b"".join(map(_record, rows)), np.concatenate(lists)
        case _:
            assert_never(choice)


def unpack_choice(rows: int, records: bytes, tokens: Numbers) -> Choice:
    """What `pack_choice` was given."""
    if not records:
        return Greedy(rows)
    fields = list(_RECORD.iter_unpack(records))
    sizes = [size for *_, ends, seen in fields for size in (ends, max(0, seen), max(0, seen))]
    pieces = [tokens[a:b].tolist() for a, b in pairwise(accumulate(sizes, initial=0))]
    return Draws(tuple(_row(record, *pieces[3 * i : 3 * i + 3]) for i, record in enumerate(fields)))


def _tokens(row: SamplingRow) -> tuple[tuple[int, ...], ...]:
    """The lists that belong to a row, in the order of the bytes."""
    seen = row.seen or Seen((), ())
    return tuple(row.params.ends), seen.token_ids, seen.counts


def _record(row: SamplingRow) -> bytes:
    params = row.params
    return _RECORD.pack(
        row.seed,
        *(getattr(params, name) for name in _FLOATS),
        row.generated,
        params.top_k,
        params.min_tokens,
        _NONE if params.logprobs is None else params.logprobs,
        len(params.ends),
        _NONE if row.seen is None else len(row.seen.token_ids),
    )


def _row(record: tuple[Any, ...], ends: list[int], seen: list[int], counts: list[int]) -> SamplingRow:
    seed, *floats, generated, top_k, min_tokens, logprobs, _, known = record
    params = Sampling(
        ends=frozenset(ends),
        min_tokens=min_tokens,
        top_k=top_k,
        logprobs=None if logprobs == _NONE else logprobs,
        **dict(zip(_FLOATS, floats, strict=True)),
    )
    return SamplingRow(params, seed, generated, None if known == _NONE else Seen(tuple(seen), tuple(counts)))
