"""Mixtures of experts and latent attention: a prompt that is read elsewhere has the same answer."""

from pathlib import Path
from typing import Any

import pytest

TOKENS = 12


@pytest.fixture
def block_size() -> int:
    return 16


@pytest.fixture(params=["mixtral", "deepseek"])
def model(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(f"tiny_{request.param}")
    return folder


@pytest.mark.parametrize("layout", ["1D", "1P1D"])
def test_text_alone_and_six_at_once(
    layout: str, start: Any, model: Path, oracle: Any, ask: Any, answers: Any
) -> None:
    questions = oracle.questions(model, lambda: ask(9), 6, TOKENS)
    cluster = start(model, layout, scheduler__max_batch_tokens=24)
    prompt, expected = questions[0]
    assert answers(cluster, [prompt], TOKENS) == [expected]
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]
    assert cluster.recorded("decode-0") > 0
