"""Facts: what an event changes in the roster. Nothing is decided here."""

from dataclasses import replace
from typing import assert_never

from triptych.core.fleet import Health
from triptych.core.reconcile.backoff import after_death
from triptych.core.reconcile.messages import Died, Event, Heard, Started, StartFailed, Stopped
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
    State,
    Stopping,
)


def observe(roster: Roster, event: Event, now: float, policy: Policy) -> Roster:
    """The roster as it is known after the event. What belongs to another attempt changes nothing."""
    match event:
        case Heard():
            return _heard(roster, event, now, policy)
        case Started(worker_id, attempt):
            worker = _current(roster, worker_id, attempt)
            return roster.with_state(worker_id, Serving(now)) if worker and _is_starting(worker) else roster
        case StartFailed(worker_id, attempt) | Died(worker_id, attempt):
            worker = _current(roster, worker_id, attempt)
            return roster.with_worker(worker_id, given_up(worker, now, policy)) if worker else roster
        case Stopped(worker_id):
            return _stopped(roster, worker_id, now)
        case _:
            assert_never(event)


def given_up(worker: Worker, now: float, policy: Policy) -> Worker:
    """The worker once its process has ended, or has to be; unchanged where it is being ended already."""
    match worker.state:
        case Starting():
            lived = 0.0
        case Serving(since) | Silent(since):
            lived = now - since
        case Draining():
            return replace(worker, state=Drained())
        case Absent() | Drained() | Dead() | Stopping() | Backoff():
            return worker
        case _:
            assert_never(worker.state)
    history, delay = after_death(worker.history, lived, policy)
    return replace(worker, state=Dead(delay), history=history, requests=0)


def _current(roster: Roster, worker_id: str, attempt: int) -> Worker | None:
    worker = roster.workers.get(worker_id)
    return worker if worker and worker.history.total == attempt else None


def _is_starting(worker: Worker) -> bool:
    return isinstance(worker.state, Starting)


def _heard(roster: Roster, said: Heard, now: float, policy: Policy) -> Roster:
    changed = {}
    for worker_id, worker in roster.workers.items():
        requests = said.requests.get(worker_id, 0)
        state = _judged(worker.state, said.health.get(worker_id), requests, now, policy)
        if state is not worker.state or requests != worker.requests:
            changed[worker_id] = replace(worker, state=state, requests=requests)
    return replace(roster, workers={**roster.workers, **changed}) if changed else roster


def _judged(state: State, health: Health | None, requests: int, now: float, policy: Policy) -> State:
    """A suspect is neither trusted nor given up: it stays what it was."""
    match state, health:
        case Serving(since), None:
            return Silent(since, now, now + policy.hung_after)
        case Serving(since), Health.DEAD:
            return Silent(since, now, now + policy.stalled_after)
        case Silent(until=until), Health.DEAD if until > now + policy.stalled_after:  # it is back, and stands still
            return replace(state, until=now + policy.stalled_after)
        case Silent(since), Health.HEALTHY:
            return Serving(since)
        case Serving() | Silent(), Health.DRAINING:  # by somebody of whom this controller knows nothing
            return Draining(0.0, now + policy.drain_grace)
        case Draining(), _ if not requests:
            return Drained()
        case _:
            return state


def _stopped(roster: Roster, worker_id: str, now: float) -> Roster:
    worker = roster.workers.get(worker_id)
    if worker is None or not isinstance(worker.state, Stopping):
        return roster
    if worker_id not in roster.desired:
        return roster.without(worker_id)
    return roster.with_state(worker_id, Backoff(now + worker.state.delay))
