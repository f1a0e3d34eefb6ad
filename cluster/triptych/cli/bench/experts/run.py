"""Runs all arms, one after the other, in rounds."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from triptych.cli.bench.experts.arms import Arm, Resident, budget_name, knows_uses, needs_past, offload
from triptych.cli.bench.experts.figures import Beside, Failed, Figures, computing_seconds, figures
from triptych.cli.bench.experts.preparing import Prepared, Wanted, prepare
from triptych.cli.bench.experts.process import apart
from triptych.cli.bench.experts.replaying import Replay, as_served, replayed
from triptych.cli.bench.experts.restoring import put_back
from triptych.cli.bench.experts.serving import Machine, Order, Served, serve
from triptych.core.errors import TriptychError
from triptych.experts.fit import disk_bandwidth
from triptych.experts.settings import Auto, OffloadSettings
from triptych.experts.store import PackedStore, open_store
from triptych.experts.store.direct import open_direct
from triptych.experts.traces import Device, Script, read_routes
from triptych.experts.warm import read_warm
from triptych.models.progress import SILENT, Progress

_PATIENCE: Final = 3600.0
"""Seconds: what hangs ends."""
_READERS: Final = OffloadSettings(budget=Auto()).readers


@dataclass(frozen=True, slots=True)
class Tier:
    """What experts are read from.

    Attributes:
        path: The packed file.
        direct: Whether its file system lets reads pass the page cache by; else that is part of every figure.
        before: Bytes a second that four readers got of random experts right before the arms.
        after: The same, right after.
        best: The most that any arm got while it decoded, if that is more than the mean of both: disks have caches of
            their own, and neighbours.
    """

    path: str
    direct: bool
    before: float
    after: float
    best: float


@dataclass(frozen=True, slots=True)
class Trial:
    """An arm on some ranks.

    Attributes:
        arm: Which.
        offload: It as settings of an engine.
        machine: Who computes.
    """

    arm: Arm
    offload: OffloadSettings | None
    machine: Machine


@dataclass(frozen=True, slots=True)
class Found:
    """What a run has found.

    Attributes:
        wanted: What was measured.
        expert_bytes: Of all experts, as they are where all are in memory.
        blob_bytes: Of one in the packed file.
        tier: Where they lie.
        arms: In their order.
    """

    wanted: Wanted
    expert_bytes: int
    blob_bytes: int
    tier: Tier
    arms: tuple[Figures | Failed, ...]


def run(wanted: Wanted, arms: Sequence[Arm], rounds: int, progress: Progress = SILENT) -> Found:
    """Prepares, runs every arm `rounds` times in turn, each time in a process of its own, and replays them.

    Args:
        wanted: What is measured.
        arms: In this order; where ranks divide the experts, one rank with all of them comes before.
        rounds: Times that each is run.
        progress: Told about every one.

    Raises:
        TriptychError: what arms need cannot be made; an arm that fails is a line of the result.
    """
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as folder, ExitStack() as undo:
        past = needs_past(arms)
        ready = apart(_PATIENCE, prepare, wanted, Path(folder), past=past)
        store = open_store(ready.pack)
        trials = _trials(wanted, arms, store, None if ready.known is None else ready.known.route)
        before = _bandwidth(store)
        for place in () if ready.known is None else ready.known.places:
            undo.enter_context(put_back(place))
        served = _serve(ready, trials, rounds, progress)
        after = _bandwidth(store)
        best = max((before + after) / 2, *_rates(served))
        everything = sum(layer.experts * layer.layout.resident for layer in store.layers)
        beside = Beside(
            everything,
            _resident(trials, served, wanted.ranks),
            best,
            _resident(trials, served, wanted.one_rank),
            min(
                (computing_seconds(one, ready.work) for one in served if not isinstance(one, TriptychError)),
                default=0,
            ),
            sum(layer.experts * layer.layout.bare for layer in store.layers),
        )
        lines = tuple(_lines(ready, trials, served, beside))
        tier = Tier(str(store.path), _reads_direct(store.path), before, after, best)
        return Found(wanted, everything, store.blob_bytes, tier, lines)


def _trials(wanted: Wanted, arms: Sequence[Arm], store: PackedStore, route: Path | None) -> list[Trial]:
    layer = max(-(-layer.experts // wanted.expert_parallel) for layer in store.layers) * store.blob_bytes
    found = [Trial(arm, offload(arm, layer, route), wanted.ranks) for arm in arms]
    return found if wanted.expert_parallel == 1 else [Trial(Resident(), None, wanted.one_rank), *found]


def _serve(
    ready: Prepared, trials: Sequence[Trial], rounds: int, progress: Progress
) -> list[list[Served] | TriptychError]:
    """By trial: every round, or why it failed; who has failed once is left out."""
    found: list[list[Served] | TriptychError] = [[] for _ in trials]
    for turn in range(1, rounds + 1):
        for number, trial in enumerate(trials):
            sofar = found[number]
            if isinstance(sofar, TriptychError):
                continue
            known = ready.known if knows_uses(trial.arm) else None
            past = {} if known is None else known.past
            order = Order(ready.model, ready.work, trial.offload, trial.machine, past)
            try:
                with progress.task(f"{trial.arm.name} {budget_name(trial.arm)}, {turn} of {rounds}", None):
                    sofar.append(apart(_PATIENCE, serve, order))
            except TriptychError as error:
                found[number] = error
    return found


def _resident(
    trials: Sequence[Trial], served: Sequence[list[Served] | TriptychError], machine: Machine
) -> Sequence[Served]:
    """What the arm with all experts in memory did there, if it was run."""
    for trial, found in zip(trials, served, strict=True):
        if isinstance(trial.arm, Resident) and trial.machine == machine and not isinstance(found, TriptychError):
            return found
    return ()


def _lines(
    ready: Prepared,
    trials: Sequence[Trial],
    served: Sequence[list[Served] | TriptychError],
    beside: Beside,
) -> Iterator[Figures | Failed]:
    script = Script.of(as_served(read_routes(ready.routes), ready.work))
    device = Device(beside.bandwidth, beside.step(ready.work))
    for trial, found in zip(trials, served, strict=True):
        if isinstance(found, TriptychError):
            yield Failed.of(trial.arm, found)
        else:
            seen = _replayed(ready, trial, found, script, device)
            yield figures(trial.arm, trial.machine.ranks, found, ready.work, seen, beside)


def _replayed(
    ready: Prepared, trial: Trial, served: Sequence[Served], script: Script, device: Device
) -> Replay | None:
    """Of one rank, whose answers share all steps: what others would have asked for is not recorded."""
    if trial.offload is None or trial.offload.regroup or trial.machine.ranks > 1:
        return None
    uses = None
    if ready.known is not None and knows_uses(trial.arm):
        warm = read_warm(ready.known.warm, open_store(ready.pack))
        uses = None if warm is None else warm.uses
    return replayed(trial.offload, script, ready.work, uses, device, served)


def _rates(served: Sequence[list[Served] | TriptychError]) -> Iterator[float]:
    """Bytes a second that the rounds of all arms read."""
    for found in served:
        for one in () if isinstance(found, TriptychError) else found:
            yield 0.0 if one.then is None else one.then.read_bytes / one.seconds


def _bandwidth(store: PackedStore) -> float:
    return disk_bandwidth(store.path, store.blob_bytes, _READERS)


def _reads_direct(path: Path) -> bool:
    with open_direct(path, os.O_RDONLY) as file:
        return file.direct
