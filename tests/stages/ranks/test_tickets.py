from hypothesis import given
from hypothesis import strategies as st

from triptych.core.generation import OperationKey
from triptych.core.jobs.events import KvComplete
from triptych.stages.ranks.messages import Arrived, OpenLease
from triptych.stages.ranks.tickets import Receiving, Tickets

LEASE = OpenLease("t", "request", 3, (1, 2), "router")


def opened(ranks: range) -> Tickets:
    tickets = Tickets()
    tickets.open(LEASE, ranks)
    return tickets


def test_a_ticket_is_complete_with_its_last_rank() -> None:
    tickets = opened(range(2, 5))
    assert tickets.arrived(3, Arrived("t", 10, 0.5)) is None
    assert tickets.arrived(4, Arrived("t", 20, 2.0)) is None
    assert tickets.arrived(1, Arrived("t", 99, 9.0)) is None  # has no part in it
    assert tickets.arrived(2, Arrived("t", 30, 1.0)) == KvComplete("t", 60, 2.0)
    assert tickets.fail("t") is None
    ended = tickets.end("t")
    assert ended is not None
    assert (ended.key, ended.ranks) == (OperationKey("request", 3), range(2, 5))
    assert (tickets.end("t"), tickets.ids) == (None, ())


def test_a_ticket_that_failed_is_over() -> None:
    tickets = opened(range(2))
    assert tickets.fail("t") == Receiving(OperationKey("request", 3), range(2), frozenset({0, 1}))
    assert tickets.fail("t") is None
    assert [tickets.arrived(rank, Arrived("t", 1, 1.0)) for rank in range(2)] == [None, None]


@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from(["arrived", "fail", "end"]), st.integers(0, 4))))
def test_a_ticket_has_one_answer_at_most(ranks: int, events: list[tuple[str, int]]) -> None:
    tickets, here, over, answers = opened(range(ranks)), set[int](), False, 0
    for what, rank in events:
        match what:
            case "arrived":
                complete = tickets.arrived(rank, Arrived("t", 1, 1.0))
                new = not over and rank < ranks and rank not in here
                here |= {rank} if new else set()
                assert (complete is not None) == (new and len(here) == ranks)
                answers += complete is not None
            case "fail":
                failed = tickets.fail("t")
                assert (failed is not None) == (not over and len(here) < ranks)
                over = over or failed is not None
                answers += failed is not None
            case _:
                assert (tickets.end("t") is not None) == (not over)
                over = True
    assert answers <= 1
    assert tickets.ids == (() if over else ("t",))
