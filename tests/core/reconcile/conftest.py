"""A modelled cluster: it does what the rules ask for, and fails when the test says so."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from triptych.core.fleet import Health, Stage
from triptych.core.reconcile import (
    Action,
    Died,
    Drain,
    Event,
    Heard,
    Kill,
    Policy,
    Roster,
    Start,
    Started,
    StartFailed,
    Stop,
    Stopped,
    new_roster,
    reconcile,
    wake_at,
)
from triptych.core.reconcile.policy import DEFAULT

ABILITIES = {
    Stage.ENCODE: frozenset({Stage.ENCODE}),
    Stage.PREFILL: frozenset({Stage.PREFILL}),
    Stage.DECODE: frozenset({Stage.PREFILL, Stage.DECODE}),
}


def ids(layout: dict[str, int]) -> dict[str, Stage]:
    return {f"{stage}-{index}": Stage(stage) for stage, count in layout.items() for index in range(count)}


@dataclass
class World:
    """Actors by worker id, and what is under way; `requests`, `dead` and `unheard` are how the router sees them."""

    roster: Roster
    policy: Policy
    now: float = 0.0
    actors: dict[str, int] = field(default_factory=dict)
    under_way: list[Event] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    unheard: set[str] = field(default_factory=set)
    done: list[Action] = field(default_factory=list)
    drained: set[str] = field(default_factory=set)

    def turn(self, event: Event | None = None) -> tuple[Action, ...]:
        """One event, and what is asked for because of it."""
        self.roster, actions = reconcile(self.roster, event, self.now, self.policy)
        for action in actions:
            self._begin(action)
        self.done += actions
        return actions

    def hear(self) -> tuple[Action, ...]:
        """The router's view."""
        health = dict.fromkeys(self.actors, Health.HEALTHY) | dict.fromkeys(self.dead, Health.DEAD)
        heard = {worker: health[worker] for worker in health.keys() - self.unheard}
        return self.turn(Heard(heard, dict(self.requests)))

    def die(self, worker_id: str) -> tuple[Action, ...]:
        return self.turn(Died(worker_id, self.actors[worker_id]))

    def finish(self, *, fails: Callable[[Event], bool] = lambda event: False) -> None:
        """Lets everything that is under way come to its end; starts that `fails` picks fail."""
        while self.under_way:
            self.finish_one(fails=fails(self.under_way[0]))

    def finish_one(self, place: int = 0, *, fails: bool = False) -> tuple[Action, ...]:
        """Lets one of the things that are under way come to its end."""
        event = self.under_way.pop(place)
        if isinstance(event, Started) and fails:
            event = StartFailed(event.worker_id, event.attempt)
        if isinstance(event, Stopped):
            del self.actors[event.worker_id]
            self.dead.discard(event.worker_id)
        return self.turn(event)

    def settle(self) -> None:
        """Nothing fails any more, and requests end: goes on until nothing is left to do."""
        for _ in range(1000):
            self.requests.clear()
            self.dead.clear()
            self.finish()
            asked, wake = self.hear(), wake_at(self.roster)
            if not asked and not self.under_way and wake is None:
                return
            self.now = max(self.now, wake or 0.0)
        raise AssertionError(f"it never settles: {self.roster}")

    def _begin(self, action: Action) -> None:
        match action:
            case Start(worker_id, attempt):
                assert worker_id not in self.actors, f"{worker_id} has an actor"
                self.actors[worker_id] = attempt
                self.under_way.append(Started(worker_id, attempt))
            case Stop(worker_id) | Kill(worker_id):
                assert worker_id in self.actors, f"{worker_id} has no actor"
                self.under_way.append(Stopped(worker_id))
            case Drain(worker_id):
                assert worker_id in self.actors, f"{worker_id} has no actor"


@pytest.fixture
def make_world() -> Callable[..., World]:
    """A cluster: `make_world(encode=1, decode=2)`, all of it serving unless `running` is false."""

    def make(*, running: bool = True, policy: Policy = DEFAULT, **layout: int) -> World:
        world = World(new_roster(ids(layout), ABILITIES), policy)
        if running:
            world.turn()
            world.finish()
            world.done.clear()
        return world

    return make
