"""Several adapters in one engine: recorded steps, a cache of prefixes that tells them apart."""

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from triptych.core.errors import InvalidArgument, NotFound
from triptych.core.sampling import SamplingParams
from triptych.engine import Engine
from triptych.kernels import native
from triptych.models.testing import save_adapter

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
NAMES = ("first", "second", "third")


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Callable[..., Engine]:
    """Engines on a Llama whose heads the compiled attention takes, with three adapters."""
    folder = tmp_path_factory.mktemp("adapted")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=80, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=64, initializer_range=0.2,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    linears = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"}
    adapters = {
        name: save_adapter(
            folder / name,
            {
                name: (torch.randn(rank, m.in_features) * 0.3, torch.randn(m.out_features, rank) * 0.3)
                for name, m in linears.items()
            },
            r=rank,
            target_modules="all-linear",
        )
        for name, rank in zip(NAMES, (2, 9, 16), strict=True)
    }
    return lambda **settings: Engine(
        str(folder), dtype="float32", kv_cache_memory=1 << 22, adapters=adapters, **settings
    )


def prompts(count: int, length: int = 20) -> list[list[int]]:
    found: list[list[int]] = torch.randint(4, 250, (count, length)).tolist()
    return found


def test_a_batch_of_adapters_answers_as_each_request_alone(make: Callable[..., Engine]) -> None:
    engine = make(prefix_caching=False)
    questions, adapters = prompts(5), ["second", "", "first", "third", "second"]
    together = engine.generate(questions, GREEDY, adapter=adapters)
    alone = [engine.generate([q], GREEDY, adapter=adapter)[0] for q, adapter in zip(questions, adapters, strict=True)]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    plain = engine.generate(questions, GREEDY)
    assert [a.token_ids == p.token_ids for a, p in zip(alone, plain, strict=True)] == [not name for name in adapters]


@pytest.mark.skipif(native.install().isa is None, reason="kernels cannot be compiled here")
def test_steps_are_recorded_once_whichever_adapters_their_rows_have(make: Callable[..., Engine]) -> None:
    engine = make()
    recorder = engine.core.runner._recorder

    def recorded(*adapters: str) -> int:
        """Steps that had to be recorded: of the prompt, and of answers for the first time."""
        before = recorder.recorded
        engine.generate(prompts(len(adapters)), GREEDY, adapter=adapters)
        return recorder.recorded - before

    assert [recorded("first", ""), recorded("second", "third"), recorded("", "second")] == [2, 1, 1]
    assert [recorded("", ""), recorded("", ""), recorded("third", "third")] == [2, 1, 1]


def test_a_prefix_is_shared_by_requests_of_one_adapter_only(make: Callable[..., Engine]) -> None:
    engine, question = make(), prompts(1, 64)
    kv = engine.core.scheduler.kv
    answers, hits = [], []
    for adapter in ("first", "second", "", "first", "second", ""):
        before = kv.hit_tokens
        answers += [c.token_ids for c in engine.generate(question, GREEDY, adapter=adapter)]
        hits.append(kv.hit_tokens - before)
    assert hits == [0, 0, 0, 48, 48, 48]
    assert answers[:3] == answers[3:]
    assert len(set(answers)) == 3


def test_names_that_there_are_not(make: Callable[..., Engine]) -> None:
    engine = make()
    with pytest.raises(NotFound, match="adapter 'fourth' is not served here; there are 'first', 'second', 'third'"):
        engine.generate(prompts(1), GREEDY, adapter="fourth")
    with pytest.raises(InvalidArgument, match="1 prompts need as many adapters, got 2"):
        engine.generate(prompts(1), GREEDY, adapter=["first", "second"])
