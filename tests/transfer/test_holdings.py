import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.core.errors import ResourceExhausted
from triptych.transfer.holdings import Holder, Holdings

A, B = Holder("a", 0), Holder("b", 0)


def test_the_least_recently_used_goes_first() -> None:
    holdings = Holdings(budget_bytes=30, max_entries=9)
    for key in "xyz":
        assert holdings.add(key, 10, A) == ()
    holdings.hold("x", B)
    holdings.release(A)
    holdings.release(B)
    assert holdings.add("w", 15, A) == ("y", "z")
    assert holdings.stored_bytes == 25


def test_what_is_held_stays() -> None:
    holdings = Holdings(budget_bytes=30, max_entries=9)
    holdings.add("x", 20, A)
    holdings.hold("x", B)
    assert holdings.release(A) == 1
    with pytest.raises(ResourceExhausted, match="an entry of 15 bytes does not fit: 20 of 30 bytes are held"):
        holdings.add("y", 15, A)
    assert "x" in holdings
    assert holdings.release(B) == 1
    assert holdings.add("y", 15, A) == ("x",)


def test_only_what_is_held_exceeds_the_number_of_entries() -> None:
    holdings = Holdings(budget_bytes=1000, max_entries=2)
    for key, holder in (("v", A), ("w", A), ("x", B), ("y", B)):
        assert holdings.add(key, 1, holder) == ()
    holdings.release(B)
    assert holdings.add("z", 1, A) == ("x", "y")
    assert len(holdings) == 3


def test_an_epoch_releases_only_what_it_holds() -> None:
    holdings = Holdings(100, 9)
    holdings.add("x", 10, Holder("a", 0))
    holdings.hold("x", Holder("a", 1))
    assert holdings.release(Holder("a", 0)) == 1
    assert holdings.release(Holder("a", 0)) == 0
    assert holdings.held_sizes == (10,)


_steps = st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from("wxyz"), st.integers(1, 40), st.booleans()))


@given(_steps)
def test_budgets_hold_and_holders_keep_theirs(steps: list[tuple[str, str, int, bool]]) -> None:
    holdings = Holdings(budget_bytes=100, max_entries=3)
    sizes: dict[str, int] = {}
    held: dict[str, set[str]] = {}
    for holder, key, size, release in steps:
        if release:
            assert holdings.release(Holder(holder, 0)) == sum(holder in holders for holders in held.values())
            held = {key: holders - {holder} for key, holders in held.items()}
        elif key in holdings:
            holdings.hold(key, Holder(holder, 0))
            held[key] = held[key] | {holder}
        else:
            try:
                evicted = holdings.add(key, size, Holder(holder, 0))
            except ResourceExhausted:
                kept = {key: size for key, size in sizes.items() if held[key]}
                assert sum(kept.values()) + size > 100
                continue
            assert not any(held[old] for old in evicted)
            for old in evicted:
                del sizes[old], held[old]
            sizes[key], held[key] = size, {holder}
            assert len(sizes) <= max(3, sum(map(bool, held.values())))
        assert holdings.stored_bytes == sum(sizes.values()) <= 100
        assert len(holdings) == len(sizes)
        assert sum(holdings.held_sizes) == sum(size for key, size in sizes.items() if held[key])
