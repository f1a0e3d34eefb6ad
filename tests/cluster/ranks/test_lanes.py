"""KV between workers whose ranks have sequences of their own, and workers that divide heads: one rank's tokens."""

from pathlib import Path
from typing import Any

import pytest

TOKENS = 10
ONE, PAIR, LANES, HEADS, GRID = (
    {"tensor_parallel": tensor, "expert_parallel": expert, "attention_parallel": attention}
    for tensor, expert, attention in [
        (1, 1, "data"),
        (2, 1, "data"),
        (1, 2, "data"),
        (1, 2, "tensor"),
        (2, 2, "data"),
    ]
)


@pytest.mark.parametrize(
    ("prefill", "decode"),
    [(PAIR, LANES), (LANES, PAIR), (LANES, GRID), (HEADS, ONE)],
    ids=["2 ranks to 2 lanes", "2 lanes to 2 ranks", "2 lanes to 2 lanes of 2 ranks", "2 ranks to 1"],
)
@pytest.mark.parametrize("model", ["tiny_mixtral", "tiny_deepseek"])
def test_a_prompt_goes_from_the_ranks_of_one_lane_to_those_of_another(
    start: Any,
    oracle: Any,
    ask: Any,
    answers: Any,
    request: pytest.FixtureRequest,
    model: str,
    prefill: dict[str, Any],
    decode: dict[str, Any],
) -> None:
    files: Path = request.getfixturevalue(model)
    questions = oracle.questions(files, lambda: ask(5), 6, TOKENS)
    stages = {
        "encode": {"replicas": 0},
        "prefill": {"replicas": 1, **prefill},
        "decode": {"replicas": 1, **decode},
    }
    cluster = start(files, "auto", stages=stages)
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]
    reader, writer = (cluster.host(f"{role}-0").panel.decoding.stage for role in ("prefill", "decode"))
    assert (reader.prefilled_tokens > 0, writer.prefilled_tokens) == (True, 0)
    assert all(receiver.counts.chunks > 0 for receiver in cluster.receivers("decode-0"))
