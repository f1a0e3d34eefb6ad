"""The yardsticks give rates, and leave the team as it was."""

import pytest

from triptych.kernels.native import team
from triptych.kernels.native.probe import Element, dot_peak, read_bandwidth


@pytest.mark.parametrize("element", ["f32", "bf16", "int8"])
def test_a_rate_of_products(element: Element, threads: int) -> None:
    assert dot_peak(1, element) > 1e7
    assert team.threads() == threads


def test_a_rate_of_reading(threads: int) -> None:
    assert read_bandwidth(2, size=1_000_000) > 1e7
    assert team.threads() == threads
