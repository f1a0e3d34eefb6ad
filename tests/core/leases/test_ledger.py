import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from triptych.core.errors import AlreadyExists, FailedPrecondition, Internal, InvalidArgument, Unavailable
from triptych.core.generation import OperationKey
from triptych.core.leases.ledger import REMEMBERED, Audit, Busy, Duplicate, Ledger, Write
from triptych.core.leases.reservation import (
    MAX_MISMATCHES,
    Closed,
    Closing,
    Complete,
    Lost,
    Open,
    Outcome,
    Receiving,
    Reservation,
)


def _reservation(
    ticket_id: str = "t", blocks: tuple[int, ...] = (7, 3, 4, 9), expected: int = 3, router_id: str = "r"
) -> Reservation:
    return Reservation(ticket_id, router_id, "request", 0, blocks, expected)


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger()
    ledger.open(_reservation(), expires_at=10.0)
    return ledger


def test_a_prompt_arrives_chunk_by_chunk(ledger: Ledger) -> None:
    assert ledger.begin("t", 0, 2, False, now=1.0) == Write((7, 3))
    assert ledger.end("t", Outcome.ARRIVED, 0.25) == Open(_reservation(), 10.0, received=2, seconds=0.25)
    assert ledger.begin("t", 2, 1, True, now=1.0) == Write((4,))
    assert ledger.end("t", Outcome.ARRIVED, 0.5) == Complete(_reservation(), 10.0, seconds=0.75)
    ledger.close("t")
    assert ledger.state("t") is None


def test_a_chunk_that_is_here_is_acknowledged_again(ledger: Ledger) -> None:
    ledger.begin("t", 0, 2, False, now=0.0)
    ledger.end("t", Outcome.ARRIVED, 0.0)
    assert ledger.begin("t", 0, 2, False, now=0.0) == Duplicate()
    ledger.begin("t", 2, 1, True, now=0.0)
    ledger.end("t", Outcome.ARRIVED, 0.0)
    assert ledger.begin("t", 2, 1, True, now=0.0) == Duplicate()


def test_a_chunk_of_a_ticket_that_was_completed_and_closed_is_acknowledged_again(ledger: Ledger) -> None:
    ledger.begin("t", 0, 3, True, now=0.0)
    ledger.end("t", Outcome.ARRIVED, 0.0)
    ledger.close("t")
    ledger.open(_reservation("u"), expires_at=10.0)
    assert ledger.begin("t", 0, 3, True, now=99.0) == Duplicate()
    with pytest.raises(InvalidArgument, match="expects 3 blocks"):
        ledger.begin("t", 0, 4, True, now=99.0)
    assert ledger.state("t") is None


def test_completed_tickets_are_forgotten_in_their_order() -> None:
    ledger = Ledger()
    for i in range(REMEMBERED + 1):
        ledger.open(_reservation(str(i), (0,), 1), expires_at=10.0)
        ledger.begin(str(i), 0, 1, True, now=0.0)
        ledger.end(str(i), Outcome.ARRIVED, 0.0)
        ledger.close(str(i))
    with pytest.raises(Unavailable, match="ticket 0 is unknown or closed"):
        ledger.begin("0", 0, 1, True, now=0.0)
    assert {type(ledger.begin(str(i), 0, 1, True, now=0.0)) for i in range(1, REMEMBERED + 1)} == {Duplicate}


def test_out_of_order_is_refused(ledger: Ledger) -> None:
    with pytest.raises(Unavailable, match="expects block 0 next, got block 1"):
        ledger.begin("t", 1, 2, True, now=0.0)
    ledger.begin("t", 0, 1, False, now=0.0)
    ledger.end("t", Outcome.ARRIVED, 0.0)
    with pytest.raises(Unavailable, match="expects block 1 next, got block 0"):
        ledger.begin("t", 0, 2, False, now=0.0)


@pytest.mark.parametrize(("first", "count", "last"), [(0, 4, False), (0, 3, False), (0, 2, True), (0, 0, False)])
def test_a_chunk_must_fit_what_is_expected(ledger: Ledger, first: int, count: int, last: bool) -> None:
    with pytest.raises(InvalidArgument, match="expects 3 blocks"):
        ledger.begin("t", first, count, last, now=0.0)
    assert ledger.state("t") == Open(_reservation(), 10.0)


