"""Rank 0's part in moving experts: a clock, messages, and steps that are watched."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from queue import SimpleQueue

from triptych.engine.balance.mover import ExpertMover, counts_rows
from triptych.models.decoder import Decoder
from triptych.models.expert_share import ExpertShare
from triptych.parallel import Mesh, RankLost
from triptych.parallel.balance import (
    Balance,
    BalancePolicy,
    CommitLayer,
    Director,
    LayerFailed,
    LayerStaged,
    Loads,
    Order,
    Planner,
    Report,
    StepWatch,
    balanced,
)
from triptych.parallel.channel import Hub


class Balancer:
    """Has the experts of a replica moved between its steps. No step waits for it.

    Args:
        shares: Rank 0's part of the layers with experts, at least one.
        mesh: Rank 0's.
        send: Takes what all other ranks are to be told, in the order of the steps.
        policy: When experts move.
        planner: Where to.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        shares: Sequence[ExpertShare],
        mesh: Mesh,
        send: Callable[[Order], None],
        policy: BalancePolicy,
        planner: Planner = balanced,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        ranks = range(mesh.parallelism.size)
        self._director = Director(
            [share.layer for share in shares],
            [share.placement for share in shares],
            [share.groups for share in shares],
            frozenset(ranks),
            frozenset(rank for rank in ranks if counts_rows(mesh.parallelism, rank)),
            policy,
            planner,
        )
        self._mover = ExpertMover(shares, mesh, partial(self.hear, 0))
        self._send = send
        self._clock = clock
        self._watch = StepWatch()
        self._heard: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._began, self._committed = 0.0, False

    @property
    def balance(self) -> Balance:
        """How things are; from any thread."""
        return replace(self._director.balance, moving=self._director.moving, slow_steps=self._watch.slow)

    def hear(self, rank: int, report: Report) -> None:
        """A rank has said something; from any thread."""
        self._heard.put(partial(self._director.hear, rank, report))

    def force(self) -> None:
        """Rebalances as soon as possible, wherever that is any better; from any thread."""
        self._heard.put(self._director.force)

    def before_step(self) -> None:
        """Says what is to be said before the next step, and does rank 0's part of it."""
        self._began = self._clock()
        while not self._heard.empty():
            self._heard.get()()
        orders = self._director.turn(self._began)
        self._committed = any(isinstance(order, CommitLayer) for order in orders)
        with contextlib.suppress(RankLost):  # the step will say so
            for order in orders:
                self._send(order)
                self._mover.handlers[type(order)](order)

    def after_step(self) -> None:
        """The step is over."""
        self._director.stepped()
        seconds = self._clock() - self._began
        if self._committed:
            self._watch.took_after_commit(seconds)
        else:
            self._watch.took(seconds)

    def close(self) -> None:
        """Ends the background work of rank 0."""
        self._mover.close()


def open_balancer(decoder: Decoder, hub: Hub, policy: BalancePolicy, planner: Planner = balanced) -> Balancer | None:
    """The balancer of a replica; None where there are no experts to move, or not equally many slots on every rank.

    Args:
        decoder: Rank 0's.
        hub: Reaches the others, and hears them.
        policy: When experts move.
        planner: Where to.
    """
    if not decoder.shares or not all(share.placement.regular for share in decoder.shares):
        return None
    balancer = Balancer(decoder.shares, decoder.mesh, hub.send, policy, planner)
    hub.subscribe(Loads, balancer.hear)
    hub.subscribe(LayerStaged, balancer.hear)
    hub.subscribe(LayerFailed, balancer.hear)
    return balancer
