"""The trained predictor as a step has it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.seeds import drawn_seed
from triptych.core.errors import FailedPrecondition
from triptych.engine import Engine, SamplingParams
from triptych.engine.route_recording import record
from triptych.experts.traces import Routes, train, write_route_model
from triptych.models.expert_route import ExpertRoute, routers_digest
from triptych.models.parameters import Linear
from triptych.models.synthetic import synthetic

PROMPTS = [[3, 4, 5], [20, 21], [40], [60, 61], [80]]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Routes]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = synthetic("2MB", seed=drawn_seed(31))
    with Engine(str(folder), kv_cache_memory=1 << 22, threads=1) as engine:
        answers = [SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)] * len(PROMPTS)
        yield engine, record(engine, "walk", PROMPTS, answers)


@pytest.fixture
def route(mixture: tuple[Engine, Routes], tmp_path: Path) -> Path:
    path = tmp_path / "route.safetensors"
    write_route_model(path, train([mixture[1]], widen=0).model)
    return path


def routers_of(engine: Engine) -> list[Linear]:
    return [layer.mlp.mixer.router for layer in engine.core.decoder._layers]  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_ranks_experts_as_training_did(mixture: tuple[Engine, Routes], route: Path, dtype: torch.dtype) -> None:
    engine, routes = mixture
    model, trained = routes.model, train([routes], widen=0).model
    loaded = ExpertRoute.load(route, routers_of(engine), dtype, torch.device("cpu"))
    rows = torch.from_numpy(routes.embedded()).to(dtype)
    scores = torch.full((len(rows), model.layers * model.experts), torch.nan)
    loaded(rows, scores)
    found = scores.view(len(rows), model.layers, model.experts).numpy()
    expected = trained.scores(routes.embedded())
    expected = expected - trained.bias.reshape(model.layers, -1).mean(axis=1)[:, None]
    np.testing.assert_allclose(found, expected, atol=1e-4 if dtype is torch.float32 else 0.05)


def test_a_route_of_another_model_is_refused(mixture: tuple[Engine, Routes], route: Path) -> None:
    routers = routers_of(mixture[0])
    with pytest.raises(FailedPrecondition, match="was trained for walk"):
        ExpertRoute.load(route, routers[::-1], torch.float32, torch.device("cpu"))


def test_the_type_of_the_activations_makes_no_other_model(mixture: tuple[Engine, Routes]) -> None:
    engine, routes = mixture
    routers = routers_of(engine)
    wide = [replace(r, weight=replace(r.weight, values=r.weight.values.float())) for r in routers]  # type: ignore[union-attr]
    assert routers_digest(wide) == routers_digest(routers) == routes.model.digest
