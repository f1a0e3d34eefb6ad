import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from triptych.core.errors import AlreadyExists, FailedPrecondition, InvalidArgument, Unavailable
from triptych.core.leases import (
    MAX_MISMATCHES,
    Audit,
    Busy,
    Closed,
    Closing,
    Complete,
    DividedLedger,
    Duplicate,
    Lost,
    Open,
    Outcome,
    Receiving,
    Reservation,
    Write,
)

PARTS = 4
LEFT, RIGHT, ALL = range(2), range(2, 4), range(4)
HERE = Reservation("t", "r", "request", 0, (7, 3, 4), 3)


@pytest.fixture
def ledger() -> DividedLedger:
    ledger = DividedLedger(PARTS)
    ledger.open(HERE, 10.0)
    return ledger


def write(ledger: DividedLedger, parts: range, first: int, count: int, seconds: float = 1.0) -> object:
    assert ledger.begin("t", parts, first, count, first + count == 3, 0.0) == Write(HERE.block_ids[first:][:count])
    return ledger.end("t", parts, Outcome.ARRIVED, seconds)


def test_whole_blocks_are_as_without_parts(ledger: DividedLedger) -> None:
    assert write(ledger, ALL, 0, 2) == Open(HERE, 10.0, received=2, seconds=1.0)
    with pytest.raises(Unavailable, match="has whole blocks already"):
        ledger.begin("t", LEFT, 2, 1, True, 0.0)
    assert write(ledger, ALL, 2, 1) == Complete(HERE, 10.0, 2.0)
    assert ledger.begin("t", ALL, 2, 1, True, 0.0) == Duplicate()
    ledger.close("t")
    assert ledger.state("t") is None
    assert ledger.begin("t", ALL, 2, 1, True, 0.0) == Duplicate()


def test_parts_come_at_their_own_pace(ledger: DividedLedger) -> None:
    assert write(ledger, LEFT, 0, 3, 5.0) == Open(HERE, 10.0)
    assert write(ledger, RIGHT, 0, 1) == Open(HERE, 10.0, received=1, seconds=1.0)
    assert write(ledger, RIGHT, 1, 2) == Complete(HERE, 10.0, 5.0)
    assert ledger.begin("t", RIGHT, 1, 2, True, 0.0) == Duplicate()
    ledger.close("t")
    assert ledger.state("t") is None
    assert ledger.begin("t", LEFT, 0, 3, True, 0.0) == Duplicate()


def test_parts_are_written_at_the_same_time_but_each_by_one(ledger: DividedLedger) -> None:
    assert isinstance(ledger.begin("t", LEFT, 0, 3, True, 0.0), Write)
    assert ledger.begin("t", ALL, 0, 3, True, 0.0) == Busy()
    assert isinstance(ledger.begin("t", RIGHT, 0, 1, False, 0.0), Write)
    assert ledger.begin("t", LEFT, 0, 3, True, 0.0) == Busy()
    assert ledger.begin("t", ALL, 0, 3, True, 0.0) == Busy()
    assert isinstance(ledger.end("t", RIGHT, Outcome.ARRIVED, 1.0), Receiving)
    assert isinstance(ledger.end("t", LEFT, Outcome.ARRIVED, 1.0), Open)


def test_parts_that_differ_do_not_go_on_together(ledger: DividedLedger) -> None:
    write(ledger, LEFT, 0, 1)
    with pytest.raises(Unavailable, match="has part of block 0 already"):
        ledger.begin("t", range(1, 3), 0, 1, False, 0.0)
    with pytest.raises(Unavailable, match="expects block 0 next, got block 1"):
        ledger.begin("t", range(1, 3), 1, 1, False, 0.0)
    with pytest.raises(InvalidArgument, match="expects 3 blocks"):
        ledger.begin("t", RIGHT, 0, 4, False, 0.0)
    write(ledger, RIGHT, 0, 1)
    assert write(ledger, ALL, 1, 2) == Complete(HERE, 10.0, 2.0)


