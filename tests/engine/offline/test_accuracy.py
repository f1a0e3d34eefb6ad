"""Logits of the built-in model in every form, token for token beside float32 on the same texts."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from triptych import kernels
from triptych.engine import Engine
from triptych.kernels import AttentionBatch
from triptych.kernels.dispatch import NoBackend, Op, compiled_only
from triptych.models.resolve import resolve
from triptych.models.spec import read_spec
from triptych.models.step import StepInput
from triptych.models.text import TextProcessor

BLOCK = 16
CHOSEN = (0, 2, 3, 5, 7, 11, 15, 17)
"""Prose, lists, code, numbers, German, blanks, and two chats of the reference prompts."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near some logits are to the exact ones, over all positions.

    Attributes:
        same: Share of positions with the same likeliest token.
        divergence: Mean Kullback-Leibler divergence from the exact distribution, in nats.
        error: Norm of the difference over the norm of the exact log-probabilities, which unlike logits do not
            depend on what is added to all of them.
        overturned: The largest lead, in logits, of an exact winner that does not win here.
    """

    same: float
    divergence: float
    error: float
    overturned: float


@pytest.fixture(scope="module")
def texts(reference_prompts: list[str], reference_tokens: list[tuple[int, ...]]) -> list[list[int]]:
    """Prompts with what transformers makes of them."""
    files = resolve("builtin:smollm2")
    tokenize = TextProcessor.load(files, read_spec(files)).encode
    return [[*tokenize(reference_prompts[i]), *reference_tokens[i]] for i in CHOSEN]


@pytest.fixture(scope="module")
def exact(texts: list[list[int]]) -> list[Tensor]:
    return logits("float32", "none", texts)


@pytest.fixture(scope="module")
def agreement(texts: list[list[int]], exact: list[Tensor]) -> Callable[[str], Agreement]:
    """Of a form in bfloat16."""
    return lambda quantization: compare(logits("bfloat16", quantization, texts), exact)


def test_bfloat16(agreement: Callable[[str], Agreement]) -> None:
    found = agreement("none")
    print(found)
    assert found.same >= 0.98
    assert found.overturned <= 0.1
    assert found.divergence <= 0.001
    assert found.error <= 0.01


def test_compiled_kernels_round_no_more_than_torch_does(
    texts: list[list[int]], exact: list[Tensor], agreement: Callable[[str], Agreement]
) -> None:
    """What separates bfloat16 from float32 is the type itself."""
    found = agreement("none")
    with pytest.MonkeyPatch.context() as patch:
        engine = open_engine("bfloat16", "none")
        for op in (op for op in vars(kernels).values() if isinstance(op, Op)):
            patch.setattr(op, "_chosen", {})
        with pytest.raises(NoBackend), compiled_only():
            forward(engine, texts[0])
        reference = compare([forward(engine, text) for text in texts], exact)
    print(found, reference)
    assert found.divergence <= 1.2 * reference.divergence
    assert found.error <= 1.2 * reference.error


@pytest.mark.parametrize(
    ("quantization", "same", "overturned", "divergence"),
    [("gguf", 0.965, 0.3, 0.005), ("int8", 0.95, 0.75, 0.01)],
)
def test_quantised(
    quantization: str, same: float, overturned: float, divergence: float, agreement: Callable[[str], Agreement]
) -> None:
    found = agreement(quantization)
    print(found)
    assert found.same >= same
    assert found.overturned <= overturned
    assert found.divergence <= divergence


def open_engine(dtype: str, quantization: str) -> Engine:
    return Engine("builtin:smollm2", dtype=dtype, quantization=quantization, kv_cache_memory=1 << 25)


def logits(dtype: str, quantization: str, texts: list[list[int]]) -> list[Tensor]:
    engine = open_engine(dtype, quantization)
    return [forward(engine, text) for text in texts]


def forward(engine: Engine, text: list[int]) -> Tensor:
    """[token, vocabulary], computed in one step."""
    return engine.core.decoder.forward(_step(text), engine.core.kv)


def _step(text: list[int]) -> StepInput:
    """A prompt in the first blocks of the cache, every row of it scored."""
    length = len(text)
    positions = torch.arange(length)
    batch = AttentionBatch(
        query_start=torch.tensor([0, length], dtype=torch.int32),
        kv_lengths=torch.tensor([length], dtype=torch.int32),
        block_tables=torch.arange(-(-length // BLOCK), dtype=torch.int32).unsqueeze(0),
    )
    return StepInput(torch.tensor(text), positions, positions, batch, positions)


def compare(found: list[Tensor], exact: list[Tensor]) -> Agreement:
    """All texts as one."""
    ours, theirs = (torch.cat(rows).log_softmax(dim=-1) for rows in (found, exact))
    same = ours.argmax(dim=-1) == theirs.argmax(dim=-1)
    best, second = theirs.topk(2).values.unbind(dim=-1)
    divergence = torch.nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return Agreement(
        same=same.double().mean().item(),
        divergence=divergence.item(),
        error=((ours - theirs).norm() / theirs.norm()).item(),
        overturned=max((best - second)[~same].tolist(), default=0.0),
    )
