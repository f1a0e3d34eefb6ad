"""A model that breaks down: who is concerned fails, nobody gets tokens that mean nothing."""

import pytest
import torch

from triptych.core.sampling import SamplingParams
from triptych.engine import Engine
from triptych.engine.loop import StepFailed
from triptych.engine.plan import NoFiniteScore

PROMPTS = ["The sun is", "Once upon a time", "1 2 3 4 5"]
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
DRAWN = SamplingParams(temperature=0.8, seed=3, max_tokens=8, ignore_eos=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["none", "int8", "gguf"])
@pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_damage_in_the_cache_ends_its_own_sequence_alone(
    params: SamplingParams, quantization: str, dtype: str
) -> None:
    engine = Engine("builtin:smollm2", dtype=dtype, quantization=quantization, kv_cache_memory=16 << 20)
    expected = engine.generate(PROMPTS, params)
    core = engine.core
    sequences = [sequence for prompt in PROMPTS for sequence in engine._sequences(engine._prompt(prompt), (), params)]
    for sequence in sequences:
        core.scheduler.add(sequence)
    found: dict[str, list[int]] = {sequence.key.request_id: [] for sequence in sequences}
    broken = sequences[1]
    failures: list[StepFailed] = []
    while True:
        if len(found[broken.key.request_id]) == 3 and not failures:
            core.kv[:, broken.blocks[0]] = torch.nan
        try:
            outcome = core.step()
        except StepFailed as failure:
            failures.append(failure)
            core.scheduler.release(broken.key)
            continue
        if outcome is None:
            break
        for item in outcome.emitted:
            found[item.sequence.key.request_id].append(item.token_id)
            if item.finish_reason:
                core.scheduler.release(item.sequence.key)
    [found_failure] = failures
    assert isinstance(found_failure.__cause__, NoFiniteScore)
    assert found_failure.sequences == (broken,)
    for sequence, answer in zip(sequences, expected, strict=True):
        count = 3 if sequence is broken else 8
        assert tuple(found[sequence.key.request_id]) == answer.token_ids[:count]
