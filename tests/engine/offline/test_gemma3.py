"""A real Gemma 3 against transformers, which dequantises the same GGUF file."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GgufConfig

from triptych.engine import Engine, SamplingParams
from triptych.models.hf_tokenizer import read_tokenizer
from triptych.models.resolve import resolve
from triptych.models.tokenizer import tokenizer_folder

MODEL = "builtin:gemma3-270m"
LENGTH = 48
RECORDED = (
    "506 5279 529 506 2891 529 7001 236761 1030 563 506 7488 3207 528 7001 532",
    "140 584 538 1251 236743 236771 236787 107 144 2060 236743 236771 107 140 36208 538",
    "236951 235542 237669 240317 237512 63405 21139 237051 66447 26697 94178 3547 59260 236951 235542 237669",
)
"""Of the first three prompts; the test of all answers checks that transformers still gives these."""
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n",
    "人工知能とは",
    "Once upon a time, in a small village",
    "Water boils at a temperature of",
    "The three laws of robotics are",
    "Die Hauptstadt von Deutschland ist",
    "1 2 3 4 5 6",
    "In 1969, Neil Armstrong",
    "The recipe for pancakes:\n\n1.",
    "import numpy as np\n\nx =",
    "La révolution française a commencé",
    "Q: What is the largest planet?\nA:",
    "She opened the door and",
    "The mitochondria is",
    "SELECT name FROM users WHERE",
    "Dear Sir or Madam,\n\nI am writing",
    "Newton's second law states that",
    "List of prime numbers: 2, 3, 5, 7,",
    "The wheel goes round. " * 130 + "So",  # longer than the window of 512 tokens
]


def answers(prompts: list[str], length: int, quantization: str) -> list[tuple[int, ...]]:
    engine = Engine(MODEL, dtype="float32", quantization=quantization, kv_cache_memory=1 << 28)
    params = SamplingParams(temperature=0, max_tokens=length)
    return [completion.token_ids for completion in engine.generate(prompts, params)]


def recorded() -> list[tuple[int, ...]]:
    return [tuple(map(int, tokens.split())) for tokens in RECORDED]


def test_the_first_answers_are_those_that_transformers_gave() -> None:
    assert answers(PROMPTS[:3], len(recorded()[0]), "gguf") == recorded()


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("quantization", ["none", "gguf"])
def test_all_answers_are_those_of_transformers(quantization: str, expected: list[tuple[int, ...]]) -> None:
    assert [tokens[: len(recorded()[0])] for tokens in expected[:3]] == recorded()
    assert answers(PROMPTS, LENGTH, quantization) == expected


@pytest.fixture(scope="module")
def expected() -> list[tuple[int, ...]]:
    files = resolve(MODEL)
    tokenizer = read_tokenizer(tokenizer_folder(files))
    model: Any = AutoModelForCausalLM.from_pretrained(
        files.path.parent,
        gguf_file=files.path.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    found = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        row = model.generate(ids, do_sample=False, max_new_tokens=LENGTH, eos_token_id=1, pad_token_id=0)[0]
        found.append(tuple(row[ids.shape[1] :].tolist()))
    return found
