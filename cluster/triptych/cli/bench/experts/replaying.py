"""What replay makes of an arm: the hit ratio that it should have, and the fewest reads that anybody needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from triptych.cli.bench.experts.serving import Served
from triptych.cli.bench.experts.work import PROMPT, Work
from triptych.experts import traces
from triptych.experts.settings import OffloadSettings
from triptych.experts.traces import Device, Foreseen, Routes, Script
from triptych.experts.traces.arms import Arms


@dataclass(frozen=True, slots=True)
class Replay:
    """Of one arm.

    Attributes:
        hits: As `Counts.hit_ratio`, from an empty pool over all prompts and answers: of each round, with reading in
            advance turned on and off when that round did.
        fewest_bytes_per_token: Of reads while the same answers are given again, by whoever knows all that comes.
    """

    hits: tuple[float, ...]
    fewest_bytes_per_token: float


def as_served(routes: Routes, work: Work) -> Routes:
    """A recording of all prompts in one batch, in the steps in which an arm takes them, `work.batch` at a time."""
    group = routes.sequences // work.batch
    phase = np.maximum(routes.positions - (PROMPT - 1), 0)
    order = np.lexsort((routes.positions, routes.sequences, phase, group))
    begins = np.flatnonzero(np.diff(group[order], prepend=-1) | np.diff(phase[order], prepend=-1))
    return replace(
        routes,
        steps=np.append(begins, len(order)).astype(np.int64),
        tokens=routes.tokens[order],
        sequences=routes.sequences[order],
        positions=routes.positions[order],
        ids=routes.ids[:, order],
        foreseen=Foreseen(routes.foreseen.experts[:, order], routes.foreseen.chances[:, order]),
    )


def replayed(
    settings: OffloadSettings,
    script: Script,
    work: Work,
    uses: tuple[tuple[float, ...], ...] | None,
    device: Device,
    served: Sequence[Served],
) -> Replay:
    """Plays an arm as each of its rounds went.

    Args:
        settings: Of the arm.
        script: The recording, `as_served`.
        work: What was recorded.
        uses: Who was needed on other texts, for arms that know it.
        device: How fast the machine is, which decides who is read in advance in time.
        served: The rounds; they tell when reading in advance was on, which they have measured, and nothing else.
    """
    model = script.routes.model
    route = None if settings.route is None else traces.read_route_model(settings.route)
    arm = Arms(script, route, uses or ((0.0,) * model.experts,) * model.layers).of(settings)
    again = tuple(demand for demand, on in zip(script.demands, script.decoding, strict=True) if on)
    reads = traces.fewest_reads(script.demands + again, arm.pool.slots)[len(script.demands) :]
    decoded = len(work.prompts) * (work.tokens - 1)
    turns = [one.first.turns if one.first else () for one in served]
    hits = {way: traces.replay(script, arm, device, way).counts.hit_ratio for way in set(turns)}
    return Replay(tuple(hits[way] for way in turns), sum(reads) * model.blob / decoded)
