"""The forms of a weight: what they stand for, and the ops over them, against float64."""

from collections.abc import Callable

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from triptych import kernels
from triptych.kernels import DenseWeight, GgufWeight, Int8Weight, Weight, dequantize
from triptych.kernels.gguf_blocks import GGUF_BLOCKS, GgufKind
from triptych.kernels.testing import random_blocks

Poisoned = Callable[..., Tensor]
Close = Callable[[Tensor, Tensor], None]

SMALL: list[GgufKind] = ["Q4_0", "Q4_1", "Q8_0", "Q5_0", "Q5_1"]
FORMS = ["dense", "dense bf16", "int8", *SMALL]


def make(form: str, outputs: int, inputs: int) -> Weight:
    if form == "int8":
        tiles = (-(-outputs // 16), -(-inputs // 4), 16, 4)
        values = torch.randint(-127, 128, tiles, dtype=torch.int8)
        return Int8Weight(values, torch.rand(outputs) / 600, inputs)
    plain = torch.randn(outputs, inputs) / 6
    if form in SMALL:
        packed = gguf.quants.quantize(plain.numpy(), GGMLQuantizationType[form])
        return GgufWeight(torch.from_numpy(packed.copy()), form, inputs)
    return DenseWeight(plain.bfloat16() if form == "dense bf16" else plain)


@pytest.fixture(params=FORMS)
def weight(request: pytest.FixtureRequest) -> Weight:
    return make(request.param, 37, 96)


@pytest.mark.parametrize("kind", GGUF_BLOCKS)
def test_blocks_stand_for_what_the_gguf_package_reads_bit_by_bit(kind: GgufKind) -> None:
    inputs = 5 * GGUF_BLOCKS[kind][0]
    weight = random_blocks(kind, 19, inputs)
    expected = gguf.quants.dequantize(weight.blocks.numpy(), GGMLQuantizationType[kind])
    assert (weight.outputs, weight.inputs) == (19, inputs)
    assert np.array_equal(dequantize(weight).numpy(), expected)
    assert np.array_equal(dequantize(weight, slice(3, 11)).numpy(), expected[3:11])
    assert np.array_equal(dequantize(weight, torch.tensor([18, 0, 18])).numpy(), expected[[18, 0, 18]])


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (16, 4), (17, 5), (31, 67)])
def test_int8_tiles_stand_for_what_a_loop_reads(outputs: int, inputs: int) -> None:
    weight = make("int8", outputs, inputs)
    assert isinstance(weight, Int8Weight)
    found = dequantize(weight)
    assert found.shape == (weight.outputs, weight.inputs) == (outputs, inputs)
    for o in range(outputs):
        for i in range(inputs):
            assert found[o, i] == weight.scales[o] * weight.values[o // 16, i // 4, o % 16, i % 4]
    order = torch.randperm(outputs)
    assert torch.equal(dequantize(weight, order), found[order])


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: DenseWeight(torch.ones(3)), r"values must be \[O, I\], got \[3\]"),
        (lambda: GgufWeight(torch.zeros(2, 20, dtype=torch.uint8), "Q4_1", 31), "inputs must be a multiple of 32"),
        (lambda: GgufWeight(torch.zeros(2, 144, dtype=torch.uint8), "Q4_K", 288), "inputs must be a multiple of 256"),
        (lambda: GgufWeight(torch.zeros(2, 18, dtype=torch.uint8), "Q4_1", 32), r"blocks must be uint8 \[O, 20\]"),
        (lambda: GgufWeight(torch.zeros(2, 20), "Q4_1", 32), r"blocks must be uint8 \[O, 20\]"),
        (lambda: int8_of(torch.ones(1, 2, 16, 4, dtype=torch.int8), 9), r"values must be int8 \[1, 3, 16, 4\]"),
        (lambda: int8_of(torch.ones(1, 2, 16, 4), 8), r"values must be int8 \[1, 2, 16, 4\]"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(build: Callable[[], Weight], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build()


def int8_of(values: Tensor, inputs: int) -> Int8Weight:
    return Int8Weight(values, torch.ones(16), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embedding_looks_rows_up(weight: Weight, dtype: torch.dtype, poisoned: Poisoned, close: Close) -> None:
    ids, out = torch.randint(37, (9,)), poisoned(9, 96, dtype=dtype)
    kernels.embedding.implementation("reference")(ids, weight, out)
    close(out, dequantize(weight)[ids].double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_linear(weight: Weight, biased: bool, dtype: torch.dtype, poisoned: Poisoned, close: Close) -> None:
    x, bias = torch.randn(5, 96).to(dtype), torch.randn(37).to(dtype) if biased else None
    expected = x.double() @ dequantize(weight).double().T + (0 if bias is None else bias.double())
    for out in (poisoned(5, 37, dtype=dtype), poisoned(5, 37)):
        kernels.linear.implementation("reference")(x, weight, bias, out)
        close(out, expected)


def test_a_wide_output_keeps_what_bfloat16_would_round_away(poisoned: Poisoned) -> None:
    x, weight, out = torch.randn(3, 96).bfloat16(), make("dense bf16", 37, 96), poisoned(3, 37)
    kernels.linear.implementation("reference")(x, weight, None, out)
    assert (out.double() - x.double() @ dequantize(weight).double().T).abs().max() < 1e-5


def test_a_weight_larger_than_a_chunk(poisoned: Poisoned, close: Close) -> None:
    weight, x, out = make("Q8_0", 5000, 1024), torch.randn(2, 1024), poisoned(2, 5000)
    kernels.linear.implementation("reference")(x, weight, None, out)
    close(out, x.double() @ dequantize(weight).double().T)


def test_linears_equals_one_after_the_other(poisoned: Poisoned) -> None:
    x, forms = torch.randn(5, 96), ["dense", "int8", "Q4_1"]
    weights = [make(form, outputs, 96) for form, outputs in zip(forms, (37, 8, 1), strict=True)]
    biases = [torch.randn(37), None, torch.randn(1)]
    outs, alone = ([poisoned(5, weight.outputs) for weight in weights] for _ in range(2))
    kernels.linears.implementation("reference")(x, tuple(zip(weights, biases, outs, strict=True)))
    for weight, bias, together, out in zip(weights, biases, outs, alone, strict=True):
        kernels.linear.implementation("reference")(x, weight, bias, out)
        assert torch.equal(together, out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_linear(weight: Weight, dtype: torch.dtype, poisoned: Poisoned, close: Close) -> None:
    x, up, out = torch.randn(5, 96).to(dtype), make("Q4_0", 37, 96), poisoned(5, 37, dtype=dtype)
    kernels.gated_linear.implementation("reference")(x, weight, up, out)
    gated, wide = (x.double() @ dequantize(part).double().T for part in (weight, up))
    close(out, gated * torch.sigmoid(gated) * wide)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_argmax(weight: Weight, dtype: torch.dtype, poisoned: Poisoned, close: Close) -> None:
    x, ids, values = torch.randn(5, 96).to(dtype), torch.full((5,), -1), poisoned(5)
    kernels.linear_argmax.implementation("reference")(x, weight, ids, values)
    logits = x.double() @ dequantize(weight).double().T
    assert torch.equal(ids, logits.argmax(dim=1))
    close(values, logits.max(dim=1).values)


def test_linear_argmax_takes_the_first_of_equals_whichever_chunk_it_is_in(poisoned: Poisoned) -> None:
    table = torch.zeros(5000, 1024)
    table[[700, 701, 4900]] = 1.0
    ids, values = torch.full((2,), -1), poisoned(2)
    kernels.linear_argmax.implementation("reference")(torch.ones(2, 1024), DenseWeight(table), ids, values)
    assert ids.tolist() == [700, 700]
    assert values.tolist() == [1024.0, 1024.0]
