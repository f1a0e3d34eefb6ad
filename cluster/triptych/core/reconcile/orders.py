"""What people ask for by hand: both change what is desired, so that the rules work for it and not against it."""

import itertools
from dataclasses import replace

from triptych.core.errors import FailedPrecondition, InvalidArgument, NotFound
from triptych.core.fleet import Stage
from triptych.core.reconcile.roster import MAX_WORKERS, Roster, Worker
from triptych.core.reconcile.rules import index_of, leaving_order
from triptych.core.reconcile.states import Absent


def drain(roster: Roster, worker_id: str, timeout: float) -> Roster:
    """Takes one worker out of what is desired. Asked again, the newer `timeout` (seconds) counts.

    Raises:
        NotFound: there is no such worker.
        FailedPrecondition: it is the last one that can do its work.
    """
    worker = roster.workers.get(worker_id)
    if worker is None:
        known = ", ".join(roster.workers)
        raise NotFound(f"there is no worker {worker_id!r:.80}; there are {known}", field="worker_id")
    _require_others(roster, frozenset({worker_id}))
    return _dismissed(roster, worker_id, timeout)


def scale(
    roster: Roster, stage: Stage, replicas: int, timeout: float
) -> tuple[Roster, tuple[str, ...], tuple[str, ...]]:
    """Sets how many workers of a stage are desired.

    New ones get the lowest numbers that no living worker has, not even one on its way out.

    Returns:
        The roster, the new ids, and those that are to leave, the first to go first.

    Raises:
        InvalidArgument: so many cannot be.
        FailedPrecondition: nobody would be left to do the work of the stage.
    """
    if not 0 <= replicas <= MAX_WORKERS:
        raise InvalidArgument(f"replicas must be 0 to {MAX_WORKERS}, got {replicas}", field="replicas")
    if replicas and stage not in roster.abilities:
        raise FailedPrecondition(f"the model reads text only: there is nothing to {stage}", field="stage")
    members = [worker_id for worker_id, role in roster.desired.items() if role is stage]
    if replicas < len(members):
        members.sort(key=lambda worker_id: leaving_order(worker_id, roster.workers[worker_id]))
        leaving = tuple(members[: len(members) - replicas])
        _require_others(roster, frozenset(leaving))
        for worker_id in leaving:
            roster = _dismissed(roster, worker_id, timeout)
        return roster, (), leaving
    taken = {index_of(worker_id) for worker_id, worker in roster.workers.items() if worker.role is stage}
    free = (index for index in itertools.count() if index not in taken)
    joining = tuple(f"{stage}-{next(free)}" for _ in range(replicas - len(members)))
    workers = {**roster.workers, **{worker_id: Worker(stage, Absent()) for worker_id in joining}}
    desired = {**roster.desired, **dict.fromkeys(joining, stage)}
    return replace(roster, desired=desired, workers=workers), joining, ()


def _dismissed(roster: Roster, worker_id: str, timeout: float) -> Roster:
    worker = replace(roster.workers[worker_id], patience=timeout)
    desired = {known: role for known, role in roster.desired.items() if known != worker_id}
    return replace(roster.with_worker(worker_id, worker), desired=desired)


def _require_others(roster: Roster, leaving: frozenset[str]) -> None:
    staying = [role for worker_id, role in roster.desired.items() if worker_id not in leaving]
    able = frozenset[Stage]().union(*(roster.abilities[role] for role in staying))
    for worker_id in sorted(leaving & roster.desired.keys()):
        role = roster.desired[worker_id]
        if missing := roster.abilities[role] - able:
            work = role if role in missing else min(missing)
            raise FailedPrecondition(f"{worker_id} is the last worker that can {work}", field="worker_id")
