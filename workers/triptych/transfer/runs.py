"""Neighbouring blocks travel together: block ids as runs, and the pieces that are contiguous on both sides. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """Blocks `start, start + 1, …, start + count - 1`."""

    start: int
    count: int


@dataclass(frozen=True, slots=True)
class RunPair:
    """`count` neighbouring blocks from `source` on, that go to `target` on."""

    source: int
    target: int
    count: int


def runs_of(block_ids: Iterable[int]) -> tuple[Run, ...]:
    """Cuts block ids, in their order, into the fewest ascending runs."""
    runs: list[Run] = []
    for block in block_ids:
        if runs and block == runs[-1].start + runs[-1].count:
            runs[-1] = Run(runs[-1].start, runs[-1].count + 1)
        else:
            runs.append(Run(block, 1))
    return tuple(runs)


def block_count(runs: Iterable[Run]) -> int:
    """Blocks in all runs together."""
    return sum(run.count for run in runs)


def intersect(source: Sequence[Run], target: Sequence[Run]) -> Iterator[RunPair]:
    """The fewest pieces that are contiguous in the source and in the target, in order.

    Both sides must hold equally many blocks: the n-th block of the source goes to the n-th of the target.
    """
    if block_count(source) != block_count(target):
        raise ValueError(f"source has {block_count(source)} blocks, target {block_count(target)}")
    source_index = target_index = source_done = target_done = 0
    while source_index < len(source):
        here, there = source[source_index], target[target_index]
        count = min(here.count - source_done, there.count - target_done)
        yield RunPair(here.start + source_done, there.start + target_done, count)
        source_done += count
        target_done += count
        if source_done == here.count:
            source_index, source_done = source_index + 1, 0
        if target_done == there.count:
            target_index, target_done = target_index + 1, 0