def test_one_chunk_at_a_time(ledger: Ledger) -> None:
    ledger.begin("t", 0, 1, False, now=0.0)
    assert ledger.begin("t", 0, 1, False, now=0.0) == Busy()
    assert ledger.begin("t", 1, 1, False, now=0.0) == Busy()


def test_an_interrupted_chunk_may_come_again(ledger: Ledger) -> None:
    ledger.begin("t", 0, 2, False, now=0.0)
    assert ledger.end("t", Outcome.INTERRUPTED, 0.0) == Open(_reservation(), 10.0)
    assert ledger.begin("t", 0, 2, False, now=0.0) == Write((7, 3))


def test_a_chunk_damaged_too_often_ends_the_reservation(ledger: Ledger) -> None:
    for _ in range(MAX_MISMATCHES):
        ledger.begin("t", 0, 3, True, now=0.0)
        assert isinstance(ledger.end("t", Outcome.DAMAGED, 0.0), Open)
    ledger.begin("t", 0, 3, True, now=0.0)
    assert ledger.end("t", Outcome.DAMAGED, 0.0) == Lost(_reservation())
    assert ledger.state("t") is None


def test_closing_waits_for_the_chunk_in_flight(ledger: Ledger) -> None:
    ledger.begin("t", 0, 3, True, now=0.0)
    ledger.close("t")
    assert ledger.state("t") == Closing(_reservation())
    assert set(ledger.writable_blocks) == {7, 3, 4, 9}
    with pytest.raises(Unavailable, match="unknown or closed"):
        ledger.begin("t", 0, 3, True, now=0.0)
    ledger.close("t")
    assert ledger.end("t", Outcome.ARRIVED, 0.0) == Closed()
    assert set(ledger.writable_blocks) == set()
    ledger.close("t")


def test_unknown_tickets_are_refused(ledger: Ledger) -> None:
    with pytest.raises(Unavailable, match="ticket other is unknown or closed"):
        ledger.begin("other", 0, 1, False, now=0.0)


def test_a_write_that_was_not_admitted_cannot_end(ledger: Ledger) -> None:
    with pytest.raises(Internal):
        ledger.end("t", Outcome.ARRIVED, 0.0)


def test_tickets_and_writable_blocks_belong_to_one_reservation(ledger: Ledger) -> None:
    with pytest.raises(AlreadyExists):
        ledger.open(_reservation(blocks=(1, 2, 5)), 10.0)
    with pytest.raises(FailedPrecondition, match="block 4 is reserved"):
        ledger.open(_reservation("u", (4, 5, 6)), 10.0)
    ledger.close("t")
    ledger.open(_reservation("u", (4, 5, 6)), 10.0)


@pytest.mark.parametrize("expected", [0, 5, -1])
def test_expected_blocks_are_among_the_reserved(expected: int) -> None:
    with pytest.raises(InvalidArgument, match=f"1 to 4, got {expected}"):
        _reservation(expected=expected)


def test_a_block_is_reserved_once() -> None:
    with pytest.raises(InvalidArgument, match="must differ"):
        _reservation(blocks=(1, 2, 1))


def test_a_lease_ends_unless_its_router_renews_it() -> None:
    ledger = Ledger()
    ledger.open(_reservation("a", (0,), 1, "one"), 10.0)
    ledger.open(_reservation("b", (1,), 1, "two"), 10.0)
    ledger.open(_reservation("c", (2,), 1, "one"), 10.0)
    ledger.begin("c", 0, 1, True, now=0.0)
    assert ledger.renew("one", 20.0) == 2
    assert ledger.expire(9.9) == ()
    assert ledger.expire(10.0) == ("b",)
    assert ledger.expire(20.0) == ("a", "c")
    assert isinstance(ledger.state("c"), Closing)
    assert ledger.expire(1e9) == ()


def test_an_expired_lease_admits_nothing_even_before_it_is_swept(ledger: Ledger) -> None:
    with pytest.raises(Unavailable, match="lease of ticket t has expired"):
        ledger.begin("t", 0, 3, True, now=10.0)


def test_a_complete_reservation_stays_a_lease(ledger: Ledger) -> None:
    ledger.begin("t", 0, 3, True, now=0.0)
    ledger.end("t", Outcome.ARRIVED, 0.0)
    assert ledger.renew("r", 30.0) == 1
    assert ledger.expire(29.0) == ()
    assert ledger.expire(30.0) == ("t",)


