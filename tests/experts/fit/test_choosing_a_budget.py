"""What `auto` comes to, and what is predicted of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.experts.fit import (
    Everything,
    Need,
    Part,
    Speeds,
    TooLittle,
    Work,
    choose_budget,
    expected_hits,
    forecast,
    predict,
    work_of,
)
from triptych.experts.pool import LayerNeed, Pool
from triptych.experts.settings import Auto, OffloadSettings, Rounding

NEED = Need(fixed=100, experts=1000, pool=1100, least=50)


def test_what_fits_is_kept_whole() -> None:
    assert choose_budget(NEED, 1300) == Everything()


def test_else_experts_get_what_is_left_of_nine_tenths() -> None:
    assert choose_budget(NEED, 1000) == Part(800)
    assert choose_budget(NEED, 168) == Part(51)


def test_with_less_than_a_layer_it_says_what_is_missing() -> None:
    assert choose_budget(NEED, 100) == TooLittle(60)


def test_processes_divide_what_is_left() -> None:
    need = Need(fixed=300, experts=1000, pool=500, least=50, processes=2)
    assert choose_budget(need, 1000) == Part(300)
    assert choose_budget(need, 400) == TooLittle(40)


@given(
    st.builds(
        Need,
        fixed=st.integers(0, 10**6),
        experts=st.integers(1, 10**6),
        pool=st.integers(1, 10**6),
        least=st.integers(1, 10**5),
        processes=st.integers(1, 8),
    ),
    st.integers(0, 10**7),
)
def test_nobody_gets_more_than_there_is(need: Need, free: int) -> None:
    match choose_budget(need, free):
        case Everything():
            assert need.fixed + need.experts <= free
        case Part(nbytes):
            assert need.fixed + need.processes * nbytes <= free
            assert nbytes <= need.pool
        case TooLittle(missing):
            assert missing > 0


def test_the_slower_of_reading_and_computing_is_the_time_of_a_token() -> None:
    work, speeds = Work(weights=2e9, experts=1e9), Speeds(memory=20e9, disk=1e9)
    everything = predict(work, speeds, 1.0)
    assert (everything.tokens_per_second, everything.bound) == (pytest.approx(10), "memory")
    most = predict(work, speeds, 0.9)
    assert (most.tokens_per_second, most.bound) == (pytest.approx(10), "memory")
    half = predict(work, speeds, 0.5)
    assert (half.tokens_per_second, half.bound) == (pytest.approx(2), "disk")


def pool(*quotas: int) -> Pool:
    return Pool(slots=sum(quotas) + 4, slot_bytes=4096, quotas=quotas, speculative=0)


def test_hits_are_those_of_the_experts_that_earlier_runs_used_most() -> None:
    layers = [LayerNeed(4, 1, 4096, (0.1, 0.6, 0.0, 0.3)), LayerNeed(4, 1, 4096, (0.25,) * 4)]
    assert expected_hits(pool(2, 1), layers) == pytest.approx((0.9 + 0.25) / 2)
    assert expected_hits(pool(0, 0), layers) == 0
    assert expected_hits(pool(4, 4), layers) == pytest.approx(1)


def test_where_nobody_has_counted_they_grow_with_the_share_that_is_kept() -> None:
    layers = [LayerNeed(32, 12, 4096, (0.0,) * 32)] * 2
    hits = [expected_hits(pool(kept, kept), layers) for kept in range(33)]
    assert hits == sorted(hits)
    assert (hits[0], hits[32]) == (0, 1)
    assert 0.85 < hits[16] < 0.92


@pytest.mark.parametrize(("rounding", "read"), [(None, 1500), ("int8", 1000), ("int4", 562.5)])
def test_memory_is_asked_for_what_slots_hold_and_the_disk_for_what_is_read(
    rounding: Rounding | None, read: float
) -> None:
    """Two layers of which a token takes two experts, of 250 weights of two bytes each."""
    nbytes, resident = (375, 500) if rounding is None else (500, 500)
    layers = [LayerNeed(8, 2, nbytes, (0.0,) * 8, resident)] * 2
    work = work_of(3000, 2.0, layers, rounding)
    assert (work.weights, work.experts) == (6000 - 4 * (resident - nbytes), read)


def test_what_a_budget_comes_to_depends_on_who_keeps_it() -> None:
    layers = [LayerNeed(8, 2, 4096, (0.4,) * 2 + (0.2,) * 6)] * 4
    work, speeds = Work(weights=1e6, experts=1e6), Speeds(memory=1e9, disk=1e6)

    def hits(**settings: Any) -> float:
        offload = OffloadSettings(budget=Auto(), **settings)
        return forecast(16 * 4096, offload, layers, work, speeds).hit_ratio

    assert hits(policy="ring") == 0
    assert hits(speculation=0.5, readers=1) < hits(prefetch="none")
