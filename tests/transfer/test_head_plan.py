from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.transfer import HeadMove, Heads, head_plan


def dealt(heads: int, ranks: int) -> list[Heads]:
    """Heads dealt out contiguously, the first ranks with one more; or each head to several ranks."""
    if ranks <= heads:
        size, more = divmod(heads, ranks)
        return [Heads(r * size + min(r, more), size + (r < more)) for r in range(ranks)]
    size, more = divmod(ranks, heads)
    return [Heads(head, 1) for head in range(heads) for _ in range(size + (head < more))]


@pytest.mark.parametrize(
    ("heads", "senders", "receivers", "moves"),
    [
        (4, 1, 1, [(0, 0, 0, 4)]),
        (4, 1, 2, [(0, 0, 0, 2), (0, 1, 2, 2)]),
        (4, 2, 1, [(0, 0, 0, 2), (1, 0, 2, 2)]),
        (4, 2, 4, [(0, 0, 0, 1), (0, 1, 1, 1), (1, 2, 2, 1), (1, 3, 3, 1)]),
        (4, 4, 2, [(0, 0, 0, 1), (1, 0, 1, 1), (2, 1, 2, 1), (3, 1, 3, 1)]),
        (6, 3, 2, [(0, 0, 0, 2), (1, 0, 2, 1), (1, 1, 3, 1), (2, 1, 4, 2)]),
        (3, 2, 4, [(0, 0, 0, 1), (0, 1, 0, 1), (0, 2, 1, 1), (1, 3, 2, 1)]),
        (3, 4, 2, [(0, 0, 0, 1), (2, 0, 1, 1), (3, 1, 2, 1)]),
        (1, 2, 2, [(0, 0, 0, 1), (1, 1, 0, 1)]),
        (1, 4, 1, [(0, 0, 0, 1)]),
    ],
)
def test_heads_go_from_who_has_them_to_who_needs_them(
    heads: int, senders: int, receivers: int, moves: list[tuple[int, int, int, int]]
) -> None:
    assert head_plan(dealt(heads, senders), dealt(heads, receivers)) == tuple(
        HeadMove(sender, receiver, Heads(first, count)) for sender, receiver, first, count in moves
    )


@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 9), st.integers(0, 1 << 32))
def test_every_receiver_gets_each_of_its_heads_once(heads: int, senders: int, receivers: int, turn: int) -> None:
    held, needed = dealt(heads, senders), dealt(heads, receivers)
    moves = head_plan(held, needed, turn)
    got = Counter((m.receiver, h) for m in moves for h in range(m.heads.first, m.heads.end))
    assert got == Counter((r, h) for r, wanted in enumerate(needed) for h in range(wanted.first, wanted.end))
    assert all(held[move.sender].holds(move.heads) for move in moves)


@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 12), st.integers(0, 1 << 32))
def test_ranks_that_hold_the_same_send_alike(heads: int, senders: int, receivers: int, turn: int) -> None:
    held = dealt(heads, max(senders, heads))
    load: Counter[int] = Counter()
    for move in head_plan(held, dealt(heads, receivers), turn):
        load[move.sender] += move.heads.count
    for head in range(heads):
        alike = [load[rank] for rank, mine in enumerate(held) if mine == Heads(head, 1)]
        assert max(alike) - min(alike) <= 1


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 1 << 32))
def test_a_latent_vector_is_sent_once_to_each_rank(senders: int, receivers: int, turn: int) -> None:
    moves = head_plan([Heads(0, 1)] * senders, [Heads(0, 1)] * receivers, turn)
    assert [move.receiver for move in moves] == list(range(receivers))
    load = Counter(move.sender for move in moves)
    assert max(load.values()) <= -(-receivers // senders)


def test_tickets_take_turns_with_ranks_that_hold_the_same() -> None:
    first = [head_plan([Heads(0, 1)] * 3, [Heads(0, 1)], turn)[0].sender for turn in range(6)]
    assert first == [0, 1, 2, 0, 1, 2]


@given(st.lists(st.builds(Heads, st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=6), st.data())
def test_intervals_may_overlap_in_any_way(held: list[Heads], data: st.DataObject) -> None:
    covered = {head for mine in held for head in range(mine.first, mine.end)}
    wanted = data.draw(st.builds(Heads, st.integers(0, 9), st.integers(1, 5)))
    if not covered.issuperset(range(wanted.first, wanted.end)):
        with pytest.raises(FailedPrecondition, match="no rank of the sending replica holds KV head"):
            head_plan(held, [wanted])
        return
    moves = head_plan(held, [wanted])
    assert [h for move in moves for h in range(move.heads.first, move.heads.end)] == list(
        range(wanted.first, wanted.end)
    )


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (0, 0), (2, -1)])
def test_there_is_no_interval_without_heads(first: int, count: int) -> None:
    with pytest.raises(InvalidArgument, match="at least one, from 0 on"):
        Heads(first, count)
