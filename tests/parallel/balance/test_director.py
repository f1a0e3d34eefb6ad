"""Rank 0 and the balance of experts: when it asks, plans, has a layer prepared, commits, gives up."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from triptych.core.errors import InvalidArgument
from triptych.parallel.balance import (
    BalancePolicy,
    CommitLayer,
    Director,
    DropLayer,
    LayerFailed,
    LayerStaged,
    Loads,
    Order,
    Placement,
    StageLayer,
    TakeLoads,
)

HOT = [10, 10, 90, 10, 10, 10, 10, 10]
EVEN = [20] * 8
POLICY = BalancePolicy(window=16, rows=1)


@dataclass
class Play:
    """A director, and two ranks that answer as soon as they are asked, unless a test answers for them."""

    counts: Sequence[Sequence[int]]
    policy: BalancePolicy = POLICY
    silent: bool = False
    now: float = 0.0
    said: list[Order] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.placements = [Placement.even(8, 2, 2)] * len(self.counts)
        ranks = frozenset((0, 1))
        self.director = Director(
            range(len(self.counts)), self.placements, [1] * len(self.counts), ranks, ranks, self.policy
        )

    def run(self, steps: int) -> list[Order]:
        """So many steps, one second each; what was said."""
        said: list[Order] = []
        for _ in range(steps):
            orders = self.director.turn(self.now)
            said += orders
            for order in orders:
                self._obey(order)
            self.director.stepped()
            self.now += 1
        return said

    def _obey(self, order: Order) -> None:
        match order:
            case TakeLoads():
                for rank in (0, 1):
                    self.director.hear(rank, Loads(np.array(self.counts, np.int64)))
            case StageLayer(move) if not self.silent:
                for rank in (0, 1):
                    self.director.hear(rank, LayerStaged(move, 1, 100, 0.5))
            case _:
                pass


def kinds(orders: list[Order]) -> list[type]:
    return [type(order) for order in orders if not isinstance(order, TakeLoads)]


def test_an_unbalanced_layer_moves_and_a_balanced_one_does_not() -> None:
    play = Play([EVEN, HOT])
    orders = play.run(40)
    assert kinds(orders) == [StageLayer, CommitLayer]
    (stage,) = (order for order in orders if isinstance(order, StageLayer))
    assert stage.layer == 1
    assert stage.placement.balancedness(HOT) > 0.85
    balance = play.director.balance
    assert (balance.rebalances, balance.commits, balance.moved_experts, balance.staged_bytes) == (1, 1, 2, 200)
    assert balance.staging_seconds == 0.5
    even, hot = balance.layers
    assert even.before is even.after is None
    assert hot.before == pytest.approx(play.placements[0].balancedness(HOT))
    assert hot.now == hot.after == pytest.approx(stage.placement.balancedness(HOT))


def test_loads_are_asked_for_once_in_an_eighth_of_the_window() -> None:
    assert Play([EVEN]).run(2 + 12 * 2) == [TakeLoads()] * 12


def test_nothing_moves_before_the_window_is_over_nor_soon_after_a_move() -> None:
    play = Play([HOT])
    assert kinds(play.run(16)) == []
    assert kinds(play.run(8)) == [StageLayer, CommitLayer]
    play.counts = [HOT[::-1]]
    assert kinds(play.run(8)) == []
    assert kinds(play.run(20)) == [StageLayer, CommitLayer]


def test_layers_above_the_threshold_are_taken_along_when_a_rebalance_begins_but_begin_none() -> None:
    placement = Placement.even(8, 2, 2)
    between = [40, 10, 10, 20, 20, 10, 10, 10]
    threshold = placement.balancedness(between) - 0.02
    policy = BalancePolicy(window=16, threshold=threshold, rows=1)
    assert kinds(Play([between], policy).run(60)) == []
    assert kinds(Play([between, HOT], policy).run(40)) == [StageLayer, CommitLayer] * 2


def test_a_move_that_gains_little_is_not_made() -> None:
    assert kinds(Play([HOT], BalancePolicy(window=16, rows=1, gain=0.9)).run(60)) == []


def test_few_rows_mean_nothing() -> None:
    assert kinds(Play([HOT], BalancePolicy(window=16, rows=10**6)).run(60)) == []


def test_force_moves_what_gets_any_better_at_once() -> None:
    play = Play([EVEN, HOT], BalancePolicy(threshold=0.0))
    assert kinds(play.run(10)) == []
    play.director.force()
    assert play.director.moving
    orders = play.run(6)
    assert [order.layer for order in orders if isinstance(order, StageLayer)] == [1]
    assert not play.director.moving
    play.director.force()
    assert kinds(play.run(6)) == []
    assert play.director.balance.rebalances == 2


def test_no_layer_is_committed_before_every_rank_is_ready() -> None:
    play = Play([HOT], silent=True)
    play.director.force()
    (stage,) = (order for order in play.run(2) if isinstance(order, StageLayer))
    assert play.run(3) == []
    play.director.hear(1, LayerStaged(stage.move, 0, 0, 0.0))
    assert play.run(3) == []
    play.director.hear(0, LayerStaged(stage.move, 2, 9, 0.0))
    assert play.run(1) == [CommitLayer(stage.move)]


def test_a_rank_that_takes_too_long_has_the_move_given_up() -> None:
    play = Play([HOT, HOT], BalancePolicy(window=16, rows=1, patience=5.0), silent=True)
    play.director.force()
    (stage,) = (order for order in play.run(2) if isinstance(order, StageLayer))
    orders = play.run(8)
    assert orders[0] == DropLayer(stage.move)
    assert kinds(orders) == [DropLayer]
    for rank in (0, 1):
        play.director.hear(rank, LayerStaged(stage.move, 1, 1, 1.0))  # too late
    assert CommitLayer(stage.move) not in play.run(5)
    assert play.director.balance.given_up == 1
    assert play.director.balance.commits == play.director.balance.moved_experts == 0


def test_a_rank_that_cannot_has_the_move_given_up_at_once(caplog: pytest.LogCaptureFixture) -> None:
    play = Play([HOT], silent=True)
    play.director.force()
    (stage,) = (order for order in play.run(2) if isinstance(order, StageLayer))
    play.director.hear(0, LayerStaged(stage.move, 1, 1, 1.0))
    play.director.hear(1, LayerFailed(stage.move, "the disk is gone"))
    assert play.run(1) == [DropLayer(stage.move)]
    assert "rank 1: the disk is gone" in caplog.text
    play.silent = False
    play.director.force()
    assert kinds(play.run(4)) == [StageLayer, CommitLayer]


def test_balancedness_is_not_known_before_anything_is_counted() -> None:
    play = Play([HOT, [0] * 8])
    play.run(2)
    assert [layer.now for layer in play.director.balance.layers] == [None, None]
    play.run(4)
    hot, without = play.director.balance.layers
    assert hot.now == pytest.approx(play.placements[0].balancedness(HOT))
    assert without.now is None


def test_loads_of_long_ago_are_forgotten() -> None:
    play = Play([HOT], BalancePolicy(window=16, threshold=0.0))
    play.run(60)
    hot = play.director.balance.layers[0].now
    play.counts = [EVEN]
    play.run(60)
    even = play.director.balance.layers[0].now
    assert hot == pytest.approx(play.placements[0].balancedness(HOT))
    assert even == pytest.approx(play.placements[0].balancedness(EVEN))


@pytest.mark.parametrize(("field", "value"), [("window", 0), ("threshold", 1.5), ("threshold", -0.1), ("nodes", 0)])
def test_a_policy_that_means_nothing_is_refused(field: str, value: float) -> None:
    with pytest.raises(InvalidArgument, match=field):
        BalancePolicy(**{field: value})  # type: ignore[arg-type]
