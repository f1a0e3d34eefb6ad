"""Lanes with sequences and KV of their own answer as one rank does; ranks are threads here."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from triptych.core.generation import OperationKey
from triptych.engine import Engine, SamplingParams
from triptych.engine.core import EngineCore
from triptych.engine.lanes import Lanes
from triptych.engine.ranks.replica import Replica
from triptych.engine.ranks.testing import RankThreads
from triptych.engine.sampling import Sampling
from triptych.engine.sequence import Sequence
from triptych.models.testing import save_adapter

Open = Callable[..., Engine]
GREEDY = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, logprobs=2)
BLOCKS = 20
TIGHT = {"max_batch_tokens": 24, "max_running": 6}
"""Of each lane: so little room that prompts are cut and answers give way to each other."""


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("triptych.engine.engine.Replica", partial(Replica, start=RankThreads))
        yield


@pytest.fixture(scope="module")
def single(mixture: Path, open_engine: Open) -> Engine:
    return open_engine(mixture)


@pytest.fixture(scope="module", params=[(1, 2), (1, 4), (2, 2)], ids=["EP 2", "EP 4", "TP 2 EP 2"])
def divided(mixture: Path, open_engine: Open, request: pytest.FixtureRequest) -> Iterator[Engine]:
    tensor, expert = request.param
    with open_engine(
        mixture, tensor_parallel=tensor, expert_parallel=expert, blocks=BLOCKS // tensor, **TIGHT
    ) as engine:
        yield engine


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two, over the projections of attention."""
    width, kv = 48, 16
    shapes = {"q_proj": (width, width), "k_proj": (width, kv), "v_proj": (width, kv), "o_proj": (width, width)}
    return {
        name: save_adapter(
            tmp_path_factory.mktemp("adapters") / name,
            {
                f"model.layers.{layer}.self_attn.{module}": (torch.randn(rank, i) * 0.3, torch.randn(o, rank) * 0.3)
                for layer in range(2)
                for module, (i, o) in shapes.items()
            },
            r=rank,
            target_modules=list(shapes),
        )
        for name, rank in (("one", 2), ("other", 5))
    }


def lanes_of(engine: Engine) -> Lanes:
    lanes = engine.core.scheduler
    assert isinstance(lanes, Lanes)
    return lanes


def prompts(count: int) -> list[list[int]]:
    """Half of them begin alike."""
    beginning = torch.randint(4, 300, (20,)).tolist()
    lengths = torch.randint(3, 40, (count,)).tolist()
    return [beginning * (i % 2) + torch.randint(4, 300, (n,)).tolist() for i, n in enumerate(lengths)]


def test_answers_through_cut_prompts_preemption_and_known_beginnings(
    single: Engine, divided: Engine, assert_same_answers: Callable[..., None]
) -> None:
    lanes = lanes_of(divided)
    asked = prompts(5 * len(lanes.lanes))
    expected = single.generate(asked, GREEDY)
    preemptions, hits = lanes.preemptions, lanes.kv.hit_tokens
    assert_same_answers(divided.generate(asked, GREEDY), expected)
    assert lanes.preemptions > preemptions
    assert_same_answers(divided.generate(asked, GREEDY), expected)
    assert lanes.kv.hit_tokens > hits
    lanes.check_integrity()
    assert lanes.pool.held_count == 0


def test_drawn_answers_and_several_to_one_prompt(single: Engine, divided: Engine) -> None:
    asked = prompts(3)
    params = [
        SamplingParams(seed=7, n=3, max_tokens=12, top_k=20, logprobs=3),
        SamplingParams(seed=8, max_tokens=12, top_p=0.9, repetition_penalty=1.2, frequency_penalty=0.4),
        SamplingParams(seed=9, max_tokens=12, min_p=0.05, min_tokens=12),
    ]
    found, expected = divided.generate(asked, params), single.generate(asked, params)
    assert [c.token_ids for c in found] == [c.token_ids for c in expected]
    assert [c.token_ids for c in found[0].others] == [c.token_ids for c in expected[0].others]


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_adapters_beside_each_other_in_lanes(
    mixture: Path,
    adapters: dict[str, Path],
    open_engine: Open,
    assert_same_answers: Callable[..., None],
    quantization: str,
) -> None:
    asked, names = prompts(9), ["one", "", "other"] * 3
    options = {"adapters": adapters, "quantization": quantization}
    alone = open_engine(mixture, **options)
    expected, plain = alone.generate(asked, GREEDY, adapter=names), alone.generate(asked, GREEDY)
    assert [c.token_ids == p.token_ids for c, p in zip(expected, plain, strict=True)] == [not name for name in names]
    with open_engine(mixture, expert_parallel=2, blocks=BLOCKS, **TIGHT, **options) as engine:
        assert_same_answers(engine.generate(asked, GREEDY, adapter=names), expected)


def test_one_prompt_leaves_the_other_lanes_idle(
    single: Engine, divided: Engine, assert_same_answers: Callable[..., None]
) -> None:
    asked = prompts(1)
    assert_same_answers(divided.generate(asked, GREEDY), single.generate(asked, GREEDY))


def test_who_comes_and_goes_while_steps_compute_changes_nobody_elses_tokens(
    single: Engine, divided: Engine, seed: int
) -> None:
    rng, core, lanes = random.Random(seed), divided.core, lanes_of(divided)
    asked = prompts(24)
    expected = [list(c.token_ids) for c in single.generate(asked, GREEDY)]
    coming = [sequence_of(core, i, tokens) for i, tokens in enumerate(asked)]
    sequences, gone = list(coming), set[Sequence]()

    def meanwhile() -> None:
        while coming and rng.random() < 0.6:
            lanes.add(coming.pop(0))
        if (here := list(lanes.sequences())) and rng.random() < 0.1:
            gone.add(leaving := rng.choice(here))
            lanes.release(leaving.key)

    used: set[int | None] = set()
    while coming or list(lanes.sequences()):
        outcome = core.step(meanwhile)
        lanes.check_integrity()
        for emitted in outcome.emitted if outcome else ():
            used.add(lanes.lane(emitted.sequence.key))
            if emitted.finish_reason:
                lanes.release(emitted.sequence.key)
    assert used >= set(range(len(lanes.lanes)))
    assert lanes.pool.held_count == 0
    assert len(gone) < len(sequences)
    for sequence, tokens in zip(sequences, expected, strict=True):
        answer = sequence.token_ids[sequence.prompt_length :]
        assert answer == tokens[: len(answer)]
        assert len(answer) == len(tokens) or sequence in gone


def sequence_of(core: EngineCore, number: int, tokens: list[int]) -> Sequence:
    return Sequence(
        key=OperationKey(f"{number}"),
        token_ids=list(tokens),
        prompt_length=len(tokens),
        params=Sampling.of(GREEDY, ()),
        seed=0,
        limit=core.limit(len(tokens), GREEDY.max_tokens),
    )
