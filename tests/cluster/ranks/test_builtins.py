"""SmolLM2 has 3 KV heads: two ranks hold two and one of them; of four ranks two hold the same."""

from pathlib import Path
from typing import Any

import pytest

from triptych.cli.demo.digits import held_out_digits
from triptych.core.prompt import ChatMessage, ImagePart, TextPart
from triptych.models.resolve import resolve

TOKENS = 6
TEXTS = ["The capital of France is", "Three primes are 2, 3 and", "Water boils at"]


def digits() -> list[list[ChatMessage]]:
    """Questions about pictures that the model answers right."""
    pictures = [digit.png for digit in held_out_digits()[:2]]
    question = TextPart("What digit is in the image?")
    return [[ChatMessage("user", (ImagePart(png), question))] for png in pictures]


@pytest.mark.parametrize(
    ("model", "encode", "prefill", "decode"),
    [
        ("smollm2-digits", 1, {"tensor_parallel": 2}, {"tensor_parallel": 4}),
        ("smollm2", 0, {"tensor_parallel": 4}, {}),
        ("smollm2-moe", 0, {"tensor_parallel": 2}, {"expert_parallel": 2}),
    ],
    ids=["2 to 4", "4 to 1", "2 to 2 lanes"],
)
def test_smollm2_through_unequal_ranks(
    start: Any, oracle: Any, answers: Any, model: str, encode: int, prefill: dict[str, int], decode: dict[str, int]
) -> None:
    files: Path = resolve(f"builtin:{model}").path
    prompts = iter(digits() if encode else [*TEXTS, *(f"{text}, they say," for text in TEXTS)])
    questions = oracle.questions(files, lambda: next(prompts), 2, TOKENS)
    stages = {
        "encode": {"replicas": encode},
        "prefill": {"replicas": 1, **prefill},
        "decode": {"replicas": 1, **decode},
    }
    cluster = start(f"builtin:{model}", "auto", stages=stages, kv_cache__memory="32MiB", kv_cache__block_size=16)
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]
    reader, writer = (cluster.host(f"{role}-0").panel.decoding.stage for role in ("prefill", "decode"))
    assert (reader.prefilled_tokens > 0, writer.prefilled_tokens) == (True, 0)
    assert all(receiver.counts.chunks > 0 for receiver in cluster.receivers("decode-0"))
