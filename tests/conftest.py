"""What transformers makes of the built-in model: the yardstick of the engine and of the cluster."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from triptych.models.resolve import resolve
from triptych.models.spec import read_spec

REFERENCE_LENGTH = 64

_CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
_LONG = " ".join(f"Item {n} of the list costs {n * 7 % 31} coins and weighs {n * 5 % 13} kilos." for n in range(24))


@pytest.fixture(scope="session")
def reference_length() -> int:
    """Upper bound of tokens in each reference answer."""
    return REFERENCE_LENGTH


@pytest.fixture(scope="session")
def reference_prompts() -> list[str]:
    """20 texts: prose, chats, code, numbers, other scripts, one token and several hundred."""
    return [
        "The capital of France is",
        "Once upon a time, in a village by the sea,",
        "The three laws of thermodynamics are:\n1.",
        "def fibonacci(n):\n    ",
        '{"name": "Ada", "languages": ["',
        "1, 1, 2, 3, 5, 8, 13,",
        "Q: What is 12 times 12?\nA:",
        "Liebe Grüße aus München,",
        "今天天气",
        "Ein Ring, sie zu knechten, 🙂🙃 und",
        "A",
        "   \n\n\t",
        "SELECT name, COUNT(*) FROM users",
        "<html>\n<head>\n<title>",
        _LONG + " The heaviest item is",
        _CHAT.format("What is the capital of Japan? Answer in one word."),
        _CHAT.format("Write a haiku about the moon."),
        _CHAT.format("Repeat after me: alpha, beta, gamma."),
        _CHAT.format(f"Summarise in one sentence: {_LONG}"),
        "<|im_start|>system\nYou are a pirate.<|im_end|>\n" + _CHAT.format("Hello, who are you?"),
    ]


@pytest.fixture(scope="session")
def reference_tokens(reference_prompts: list[str]) -> list[tuple[int, ...]]:
    """Greedy answers of transformers in float32 to the GGUF file that Triptych reads, end-of-sequence included.

    Prompts of similar length share a batch, padded on the left: a quarter of the time of one by one.
    """
    files = resolve("builtin:smollm2")
    folder, name = files.path.parent, files.path.name
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, padding_side="left")
    stops = read_spec(files).eos_token_ids
    answers: dict[str, tuple[int, ...]] = {}
    by_length = sorted(reference_prompts, key=len)
    for group in (by_length[i : i + 5] for i in range(0, len(by_length), 5)):
        inputs = tokenizer(group, return_tensors="pt", padding=True)
        rows = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=REFERENCE_LENGTH,
            eos_token_id=list(stops),
            pad_token_id=tokenizer.pad_token_id,
        )
        for prompt, row in zip(group, rows[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            answers[prompt] = _up_to(row, stops)
    return [answers[prompt] for prompt in reference_prompts]


def _up_to(tokens: list[int], stops: tuple[int, ...]) -> tuple[int, ...]:
    length = next((i + 1 for i, token in enumerate(tokens) if token in stops), len(tokens))
    return tuple(tokens[:length])
