"""What a request may ask of its answer, and what the model asks for where the request does not."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.support.seeds import drawn_seed
from triptych.core.prompt import ChatMessage, TextPart
from triptych.core.sampling import choice_seed
from triptych.engine import ChatInput, ChatOptions, Engine, SamplingParams

OpenEngine = Callable[..., Engine]
PROMPT = "The quick brown fox jumps over the lazy dog; the dog sleeps."


@pytest.fixture(scope="module")
def engine(llama: Path, open_engine: OpenEngine) -> Engine:
    return open_engine(llama)


@pytest.fixture(scope="module")
def opinionated(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a generation_config.json of its own."""
    folder = tmp_path_factory.mktemp("opinionated")
    shutil.copytree(llama, folder, dirs_exist_ok=True)
    written = {"do_sample": False, "repetition_penalty": 1.3, "max_new_tokens": 7, "eos_token_id": [0, 2]}
    (folder / "generation_config.json").write_text(json.dumps(written))
    return folder


def test_the_models_own_parameters_count_where_a_request_leaves_them_open(
    opinionated: Path, open_engine: OpenEngine
) -> None:
    engine = open_engine(opinionated)
    assert engine.spec.eos_token_ids == (0, 2)
    asked = SamplingParams(temperature=0, repetition_penalty=1.3, max_tokens=7)
    [left_open, said] = engine.generate([PROMPT, PROMPT], [SamplingParams(), asked])
    assert left_open == said
    [longer] = engine.generate(PROMPT, SamplingParams(max_tokens=20, ignore_eos=True))
    assert len(longer.token_ids) == 20
    assert longer.token_ids[: len(said.token_ids)][:3] == said.token_ids[:3]  # which may end at once


def test_without_them_what_is_left_open_is_neutral(
    opinionated: Path, open_engine: OpenEngine, engine: Engine
) -> None:
    neutral = open_engine(opinionated, generation_config="none")
    asked = SamplingParams(seed=7, max_tokens=12, ignore_eos=True)
    assert neutral.generate(PROMPT, asked) == engine.generate(PROMPT, asked)


def test_answer_i_of_several_is_the_only_answer_with_its_seed_and_the_prompt_is_computed_once(engine: Engine) -> None:
    seed = drawn_seed()
    prompt = random.Random(seed).choices(range(4, 320), k=22)
    asked: dict[str, Any] = {"max_tokens": 6, "ignore_eos": True}
    before = engine.core.computed_tokens
    [found] = engine.generate(prompt, SamplingParams(n=4, seed=11, **asked))
    assert engine.core.computed_tokens - before == 22 + 3 * 2 + 4 * 5, "of 22 tokens 20 lie in whole blocks"
    alone = [engine.generate(prompt, SamplingParams(seed=choice_seed(11, i), **asked))[0] for i in range(4)]
    answers = [found, *found.others]
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in alone]
    assert len({answer.token_ids for answer in answers}) == 4
    assert [answer.text for answer in answers] == [answer.text for answer in alone]
    assert not alone[0].others


def test_prompts_of_one_batch_may_want_different_numbers_of_answers(engine: Engine) -> None:
    params = [SamplingParams(n=n, seed=3, max_tokens=n, ignore_eos=True) for n in (1, 3, 2)]
    found = engine.generate(["a", "dog", "the"], params)
    assert [len(completion.others) for completion in found] == [0, 2, 1]
    assert [len(completion.others[-1].token_ids) for completion in found[1:]] == [3, 2]
    engine.core.scheduler.check_integrity()
    assert not list(engine.core.scheduler.sequences())


