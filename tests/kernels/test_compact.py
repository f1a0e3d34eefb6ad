"""bfloat16 in twelve bits a weight is what it was made of, bit by bit, or is refused."""

import random

import pytest
import torch
from torch import Tensor

from triptych.kernels import DenseWeight, ExpertProjection, Experts, GgufWeight, Int8Weight, moe
from triptych.kernels.compact import CompactWeight, compactable, compacted, empty_like, expanded, plain
from triptych.kernels.testing import random_blocks

SHAPES = [(16, 16), (48, 576), (576, 48), (32, 80)]


def trained(outputs: int, inputs: int) -> Tensor:
    """As trained weights are: rows of different size."""
    return (torch.randn(outputs, inputs) * torch.rand(outputs, 1).add_(0.2)).bfloat16()


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.int16), b.view(torch.int16))


def compact(values: Tensor) -> CompactWeight:
    found = compacted(DenseWeight(values))
    assert found is not None
    return found


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_it_is_what_it_was_made_of(outputs: int, inputs: int) -> None:
    values = trained(outputs, inputs)
    found = compact(values)
    assert (found.outputs, found.inputs) == (outputs, inputs)
    assert same(expanded(found), values)
    assert found.values.nbytes == 3 * outputs * inputs // 2


@pytest.mark.parametrize("inputs", [64, 48])
def test_where_a_weight_lies(inputs: int) -> None:
    """As kernels read it: groups of four rows of 32, pairs of rows interleaved by eights, codes behind them."""
    values = torch.ones(16, inputs).bfloat16()
    output, column = random.randrange(16), random.randrange(inputs)
    values[output, column] = -1.25 / 8  # three below the others' exponent
    group, row, place = (
        (output // 4 * 2 + column // 32, output % 4, column % 32)
        if inputs == 64
        else ((output * 48 + column) // 128, (output * 48 + column) // 32 % 4, (output * 48 + column) % 32)
    )
    line = compact(values).values.view(-1, 192)[group]
    byte = place // 8 * 16 + row % 2 * 8 + place % 8
    assert line[:128].nonzero().flatten().tolist() == [row // 2 * 64 + byte]
    assert line[row // 2 * 64 + byte] == 0x80 | 1 << 5
    assert line[128:].nonzero().flatten().tolist() == [byte]
    assert line[128 + byte] == (3 << 4 if row > 1 else 3)


def test_what_lies_far_below_its_neighbours_is_kept_too() -> None:
    values = trained(48, 576)
    for value in (0.0, -0.0, 1e-30, -(2.0**-130), 2.0**-126):
        values[random.randrange(48), random.randrange(576)] = value
    assert same(expanded(compact(values)), values)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, 2.0**-133, 3e38])
def test_equal_weights(value: float) -> None:
    values = torch.full((16, 32), value).bfloat16()
    assert same(expanded(compact(values)), values)


def test_infinities_and_no_numbers_among_their_like() -> None:
    values = torch.tensor([float("inf"), float("-inf"), float("nan"), 3e38]).repeat(16, 8).bfloat16()
    assert same(expanded(compact(values)), values)


def test_one_that_is_much_larger_than_all_others_is_an_exception() -> None:
    values = trained(64, 96)
    values[5, 7], values[40, 1], values[41, 2] = float("inf"), 3e38, float("nan")
    assert same(expanded(compact(values)), values)


def test_every_pattern_of_bits() -> None:
    """Each exponent in a run of its own: none lies below another."""
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(2, 256, 128)  # sign, exponent, mantissa
    values = bits.permute(1, 0, 2).reshape(256 * 16, 16).contiguous().view(torch.bfloat16)
    assert same(expanded(compact(values)), values)


def test_as_many_exceptions_as_there_is_room_for() -> None:
    values, room = trained(32, 64).abs_().clamp_(min=0.1), 4 + 32 * 64 // 512
    places = torch.randperm(32 * 64)
    values.view(-1)[places[:room]] = 1e-12
    assert same(expanded(compact(values)), values)
    values.view(-1)[places[room]] = 1e-12
    assert compacted(DenseWeight(values)) is None


def test_who_has_such_a_form() -> None:
    assert compactable(DenseWeight(trained(16, 16)))
    assert not compactable(DenseWeight(trained(16, 16).float()))
    assert not compactable(DenseWeight(trained(24, 16)))
    assert not compactable(DenseWeight(trained(16, 24)))
    assert not compactable(DenseWeight(torch.empty(0, 16, dtype=torch.bfloat16)))
    assert not compactable(Int8Weight(torch.zeros(1, 4, 16, 4, dtype=torch.int8), torch.ones(16), 16))
    assert not compactable(random_blocks("Q4_0", 16, 32, 0.1))
    assert not compactable(compact(trained(16, 16)))


def test_its_tensors_have_the_shapes_that_are_promised() -> None:
    found = compact(trained(48, 64))
    empty = empty_like(DenseWeight(trained(48, 64)))
    assert (empty.values.shape, empty.table.shape) == (found.values.shape, found.table.shape)
    with pytest.raises(ValueError, match="values must be uint8"):
        CompactWeight(found.values[:, :-1], found.table, 64)
    with pytest.raises(ValueError, match="the table must be int32"):
        CompactWeight(found.values, found.table[:-1], 64)


def test_other_forms_are_plain_already() -> None:
    weight = random_blocks("Q4_0", 16, 32, 0.1)
    assert isinstance(weight, GgufWeight)
    assert plain(weight) is weight
    values = trained(16, 32)
    dense = plain(compact(values))
    assert isinstance(dense, DenseWeight)
    assert same(dense.values, values)


def test_the_reference_computes_with_it_as_with_plain_numbers() -> None:
    parts = [[trained(o, i) for _ in range(4)] for o, i in ((32, 48), (32, 48), (48, 32))]
    dense = Experts(*(ExpertProjection(tuple(map(DenseWeight, part))) for part in parts))
    twelve = Experts(*(ExpertProjection(tuple(map(compact, part))) for part in parts))
    x, ids, shares = torch.randn(5, 48).bfloat16(), torch.rand(5, 4).argsort(1)[:, :2].int(), torch.rand(5, 2)
    expected, found = torch.empty_like(x), torch.empty_like(x)
    moe.implementation("reference")(x, dense, ids, shares, "silu", expected)
    moe.implementation("reference")(x, twelve, ids, shares, "silu", found)
    assert same(found, expected)


def test_rows_of_zeros_take_no_room() -> None:
    values = trained(64, 576)
    values[torch.rand(64) < 0.5] = 0.0
    values[0, 0], values[1] = 1.0, 0.0
    assert same(expanded(compact(values)), values)


def test_a_table_of_anything_stands_for_something() -> None:
    """As a slot has it whose expert could not be read; the step is run again."""
    found = compact(trained(48, 64))
    for _ in range(20):
        table = torch.randint(-(2**31), 2**31, found.table.shape).int()
        assert expanded(CompactWeight(found.values, table, 64)).shape == (48, 64)
