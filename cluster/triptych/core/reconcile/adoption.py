"""Which of the workers that an earlier controller has left behind are taken over."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from triptych.core.reconcile.backoff import RestartHistory
from triptych.core.reconcile.roster import Roster
from triptych.core.reconcile.states import Serving


@dataclass(frozen=True, slots=True)
class Found:
    """An actor of an earlier controller.

    Attributes:
        name: Unique among all actors.
        attempt: Number of its start.
        fingerprint: Names its settings and its program; empty when it does not serve.
    """

    name: str
    worker_id: str
    attempt: int
    fingerprint: str


def adopt(
    roster: Roster, found: Iterable[Found], fingerprints: Mapping[str, str], now: float
) -> tuple[Roster, tuple[Found, ...]]:
    """Takes over the latest actor of each desired worker that serves with the desired settings.

    Args:
        roster: A new one.
        found: All actors, in any order.
        fingerprints: Of the desired workers, by id.
        now: Seconds.

    Returns:
        The roster, and the actors that have to be ended before anything is started: one worker has one actor.
    """
    ended = []
    for actor in sorted(found, key=lambda actor: -actor.attempt):
        worker = roster.workers.get(actor.worker_id)
        free = worker is not None and not isinstance(worker.state, Serving)
        if worker and free and actor.fingerprint and actor.fingerprint == fingerprints.get(actor.worker_id):
            adopted = replace(worker, state=Serving(now), history=RestartHistory(actor.attempt))
            roster = roster.with_worker(actor.worker_id, adopted)
        else:
            ended.append(actor)
    return roster, tuple(ended)
