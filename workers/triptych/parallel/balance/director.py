"""Rank 0 sees to the balance of its replica's experts. No threads, no clock: everything is told.

    Resting ──loads are due──▶ Counting ──all have answered──▶ Choosing ──a layer is worth it──▶ Staging
       ▲                                                        │   ▲                              │
       └──────────────no layer is left──────────────────────────┘   └──all are ready: commit───────┤
       └───────────────────────────a rank fails, or takes too long: given up───────────────────────┘

One layer at a time is planned, prepared and committed, each between two steps; no step waits for any of it.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias, assert_never

from triptych.parallel.balance.messages import (
    CommitLayer,
    DropLayer,
    LayerFailed,
    LayerStaged,
    Loads,
    Order,
    Report,
    StageLayer,
    TakeLoads,
)
from triptych.parallel.balance.moves import settle
from triptych.parallel.balance.placement import Placement
from triptych.parallel.balance.policy import BalancePolicy
from triptych.parallel.balance.rebalance import rebalance_layer
from triptych.parallel.balance.record import Balance, LayerBalance
from triptych.parallel.balance.states import Choosing, Counting, Resting, Staging, State
from triptych.parallel.balance.window import LoadWindow

logger = logging.getLogger(__name__)

Planner: TypeAlias = Callable[[Sequence[float], Placement, int, int], Placement]
"""From the loads [E] of a layer, where its experts are, the groups that its router knows, and the nodes that its
ranks are on, to where the experts should be."""


def balanced(weights: Sequence[float], old: Placement, groups: int, nodes: int) -> Placement:
    """The balanced placement; what can stay where it is, stays. Groups stay on one node where nodes divide them."""
    if groups % nodes:
        groups = nodes = 1
    return settle(old, rebalance_layer(weights, len(old.by_slot), groups, nodes, old.ranks), nodes)


class Director:
    """Asks for loads, and has experts moved.

    Args:
        numbers: Of the layers with experts, in the model.
        placements: Of these layers.
        groups: Of experts, that the router of each of these layers knows.
        ranks: All of the replica: they prepare and commit.
        counting: Those of them that count rows.
        policy: When experts move.
        planner: Where to.

    Attributes:
        balance: How things are.
    """

    def __init__(
        self,
        numbers: Sequence[int],
        placements: Sequence[Placement],
        groups: Sequence[int],
        ranks: frozenset[int],
        counting: frozenset[int],
        policy: BalancePolicy,
        planner: Planner = balanced,
    ) -> None:
        self.balance = Balance(tuple(LayerBalance(number) for number in numbers))
        self._placements = list(placements)
        self._groups, self._ranks, self._counting = groups, ranks, counting
        self._policy, self._planner = policy, planner
        self._window = LoadWindow(len(placements), placements[0].experts)
        self._state: State = Resting()
        self._since_loads = self._since_moves = self._moves = 0
        self._forced = False

    @property
    def moving(self) -> bool:
        """Whether a rebalance is under way, or about to be."""
        return self._forced or isinstance(self._state, Choosing | Staging)

    def force(self) -> None:
        """Rebalances as soon as it can, wherever that is any better, without asking the policy whether it is due."""
        self._forced = True

    def hear(self, rank: int, report: Report) -> None:
        """A rank has answered; what it says of a move that has been given up is nothing to anybody."""
        match report, self._state:
            case Loads(counts), Counting(missing):
                self._window.add(counts)
                self._state = Counting(missing - {rank})
            case LayerStaged(), Staging() as state if report.move == state.order.move:
                slowest = max(state.slowest, report.seconds)
                self._state = replace(state, missing=state.missing - {rank}, slowest=slowest)
                self.balance = self.balance.with_staged(report)
            case LayerFailed(move, reason), Staging() as state if move == state.order.move:
                self._state = replace(state, failure=f"rank {rank}: {reason}")
            case _:
                pass

    def stepped(self) -> None:
        """A step is over."""
        self._since_loads += 1
        self._since_moves += 1

    def turn(self, now: float) -> tuple[Order, ...]:
        """What all ranks are to be told before the next step; to be called too, now and then, where there is none.

        Args:
            now: In seconds, from anywhere.
        """
        match self._state:
            case Resting():
                return self._ask()
            case Counting(missing):
                return () if missing else self._judge(now)
            case Choosing() as state:
                return self._choose(state, now)
            case Staging() as state:
                return self._wait(state, now)
            case _:
                assert_never(self._state)

    def _ask(self) -> tuple[Order, ...]:
        if self._since_loads < self._policy.chunk and not self._forced:
            return ()
        self._since_loads = 0
        self._window.slide()
        self._state = Counting(self._counting)
        return (TakeLoads(),)

    def _judge(self, now: float) -> tuple[Order, ...]:
        """All loads are there: which layers to look at."""
        total = self._window.total
        found = [p.balancedness(loads) for p, loads in zip(self._placements, total.tolist(), strict=True)]
        counted = zip(found, total.tolist(), strict=True)
        self.balance = self.balance.with_now([value if any(loads) else None for value, loads in counted])
        if self._forced:
            self._forced = False
            chosen = Choosing(tuple(range(len(found))), min(0.0, self._policy.gain))
        else:
            enough = total.sum(1) >= self._policy.rows * total.shape[1]
            known = [value if sure else 1.0 for value, sure in zip(found, enough, strict=True)]
            chosen = Choosing(self._policy.due(known, self._since_moves), self._policy.gain)
        self._state = Resting()
        if not chosen.layers:
            return ()
        self.balance = replace(self.balance, rebalances=self.balance.rebalances + 1)
        return self._choose(chosen, now)

    def _choose(self, state: Choosing, now: float) -> tuple[Order, ...]:
        """Plans the next layer, and has it prepared if that is worth it."""
        if not state.layers:
            self._state, self._since_moves = Resting(), 0
            return ()
        layer, then = state.layers[0], Choosing(state.layers[1:], state.worth)
        old, weights = self._placements[layer], self._window.total[layer].tolist()
        new = self._planner(weights, old, self._groups[layer], self._policy.nodes)
        self._state = then
        if new == old or new.balancedness(weights) - old.balancedness(weights) <= state.worth:
            return ()
        self._moves += 1
        order = StageLayer(self._moves, layer, new)
        self._state = Staging(order, self._ranks, now, then)
        return (order,)

    def _wait(self, state: Staging, now: float) -> tuple[Order, ...]:
        if state.failure or now - state.since > self._policy.patience:
            return self._give_up(state)
        if state.missing:
            return ()
        layer, new = state.order.layer, state.order.placement
        loads = self._window.total[layer].tolist()
        before, after = self._placements[layer].balancedness(loads), new.balancedness(loads)
        self.balance = self.balance.with_commit(layer, before, after, state.slowest)
        self._placements[layer] = new
        return CommitLayer(state.order.move), *self._choose(state.then, now)

    def _give_up(self, state: Staging) -> tuple[Order, ...]:
        why = state.failure or f"ranks {sorted(state.missing)} not ready after {self._policy.patience:g} s"
        logger.warning("a move of experts is given up: %s", why)
        self.balance = replace(self.balance, given_up=self.balance.given_up + 1)
        self._state, self._since_moves = Resting(), 0
        return (DropLayer(state.order.move),)
