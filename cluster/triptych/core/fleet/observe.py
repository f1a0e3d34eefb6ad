"""What a router sees of a worker, and what it concludes: `observe(worker, event, now, limits) -> worker`.

A worker is judged by what arrives from it, never by asking it: a stream that is silent, and a worker that computes
nothing although it could, are found out by the clock.
"""

from dataclasses import dataclass, replace
from typing import assert_never

from triptych.core.fleet import breaker
from triptych.core.fleet.worker import Health, Report, Worker

GRAIN = 0.25  # seconds within which being heard again is no news


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """After how many seconds a worker is suspected and given up.

    Attributes:
        suspect: Of silence. Heartbeats come every two seconds.
        dead: Of silence.
        stalled: Without a computed step although there is something to compute; half of it makes a suspect.
    """

    suspect: float = 5.0
    dead: float = 10.0
    stalled: float = 60.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A message arrived."""


@dataclass(frozen=True, slots=True)
class Reported:
    """A load report arrived."""

    report: Report


@dataclass(frozen=True, slots=True)
class Aged:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class DrainBegun:
    """It is to be taken out."""


@dataclass(frozen=True, slots=True)
class WorkSent:
    """A request was dispatched to it."""


@dataclass(frozen=True, slots=True)
class WorkDone:
    """It has done what it was asked."""


@dataclass(frozen=True, slots=True)
class WorkFailed:
    """It could not do what it was asked, and the request was not to blame."""


Observation = Heard | Reported | Aged | DrainBegun | WorkSent | WorkDone | WorkFailed


def observe(worker: Worker, event: Observation, now: float, limits: HealthLimits) -> Worker:
    """The worker as it is known after the event; the same object when nothing changes."""
    match event:
        case Heard():
            return worker if now - worker.heard < GRAIN else _judged(replace(worker, heard=now), now, limits)
        case Reported(report):
            return _judged(_reporting(worker, report, now), now, limits)
        case Aged() if now - worker.heard >= limits.dead or now - worker.progressed >= limits.stalled:
            return _with_health(worker, Health.DEAD)  # here and nowhere else: whoever lets time pass acts on it
        case Aged():
            return _judged(worker, now, limits)
        case DrainBegun():
            return worker if worker.health is Health.DEAD else replace(worker, health=Health.DRAINING)
        case WorkSent():
            return _with_breaker(worker, breaker.dispatched(worker.breaker, now))
        case WorkDone():
            return _with_breaker(worker, breaker.succeeded(worker.breaker))
        case WorkFailed():
            return _with_breaker(worker, breaker.failed(worker.breaker, now))
        case _:
            assert_never(event)


def reconnected(former: Worker, fresh: Worker, limits: HealthLimits) -> Worker:
    """A new stream to the process of a former one: what it stood still at then, it may still stand still at.

    A process that was stopped and continued reports progress and is trusted again. One whose computation hangs while
    its streams work is as dead as before until it does: it is not cut off again and again, and whoever asks meanwhile
    is told so.
    """
    if former.introduction.incarnation != fresh.introduction.incarnation:
        return fresh
    if not former.report.runnable:
        return replace(fresh, report=former.report, breaker=former.breaker)
    hangs = fresh.heard - former.progressed >= limits.stalled
    return replace(
        fresh,
        report=former.report,
        progressed=former.progressed,
        health=Health.DEAD if hangs else Health.SUSPECT,
        breaker=former.breaker,
    )


def _reporting(worker: Worker, report: Report, now: float) -> Worker:
    """Whoever has computed something, or has nothing to compute, does not hang."""
    if report.runnable and report.steps == worker.report.steps:
        return replace(worker, report=report, heard=now)
    health = Health.SUSPECT if worker.health is Health.DEAD else worker.health
    return replace(worker, report=report, heard=now, progressed=now, health=health)


def _judged(worker: Worker, now: float, limits: HealthLimits) -> Worker:
    return _with_health(worker, _health(worker, now - worker.heard, now - worker.progressed, limits))


def _health(worker: Worker, silent: float, still: float, limits: HealthLimits) -> Health:
    if worker.health is Health.DEAD:
        return Health.DEAD
    if worker.health is Health.DRAINING or worker.report.draining:
        return Health.DRAINING
    if silent >= limits.suspect or still >= limits.stalled / 2:
        return Health.SUSPECT
    return Health.HEALTHY


def _with_health(worker: Worker, health: Health) -> Worker:
    return worker if health is worker.health else replace(worker, health=health)


def _with_breaker(worker: Worker, state: breaker.Breaker) -> Worker:
    return worker if state is worker.breaker else replace(worker, breaker=state)
