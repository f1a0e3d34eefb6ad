"""Step inputs, against the same rows worked out one by one; their tensors stay where they are."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.support.crowds import BLOCKS, ROWS, SEQUENCES, Crowd
from triptych.core.generation import OperationKey
from triptych.engine.batch_table import BatchTable
from triptych.engine.plan import Chunk, StepPlan
from triptych.engine.sampling import Sampling
from triptych.engine.sequence import Sequence
from triptych.models.step import StepInput

TENSORS = ("token_ids", "positions", "slots", "logit_rows")


@pytest.fixture
def crowd(seed: int) -> Crowd:
    rng = random.Random(seed)
    return Crowd(rng, rng.choice([1, 3, 4, 16]))


@pytest.fixture
def table() -> Callable[[Crowd], BatchTable]:
    return lambda crowd: BatchTable(ROWS, SEQUENCES, BLOCKS, crowd.block_size, torch.device("cpu"))


def require_right(step: StepInput, plan: StepPlan, block_size: int, first_block: int = 0) -> None:
    """Every number of a step, from the plan alone."""
    spans = [(s, s.computed, 1) for s in plan.decodes] + [(c.sequence, c.start, c.length) for c in plan.prompts]
    rows = [(s, p) for s, start, length in spans for p in range(start, start + length)]
    assert step.token_ids.tolist() == [s.token_ids[p] for s, p in rows]
    axes = [s.positions.between(p, p + 1)[:, 0] if s.positions else (p, p, p) for s, p in rows]
    assert step.positions.tolist() == [time for time, _, _ in axes]
    assert (step.axes is not None) is any(len(set(place)) > 1 for place in axes)
    assert step.axes is None or step.axes.values.T.tolist() == [list(place) for place in axes]
    blocks = {s: [block - first_block for block in s.blocks] for s, *_ in spans}
    assert step.slots.tolist() == [blocks[s][p // block_size] * block_size + p % block_size for s, p in rows]
    ends = [sum(length for *_, length in spans[:i]) for i in range(len(spans) + 1)]
    assert step.attention.query_start.tolist() == ends
    assert step.attention.kv_lengths.tolist() == [start + length for _, start, length in spans]
    for row, (sequence, start, length) in enumerate(spans):
        used = -(-(start + length) // block_size)
        assert step.attention.block_tables[row, :used].tolist() == blocks[sequence][:used]
    ending = [s.pending == n for s, _, n in spans]
    assert step.logit_rows.tolist() == [end - 1 for end, wanted in zip(ends[1:], ending, strict=True) if wanted]
    given = {r.row + i: r.values[i] for r in step.embeddings for i in range(len(r.values))}
    wanted = {
        row: m.values[p - m.start]
        for row, (s, p) in enumerate(rows)
        for m in s.media
        if m.start <= p < m.start + m.length and m.values is not None
    }
    assert given.keys() == wanted.keys()
    assert all(torch.equal(given[row], wanted[row]) for row in given)
    deep = {
        r.row + i: r.deepstack[:, i] for r in step.embeddings if r.deepstack is not None for i in range(len(r.values))
    }
    wanted = {
        row: m.deepstack[:, p - m.start]
        for row, (s, p) in enumerate(rows)
        for m in s.media
        if m.start <= p < m.start + m.length and m.deepstack is not None
    }
    assert deep.keys() == wanted.keys()
    assert all(torch.equal(deep[row], wanted[row]) for row in deep)


@pytest.mark.parametrize("first_block", [0, -3])  # below 0: the crowd's blocks begin at 0
@pytest.mark.parametrize("foresees", [False, True])
def test_steps_are_those_of_their_plans_whatever_changes_between_them(
    crowd: Crowd, table: Callable[[Crowd], BatchTable], foresees: bool, first_block: int
) -> None:
    batches = table(crowd).of_lane(first_block)
    for _ in range(150):
        if crowd.rng.random() < 0.4 or not crowd.sequences:
            crowd.change()
        plan = crowd.plan()
        if not plan:
            continue
        require_right(batches.fill(plan), plan, crowd.block_size, first_block)
        if foresees:
            capacity = {s: len(s.blocks) * crowd.block_size for s in plan.sampling}
            batches.foresee(tuple(s for s in plan.sampling if len(s.token_ids) < capacity[s]))
        crowd.commit(plan)


def test_images_that_see_themselves_are_told_to_attention(crowd: Crowd) -> None:
    batches = BatchTable(ROWS, SEQUENCES, BLOCKS, crowd.block_size, torch.device("cpu"), whole_images=True)
    for _ in range(60):
        crowd.change()
        if plan := crowd.plan():
            step = batches.fill(plan)
            spans = [(s, s.computed, 1) for s in plan.decodes] + [
                (c.sequence, c.start, c.length) for c in plan.prompts
            ]
            assert step.attention.images == tuple(
                (place, m.start, m.start + m.length)
                for place, (s, start, length) in enumerate(spans)
                for m in s.media
                if m.start < start + length and m.start + m.length > start
            )
            crowd.commit(plan)


def test_what_was_foreseen_is_what_comes_when_all_go_on(crowd: Crowd, table: Callable[[Crowd], BatchTable]) -> None:
    batches = table(crowd)
    for _ in range(SEQUENCES):
        crowd.arrive()
        crowd.sequences[-1].computed = len(crowd.sequences[-1].token_ids) - 1
        crowd.sequences[-1].blocks += crowd.blocks(2 * crowd.block_size)
    for _ in range(2 * crowd.block_size - 1):
        plan = crowd.plan()
        require_right(batches.fill(plan), plan, crowd.block_size)
        batches.foresee(plan.sampling)
        crowd.commit(plan)


def test_a_failed_step_is_not_taken_for_done(crowd: Crowd, table: Callable[[Crowd], BatchTable]) -> None:
    batches = table(crowd)
    crowd.arrive()
    crowd.sequences[0].computed = len(crowd.sequences[0].token_ids) - 1
    crowd.sequences[0].blocks += crowd.blocks(crowd.block_size)
    plan = crowd.plan()
    batches.fill(plan)
    batches.foresee(plan.sampling)
    batches.foresee(())
    require_right(batches.fill(plan), plan, crowd.block_size)


def test_tensors_stay_where_they_are(crowd: Crowd, table: Callable[[Crowd], BatchTable]) -> None:
    batches = table(crowd)
    addresses: list[Any] = []
    while len(addresses) < 30:
        crowd.change()
        if plan := crowd.plan():
            step = batches.fill(plan)
            attention = step.attention
            tensors = [getattr(step, name) for name in TENSORS]
            tensors += [attention.query_start, attention.kv_lengths, attention.block_tables]
            addresses.append([t.storage_offset() + t.untyped_storage().data_ptr() for t in tensors])
            assert attention.block_tables.stride() == (BLOCKS, 1)
            assert [t.dtype for t in tensors] == [torch.int64] * 4 + [torch.int32] * 3
            crowd.commit(plan)
    assert all(found == addresses[0] for found in addresses)


def test_rows_have_the_numbers_of_their_adapters() -> None:
    table = BatchTable(ROWS, SEQUENCES, BLOCKS, 4, torch.device("cpu"), adapters=("one", "other"))

    def sequence(adapter: str, computed: int) -> Sequence:
        made = Sequence(OperationKey(adapter), [7] * 6, 6, Sampling(), 0, 20, blocks=[3, 5], adapter=adapter)
        made.computed = computed
        return made

    decodes = (sequence("other", 5), sequence("", 5), sequence("one", 5))
    chunks = (Chunk(sequence("", 0), 0, 2), Chunk(sequence("other", 1), 1, 3))
    first = table.fill(StepPlan(decodes, chunks)).adapters
    assert first is not None
    assert (first.dtype, first.tolist()) == (torch.int32, [1, -1, 0, -1, -1, 1, 1, 1])
    second = table.fill(StepPlan(decodes[2:])).adapters
    assert second is not None
    assert (second.tolist(), second.data_ptr()) == ([0], first.data_ptr())
    assert table.fill(StepPlan(decodes[1:2], chunks[:1])).adapters is None
