"""Adapters through a cluster: prefill and decode workers compute a request with the one that it names."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.doubt import doubtful_rows
from triptych.core.errors import DataLoss, NotFound
from triptych.core.plan import Placement
from triptych.engine import Engine, SamplingParams
from triptych.models.testing import save_adapter

TOKENS = 10
HIDDEN, LAYERS = 48, 2


@pytest.fixture
def adapters(tmp_path: Path) -> dict[str, str]:
    """Two random adapters of the tiny Llama."""
    names = [f"model.layers.{n}.{part}" for n in range(LAYERS) for part in ("self_attn.v_proj", "mlp.up_proj")]
    outputs = {"v_proj": 128, "up_proj": 80}
    return {
        name: str(
            save_adapter(
                tmp_path / name,
                {n: (torch.randn(rank, HIDDEN), torch.randn(outputs[n.split(".")[-1]], rank) * 0.2) for n in names},
                r=rank,
                target_modules=["v_proj", "up_proj"],
            )
        )
        for name, rank in {"short": 3, "long": 16}.items()
    }


def apart(
    model: Path, adapters: dict[str, str], ask: Any, names: list[str], tokens: int
) -> tuple[Any, list[tuple[int, ...]]]:
    """A prompt to which each of these adapters has its own answer, none a matter of rounding; and the answers."""
    engine = Engine(str(model), dtype="float32", kv_cache_memory=1 << 22, adapters=adapters)
    params = SamplingParams(temperature=0, ignore_eos=True, max_tokens=tokens, logprobs=0)
    while True:
        prompt = ask(6)
        with doubtful_rows() as doubtful:
            found = [engine.generate([prompt], params, adapter=name)[0].token_ids for name in names]
        if not doubtful and len(set(found)) == len(names):
            return prompt, found


def test_split_and_colocated_answers_are_those_of_the_offline_engine(
    start: Any, tiny_llama: Path, adapters: dict[str, str], ask: Any, answers: Any
) -> None:
    names = ["", *adapters]
    prompt, expected = apart(tiny_llama, adapters, ask, names, TOKENS)
    cluster = start(tiny_llama, "1P1D", adapters=adapters)
    for placement in (Placement.DISAGGREGATED, Placement.COLOCATED):
        found = [answers(cluster, [prompt], TOKENS, placement=placement, adapter=name)[0] for name in names]
        assert found == expected
    assert cluster.host("decode-0").panel.decoding.movers.receiver.counts.chunks > 0
    [model] = cluster.client.models()
    assert model.adapters == ("short", "long")


def test_an_adapter_that_is_not_served(
    start: Any, tiny_llama: Path, adapters: dict[str, str], ask: Any, answers: Any
) -> None:
    cluster = start(tiny_llama, "1D", adapters=adapters)
    with pytest.raises(NotFound, match="adapter 'tall' is not served here; there are 'short', 'long'") as refused:
        answers(cluster, [ask(2)], TOKENS, adapter="tall")
    assert refused.value.field == "adapter"


def test_an_adapter_of_another_model_is_refused_before_anything_is_started(
    start: Any, tiny_llama: Path, tmp_path: Path
) -> None:
    factors = {"model.layers.0.self_attn.q_proj": (torch.zeros(2, 64), torch.zeros(256, 2))}
    folder = save_adapter(tmp_path / "other", factors, r=2, target_modules=["q_proj"], layers_to_transform=[0])
    with pytest.raises(DataLoss, match=r"lora_A.weight must have shape \[2, 48\], found \[2, 64\]"):
        start(tiny_llama, "1D", adapters={"other": str(folder)})


def test_a_replay_goes_on_with_the_same_adapter(
    start: Any, tiny_llama: Path, adapters: dict[str, str], ask: Any, eventually: Any
) -> None:
    params = SamplingParams(temperature=0, ignore_eos=True, max_tokens=3 * TOKENS)
    prompt, [expected] = apart(tiny_llama, adapters, ask, ["long"], 3 * TOKENS)
    cluster = start(tiny_llama, "1P1D", adapters=adapters)
    brake = cluster.brake("decode-0")
    brake.allow(6)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(cluster.client.generate, prompt, sampling=params, adapter="long")
        eventually(lambda: brake.standing)
        cluster.runtime.actors["decode-0"].crash()
        answer = running.result()
    assert (answer.token_ids, answer.usage.replays) == (expected, 1)