def test_log_probabilities_are_those_of_transformers(
    llama: Path, engine: Engine, tokenizer: PreTrainedTokenizerFast
) -> None:
    asked = SamplingParams(seed=5, temperature=2.0, top_k=40, max_tokens=24, ignore_eos=True, logprobs=8)
    [found] = engine.generate(PROMPT, asked)
    model: Any = LlamaForCausalLM.from_pretrained(llama, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([found.prompt_token_ids + found.token_ids])).logits
    expected = logits[0, len(found.prompt_token_ids) - 1 : -1].log_softmax(-1)
    assert found.logprobs is not None
    assert len(found.logprobs) == 24
    for row, token_id, position in zip(expected, found.token_ids, found.logprobs, strict=True):
        assert position.logprob == pytest.approx(float(row[token_id]), abs=1e-4)
        assert [t.logprob for t in position.top] == pytest.approx(row.topk(8).values.tolist(), abs=1e-4)
        assert [t.logprob for t in position.top] == pytest.approx(
            [float(row[t.token_id]) for t in position.top], abs=1e-4
        )
        for top in position.top:
            assert top.token == _bytes(tokenizer, top.token_id)
    said = b"".join(position.token for position in found.logprobs)
    assert said.decode(errors="replace") == tokenizer.decode(found.token_ids, skip_special_tokens=False)


def _bytes(tokenizer: PreTrainedTokenizerFast, token_id: int) -> bytes:
    """By the byte alphabet of the tokenizer itself."""
    text = tokenizer.decode([token_id], skip_special_tokens=False)
    return text.encode() if "\ufffd" not in text else bytes([_ALPHABET[tokenizer.convert_ids_to_tokens(token_id)]])


_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_ALPHABET = {chr(b): b for b in _PRINTABLE} | {
    chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in _PRINTABLE)
}


def test_no_answer_ends_before_its_fewest_tokens(engine: Engine) -> None:
    [free] = engine.generate(PROMPT, SamplingParams(temperature=0, max_tokens=12, ignore_eos=True))
    stop = tuple(set(free.token_ids[:3]))
    [soon] = engine.generate(
        PROMPT, SamplingParams(temperature=0, max_tokens=12, stop_token_ids=stop, ignore_eos=True)
    )
    assert soon.token_ids == free.token_ids[:1]
    params = SamplingParams(temperature=0, max_tokens=12, stop_token_ids=stop, ignore_eos=True, min_tokens=5)
    [late] = engine.generate(PROMPT, params)
    assert len(late.token_ids) > 5
    assert set(stop).isdisjoint(late.token_ids[:5])
    [word] = [free.text[1:3]]
    [cut] = engine.generate(PROMPT, SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, stop=(word,)))
    assert len(cut.token_ids) < 12
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, stop=(word,), min_tokens=12)
    [whole] = engine.generate(PROMPT, params)
    assert (whole.token_ids, whole.text) == (free.token_ids, free.text)


def test_special_tokens_stay_in_the_text_where_they_are_wanted(
    engine: Engine, tokenizer: PreTrainedTokenizerFast
) -> None:
    asked: dict[str, Any] = {"seed": 1, "temperature": 100.0, "max_tokens": 150, "ignore_eos": True}
    [shown] = engine.generate("dog", SamplingParams(skip_special_tokens=False, **asked))
    [hidden] = engine.generate("dog", SamplingParams(**asked))
    assert shown.token_ids == hidden.token_ids
    assert shown.text == tokenizer.decode(shown.token_ids, skip_special_tokens=False)
    assert hidden.text == tokenizer.decode(shown.token_ids, skip_special_tokens=True)


def test_a_conversation_may_have_options(engine: Engine, tokenizer: PreTrainedTokenizerFast) -> None:
    conversation = ChatInput((ChatMessage("user", (TextPart("dog"),)),), ChatOptions.of([{"name": "f"}], {"x": 1}))
    [found] = engine.generate(conversation, SamplingParams(max_tokens=1))
    expected: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": "dog"}],
        tools=[{"name": "f"}],
        x=1,
        add_generation_prompt=True,
        return_dict=False,
    )
    assert found.prompt_token_ids == tuple(expected)