def test_an_audit_says_who_holds_what_and_what_outlives_its_lease() -> None:
    ledger = Ledger()
    ledger.open(_reservation("a", (0, 1), 1), 10.0)
    ledger.open(Reservation("b", "r", "another", 2, (2,), 1), 20.0)
    audit = ledger.audit(now=10.0)
    assert [state.reservation.ticket_id for state in audit.held] == ["a", "b"]
    assert [state.reservation.ticket_id for state in audit.overdue] == ["a"]
    assert audit.blocks == {OperationKey("request", 0): (0, 1), OperationKey("another", 2): (2,)}
    ledger.expire(now=10.0)
    assert ledger.audit(now=10.0) == Audit(held=audit.held[1:], overdue=())


class _Machine(RuleBasedStateMachine):
    """Whatever happens in whatever order, no block is ever writable by two and progress only grows."""

    tickets = Bundle("tickets")
    writing = Bundle("writing")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.now = 0.0
        self.received: dict[str, int] = {}

    @rule(
        target=tickets, ticket=st.sampled_from("abcd"), blocks=st.sets(st.integers(0, 9), min_size=1), data=st.data()
    )
    def open(self, ticket: str, blocks: set[int], data: st.DataObject) -> str:
        expected = data.draw(st.integers(1, len(blocks)))
        fits = self.ledger.state(ticket) is None and blocks.isdisjoint(self.ledger.writable_blocks)
        try:
            self.ledger.open(_reservation(ticket, tuple(blocks), expected), self.now + 5)
        except (AlreadyExists, FailedPrecondition):
            assert not fits
        else:
            assert fits
            self.received[ticket] = 0
        return ticket

    @rule(target=writing, ticket=tickets, first=st.integers(0, 9), count=st.integers(1, 9), last=st.booleans())
    def begin(self, ticket: str, first: int, count: int, last: bool) -> str:
        before = self.ledger.state(ticket)
        try:
            admission = self.ledger.begin(ticket, first, count, last, self.now)
        except (Unavailable, InvalidArgument):
            assert self.ledger.state(ticket) == before
            return ticket
        if isinstance(admission, Write):
            assert isinstance(before, Open)
            assert first == before.received
            assert admission.block_ids == before.reservation.block_ids[first : first + count]
            assert isinstance(self.ledger.state(ticket), Receiving)
        else:
            assert self.ledger.state(ticket) == before
        return ticket

    @rule(ticket=consumes(writing), outcome=st.sampled_from(Outcome))
    def end(self, ticket: str, outcome: Outcome) -> None:
        before = self.ledger.state(ticket)
        if not isinstance(before, Receiving | Closing):
            return
        following = self.ledger.end(ticket, outcome, 1.0)
        gone = isinstance(following, Closed | Lost)
        assert (self.ledger.state(ticket) is None) == gone
        assert isinstance(following, Closed) == isinstance(before, Closing)
        if isinstance(following, Open) and isinstance(before, Receiving):
            arrived = outcome is Outcome.ARRIVED
            assert following.received == (before.until if arrived else before.before.received)

    @rule(ticket=tickets)
    def close(self, ticket: str) -> None:
        before = self.ledger.state(ticket)
        self.ledger.close(ticket)
        assert isinstance(self.ledger.state(ticket), Closing) == isinstance(before, Receiving | Closing)

    @rule(seconds=st.floats(0, 4))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for ticket in self.ledger.expire(self.now):
            assert self.ledger.state(ticket) is None or isinstance(self.ledger.state(ticket), Closing)

    @rule()
    def renew(self) -> None:
        self.ledger.renew("r", self.now + 5)
        assert self.ledger.expire(self.now) == ()

    @invariant()
    def blocks_have_one_writer(self) -> None:
        blocks = list(self.ledger.writable_blocks)
        assert len(blocks) == len(set(blocks))

    @invariant()
    def nothing_outlives_its_lease_once_it_is_swept(self) -> None:
        self.ledger.expire(self.now)
        assert self.ledger.audit(self.now).overdue == ()

    @invariant()
    def complete_means_everything_arrived(self) -> None:
        for ticket in "abcd":
            state = self.ledger.state(ticket)
            if isinstance(state, Open):
                assert state.received < state.reservation.expected_blocks
                assert state.mismatches <= MAX_MISMATCHES


_Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLedgerInAnyOrder = _Machine.TestCase
