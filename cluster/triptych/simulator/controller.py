"""The controller: the core's reconciliation, between the runtime and the router."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, assert_never

from triptych.core.errors import TriptychError
from triptych.core.fleet.stage import Stage
from triptych.core.fleet.worker import Health
from triptych.core.reconcile import messages as do
from triptych.core.reconcile import orders
from triptych.core.reconcile.adoption import adopt
from triptych.core.reconcile.policy import Policy
from triptych.core.reconcile.reconcile import drains, reconcile, wake_at
from triptych.core.reconcile.roster import Roster, new_roster
from triptych.core.reconcile.states import Serving
from triptych.simulator.machine import Machine
from triptych.simulator.runtime import Runtime

if TYPE_CHECKING:
    from triptych.simulator.world import World

ASK_SECONDS = 1.0


class Controller(Machine):
    """A controller's process.

    Args:
        world: What it is part of.
        runtime: Where the workers live.
        abilities: What a worker of each role can do.
    """

    def __init__(self, world: World, runtime: Runtime, abilities: dict[Stage, frozenset[Stage]]) -> None:
        super().__init__("controller", world, world.clock("controller"))
        layout = world.spec.cluster.counts
        desired = {f"{stage}-{index}": stage for stage in Stage for index in range(layout.replicas(stage))}
        self._runtime = runtime
        self._policy = Policy()
        self._wakes = 0
        self.roster: Roster = new_roster(desired, abilities)
        self.roster, strangers = adopt(self.roster, runtime.found(), dict(desired), self.now)
        for actor in strangers:
            runtime.clear(actor.worker_id)
        self.every(ASK_SECONDS, self._ask, self.io)
        self.observe(None)

    def observe(self, event: do.Event | None) -> None:
        """Something happened, or time has passed."""
        before = self.roster
        self.roster, actions = reconcile(self.roster, event, self.now, self._policy)
        for action in actions:
            self._do(action)
        if self.roster is not before:
            self.publish()
        self.world.troubles.ordered(self.roster.desired.values())
        self._sleep()

    def drain(self, worker_id: str) -> None:
        """Somebody takes a worker out."""
        try:
            self.roster = orders.drain(self.roster, worker_id, self.world.spec.cluster.drain_seconds)
        except TriptychError as error:
            self.note("", f"will not drain {worker_id}: {error.message}")
            return
        self.world.injected["drain"] += 1
        self._runtime.losses[worker_id] += 1
        self.note("", f"drains {worker_id}")
        self.observe(None)

    def scale(self, stage: Stage, change: int) -> None:
        """Somebody wants more or fewer workers of a stage."""
        replicas = max(0, sum(role is stage for role in self.roster.desired.values()) + change)
        timeout = self.world.spec.cluster.drain_seconds
        try:
            self.roster, started, drained = orders.scale(self.roster, stage, replicas, timeout)
        except TriptychError as error:
            self.note("", f"will not scale {stage} to {replicas}: {error.message}")
            return
        self.world.injected["scale"] += 1
        self._runtime.losses.update(drained)
        self.note("", f"scales {stage} to {replicas}: starts {list(started)}, drains {list(drained)}")
        self.observe(None)

    def unsettled(self) -> Iterator[str]:
        """Desired workers that do not serve, or that the router gives no work to."""
        router = self.world.router
        for worker_id in self.roster.desired:
            worker = self.roster.workers.get(worker_id)
            if worker is None or not isinstance(worker.state, Serving):
                yield f"{worker_id} is desired, and is {type(worker.state).__name__ if worker else 'not there'}"
            elif router and router.health().get(worker_id, Health.DEAD) in (Health.DRAINING, Health.DEAD):
                yield f"{worker_id} is desired and serves, and to the router it is {router.health().get(worker_id)}"

    def attach(self) -> None:
        """Tells another router from now on: of the drains before it meets the workers, lest it give them new work."""
        for drain in drains(self.roster, self.now, self._policy):
            self._do(drain)
        self.publish()

    def publish(self) -> None:
        """Tells the router where the workers are."""
        if router := self.world.router:
            places = {}
            for worker_id, worker in self.roster.workers.items():
                process = self._runtime.worker(worker_id, worker.history.total)
                places[worker_id] = process
            self.world.agenda.after(0.0, lambda: router.place(places), router.io)

    def _do(self, action: do.Action) -> None:
        self.note("", action)
        match action:
            case do.Start(worker_id, attempt):
                self._runtime.start(worker_id, self.roster.workers[worker_id].role, attempt)
            case do.Stop(worker_id):
                self._runtime.end(worker_id)
            case do.Kill(worker_id):
                self._runtime.losses[worker_id] += 1
                self._runtime.end(worker_id)
            case do.Drain(worker_id, timeout):
                if router := self.world.router:
                    self.world.agenda.after(0.0, lambda: router.drain(worker_id, timeout), router.io)
            case unknown:
                assert_never(unknown)

    def _ask(self) -> None:
        router = self.world.router
        if router is not None and router.moving:
            self.observe(do.Heard(router.health(), router.desk.requests()))

    def _sleep(self) -> None:
        self._wakes += 1
        wakes = self._wakes
        due = wake_at(self.roster)
        if due is not None:
            self.clock.at(due + 1e-6, lambda: self.observe(None) if wakes == self._wakes else None, self.io)
