"""A prompt with the beginning of its answer goes on as the answer did."""

from pathlib import Path

import pytest

from triptych.core.generation import OperationKey
from triptych.core.sampling import SamplingParams
from triptych.engine import Engine
from triptych.engine.core import EngineCore
from triptych.engine.sampling import Sampling
from triptych.engine.scheduler import Emitted
from triptych.engine.sequence import Sequence

PROMPT = list(range(20, 33))
TOKENS = 24
CLEAR = 2e-3
GREEDY = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True, logprobs=2)
SEEDED = SamplingParams(
    temperature=0.8, top_k=40, top_p=0.95, repetition_penalty=1.2, presence_penalty=0.6, frequency_penalty=0.4,
    max_tokens=TOKENS, ignore_eos=True, logprobs=2, seed=7,
)  # fmt: skip


def answer(core: EngineCore, params: SamplingParams, emitted: list[int]) -> list[Emitted]:
    """What follows the prompt and these tokens."""
    key = OperationKey("r", len(emitted))
    limit = core.limit(len(PROMPT), params.max_tokens)
    sampling = Sampling.of(params, core.eos_token_ids)
    core.scheduler.add(Sequence(key, PROMPT + emitted, len(PROMPT), sampling, params.seed or 0, limit))
    found: list[Emitted] = []
    while outcome := core.step():
        found += outcome.emitted
    core.scheduler.release(key)
    return found


@pytest.mark.parametrize("prefix_caching", [False, True])
@pytest.mark.parametrize("block_size", [4, 16])
@pytest.mark.parametrize("params", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_every_place_of_an_answer_is_a_place_to_go_on(
    llama: Path, params: SamplingParams, block_size: int, prefix_caching: bool
) -> None:
    engine = Engine(
        str(llama), dtype="float32", kv_cache_memory=1 << 20, block_size=block_size, prefix_caching=prefix_caching
    )
    whole = answer(engine.core, params, [])
    assert [item.position for item in whole] == list(range(TOKENS))
    tokens = [item.token_id for item in whole]
    tops = [item.logprobs.top for item in whole if item.logprobs]
    if params is GREEDY and any(first.logprob - second.logprob < CLEAR for first, second in tops):
        pytest.skip("two tokens are as likely as each other; float32 may order them either way")
    for count in range(1, TOKENS):
        rest = answer(engine.core, params, tokens[:count])
        assert [item.token_id for item in rest] == tokens[count:]
        assert [item.position for item in rest] == list(range(count, TOKENS))
        assert [item.finish_reason for item in rest] == [item.finish_reason for item in whole[count:]]
        for item, expected in zip(rest, whole[count:], strict=True):
            assert item.logprobs and expected.logprobs  # noqa: PT018
            assert item.logprobs.logprob == pytest.approx(expected.logprobs.logprob, abs=1e-3)
