from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture
def poisoned() -> Callable[..., Tensor]:
    """A tensor full of NaN, so that an element that an op leaves out or adds to is seen."""

    def make(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full(shape, torch.nan, dtype=dtype)

    return make


@pytest.fixture
def close() -> Callable[[Tensor, Tensor], None]:
    """Compares a result with a float64 reference, at a few roundings of the result's type."""

    def check(result: Tensor, expected: Tensor) -> None:
        assert expected.dtype == torch.float64
        tolerance = {torch.float32: 2e-6, torch.bfloat16: 2e-2}[result.dtype]
        limit = tolerance * max(1.0, expected.abs().max().item())
        assert not result.isnan().any()
        assert (result.double() - expected).abs().max().item() <= limit

    return check
