import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.core.encoding.holdings import Holding, Holdings, HoldingsAudit
from triptych.core.errors import ResourceExhausted
from triptych.core.generation import OperationKey

A, B = OperationKey("a", 0), OperationKey("b", 0)


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
    holdings.add("x", 10, OperationKey("a", 0))
    holdings.hold("x", OperationKey("a", 1))
    assert holdings.release(OperationKey("a", 0)) == 1
    assert holdings.release(OperationKey("a", 0)) == 0
    assert (holdings.held_count, holdings.held_bytes) == (1, 10)


_steps = st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from("wxyz"), st.integers(1, 40), st.booleans()))


@given(_steps)
def test_budgets_hold_and_holders_keep_theirs(steps: list[tuple[str, str, int, bool]]) -> None:
    holdings = Holdings(budget_bytes=100, max_entries=3)
    sizes: dict[str, int] = {}
    held: dict[str, set[str]] = {}
    for holder, key, size, release in steps:
        if release:
            assert holdings.release(OperationKey(holder, 0)) == sum(holder in holders for holders in held.values())
            held = {key: holders - {holder} for key, holders in held.items()}
        elif key in holdings:
            holdings.hold(key, OperationKey(holder, 0))
            held[key] = held[key] | {holder}
        else:
            try:
                evicted = holdings.add(key, size, OperationKey(holder, 0))
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
        assert holdings.held_bytes == sum(size for key, size in sizes.items() if held[key])
        assert holdings.held_count == sum(map(bool, held.values()))
        audit = holdings.audit()
        assert {(holding.holder.request_id, holding.keys) for holding in audit.holdings} == {
            (name, frozenset(key for key in held if name in held[key]))
            for holders in held.values()
            for name in holders
        }
        assert (audit.held_bytes, audit.stored_bytes) == (holdings.held_bytes, holdings.stored_bytes)
        assert audit.problems == ()


def test_an_audit_says_who_holds_what() -> None:
    holdings = Holdings(budget_bytes=100, max_entries=9)
    holdings.add("x", 10, A)
    holdings.add("y", 5, A)
    holdings.hold("x", B)
    holdings.add("z", 7, OperationKey("c", 0))
    holdings.release(OperationKey("c", 0))
    assert holdings.audit() == HoldingsAudit(
        holdings=(Holding(A, frozenset("xy"), 15), Holding(B, frozenset("x"), 10)),
        held_bytes=15,
        stored_bytes=22,
        problems=(),
    )


def test_an_audit_notices_books_that_are_wrong() -> None:
    holdings = Holdings(budget_bytes=100, max_entries=9)
    holdings.add("x", 10, A)
    holdings.held_bytes += 1
    assert holdings.audit().problems == ("held bytes: 10 counted, 11 booked",)
