"""What is compared with what, and how much better it has to be: pure functions from figures to rows."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Figures = Mapping[tuple[str, str], float]
"""One round: (contestant, figure) to its value."""


@dataclass(frozen=True)
class Row:
    """One target.

    Attributes:
        key: Its short name.
        title: What it is.
        ours: Contestants and figures; of several the better counts.
        theirs: Those that they have to beat, likewise.
        target: Of ours over theirs.
        at_most: The ratio has to stay below the target, not above.
    """

    key: str
    title: str
    ours: tuple[tuple[str, str], ...]
    theirs: tuple[tuple[str, str], ...]
    target: float
    at_most: bool = False

    @property
    def contestants(self) -> frozenset[str]:
        """Everyone whose figures it needs."""
        return frozenset(name for name, _ in (*self.ours, *self.theirs))


def _decode(batch: int, target: float) -> Row:
    figure = f"decode {batch}"
    title = f"bf16 decode, batch {batch}, against vLLM"
    return Row(f"bf16-b{batch}", title, (("triptych-bf16", figure),), (("vllm", figure),), target)


def _quantised(batch: int, target: float) -> Row:
    figure = f"decode {batch}"
    ours = (("triptych-gguf", figure), ("triptych-int8", figure))
    title = f"Q4_1 or int8 decode, batch {batch}, against OpenVINO"
    return Row(f"quantised-b{batch}", title, ours, (("openvino", figure),), target)


def _share(figure: str, title: str, target: float) -> Row:
    ceiling = (("triptych-bf16", f"{figure} ceiling"),)
    return Row(f"share-{figure.replace(' ', '-')}", title, (("triptych-bf16", figure),), ceiling, target)


ROWS = (
    _decode(1, 1.9),
    _decode(8, 1.5),
    _decode(32, 1.35),
    Row("bf16-prefill", "bf16 prefill, against vLLM", (("triptych-bf16", "prefill"),), (("vllm", "prefill"),), 1.0),
    Row(
        "gguf-b1",
        "Q4_1 decode, batch 1, against the better of llama.cpp and OpenVINO",
        (("triptych-gguf", "decode 1"),),
        (("llamacpp", "decode 1"), ("openvino", "decode 1")),
        1.5,
    ),
    _quantised(8, 1.2),
    _quantised(32, 1.1),
    Row(
        "int8-prefill",
        "prefill with int8 activations, against OpenVINO",
        (("triptych-gguf", "prefill"), ("triptych-int8", "prefill")),
        (("openvino", "prefill"),),
        1.0,
    ),
    _share("decode 1", "share of the ceiling, bf16 decode, batch 1", 0.75),
    _share("prefill", "share of the ceiling, bf16 prefill", 0.85),
    Row(
        "cluster",
        "colocated cluster with 8 gRPC clients, against the offline engine, batch 8",
        (("triptych-cluster", "clients 8"),),
        (("triptych-bf16", "decode 8"),),
        0.9,
    ),
    Row(
        "memory",
        "peak memory, bf16, against 1.3 x (weights + KV) + 400 MB",
        (("triptych-bf16", "peak MB"),),
        (("triptych-bf16", "allowed MB"),),
        1.0,
        at_most=True,
    ),
    Row(
        "load",
        "load builtin:smollm2 warm, process and imports included, against 3 s",
        (("triptych-load", "load s"),),
        (("triptych-load", "allowed s"),),
        1.0,
        at_most=True,
    ),
)


@dataclass(frozen=True)
class Side:
    """One side of a row: who it was, and the median of its value."""

    name: str
    value: float


@dataclass(frozen=True)
class Verdict:
    """A row with its figures; a side is None where nobody of it was measured."""

    row: Row
    ours: Side | None
    theirs: Side | None
    ratio: float | None

    @property
    def reached(self) -> bool | None:
        """None where there is no ratio."""
        if self.ratio is None:
            return None
        return self.ratio <= self.row.target if self.row.at_most else self.ratio >= self.row.target


def judge(row: Row, rounds: Sequence[Figures]) -> Verdict:
    """The better of each side by its median over the rounds, and the median of their ratios round by round."""
    ours, theirs = _better(row.ours, rounds), _better(row.theirs, rounds)
    if ours is None or theirs is None:
        return Verdict(row, ours.side if ours else None, theirs.side if theirs else None, None)
    ratios = [found[ours.key] / found[theirs.key] for found in rounds if {ours.key, theirs.key} <= found.keys()]
    return Verdict(row, ours.side, theirs.side, statistics.median(ratios) if ratios else None)


def figures(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The figures of one JSON line of a contestant."""
    match line:
        case {"what": "load", "seconds": seconds}:
            yield "load s", seconds
            if "allowed_seconds" in line:
                yield "allowed s", line["allowed_seconds"]
        case {"what": "memory", "peak_bytes": peak, "weights_bytes": weights, "kv_bytes": kv}:
            yield "peak MB", peak / 1e6
            yield "allowed MB", (1.3 * (weights + kv) + 400e6) / 1e6
        case {"what": "serve", "clients": clients, "tok_s": rate}:
            yield f"clients {clients}", rate
        case {"what": "decode", "batch": batch}:
            yield from _rate(f"decode {batch}", line)
        case {"what": "prefill"}:
            yield from _rate("prefill", line)


def _rate(name: str, line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield name, line["tok_s"]
    if "ceiling" in line:
        yield f"{name} ceiling", line["ceiling"]


@dataclass(frozen=True)
class _Best:
    key: tuple[str, str]
    side: Side


def _better(side: Sequence[tuple[str, str]], rounds: Sequence[Figures]) -> _Best | None:
    measured = [
        _Best(key, Side(key[0], statistics.median(values)))
        for key in side
        if (values := [found[key] for found in rounds if key in found])
    ]
    return max(measured, key=lambda best: best.side.value, default=None)
