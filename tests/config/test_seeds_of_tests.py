"""Seeds of random inputs: others where that is asked for, which can be had again."""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import seeds


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], list[object]]:
    """What a process of this environment draws for a test."""

    def run(environ: dict[str, str]) -> list[object]:
        monkeypatch.setattr(seeds, "BASE", seeds.base_of(environ))
        with seeds.shared("a fixture"):
            return [
                seeds.drawn_seed(),
                seeds.drawn_seed(64),
                random.random(),
                np.random.rand(),
                float(torch.rand(())),
            ]

    return run


def test_a_fresh_run_says_a_number_that_brings_it_back(
    draws: Callable[[dict[str, str]], list[object]], capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {seeds.VARIABLE: "fresh"}
    fresh = draws(environ)
    [line] = seeds.header()
    name, _, number = line.partition("=")
    assert number.isdecimal()
    assert line in capsys.readouterr().out  # as a failure shows it

    assert draws({name: number}) == fresh
    assert draws(environ) == fresh  # a worker of the run
    assert draws({name: f"{number}0"}) != fresh
    assert draws({}) != fresh
    assert seeds.header() == []


def test_fresh_runs_differ() -> None:
    assert len({seeds.base_of({seeds.VARIABLE: "fresh"}) for _ in range(64)}) > 1


def test_the_header_of_the_run_says_it(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "BASE", "1234")
    found = request.config.hook.pytest_report_header(config=request.config, start_path=request.config.rootpath)
    assert ["TRIPTYCH_TEST_SEED=1234"] in found


@pytest.mark.parametrize(
    ("base", "given", "seed"), [("", None, None), ("1234", None, "1234"), ("1234", "5", "5"), ("", "5", "5")]
)
def test_examples_follow_from_it_unless_they_have_a_seed_of_their_own(
    base: str, given: str | None, seed: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeds, "BASE", base)
    config: Any = SimpleNamespace(option=SimpleNamespace(hypothesis_seed=given))
    seeds.seed_hypothesis(config)
    assert config.option.hypothesis_seed == seed
