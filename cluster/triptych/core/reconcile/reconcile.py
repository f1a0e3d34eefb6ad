"""One turn of the controller: what has happened, and what is to be done about it."""

from triptych.core.reconcile.messages import Action, Drain, Event
from triptych.core.reconcile.observe import observe
from triptych.core.reconcile.policy import DEFAULT, Policy
from triptych.core.reconcile.roster import Roster
from triptych.core.reconcile.rules import RULES
from triptych.core.reconcile.states import Backoff, Draining, Silent


def reconcile(
    roster: Roster, event: Event | None, now: float, policy: Policy = DEFAULT
) -> tuple[Roster, tuple[Action, ...]]:
    """The roster after an event, or after time has passed, and the actions in the order in which to begin them."""
    if event is not None:
        roster = observe(roster, event, now, policy)
    actions: list[Action] = []
    for rule in RULES:
        roster, asked = rule(roster, now, policy)
        actions += asked
    return roster, tuple(actions)


def drains(roster: Roster, now: float, policy: Policy = DEFAULT) -> tuple[Drain, ...]:
    """What another router has to be told of the drains under way, each with what is left of its time."""
    return tuple(
        Drain(worker_id, max(0.0, worker.state.deadline - policy.drain_grace - now))
        for worker_id, worker in roster.workers.items()
        if isinstance(worker.state, Draining)
    )


def wake_at(roster: Roster) -> float | None:
    """When `reconcile` has something to do though nothing happens; None when never."""
    times = []
    for worker in roster.workers.values():
        match worker.state:
            case Backoff(until):
                times.append(until)
            case Draining(_, deadline):
                times.append(deadline)
            case Silent(until=until):
                times.append(until)
            case _:
                pass
    return min(times, default=None)
