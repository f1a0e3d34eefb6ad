import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.transfer.runs import Run, RunPair, block_count, intersect, runs_of

blocks = st.lists(st.integers(0, 12), max_size=30)


def _expand(runs: tuple[Run, ...]) -> list[int]:
    return [block for run in runs for block in range(run.start, run.start + run.count)]


def test_neighbours_form_one_run() -> None:
    assert runs_of([4, 5, 6, 9, 8, 7, 8]) == (Run(4, 3), Run(9, 1), Run(8, 1), Run(7, 2))
    assert runs_of([]) == ()


@given(blocks)
def test_runs_are_the_same_blocks_in_the_same_order(block_ids: list[int]) -> None:
    assert _expand(runs_of(block_ids)) == block_ids
    assert block_count(runs_of(block_ids)) == len(block_ids)


@given(blocks)
def test_runs_are_as_long_as_they_can_be(block_ids: list[int]) -> None:
    runs = runs_of(block_ids)
    assert all(a.start + a.count != b.start for a, b in itertools.pairwise(runs))


def test_pieces_are_contiguous_on_both_sides() -> None:
    pieces = tuple(intersect(runs_of([0, 1, 2, 3, 8, 9]), runs_of([5, 6, 1, 2, 3, 4])))
    assert pieces == (RunPair(0, 5, 2), RunPair(2, 1, 2), RunPair(8, 3, 2))


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=30))
def test_the_nth_source_block_goes_to_the_nth_target_block(pairs: list[tuple[int, int]]) -> None:
    source, target = [a for a, _ in pairs], [b for _, b in pairs]
    pieces = tuple(intersect(runs_of(source), runs_of(target)))
    moves = [(piece.source + i, piece.target + i) for piece in pieces for i in range(piece.count)]
    assert moves == pairs
    # Fewest pieces: a new one begins only where one side breaks off.
    breaks = sum(b != (a[0] + 1, a[1] + 1) for a, b in itertools.pairwise(pairs))
    assert len(pieces) == (breaks + 1 if pairs else 0)


def test_both_sides_must_have_equally_many_blocks() -> None:
    with pytest.raises(ValueError, match="source has 2 blocks, target 1"):
        tuple(intersect(runs_of([1, 2]), runs_of([1])))
