"""Mixture of experts by every form of weight against float64, on every instruction set."""

import ctypes
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from triptych.kernels import ClampedSilu, DenseWeight, ExpertProjection, Experts, Gating, Projection, Weight, moe
from triptych.kernels.compact import CompactWeight, compacted
from triptych.kernels.gguf_blocks import GgufKind
from triptych.kernels.native import team
from triptych.kernels.native.expert_forms import ExpertsArgs
from triptych.kernels.native.experts import MAX_INPUTS, MAX_TOKENS, Moe
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import load_kernel
from triptych.kernels.testing import random_blocks
from triptych.kernels.weights import Int8Weight, dequantize

GUARD = 3.0
SCALE = 0.05


def dense_weight(dtype: torch.dtype, outputs: int, inputs: int) -> Weight:
    return DenseWeight(torch.randn(outputs, inputs).mul_(SCALE).to(dtype))


def int8_weight(outputs: int, inputs: int) -> Weight:
    tiles, words = -(-outputs // 16), -(-inputs // 4)
    plain = torch.zeros(tiles * 16, words * 4, dtype=torch.int8)
    plain[:outputs, :inputs] = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    values = plain.view(tiles, 16, words, 4).transpose(1, 2).contiguous()
    return Int8Weight(values, torch.rand(outputs) * SCALE / 64, inputs)


def gguf_weight(kind: GgufKind, outputs: int, inputs: int) -> Weight:
    return random_blocks(kind, outputs, inputs, SCALE / (64 if kind == "Q8_0" else 8))


@dataclass(frozen=True)
class Case:
    """A form of weight beside rows of a type.

    Attributes:
        make: A weight [O, I].
        dtype: Of the rows.
        tolerance: Of an output, in units of what its products add up to in size.
    """

    make: Callable[[int, int], Weight]
    dtype: torch.dtype
    tolerance: float


F32, BF16 = torch.float32, torch.bfloat16
CASES = {
    "f32": Case(partial(dense_weight, F32), F32, 2e-6),
    "bf16": Case(partial(dense_weight, BF16), BF16, 2**-7),
    "int8 f32": Case(int8_weight, F32, 2**-6),
    "int8 bf16": Case(int8_weight, BF16, 2**-6),
    "Q4_0 f32": Case(partial(gguf_weight, "Q4_0"), F32, 2e-6),
    "Q4_1 bf16": Case(partial(gguf_weight, "Q4_1"), BF16, 2**-5),
    "Q5_0 bf16": Case(partial(gguf_weight, "Q5_0"), BF16, 2**-5),
    "Q8_0 bf16": Case(partial(gguf_weight, "Q8_0"), BF16, 2**-5),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def projection(case: Case, count: int, outputs: int, inputs: int, *, biased: bool) -> ExpertProjection:
    weights = tuple(case.make(outputs, inputs) for _ in range(count))
    return ExpertProjection(weights, tuple(torch.randn(count, outputs).to(case.dtype).unbind()) if biased else None)


def experts_of(case: Case, count: int, hidden: int, features: int, *, biased: bool = False) -> Experts:
    gate, up = (projection(case, count, features, hidden, biased=biased) for _ in range(2))
    return Experts(gate, up, projection(case, count, hidden, features, biased=biased))


def choices(tokens: int, top_k: int, count: int) -> tuple[Tensor, Tensor]:
    ids = torch.rand(tokens, count).argsort(dim=1)[:, :top_k].int().contiguous()
    return ids, torch.rand(tokens, top_k)


def run(isa: Isa, x: Tensor, experts: Experts, ids: Tensor, weights: Tensor, gating: Gating = "silu") -> Tensor:
    memory = torch.full((len(x) + 2, x.shape[1]), GUARD, dtype=x.dtype)
    out = memory[1:-1].fill_(torch.nan)
    mixture = Moe(isa)
    assert mixture.accepts(x, experts, ids, weights, gating, out)
    mixture(x, experts, ids, weights, gating, out)
    assert (memory[[0, -1]] == GUARD).all()
    return out


def gated(gate: Tensor, up: Tensor, gating: Gating) -> Tensor:
    match gating:
        case ClampedSilu(alpha, limit):
            kept = gate.clamp(max=limit)
            return kept * torch.sigmoid(alpha * kept) * (up.clamp(-limit, limit) + 1)
        case "silu":
            return gate * gate.sigmoid() * up
        case "gelu":
            return torch.nn.functional.gelu(gate) * up
        case "gelu_tanh":
            return torch.nn.functional.gelu(gate, approximate="tanh") * up


def exact(x: Tensor, experts: Experts, ids: Tensor, weights: Tensor, gating: Gating) -> tuple[Tensor, Tensor]:
    """In float64, and the size of what was added up."""
    out, size = torch.zeros(2, *x.shape, dtype=torch.float64)
    for token, place in torch.cartesian_prod(*map(torch.arange, ids.shape)):
        expert, share = int(ids[token, place]), weights[token, place].double()
        gate, up = (apply(experts_part, expert, x[token].double()) for experts_part in (experts.gate, experts.up))
        hidden = gated(gate, up, gating)
        out[token] += share * apply(experts.down, expert, hidden)
        size[token] += share * (dequantize(experts.down.weight(expert)).double().abs() @ hidden.abs() + 1)
    return out, size


def apply(part: Projection, expert: int, x: Tensor) -> Tensor:
    bias = part.bias(expert)
    product = dequantize(part.weight(expert)).double() @ x
    return product if bias is None else product + bias.double()


def near(case: Case, out: Tensor, x: Tensor, experts: Experts, ids: Tensor, weights: Tensor, gating: Gating) -> None:
    expected, size = exact(x, experts, ids, weights, gating)
    assert out.isfinite().all()
    assert ((out.double() - expected).abs() <= case.tolerance * (size + expected.abs())).all()


@pytest.mark.parametrize(
    ("tokens", "top_k", "count"), [(0, 2, 4), (1, 1, 3), (1, 6, 8), (9, 2, 40), (50, 3, 5), (120, 1, 2)]
)
def test_equals_float64(isa: Isa, case: Case, tokens: int, top_k: int, count: int, seed: int) -> None:
    random.seed(seed)
    hidden, features = random.choice((64, 160)), random.choice((32, 96))
    experts = experts_of(case, count, hidden, features, biased=bool(seed % 2))
    x, (ids, weights) = torch.randn(tokens, hidden).to(case.dtype), choices(tokens, top_k, count)
    near(case, run(isa, x, experts, ids, weights), x, experts, ids, weights, "silu")


@pytest.mark.parametrize("gating", ["gelu", "gelu_tanh", ClampedSilu(1.702, 0.5)])
@pytest.mark.parametrize("form", ["f32", "bf16"])
def test_other_gates_and_odd_widths(isa: Isa, form: str, gating: Gating) -> None:
    case = CASES[form]
    experts = experts_of(case, 4, 37, 21, biased=True)
    x, (ids, weights) = torch.randn(12, 37).to(case.dtype), choices(12, 2, 4)
    near(case, run(isa, x, experts, ids, weights, gating), x, experts, ids, weights, gating)


def test_the_reference_is_what_the_kernels_compute(isa: Isa) -> None:
    case = CASES["f32"]
    experts = experts_of(case, 6, 64, 48, biased=True)
    x, (ids, weights) = torch.randn(30, 64), choices(30, 3, 6)
    out = torch.full_like(x, torch.nan)
    moe.implementation("reference")(x, experts, ids, weights, "silu", out)
    torch.testing.assert_close(run(isa, x, experts, ids, weights), out, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_super_blocks(isa: Isa, dtype: torch.dtype) -> None:
    up, down = (Case(partial(gguf_weight, kind), dtype, 2e-6 if dtype is F32 else 2**-5) for kind in ("Q4_K", "Q6_K"))
    gate, other = (projection(up, 4, 256, 512, biased=False) for _ in range(2))
    experts = Experts(gate, other, projection(down, 4, 512, 256, biased=False))
    x, (ids, weights) = torch.randn(5, 512).to(dtype), choices(5, 2, 4)
    near(up, run(isa, x, experts, ids, weights), x, experts, ids, weights, "silu")


def test_forms_of_the_two_products_differ(isa: Isa) -> None:
    case = CASES["Q8_0 bf16"]
    gate, up = (projection(case, 5, 64, 96, biased=False) for _ in range(2))
    experts = Experts(gate, up, projection(CASES["int8 bf16"], 5, 96, 64, biased=False))
    x, (ids, weights) = torch.randn(7, 96).bfloat16(), choices(7, 2, 5)
    near(case, run(isa, x, experts, ids, weights), x, experts, ids, weights, "silu")


@pytest.mark.parametrize(
    ("tokens", "parts"), [(16, ((0, 1), (3, 12))), (70, ((0, 17), (20, 60)))], ids=["few", "many"]
)
def test_a_token_has_the_same_result_whatever_is_computed_beside_it(
    isa: Isa, case: Case, tokens: int, parts: tuple[tuple[int, int], ...]
) -> None:
    experts = experts_of(case, 6, 96, 64)
    x, (ids, weights) = torch.randn(tokens, 96).to(case.dtype), choices(tokens, 3, 6)
    together = run(isa, x, experts, ids, weights)
    for rows in (slice(*part) for part in parts):
        part, part_weights = (tensor[rows].contiguous() for tensor in (ids, weights))
        assert torch.equal(run(isa, x[rows].contiguous(), experts, part, part_weights), together[rows])


def test_the_order_of_a_tokens_experts_changes_nothing(isa: Isa) -> None:
    experts = experts_of(CASES["f32"], 6, 96, 64)
    x, (ids, weights) = torch.randn(4, 96), choices(4, 4, 6)
    turned, turned_weights = (tensor.flip(1).contiguous() for tensor in (ids, weights))
    assert torch.equal(run(isa, x, experts, turned, turned_weights), run(isa, x, experts, ids, weights))


@pytest.mark.parametrize("tokens", [1, 30])
def test_threads_change_nothing_and_a_recorded_call_follows_the_choices(
    isa: Isa, threads: int, case: Case, tokens: int
) -> None:
    experts = experts_of(case, 12, 256, 64)
    x, (ids, weights) = torch.randn(tokens, 256).to(case.dtype), choices(tokens, 3, 12)
    out = torch.full_like(x, torch.nan)
    with team.capture() as program:
        Moe(isa)(x, experts, ids, weights, "silu", out)
    for _ in range(2):
        for tensor, new in zip((ids, weights), choices(tokens, 3, 12), strict=True):
            tensor.copy_(new)
        program.run()
        team.resize(1)
        alone = run(isa, x, experts, ids, weights)
        team.resize(threads)
        assert torch.equal(out, alone)


def test_what_the_kernels_refuse(isa: Isa) -> None:
    case, mixture = CASES["bf16"], Moe(isa)
    experts = experts_of(case, 4, 64, 32)
    x, (ids, weights) = torch.randn(3, 64).bfloat16(), choices(3, 2, 4)
    out, gguf = torch.empty_like(x), experts_of(CASES["Q4_0 f32"], 4, 64, 32)
    assert mixture.accepts(x, experts, ids, weights, "silu", out)
    assert mixture.accepts(x, gguf, ids, weights, "silu", out)
    assert not mixture.accepts(x.float(), experts, ids, weights, "silu", out.float())
    assert not mixture.accepts(x, experts, ids.long(), weights, "silu", out)
    assert not mixture.accepts(x, Experts(gguf.gate, experts.up, experts.down), ids, weights, "silu", out)
    assert not mixture.accepts(x, Experts(experts.gate, experts.up, experts.up), ids, weights, "silu", out)
    with pytest.raises(ValueError, match="one form and shape"):
        ExpertProjection((experts.gate.template, gguf.gate.template))


def twelve_bits(part: ExpertProjection) -> ExpertProjection:
    weights = []
    for expert in range(part.experts):
        dense = part.weight(expert)
        assert isinstance(dense, DenseWeight)
        compact = compacted(dense)
        assert compact is not None
        weights.append(compact)
    return ExpertProjection(tuple(weights), part.biases)


def parts_of(experts: Experts) -> list[ExpertProjection]:
    return [part for part in (experts.gate, experts.up, experts.down) if isinstance(part, ExpertProjection)]


def values_of(part: ExpertProjection, expert: int) -> torch.Tensor:
    weight = part.weight(expert)
    assert isinstance(weight, DenseWeight)
    return weight.values


ROWS = [(1, 3, 8), (2, 1, 1), (3, 2, 4), (7, 1, 1), (7, 4, 5), (8, 1, 1), (16, 2, 40), (100, 3, 6)]
"""Tokens, experts of each, and of all: of the last one more than are multiplied in registers."""


@pytest.mark.parametrize("shape", [(64, 96), (48, 576), (576, 48), (48, 112)], ids=str)
@pytest.mark.parametrize(("tokens", "top_k", "count"), ROWS)
@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
def test_twelve_bits_give_the_bits_of_sixteen(
    isa: Isa, tokens: int, top_k: int, count: int, shape: tuple[int, int], biased: bool
) -> None:
    """With exceptions where blocks, tiles and runs begin and end, and anywhere."""
    dense = experts_of(CASES["bf16"], count, *shape, biased=biased)
    for part in parts_of(dense):
        values = values_of(part, count - 1)
        last = values.shape[1] - 1
        for row, column in ((0, 0), (0, 15), (3, last), (4, 0), (5, 31), (10, 32), (15, last)):
            values[row, min(column, last)] = 1e-30
    for part in parts_of(dense):
        values = values_of(part, 0)
        for value in (0.0, -1e-30, 2.0**-126):
            values[random.randrange(len(values)), random.randrange(values.shape[1])] = value
    ids, weights = choices(tokens, top_k, count)
    x = torch.randn(tokens, shape[0]).bfloat16()
    twelve = Experts(*map(twelve_bits, parts_of(dense)))
    assert torch.equal(run(isa, x, twelve, ids, weights), run(isa, x, dense, ids, weights))


@pytest.mark.parametrize(("tokens", "top_k"), [(3, 2), (8, 1), (100, 2)])
def test_every_exception_that_there_is_room_for_is_seen(isa: Isa, tokens: int, top_k: int) -> None:
    """All of them in the last run, where the compiled table ends."""
    dense = experts_of(CASES["bf16"], 2, 64, 48)
    for part in parts_of(dense):
        for expert in range(2):
            values = values_of(part, expert)
            values.abs_().clamp_(min=0.01)
            places = torch.randperm(16 * values.shape[1])[: 4 + values.numel() // 512]
            last = values[-16:].clone().view(-1)
            last[places] = 1e-20
            values[-16:] = last.view(16, -1)
    ids, weights = choices(tokens, top_k, 2)
    x = torch.randn(tokens, 64).bfloat16()
    twelve = Experts(*map(twelve_bits, parts_of(dense)))
    assert torch.equal(run(isa, x, twelve, ids, weights), run(isa, x, dense, ids, weights))


@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_twelve_bits_of_the_longest_rows(isa: Isa, tokens: int) -> None:
    """Whose weights, made plain, take the most scratch."""
    dense = experts_of(CASES["bf16"], 2, MAX_INPUTS, 16)
    parts = parts_of(dense)
    for part in parts[:2]:
        values_of(part, 0)[:, -1] = 1e-30  # exceptions at the end of every row
    ids, weights = choices(tokens, 2, 2)
    x = torch.randn(tokens, MAX_INPUTS).bfloat16()
    assert torch.equal(run(isa, x, Experts(*map(twelve_bits, parts)), ids, weights), run(isa, x, dense, ids, weights))


def test_rows_that_are_longer_than_scratch_has_room_for_are_refused(isa: Isa) -> None:
    experts = experts_of(CASES["bf16"], 2, MAX_INPUTS + 16, 16)
    ids, weights = choices(1, 1, 2)
    x = torch.zeros(1, MAX_INPUTS + 16).bfloat16()
    assert not Moe(isa).accepts(x, experts, ids, weights, "silu", torch.empty_like(x))


def test_more_rows_than_sums_have_room_for_are_cut(isa: Isa) -> None:
    case = CASES["int8 bf16"]
    experts = experts_of(case, 2, 16, 16)
    tokens = MAX_TOKENS + 1
    ids, weights = choices(tokens, 1, 2)
    x = torch.randn(tokens, 16).to(case.dtype)
    some = torch.tensor([0, tokens // 2 - 1, tokens // 2, tokens - 1])
    together = run(isa, x, experts, ids, weights)
    assert torch.equal(together[some], run(isa, x[some], experts, ids[some], weights[some]))


@pytest.mark.parametrize(
    ("tokens", "top_k", "experts", "outputs", "inputs", "gated", "summed"),
    [
        (1, 12, 32, 48, 576, 14, 6),  # 64 KB each, and sums 8 KB of an expert in one go
        (1, 8, 64, 1024, 1024, 32, 16),  # 768 KB
        (64, 8, 64, 1024, 1024, 256, 64),
        (8, 8, 8, 512, 512, 32, 16),
        (9, 8, 8, 512, 512, 96, 32),  # 64 KB each: nine rows an expert are bound by multiplying
    ],
)
def test_experts_of_few_rows_are_read_in_few_long_pieces(
    isa: Isa, tokens: int, top_k: int, experts: int, outputs: int, inputs: int, gated: int, summed: int
) -> None:
    def pieces(name: str, outputs: int, inputs: int) -> int:
        kernel = load_kernel("experts_compact", name, ExpertsArgs, isa)
        args = ExpertsArgs(
            tokens=tokens, top_k=top_k, experts=experts, inputs=inputs, outputs=outputs, row_bytes=inputs * 3 // 2
        )
        return int(ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(kernel.pieces)(ctypes.addressof(args)))

    assert pieces("experts_gated", outputs, inputs) == gated
    assert pieces("experts_sum", inputs, outputs) == summed


@pytest.mark.parametrize("tokens", [1, 5, 8, 200])
@pytest.mark.parametrize("hidden", [64, 48])
def test_tables_of_anything_end_no_process(isa: Isa, tokens: int, hidden: int) -> None:
    """As a slot has them whose expert could not be read; the step is run again. Places lie in and around the run."""
    dense = experts_of(CASES["bf16"], 4, hidden, 96)
    parts = [twelve_bits(part) for part in parts_of(dense)]
    for part in parts:
        for expert in range(part.experts):
            weight = part.weight(expert)
            assert isinstance(weight, CompactWeight)
            table, runs = weight.table, weight.outputs // 16
            table.copy_(torch.randint(-(2**31), 2**31, table.shape))
            table[0], table[1 : runs - 1] = -(2**31), 2**31 - 1
            table[runs : 2 * runs + 1] = torch.randint(-2, len(table) // 2, (runs + 1,))
            places = table[2 * runs + 1 :: 2]
            near = places[:: 1 + expert % 2]
            near.copy_(torch.randint(-2, 16 * weight.inputs + 2, near.shape))
    ids, weights = choices(tokens, 1 if tokens == 8 else 2, 4)
    found = run(isa, torch.randn(tokens, hidden).bfloat16(), Experts(*parts), ids, weights)
    assert found.shape == (tokens, hidden)
