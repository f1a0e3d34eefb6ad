"""Training `route`: what it finds where there is something to find."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.recordings import MODEL, recall, recording
from triptych.core.errors import DataLoss, InvalidArgument, NotFound
from triptych.experts.traces import Route, Routes, Script, foretold, read_route_model, train, write_route_model


def by_token(steps: int) -> Routes:
    """Routes that the token alone decides, by numbers that nobody is told."""
    routes = recording(steps, rows=8)
    decide = np.random.default_rng(5).normal(size=(MODEL.layers, MODEL.hidden, MODEL.experts))
    scores = routes.embedded() @ decide
    return replace(routes, ids=np.argsort(-scores, axis=-1)[..., : MODEL.top_k].astype(np.int32))


def test_routes_that_follow_from_the_token_are_found() -> None:
    trained = train([by_token(40), by_token(40)], widen=1)
    assert len(trained.recall) == MODEL.layers
    assert trained.rows == 2 * 40 * 2, "every fourth of eight sequences, of two recordings"
    assert np.mean(trained.recall) > 0.9
    assert np.mean(trained.recall) > max(np.mean(trained.most_frequent), np.mean(trained.as_before))


def test_the_same_recordings_give_the_same_model() -> None:
    routes = by_token(20)
    one, other = (train([routes], widen=1).model for _ in range(2))
    assert np.array_equal(one.weight, other.weight)
    assert np.array_equal(one.bias, other.bias)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    trained = train([by_token(20)], widen=1).model
    write_route_model(tmp_path / "route.safetensors", trained)
    read = read_route_model(tmp_path / "route.safetensors")
    assert read.model == trained.model
    assert np.array_equal(read.weight, trained.weight)
    assert np.array_equal(read.bias, trained.bias)


def test_a_torn_file_is_told_from_an_absent_one(tmp_path: Path) -> None:
    path = tmp_path / "route.safetensors"
    with pytest.raises(NotFound):
        read_route_model(path)
    write_route_model(path, train([by_token(20)], widen=1).model)
    whole = path.read_bytes()
    for cut in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataLoss):
            read_route_model(path)


def test_replay_foretells_what_the_model_expects() -> None:
    routes = by_token(30)
    trained = train([routes], widen=1).model
    told = foretold(Route(trained, widen=1), routes)
    assert recall(told, Script.of(routes).demands) > 0.9
    single = by_token(1)
    row = foretold(Route(trained, 1), replace_rows(single))[0]
    expected = np.argsort(-trained.scores(single.embedded()[:1])[0], axis=-1)[:, : MODEL.top_k + 1]
    assert [list(layer) for layer in row] == expected.tolist()


def replace_rows(routes: Routes) -> Routes:
    """Its rows as a step of their own each."""
    return replace(routes, steps=np.arange(len(routes.tokens) + 1, dtype=np.int64))


def test_recordings_of_two_models_or_of_too_few_sequences_are_refused() -> None:
    other = by_token(4)
    with pytest.raises(InvalidArgument, match="one model"):
        train([by_token(4), replace(other, model=replace(MODEL, digest="1"))], widen=1)
    with pytest.raises(InvalidArgument, match="at least 4 sequences"):
        train([recording(20)], widen=1)
