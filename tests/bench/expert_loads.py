#!/usr/bin/env python
"""How evenly the experts of builtin:smollm2-moe are loaded, and what balancing makes of it.

    python tests/bench/expert_loads.py record TEXT... -o TRACE    keeps how often each expert was chosen
    python tests/bench/expert_loads.py replay TRACE               balancedness before and after, as a markdown table

A trace has a piece for every 256 tokens of each text: how many went to each expert of each layer. Each text is a kind
of load of its own; placements are decided by the first half of its pieces and judged by the second.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from triptych.models.decoder import Decoder
from triptych.models.resolve import resolve
from triptych.models.spec import read_spec
from triptych.models.testing import PagedSequence
from triptych.models.text import TextProcessor
from triptych.parallel import Mesh, Parallelism
from triptych.parallel.balance import Placement, rebalance_layer
from triptych.parallel.testing import run_threads

Loads = npt.NDArray[np.uint16]

PIECE, PIECES = 256, 8
GRIDS = [(2, 0), (4, 0), (4, 4), (8, 0), (8, 8)]
"""Ranks, and slots of a layer beyond its experts."""


def main() -> None:
    """Records or replays."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = options.add_subparsers(required=True, dest="command")
    record = commands.add_parser("record")
    record.add_argument("texts", type=Path, nargs="+")
    record.add_argument("-o", dest="trace", type=Path, required=True)
    replay = commands.add_parser("replay")
    replay.add_argument("trace", type=Path)
    given = options.parse_args()
    if given.command == "record":
        np.savez_compressed(given.trace, allow_pickle=False, **recorded(given.texts))
    else:
        table(dict(np.load(given.trace)))


def recorded(texts: Iterable[Path]) -> dict[str, Loads]:
    """By the name of its file, what each text's pieces chose: [pieces, layers, E]."""
    files = resolve("builtin:smollm2-moe")
    spec = read_spec(files)
    processor = TextProcessor.load(files, spec)
    token_ids = {path.stem: torch.tensor(processor.encode(path.read_text())[: PIECE * PIECES]) for path in texts}

    def run(mesh: Mesh) -> list[Loads]:
        decoder = Decoder.load(files, spec, torch.bfloat16, mesh=mesh)
        return [
            np.stack([counted(decoder, piece) for piece in torch.split(ids, PIECE)]) for ids in token_ids.values()
        ]

    # Only ranks that divide experts count; these two divide the tokens of each sequence among themselves.
    first, second = run_threads(Parallelism(expert=2, attention="tensor"), run)
    return {name: a + b for name, a, b in zip(token_ids, first, second, strict=True)}


def counted(decoder: Decoder, token_ids: Tensor) -> Loads:
    """What this rank's tokens of one sequence chose: [layers, E]."""
    for share in decoder.shares:
        share.counts = torch.zeros(share.placement.experts, dtype=torch.int64)
    PagedSequence(decoder).feed(token_ids)
    return np.stack([share.counts.numpy() for share in decoder.shares if share.counts is not None]).astype(np.uint16)


def table(trace: dict[str, Loads]) -> None:
    """Prints what balancing would have done."""
    print("| ranks | redundant | text | before | after, on what decided | after, on what followed |")
    print("| --- | --- | --- | --- | --- | --- |")
    for ranks, redundant in GRIDS:
        for name, pieces in trace.items():
            half = len(pieces) // 2
            decided, followed = (part.sum(0, dtype=np.int64).tolist() for part in (pieces[:half], pieces[half:]))
            figures = balancedness(decided, followed, ranks, redundant)
            cells = [f"{mean:.3f} ({worst:.3f})" for mean, worst in figures]
            print(f"| {ranks} | {redundant} | {name} | {' | '.join(cells)} |")


def balancedness(
    decided: list[list[int]], followed: list[list[int]], ranks: int, redundant: int
) -> list[tuple[float, float]]:
    """Mean over the layers, and the worst of them: without balancing, and with it, on both halves."""
    size = len(decided[0])
    even = [Placement.even(size, ranks)] * len(decided)
    moved = [rebalance_layer(layer, size + redundant, 1, 1, ranks) for layer in decided]
    found = []
    for placements, loads in ((even, followed), (moved, decided), (moved, followed)):
        values = [placement.balancedness(layer) for placement, layer in zip(placements, loads, strict=True)]
        found.append((sum(values) / len(values), min(values)))
    return found


if __name__ == "__main__":
    main()
