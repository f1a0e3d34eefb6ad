"""A worker without a router is an orphan after a while, and only then."""

from triptych.core.orphan import Solitude


def test_a_worker_that_no_router_ever_called_is_an_orphan_in_the_end() -> None:
    alone = Solitude(30.0).observe(0, 100.0).observe(0, 120.0)
    assert not alone.over(129.9)
    assert alone.over(130.0)


def test_a_router_that_comes_back_begins_the_count_anew() -> None:
    alone = Solitude(30.0).observe(0, 100.0).observe(1, 129.0)
    assert not alone.over(1000.0)
    assert not alone.observe(0, 140.0).over(169.9)
    assert alone.observe(0, 140.0).over(170.0)


def test_without_a_limit_no_worker_is_an_orphan() -> None:
    assert not Solitude(None).observe(0, 0.0).over(1e9)


def test_a_worker_that_nobody_has_looked_at_is_none() -> None:
    assert not Solitude(0.0).over(1e9)
