"""Misfortunes: planned from the seed before the run, carried out on whoever is there when their time comes."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from triptych.core.fleet.stage import Stage
from triptych.simulator.agenda import Motion
from triptych.simulator.dice import Dice
from triptych.simulator.scenario import FaultSpec

if TYPE_CHECKING:
    from triptych.simulator.machine import Machine
    from triptych.simulator.worker import Worker
    from triptych.simulator.world import World

RESTART_SECONDS = 1.0
"""A router or a controller is away for so long."""


class Kind(enum.StrEnum):
    """What can happen to the machines; the names of the scenario's rates."""

    CRASH = "crash"
    HANG = "hang"
    SLOW = "slow"
    ZOMBIE = "zombie"
    PARTITION = "partition"
    ROUTER_RESTART = "router_restart"
    CONTROLLER_RESTART = "controller_restart"
    DRAIN = "drain"
    SCALE = "scale"


@dataclass(frozen=True, slots=True)
class Fault:
    """One misfortune.

    Attributes:
        time: Seconds of true time.
        pick: Whom it meets, a number from 0 to 1 for the place among those who are there.
        extent: How bad it is, from 0 to 1.
    """

    time: float
    kind: Kind
    pick: float
    extent: float


def plan(spec: FaultSpec, dice: Dice, start: float, end: float) -> tuple[Fault, ...]:
    """Every misfortune between two moments of true time; each kind has a random stream of its own."""
    faults: list[Fault] = []
    for kind in Kind:
        rate = getattr(spec, kind.value) / 60
        random = dice.stream(f"fault {kind}")
        time = start
        while rate and (time := time + random.expovariate(rate)) < end:
            faults.append(Fault(time, kind, random.random(), random.random()))
    return tuple(sorted(faults, key=lambda fault: fault.time))


def strike(world: World, fault: Fault) -> None:
    """Carries one out."""
    world.troubles.begin(*_times(world, fault.kind))
    match fault.kind:
        case Kind.ZOMBIE:
            _suspend(world, fault)
        case Kind.CRASH | Kind.HANG | Kind.SLOW:
            if worker := _chosen(world, fault.pick):
                _strike_worker(world, worker, fault)
        case Kind.PARTITION:
            _cut_off(world, fault)
        case Kind.ROUTER_RESTART | Kind.CONTROLLER_RESTART:
            _restart(world, fault.kind)
        case Kind.DRAIN | Kind.SCALE:
            _order(world, fault)
        case unknown:
            assert_never(unknown)


def _times(world: World, kind: Kind) -> tuple[float, float]:
    """Seconds that a misfortune lasts by itself, and those that it takes to notice beyond what a silence does."""
    faults, cluster = world.spec.faults, world.spec.cluster
    match kind:
        case Kind.CRASH | Kind.PARTITION:
            return 0.0, 0.0  # a partition's time is drawn
        case Kind.HANG:
            return 0.0, cluster.stall_seconds
        case Kind.SLOW:
            return faults.slow_seconds, cluster.stall_seconds  # what it begins then may last for ever
        case Kind.ZOMBIE:
            return faults.zombie_seconds, 0.0
        case Kind.ROUTER_RESTART | Kind.CONTROLLER_RESTART:
            return RESTART_SECONDS, 0.0
        case Kind.DRAIN | Kind.SCALE:
            return cluster.drain_seconds, 0.0
        case unknown:
            assert_never(unknown)


def _strike_worker(world: World, worker: Worker, fault: Fault) -> None:
    _count(world, worker.name, fault.kind)
    spec = world.spec.faults
    match fault.kind:
        case Kind.CRASH:
            world.runtime.crash(worker)
        case Kind.HANG:
            worker.hang()
        case Kind.SLOW:
            worker.slowness *= spec.slow_factor
            world.agenda.after(spec.slow_seconds, lambda: _recover(worker, spec.slow_factor))


def _suspend(world: World, fault: Fault) -> None:
    """Any process: a worker's mostly, but the router's or the controller's too."""
    there: list[Machine] = [*world.runtime.living]
    there += [process for process in (world.router, world.controller) if process]
    there = [process for process in there if process.io.motion is Motion.MOVING]
    if there:
        process = there[int(fault.pick * len(there))]
        _count(world, process.name, fault.kind)
        process.stop()
        if process in (world.router, world.controller):
            world.troubles.nobody_heals(world.spec.faults.zombie_seconds)
        world.agenda.after(world.spec.faults.zombie_seconds, process.resume)


def _restart(world: World, kind: Kind) -> None:
    if kind is Kind.ROUTER_RESTART and world.router:
        _count(world, "router", kind)
        world.troubles.nobody_heals(RESTART_SECONDS)
        world.end_router()
        world.agenda.after(RESTART_SECONDS, world.start_router)
    elif kind is Kind.CONTROLLER_RESTART and world.controller:
        _count(world, "controller", kind)
        world.troubles.nobody_heals(RESTART_SECONDS)
        world.end_controller()
        world.agenda.after(RESTART_SECONDS, world.start_controller)


def _order(world: World, fault: Fault) -> None:
    """Somebody tells the controller to take a worker out, or to have one more or less."""
    controller, worker = world.controller, _chosen(world, fault.pick)
    if controller is None:
        return
    if fault.kind is Kind.DRAIN and worker:
        controller.drain(worker.name)
    elif fault.kind is Kind.SCALE:
        stage = tuple(Stage)[int(fault.pick * len(Stage))]
        if stage is not Stage.ENCODE or world.spec.cluster.counts.encode:
            controller.scale(stage, 1 if fault.extent < 0.6 else -1)


def _cut_off(world: World, fault: Fault) -> None:
    """One direction or both, between the router and a worker or between two workers."""
    names = ["router", *(worker.name for worker in world.runtime.living)]
    pairs = [(one, other) for place, one in enumerate(names) for other in names[place + 1 :]]
    if not pairs:
        return
    one, other = pairs[int(fault.pick * len(pairs))]
    until = world.agenda.now + 1 + fault.extent * (world.spec.faults.partition_seconds - 1)
    world.troubles.begin(until - world.agenda.now)
    way = int(fault.extent * 1000) % 3
    _count(
        world, f"{one} | {other}", f"partition until {until:.1f}, {('both ways', 'there', 'back')[way]}", "partition"
    )
    if way != 2:
        world.network.partition(one, other, until)
    if way != 1:
        world.network.partition(other, one, until)


def _chosen(world: World, pick: float) -> Worker | None:
    there = [worker for worker in world.runtime.living if worker.io.motion is Motion.MOVING]
    return there[int(pick * len(there))] if there else None


def _recover(worker: Worker, factor: float) -> None:
    worker.slowness /= factor


def _count(world: World, who: str, what: str, kind: str = "") -> None:
    world.injected[kind or what] += 1
    world.transcript.note(who, "", f"!! {what}")
