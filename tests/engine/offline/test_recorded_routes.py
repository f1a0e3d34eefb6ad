"""Writing down which experts an engine's steps ask for."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.recordings import recall
from triptych.core.errors import InvalidArgument
from triptych.engine import Engine, SamplingParams
from triptych.engine.route_recording import record
from triptych.experts.traces import Everybody, NextGate, foretold
from triptych.models.synthetic import synthetic

PROMPTS = [[3, 4, 5, 6, 7], [20, 21], [40]]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = synthetic("2MB")
    with Engine(str(folder), kv_cache_memory=1 << 22, max_running=2, threads=1) as engine:
        yield engine


def answers(tokens: int) -> list[SamplingParams]:
    return [SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)] * len(PROMPTS)


def test_every_row_of_every_step_is_written_down(mixture: Engine) -> None:
    routes = record(mixture, "random", PROMPTS, answers(6))
    model = routes.model
    layers, experts = len(mixture.spec.decoder.layers), model.experts
    assert (model.name, model.layers, model.hidden) == ("random", layers, mixture.spec.decoder.hidden_size)
    rows = sum(len(prompt) + 6 - 1 for prompt in PROMPTS)
    assert routes.ids.shape == (layers, rows, model.top_k)
    for place, prompt in enumerate(PROMPTS):
        own = routes.sequences == place
        assert routes.positions[own].tolist() == list(range(len(prompt) + 5))
        assert routes.tokens[own].tolist()[: len(prompt)] == prompt
    assert all(len(set(row)) == model.top_k for row in routes.ids.reshape(-1, model.top_k).tolist())
    assert 0 <= routes.ids.min() <= routes.ids.max() < experts
    assert max(np.diff(routes.steps)) > 2, "prompts run as chunks"


def test_answers_are_those_of_an_engine_that_nobody_watches(mixture: Engine) -> None:
    before = [c.token_ids for c in mixture.generate(PROMPTS, answers(6))]
    routes = record(mixture, "random", PROMPTS, answers(6))
    after = [c.token_ids for c in mixture.generate(PROMPTS, answers(6))]
    assert after == before
    for place, prompt in enumerate(PROMPTS):
        assert routes.tokens[routes.sequences == place].tolist()[len(prompt) :] == list(before[place])[:-1]


def test_the_next_router_foresees_more_than_chance(mixture: Engine) -> None:
    routes = record(mixture, "random", PROMPTS, answers(12))
    model = routes.model
    assert recall(foretold(NextGate(0), routes), routes.demands()) > model.top_k / model.experts
    assert recall(foretold(NextGate(8), routes), routes.demands()) >= recall(
        foretold(NextGate(0), routes), routes.demands()
    )
    assert recall(foretold(Everybody(), routes), routes.demands()) == 1


def test_what_tokens_are_embedded_as_is_in_the_recording(mixture: Engine) -> None:
    routes = record(mixture, "random", PROMPTS, answers(3))
    assert routes.vocabulary.tolist() == sorted(set(routes.tokens.tolist()))
    table = mixture.core.decoder._embedding
    expected = table.values[routes.vocabulary.tolist()].float().half().numpy()  # type: ignore[union-attr]
    np.testing.assert_array_equal(routes.embeddings, expected)


def test_a_model_without_experts_has_no_routes(tmp_path: Path) -> None:
    with (
        Engine("builtin:smollm2", kv_cache_memory=1 << 24) as engine,
        pytest.raises(InvalidArgument, match="no layer of the model has experts"),
    ):
        record(engine, "dense", [[1]], answers(1)[:1])
