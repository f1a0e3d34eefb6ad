"""Balance on loads that builtin:smollm2-moe really had: tests/bench/expert_loads.py recorded them."""

from pathlib import Path

import numpy as np
import pytest

from triptych.parallel.balance import Placement, rebalance

LOADS = dict(np.load(Path(__file__).parent / "data" / "smollm2-moe.npz"))
"""By kind of text, [pieces of 256 tokens, layers, E]."""


@pytest.mark.parametrize("text", LOADS)
@pytest.mark.parametrize(("ranks", "redundant"), [(2, 0), (4, 0), (4, 4), (8, 8)])
def test_what_earlier_tokens_decide_balances_later_ones(text: str, ranks: int, redundant: int) -> None:
    pieces = LOADS[text].astype(np.int64)
    half = len(pieces) // 2
    earlier, later = pieces[:half].sum(0).tolist(), pieces[half:].sum(0).tolist()
    experts = len(earlier[0])
    even = [Placement.even(experts, ranks)] * len(earlier)
    moved = rebalance(earlier, experts + redundant, 1, 1, ranks)
    before = [placement.balancedness(loads) for placement, loads in zip(even, later, strict=True)]
    after = [placement.balancedness(loads) for placement, loads in zip(moved, later, strict=True)]
    assert np.mean(after) > np.mean(before) + 0.05
    assert min(after) > min(before) + 0.1
