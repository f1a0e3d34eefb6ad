"""The rules, in the order in which they are asked. Each gives the workers that it changes, and what is to be done.

    1  end what has drained, and what has used up its time
    2  put away what is dead: its process may have outlived its service
    3  let go of what is superfluous and serves nobody yet
    4  drain what is superfluous: least loaded first, newest first among equals; the last one that does the work of a
       stage stays until another one serves
    5  replace what is hung: the router has given it up for too long, and its process lives
    6  start what is missing, and what is dead once its wait is over

What goes comes before what starts, so that it makes room. Each rule sees the roster that the one before it has left.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from triptych.core.fleet import Stage
from triptych.core.reconcile.backoff import after_death
from triptych.core.reconcile.messages import Action, Drain, Kill, Start, Stop
from triptych.core.reconcile.policy import Policy
from triptych.core.reconcile.roster import Roster, Worker
from triptych.core.reconcile.states import (
    Absent,
    Backoff,
    Dead,
    Drained,
    Draining,
    Serving,
    Silent,
    Starting,
    Stopping,
)

Step = tuple[Roster, list[Action]]
Rule = Callable[[Roster, float, Policy], Step]


def end_drained(roster: Roster, now: float, policy: Policy) -> Step:
    """Rule 1. One that is wanted all the same was drained before this controller came; it does not serve again."""
    actions: list[Action] = []
    for worker_id, worker in roster.workers.items():
        match worker.state:
            case Drained():
                pass
            case Draining(_, deadline) if now >= deadline:
                pass
            case _:
                continue
        history = replace(worker.history, total=worker.history.total + 1)
        roster = roster.with_worker(worker_id, replace(worker, state=Stopping(0.0), history=history, requests=0))
        actions.append(Stop(worker_id))
    return roster, actions


def put_away_dead(roster: Roster, now: float, policy: Policy) -> Step:
    """Rule 2."""
    actions: list[Action] = []
    for worker_id, worker in roster.workers.items():
        if isinstance(worker.state, Dead):
            roster = roster.with_state(worker_id, Stopping(worker.state.delay))
            actions.append(Stop(worker_id))
    return roster, actions


def let_go_unused(roster: Roster, now: float, policy: Policy) -> Step:
    """Rule 3."""
    actions: list[Action] = []
    for worker_id in superfluous(roster):
        match roster.workers[worker_id].state:
            case Absent() | Backoff():
                roster = roster.without(worker_id)
            case Starting():
                roster = roster.with_state(worker_id, Stopping(0.0))
                actions.append(Stop(worker_id))
            case _:
                pass
    return roster, actions


def drain_superfluous(roster: Roster, now: float, policy: Policy) -> Step:
    """Rule 4. One that is drained already is told again when its time was changed."""
    actions: list[Action] = []
    for worker_id in superfluous(roster):
        worker = roster.workers[worker_id]
        match worker.state:
            case Serving() | Silent() if abilities_without(roster, worker_id) >= roster.abilities[worker.role]:
                pass
            case Draining(patience) if patience != worker.patience:
                pass
            case _:
                continue
        deadline = now + worker.patience + policy.drain_grace
        roster = roster.with_state(worker_id, Draining(worker.patience, deadline))
        actions.append(Drain(worker_id, worker.patience))
    return roster, actions


def kill_hung(roster: Roster, now: float, policy: Policy) -> Step:
    """Rule 5."""
    actions: list[Action] = []
    for worker_id, worker in roster.workers.items():
        match worker.state:
            case Silent(since, lost_at, until) if now >= until:
                history, delay = after_death(worker.history, lost_at - since, policy)
                roster = roster.with_worker(worker_id, replace(worker, state=Stopping(delay), history=history))
                actions.append(Kill(worker_id))
            case _:
                pass
    return roster, actions


def start_missing(roster: Roster, now: float, policy: Policy) -> Step:
    """Rule 6."""
    actions: list[Action] = []
    for worker_id, worker in roster.workers.items():
        match worker.state:
            case Absent():
                pass
            case Backoff(until) if now >= until:
                pass
            case _:
                continue
        roster = roster.with_state(worker_id, Starting(now))
        actions.append(Start(worker_id, worker.history.total))
    return roster, actions


RULES: Final[tuple[Rule, ...]] = (
    end_drained,
    put_away_dead,
    let_go_unused,
    drain_superfluous,
    kill_hung,
    start_missing,
)


def superfluous(roster: Roster) -> list[str]:
    """Workers that should not be, the first to go first."""
    extra = [worker_id for worker_id in roster.workers if worker_id not in roster.desired]
    return sorted(extra, key=lambda worker_id: leaving_order(worker_id, roster.workers[worker_id]))


def leaving_order(worker_id: str, worker: Worker) -> tuple[bool, int, float, int]:
    """Who goes first: what serves nobody, then the least loaded, the newest, the highest number."""
    match worker.state:
        case Serving(since):
            return True, worker.requests, -since, -index_of(worker_id)
        case _:
            return False, worker.requests, 0.0, -index_of(worker_id)


def index_of(worker_id: str) -> int:
    """The number in an id such as "decode-1"."""
    return int(worker_id.rpartition("-")[2])


def abilities_without(roster: Roster, worker_id: str) -> frozenset[Stage]:
    """What the desired workers that serve now can do, one of them aside."""
    others = (
        roster.abilities[worker.role]
        for other, worker in roster.workers.items()
        if other != worker_id and other in roster.desired and isinstance(worker.state, Serving)
    )
    return frozenset[Stage]().union(*others)
