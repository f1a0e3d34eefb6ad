"""What followers make of the messages of rank 0: the very step inputs that rank 0 has, however they came about."""

import random
from typing import assert_never

import pytest
import torch

from tests.support.crowds import BLOCKS, ROWS, SEQUENCES, Crowd
from triptych.core.generation import OperationKey
from triptych.engine.batch_table import BatchTable
from triptych.engine.plan import StepPlan
from triptych.engine.ranks.encoding import decode
from triptych.engine.ranks.images import DropEmbedding, HoldEmbedding
from triptych.engine.ranks.messages import Step
from triptych.engine.ranks.mirror import Mirror
from triptych.engine.ranks.rows import Choice, Draws
from triptych.engine.ranks.telling import Teller, choice_of
from triptych.engine.sampler import SamplingRow
from triptych.engine.sampling import Sampling
from triptych.engine.sequence import Sequence
from triptych.models.step import EmbeddingRows, StepInput

CPU = torch.device("cpu")
ADAPTERS = ("one", "other")


class Pair:
    """Rank 0 and a follower, joined by messages."""

    def __init__(self, block_size: int, *, whole_images: bool = False) -> None:
        self.table = BatchTable(
            ROWS, SEQUENCES, BLOCKS, block_size, CPU, whole_images=whole_images, adapters=ADAPTERS
        )
        self.mirror = Mirror(SEQUENCES, BLOCKS, block_size, CPU)
        self.held = 0
        self._teller = Teller(self.table)

    def step(self, plan: StepPlan) -> tuple[StepInput, StepInput, Choice]:
        """A step as each of the two has it, and how the follower is told to choose its tokens."""
        ours = self.table.fill(plan)
        for message in self._teller.tell(plan, ours, choice_of(plan)):
            match message:
                case HoldEmbedding():
                    self.held += 1
                    self.mirror.embeddings.hold(message)
                case DropEmbedding():
                    self.mirror.embeddings.drop(message)
                case Step(data):
                    rows = decode(data)
                    return ours, self.mirror.step(rows), rows.choice
                case _:
                    assert_never(message)
        raise AssertionError("no step was told")


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.mark.parametrize("whole_images", [False, True])
def test_followers_have_the_steps_of_rank_0_whatever_changes_between_them(
    rng: random.Random, whole_images: bool
) -> None:
    crowd = Crowd(rng, rng.choice([1, 3, 4, 16]), ADAPTERS)
    pair = Pair(crowd.block_size, whole_images=whole_images)
    for _ in range(150):
        if rng.random() < 0.4 or not crowd.sequences:
            crowd.change()
        plan = crowd.plan()
        ours, theirs, choice = pair.step(plan)
        require_equal(ours, theirs, crowd.block_size)
        rows = [SamplingRow.of(s) for s in plan.sampling]
        if isinstance(choice, Draws):
            assert list(choice.rows) == rows
        else:
            assert choice.rows == len(rows)
            assert all(row.params.plain for row in rows)
        crowd.commit(plan)


def test_an_image_is_told_once_while_its_chunks_follow_each_other(rng: random.Random) -> None:
    crowd = Crowd(rng, 4)
    pair = Pair(4)
    while not (crowd.sequences and crowd.sequences[-1].media):
        crowd.arrive()
    sequence = crowd.sequences[-1]
    crowd.sequences, sequence.computed = [sequence], 0
    while sequence.generated < 3:
        plan = crowd.plan()
        pair.step(plan)
        crowd.commit(plan)
    assert pair.held == len(sequence.media)
    assert len(pair.mirror.embeddings) == 0


def test_an_idle_lane_is_told_of_a_step_without_rows(rng: random.Random) -> None:
    ours, theirs, choice = Pair(4).step(StepPlan())
    require_equal(ours, theirs, 4)
    assert len(theirs.token_ids) == len(theirs.logit_rows) == choice.rows == 0


@pytest.mark.parametrize("count", [8, 32])
def test_a_step_of_answers_is_told_in_few_bytes(count: int) -> None:
    """56 bytes, 8 for each answer, and 16 for each new block; 80 for each that is drawn, and 4 for what ends it."""
    table = BatchTable(64, 32, 40, 16, CPU)
    teller = Teller(table)

    def told(params: Sampling, length: int) -> int:
        decodes = tuple(
            Sequence(OperationKey(str(n)), [n] * length, 1, params, n, 640, computed=length - 1, blocks=blocks)
            for n, blocks in enumerate(held)
        )
        plan = StepPlan(decodes)
        (message,) = teller.tell(plan, table.fill(plan), choice_of(plan))
        assert isinstance(message, Step)
        return len(message.rows)

    held = [[n + 1000 * i for i in range(20)] for n in range(count)]
    greedy, drawn = Sampling(temperature=0.0), Sampling(ends=frozenset({2}), top_p=0.9)
    told(greedy, 300)
    assert told(greedy, 301) == 56 + 8 * count
    assert told(drawn, 302) == 56 + (8 + 80 + 4) * count
    assert told(greedy, 305) == 56 + (8 + 16) * count


def require_equal(ours: StepInput, theirs: StepInput, block_size: int) -> None:
    for name in ("token_ids", "positions", "slots", "logit_rows"):
        mine, told = getattr(ours, name), getattr(theirs, name)
        assert mine.dtype == told.dtype
        assert torch.equal(mine, told), name
    assert torch.equal(ours.attention.query_start, theirs.attention.query_start)
    assert torch.equal(ours.attention.kv_lengths, theirs.attention.kv_lengths)
    assert ours.attention.images == theirs.attention.images
    for row, length in enumerate(ours.attention.kv_lengths.tolist()):
        used = -(-length // block_size)
        assert torch.equal(ours.attention.block_tables[row, :used], theirs.attention.block_tables[row, :used])
    assert (ours.axes is None) is (theirs.axes is None)
    assert ours.axes is None or theirs.axes is None or torch.equal(ours.axes.values, theirs.axes.values)
    assert (ours.adapters is None) is (theirs.adapters is None)
    assert ours.adapters is None or theirs.adapters is None or torch.equal(ours.adapters, theirs.adapters)
    for mine, told in zip(ours.embeddings, theirs.embeddings, strict=True):
        require_equal_rows(mine, told)


def require_equal_rows(ours: EmbeddingRows, theirs: EmbeddingRows) -> None:
    assert ours.row == theirs.row
    assert torch.equal(ours.values, theirs.values)
    assert (ours.deepstack is None) is (theirs.deepstack is None)
    assert ours.deepstack is None or theirs.deepstack is None or torch.equal(ours.deepstack, theirs.deepstack)
