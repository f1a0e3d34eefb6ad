"""How an op finds its backend."""

import pytest
import torch
from torch import Tensor

from triptych import kernels
from triptych.kernels import Op


def twice(x: Tensor, out: Tensor) -> None:
    """Doubles."""
    out.copy_(2 * x)


def thrice(x: Tensor, out: Tensor) -> None:
    out.copy_(3 * x)


def run(op: Op[[Tensor]]) -> float:
    out = torch.full((1,), torch.nan)
    op(torch.ones(1), out)
    return out.item()


def test_the_reference_runs_where_nothing_else_is_registered() -> None:
    op = Op(twice)
    op.register("other", "cuda", thrice)
    assert run(op) == 2


def test_a_registered_backend_is_taken_on_its_device() -> None:
    op = Op(twice)
    op.register("other", "cpu", thrice)
    assert run(op) == 3
    assert op.backends == ("reference", "other")


def test_a_backend_takes_what_it_accepts_and_the_reference_the_rest() -> None:
    op = Op(twice)
    one, out = torch.ones(1), torch.empty(1)
    assert not op.takes(one, out)
    op.register("other", "cpu", thrice, lambda x, out: out is not x)
    assert op.takes(one, out)
    assert not op.takes(one, one)
    op(one, one)
    assert one == 2


def test_every_backend_stays_reachable_by_name() -> None:
    op = Op(twice)
    op.register("other", "cpu", thrice)
    assert op.implementation("reference") is twice
    assert op.implementation("other") is thrice
    with pytest.raises(KeyError, match="absent"):
        op.implementation("absent")


def test_ops_say_what_they_compute() -> None:
    ops = [getattr(kernels, name) for name in kernels.__all__ if isinstance(getattr(kernels, name), Op)]
    assert {"linear", "paged_attention", "rope_store", "draw_token"} < {op.name for op in ops}
    for op in ops:
        assert op.__doc__
        assert op.backends[0] == "reference"
