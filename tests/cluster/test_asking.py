"""What a request may ask of its answer, on clusters of real workers: several answers, defaults, log-probabilities."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from triptych.core.errors import InvalidArgument
from triptych.core.sampling import SamplingParams
from triptych.engine import Engine

SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "ignore_eos": True, "max_tokens": 10, "seed": 2**63}


def asked(
    oracle: Any, model: Path, make: Callable[[], Any], *several: dict[str, Any]
) -> tuple[Any, list[list[tuple[int, ...]]]]:
    """A prompt whose answers, all different, are no matter of rounding, and those of the offline engine to each."""
    while True:
        prompt = make()
        found = [oracle.sampled(model, prompt, **params) for params in several]
        if None not in found and all(len(set(answers)) == len(answers) for answers in found):
            return prompt, found


@pytest.mark.parametrize("layout", ["1D", "1P1D", "2P2D"])
def test_several_answers_are_those_of_the_offline_engine(
    layout: str, start: Any, tiny_llama: Path, ask: Any, oracle: Any
) -> None:
    prompt, [whole] = asked(oracle, tiny_llama, lambda: ask(12), SAMPLED | {"n": 5})
    cluster = start(tiny_llama, layout)
    found = cluster.client.generate(prompt, n=5, **SAMPLED)
    assert [choice.token_ids for choice in found.choices] == whole
    stream = cluster.client.stream(prompt, n=5, **SAMPLED)
    pieces: list[tuple[int, ...]] = [()] * 5
    for chunk in stream:
        pieces[chunk.index] += chunk.token_ids
    assert pieces == whole
    assert stream.result().usage.completion_tokens == 50
    assert found.usage.cached_tokens == 0, "as answer 0 found the prompt"
    assert cluster.client.generate(prompt, **SAMPLED).token_ids == whole[0]


def test_a_worker_killed_at_work_costs_several_answers_nothing(
    start: Any, tiny_llama: Path, ask: Any, oracle: Any, eventually: Any
) -> None:
    options = SAMPLED | {"max_tokens": 40, "n": 3}
    prompt, [whole] = asked(oracle, tiny_llama, lambda: ask(6), options)
    cluster = start(tiny_llama, "2D")
    with cluster.client.stream(prompt, **options) as stream:
        begun: set[int] = set()
        while len(begun) < 3:
            begun.add(next(stream).index)
        [busy] = [name for name in ("decode-0", "decode-1") if cluster.host(name).panel.report().generated_tokens]
        cluster.runtime.actors[busy].crash()
        found = stream.result()
    assert [choice.token_ids for choice in found.choices] == whole
    eventually(lambda: cluster.client.status().ready)


@pytest.mark.parametrize("layout", ["1E1D", "2E2P1D"])
def test_prompt_and_images_of_several_answers_are_computed_once(
    layout: str, start: Any, tiny_llava: Path, ask: Any, oracle: Any
) -> None:
    prompt, [whole] = asked(oracle, tiny_llava, lambda: ask(3, images=2), SAMPLED | {"n": 4})
    cluster = start(tiny_llava, layout)
    found = cluster.client.generate(prompt, n=4, **SAMPLED)
    assert [choice.token_ids for choice in found.choices] == whole
    loads = [cluster.host(worker.worker_id).panel.report() for worker in cluster.client.status().workers]
    assert sum(load.encoded_images for load in loads) == 2
    prompt_tokens = found.usage.prompt_tokens
    computed = sum(load.prefilled_tokens for load in loads)
    assert prompt_tokens <= computed <= prompt_tokens + 3 * 4, "of the others' prompts a part of a block is left"


def test_the_models_own_parameters_count_unless_the_cluster_says_otherwise(
    start: Any, tiny_llama: Path, ask: Any, oracle: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "opinionated"
    shutil.copytree(tiny_llama, folder)
    written = {"do_sample": False, "repetition_penalty": 1.5, "max_new_tokens": 6}
    (folder / "generation_config.json").write_text(json.dumps(written))
    said = {"temperature": 0, "repetition_penalty": 1.5, "max_tokens": 6}
    drawn = {"seed": 5, "max_tokens": 6}
    prompt, [calm, lively] = asked(oracle, tiny_llama, lambda: ask(8), said, drawn)
    own = start(folder, "1D").client
    assert own.models()[0].default_sampling == SamplingParams(**said)
    assert own.generate(prompt).token_ids == own.generate(prompt, **said).token_ids
    assert [own.generate(prompt).token_ids] == calm
    assert len(own.generate(prompt, max_tokens=9, ignore_eos=True).token_ids) == 9
    neutral = start(folder, "1D", generation_config="none").client
    assert neutral.models()[0].default_sampling == SamplingParams()
    assert [neutral.generate(prompt, **drawn).token_ids] == lively


@pytest.mark.parametrize("layout", ["1D", "1P1D"])
def test_log_probabilities_name_every_token(layout: str, start: Any, tiny_llama: Path, ask: Any, oracle: Any) -> None:
    options = {**SAMPLED, "logprobs": 3, "skip_special_tokens": False}
    engine, close = Engine(str(tiny_llama), dtype="float32", kv_cache_memory=1 << 22), True
    while close:  # two tokens may be named in either order
        prompt, _ = asked(oracle, tiny_llama, lambda: ask(6), options)
        [offline] = engine.generate([prompt], SamplingParams(**options | {"logprobs": 4}))
        tops = [[token.logprob for token in position.top] for position in offline.logprobs or ()]
        close = any(one - next_one < oracle.margin for top in tops for one, next_one in pairwise(top))
    [offline] = engine.generate([prompt], SamplingParams(**options))
    client = start(tiny_llama, layout).client
    whole = client.generate(prompt, **options)
    with client.stream(prompt, **options) as stream:
        streamed = [position for chunk in stream for position in chunk.logprobs]
    assert len(streamed) == len(whole.logprobs) == len(whole.token_ids) == 10
    assert b"".join(position.token for position in streamed).decode(errors="replace") == whole.text
    for ours, theirs in zip((*streamed, *whole.logprobs), (offline.logprobs or ()) * 2, strict=True):
        assert (ours.token, [t.token for t in ours.top]) == (theirs.token, [t.token for t in theirs.top])
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
        assert [t.logprob for t in ours.top] == pytest.approx([t.logprob for t in theirs.top], abs=1e-4)


def test_no_answer_ends_before_its_fewest_tokens(start: Any, tiny_llama: Path, ask: Any) -> None:
    client = start(tiny_llama, "1P1D").client
    prompt = ask(6)
    free = client.generate(prompt, **SAMPLED)
    stop = sorted(set(free.token_ids))
    held = client.generate(prompt, **(SAMPLED | {"stop_token_ids": stop, "min_tokens": 4}))
    assert len(held.token_ids) > 4
    assert set(stop).isdisjoint(held.token_ids[:4])
    with pytest.raises(InvalidArgument, match="min_tokens"):
        client.generate(prompt, min_tokens=-1)


def test_a_conversation_with_tools_is_counted_as_it_is_rendered(start: Any, tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tools"
    shutil.copytree(tiny_llama, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    template = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{{ messages[-1].content }}{{ mood }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    (folder / "chat_template.jinja").write_text(template)
    client = start(folder, "1D").client
    tool = {"name": "f", "n": 1.0}
    ids = client.tokenize([{"role": "user", "content": "x"}], tools=[tool], chat_template_kwargs={"mood": "!"})
    assert client.detokenize(ids) == '{"name": "f", "n": 1.0}x!'
    found = client.chat([{"role": "user", "content": "x"}], tools=[tool], max_tokens=1)
    assert found.usage.prompt_tokens == len(ids) - 1