def test_a_part_that_is_damaged_too_often_ends_all(ledger: DividedLedger) -> None:
    ledger.begin("t", RIGHT, 0, 1, False, 0.0)
    for _ in range(MAX_MISMATCHES):
        ledger.begin("t", LEFT, 0, 1, False, 0.0)
        assert isinstance(ledger.end("t", LEFT, Outcome.DAMAGED, 0.0), Open)
    ledger.begin("t", LEFT, 0, 1, False, 0.0)
    assert ledger.end("t", LEFT, Outcome.DAMAGED, 0.0) == Lost(HERE)
    assert ledger.state("t") == Closing(HERE)
    with pytest.raises(AlreadyExists):
        ledger.open(HERE, 20.0)
    with pytest.raises(FailedPrecondition, match="block 3 is reserved"):
        ledger.open(Reservation("u", "r", "request", 0, (3,), 1), 20.0)
    assert ledger.end("t", RIGHT, Outcome.ARRIVED, 0.0) == Closed()
    assert ledger.state("t") is None
    ledger.open(HERE, 20.0)


def test_a_lease_of_parts_is_one_lease(ledger: DividedLedger) -> None:
    write(ledger, LEFT, 0, 3)
    ledger.open(Reservation("u", "r", "request", 1, (1,), 1), 10.0)
    assert ledger.renew("r", 20.0) == 2
    assert ledger.expire(19.0) == ()
    assert sorted(ledger.expire(20.0)) == ["t", "u"]
    assert ledger.state("t") is None


def test_an_audit_names_each_reservation_once(ledger: DividedLedger) -> None:
    write(ledger, LEFT, 0, 3)
    other = Reservation("u", "r", "request", 1, (1,), 1)
    ledger.open(other, 20.0)
    audit = ledger.audit(now=10.0)
    assert {state.reservation for state in audit.held} == {HERE, other}
    assert [state.reservation for state in audit.overdue] == [HERE]
    ledger.expire(10.0)
    assert ledger.audit(now=10.0) == Audit((Open(other, 20.0),), ())


class _Machine(RuleBasedStateMachine):
    """Three streams of one ticket, in any order: complete exactly when all blocks of all parts have come."""

    streams = st.sampled_from([range(1), range(1, 2), range(2, 4)])

    @initialize()
    def reserve(self) -> None:
        self.ledger = DividedLedger(PARTS)
        self.ledger.open(HERE, 10.0)
        self.received = dict.fromkeys(ALL, 0)
        self.writing: dict[range, int] = {}
        self.told = 0
        self.over = False

    @rule(parts=streams, count=st.integers(1, 3))
    def begin(self, parts: range, count: int) -> None:
        first = self.received[parts[0]]
        if first == 3 or first + count > 3:
            return
        try:
            admission = self.ledger.begin("t", parts, first, count, first + count == 3, 0.0)
        except Unavailable:
            assert self.over
            return
        assert isinstance(admission, Busy if parts in self.writing else Write)
        self.writing.setdefault(parts, first + count)

    @rule(parts=streams, outcome=st.sampled_from(Outcome))
    def end(self, parts: range, outcome: Outcome) -> None:
        if parts not in self.writing:
            return
        until = self.writing.pop(parts)
        following = self.ledger.end("t", parts, outcome, 1.0)
        assert isinstance(following, Closed) <= self.over
        self.over = self.over or isinstance(following, Lost)
        if outcome is Outcome.ARRIVED and not self.over:
            self.received |= dict.fromkeys(parts, until)
        self.told += isinstance(following, Complete)

    @rule()
    def close(self) -> None:
        self.ledger.close("t")
        self.over = True

    @invariant()
    def it_is_complete_when_everything_has_come(self) -> None:
        state = self.ledger.state("t")
        everything = all(count == 3 for count in self.received.values())
        assert self.told == everything
        assert self.over or isinstance(state, Complete) == everything
        assert not self.over or (state is None) == (not self.writing)


_Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestDividedLedgerInAnyOrder = _Machine.TestCase
