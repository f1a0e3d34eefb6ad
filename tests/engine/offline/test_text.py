"""The offline engine on a tiny Llama: prompts of every kind, batches, chunks, preemption, ends and refusals."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.support.seeds import drawn_seed
from triptych.core.errors import FailedPrecondition, InvalidArgument, PromptTooLong, TriptychError
from triptych.core.generation import FinishReason
from triptych.core.prompt import ChatMessage, ImagePart, TextPart
from triptych.engine import Completion, Engine, SamplingParams
from triptych.engine.loop import StepFailed

OpenEngine = Callable[..., Engine]
Same = Callable[[list[Completion], list[Completion]], None]
PROMPTS = [
    *("The quick brown fox", "jumps over", "a", "dog; dog; dog; dog; dog; dog; dog", "Größe 你好 🙂", "   \n"),
    *("the the the the the the the the the the the the the the the the the the the", "<|im_start|>"),
]
LONG = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, logprobs=2)
SHORT = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)


@pytest.fixture(scope="module")
def engine(llama: Path, open_engine: OpenEngine) -> Engine:
    return open_engine(llama)


@pytest.fixture(autouse=True)
def nothing_is_left(engine: Engine) -> Iterator[None]:
    """Whatever a test did, the engine is idle and empty afterwards."""
    yield
    _assert_idle(engine)


@pytest.fixture(scope="module")
def alone(engine: Engine) -> list[Completion]:
    """Each prompt on its own."""
    return [engine.generate(prompt, LONG)[0] for prompt in PROMPTS]


def _assert_idle(engine: Engine) -> None:
    scheduler = engine.core.scheduler
    scheduler.check_integrity()
    assert (scheduler.running, scheduler.waiting, scheduler.pool.held_count) == (0, 0, 0)
    assert list(scheduler.sequences()) == []


def chat(text: str, *parts: ImagePart) -> list[ChatMessage]:
    return [ChatMessage("user", (*parts, TextPart(text)))]


def test_greedy_tokens_are_those_of_transformers(
    llama: Path, alone: list[Completion], tokenizer: PreTrainedTokenizerFast
) -> None:
    model: Any = LlamaForCausalLM.from_pretrained(llama, dtype=torch.float32)
    for prompt, completion in zip(PROMPTS, alone, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        assert completion.prompt_token_ids == tuple(inputs["input_ids"][0].tolist())
        row = torch.tensor([completion.prompt_token_ids + completion.token_ids])
        with torch.no_grad():
            logits = model(row).logits[0, len(completion.prompt_token_ids) - 1 : -1]
        chosen = logits.gather(1, row[0, len(completion.prompt_token_ids) :, None])[:, 0]
        assert (logits.amax(-1) - chosen).max() < 1e-4
        assert completion.logprobs is not None
        found = torch.tensor([position.logprob for position in completion.logprobs])
        expected = logits.log_softmax(-1).gather(1, row[0, len(completion.prompt_token_ids) :, None])[:, 0]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_batch_gives_what_its_prompts_give_alone(
    engine: Engine, alone: list[Completion], assert_same_answers: Same
) -> None:
    assert_same_answers(engine.generate(PROMPTS, LONG), alone)
    assert_same_answers(engine.generate(PROMPTS[::-1], LONG), alone[::-1])


@pytest.mark.parametrize(
    "options",
    [{"max_batch_tokens": 8}, {"max_batch_tokens": 1}, {"max_running": 2}, {"block_size": 1}, {"block_size": 16}],
    ids=str,
)
def test_chunks_places_and_blocks_do_not_change_the_answer(
    options: dict[str, Any], llama: Path, alone: list[Completion], open_engine: OpenEngine, assert_same_answers: Same
) -> None:
    other = open_engine(llama, **options)
    assert_same_answers(other.generate(PROMPTS, LONG), alone)
    _assert_idle(other)


def test_a_pool_that_is_too_small_for_all_changes_nothing_but_the_order(
    llama: Path, alone: list[Completion], open_engine: OpenEngine, assert_same_answers: Same
) -> None:
    other = open_engine(llama, blocks=24, context_length=96)
    assert_same_answers(other.generate(PROMPTS, LONG), alone)
    assert other.core.scheduler.preemptions > 0
    _assert_idle(other)


def test_text_ids_and_chats_are_prompts(engine: Engine, tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("the dog").input_ids
    rendered: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": "the dog"}], add_generation_prompt=True, return_dict=False
    )
    text, tokens, talk = engine.generate(["the dog", ids, chat("the dog")], SHORT)
    assert text == tokens
    assert talk.prompt_token_ids == tuple(rendered)
    assert engine.generate("the dog", SHORT) == engine.generate(ids, SHORT) == [text]
    assert engine.generate(chat("the dog"), SHORT) == [talk]
    assert engine.generate([], SHORT) == []


def test_results_hold_tokens_text_and_logprobs(engine: Engine, tokenizer: PreTrainedTokenizerFast) -> None:
    plain, detailed = engine.generate(
        ["fox", "fox"], [SHORT, SamplingParams(temperature=0, max_tokens=3, ignore_eos=True, logprobs=4)]
    )
    assert plain.logprobs is None
    assert plain.text == tokenizer.decode(list(plain.token_ids), skip_special_tokens=True)
    assert plain.finish_reason is FinishReason.LENGTH
    assert detailed.logprobs is not None
    assert [len(position.top) for position in detailed.logprobs] == [4, 4, 4]
    assert [position.top[0].token_id for position in detailed.logprobs] == list(detailed.token_ids)
    assert [position.top[0].logprob for position in detailed.logprobs] == [p.logprob for p in detailed.logprobs]


def test_parameters_may_differ_by_prompt(engine: Engine) -> None:
    params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (1, 5, 2)]
    assert [len(c.token_ids) for c in engine.generate(["fox"] * 3, params)] == [1, 5, 2]
    for wrong in ([], params[:2]):
        with pytest.raises(InvalidArgument, match=f"3 prompts need as many SamplingParams, got {len(wrong)}"):
            engine.generate(["fox"] * 3, wrong)


def test_a_seed_gives_the_same_answer_alone_and_in_company(engine: Engine) -> None:
    seeds = [0, drawn_seed(64), 2**64 - 1]
    params = [SamplingParams(max_tokens=20, seed=seed, temperature=1.5, ignore_eos=True) for seed in seeds]
    alone = [engine.generate("the fox", p)[0].token_ids for p in params]
    assert len(set(alone)) == 3
    company = SamplingParams(max_tokens=20, temperature=2.0)
    together = engine.generate(
        ["dog", "the fox", "the fox", "a", "the fox"], [company, *params[:2], company, params[2]]
    )
    assert [together[i].token_ids for i in (1, 2, 4)] == alone
    assert engine.generate("the fox", company)[0] != engine.generate("the fox", company)[0]


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(engine: Engine, alone: list[Completion]) -> None:
    for prompt, free in zip(PROMPTS, alone, strict=True):
        for start in range(0, len(free.text) - 2, 5):
            stop = free.text[start : start + 2]
            if "�" in stop:  # half a character, which may be a whole one when more tokens have come
                continue
            (stopped,) = engine.generate(prompt, SamplingParams(**_but(LONG, stop=("never said", stop))))
            assert stopped.finish_reason is FinishReason.STOP
            assert stopped.text == free.text[: free.text.index(stop)]
            assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]
            assert stopped.logprobs is not None
            assert len(stopped.logprobs) == len(stopped.token_ids)


def test_a_stop_id_ends_the_answer_and_is_its_last_token(engine: Engine) -> None:
    (free,) = engine.generate("The quick", LONG)
    stop = free.token_ids[5]
    (stopped,) = engine.generate("The quick", SamplingParams(**_but(LONG, stop_token_ids=(stop,))))
    assert stopped.finish_reason is FinishReason.STOP
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(stop) + 1]


def test_the_end_of_sequence_token_ends_the_answer_unless_ignored(
    llama: Path, tmp_path: Path, engine: Engine, open_engine: OpenEngine
) -> None:
    (free,) = engine.generate("The quick", LONG)
    end = free.token_ids[4]
    folder = shutil.copytree(llama, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, end]}))
    other = open_engine(folder)
    (ended,) = other.generate("The quick", SamplingParams(temperature=0, max_tokens=40))
    assert ended.finish_reason is FinishReason.STOP
    assert ended.token_ids == free.token_ids[: free.token_ids.index(end) + 1]
    assert other.generate("The quick", LONG)[0].token_ids == free.token_ids


@pytest.mark.parametrize("prompt_length", [1, 31, 255])
def test_an_answer_ends_with_the_context(engine: Engine, prompt_length: int) -> None:
    (completion,) = engine.generate([[7] * prompt_length], SamplingParams(temperature=0, ignore_eos=True))
    assert completion.finish_reason is FinishReason.LENGTH
    assert len(completion.token_ids) == 256 - prompt_length


def test_a_shorter_context_may_be_served(llama: Path, open_engine: OpenEngine) -> None:
    small = open_engine(llama, context_length=10)
    assert len(small.generate([[7] * 4], SamplingParams(ignore_eos=True))[0].token_ids) == 6
    with pytest.raises(PromptTooLong, match="the prompt has 10 tokens; the context holds 10, one of them for the"):
        small.generate([[7] * 10])
    for length in (0, 257):
        with pytest.raises(InvalidArgument, match=rf"context_length must be in \[1, 256\] .*, got {length}"):
            open_engine(llama, context_length=length)


def test_the_pool_bounds_the_context_too(llama: Path, open_engine: OpenEngine) -> None:
    small = open_engine(llama, blocks=3)
    assert len(small.generate([[7] * 5], SamplingParams(ignore_eos=True))[0].token_ids) == 7
    with pytest.raises(PromptTooLong, match="the prompt has 12 tokens; the context holds 12"):
        small.generate([[7] * 12])
    with pytest.raises(
        FailedPrecondition, match=r"kv_cache\.memory must hold at least one block of 1536 bytes, got 0"
    ):
        open_engine(llama, blocks=0)


@pytest.mark.parametrize(
    ("prompt", "kind", "message"),
    [
        ("", InvalidArgument, "the prompt is empty"),
        ([[]], InvalidArgument, "the prompt is empty"),
        ([chat("")], InvalidArgument, "the prompt is empty"),
        ([[5, 320]], InvalidArgument, r"must be in \[0, 319\], got 320"),
        ([[5, -1]], InvalidArgument, r"must be in \[0, 319\], got -1"),
        ([[5, "x"]], InvalidArgument, "a prompt is a text, a list of token ids, a list of ChatMessage"),
        ([[7] * 256], PromptTooLong, "the prompt has 256 tokens; the context holds 256"),
        ("the " * 20_000, PromptTooLong, "at most"),
        ([chat("look", ImagePart(b"?"))], FailedPrecondition, "the model reads text only"),
        ([[ChatMessage("wizard", (TextPart("x"),))]], InvalidArgument, "role must be one of system, developer"),
    ],
)
def test_a_wrong_prompt_is_refused_and_the_engine_goes_on(
    engine: Engine, prompt: Any, kind: type[TriptychError], message: str
) -> None:
    steps = engine.core.steps
    with pytest.raises(kind, match=message):
        engine.generate(prompt, SHORT)
    with pytest.raises(kind, match=message):
        engine.generate(["fine", *([prompt] if isinstance(prompt, str) else prompt)], SHORT)
    assert engine.core.steps == steps
    assert len(engine.generate("fine", SHORT)[0].token_ids) == 3


def test_a_failing_step_leaves_nothing_behind(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = engine.generate("The quick", SHORT)
    with monkeypatch.context() as patch:
        patch.setattr("triptych.engine.runner.sample", lambda *_: 1 / 0)
        with pytest.raises(StepFailed, match=r"a step of \d+ tokens failed") as caught:
            engine.generate(PROMPTS, SHORT)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        _assert_idle(engine)
    assert engine.generate("The quick", SHORT) == [before]


def test_a_dtype_that_is_not_served_is_refused(llama: Path) -> None:
    with pytest.raises(InvalidArgument, match="dtype must be auto, float32 or bfloat16, got 'float8'"):
        Engine(str(llama), dtype="float8")


def _but(params: SamplingParams, **changes: Any) -> dict[str, Any]:
    return {name: getattr(params, name) for name in params.__slots__} | changes
