"""What a run showed, as a JSON object and as a row of a table."""

from collections.abc import Sequence
from typing import Any, assert_never

from rich.table import Table

from triptych.cli.bench.serve.runs import ClosedLoad, Load, PoissonLoad, Run, TraceLoad
from triptych.cli.bench.serve.summary import Latency

_LATENCIES = (("TTFT", "first_token"), ("TPOT", "per_token"), ("ITL", "between"), ("E2E", "end_to_end"))


def as_line(run: Run, seed: int) -> dict[str, Any]:
    """Everything that was measured; latencies in milliseconds, null where no request was answered."""
    found = run.summary
    latencies = ("ttft_ms", found.first_token), ("tpot_ms", found.per_token), ("itl_ms", found.between)
    return {
        "peer": "triptych",
        "what": "serve",
        **_load_fields(run.load),
        "seed": seed,
        "requests": found.requests,
        "answered": found.answered,
        "errors": dict(found.errors),
        "seconds": round(found.seconds, 3),
        "tok_s": round(found.output_rate, 1),
        "requests_s": round(found.answer_rate, 3),
        "goodput": round(found.goodput, 3),
        "good": found.good,
        **{
            name: _milliseconds(latency)
            for name, latency in (*latencies, ("e2e_ms", found.end_to_end), ("late_ms", found.late))
        },
    }


def table(runs: Sequence[Run]) -> Table:
    """One column per run; latencies are p50 / p95 / p99 in milliseconds."""
    made = Table("", box=None, pad_edge=False, header_style="bold")
    for run in runs:
        made.add_column(load_name(run.load), justify="right")
    found = [run.summary for run in runs]
    made.add_row("requests answered", *(f"{s.answered} of {s.requests}" for s in found))
    made.add_row("errors", *(", ".join(f"{count} {kind}" for kind, count in s.errors.items()) or "0" for s in found))
    made.add_row("output tokens a second", *(f"{s.output_rate:.1f}" for s in found))
    made.add_row("answers a second", *(f"{s.answer_rate:.2f}" for s in found))
    made.add_row("within the limits, a second", *(f"{s.goodput:.2f}" for s in found))
    for name, field in _LATENCIES:
        made.add_row(f"{name}, ms", *(_cell(getattr(s, field)) for s in found))
    return made


def load_name(load: Load) -> str:
    """The load in a few words."""
    match load:
        case PoissonLoad(rate):
            return f"{rate:g} a second"
        case TraceLoad():
            return "trace"
        case ClosedLoad(clients):
            return f"{clients} clients"
        case _:
            assert_never(load)


def _load_fields(load: Load) -> dict[str, Any]:
    match load:
        case PoissonLoad(rate):
            return {"load": "poisson", "rate": rate}
        case TraceLoad():
            return {"load": "trace"}
        case ClosedLoad(clients):
            return {"load": "closed", "clients": clients}
        case _:
            assert_never(load)


def _milliseconds(latency: Latency | None) -> dict[str, float] | None:
    if latency is None:
        return None
    return {name: round(getattr(latency, name) * 1000, 2) for name in ("mean", "p50", "p95", "p99")}


def _cell(latency: Latency | None) -> str:
    if latency is None:
        return ""
    milliseconds = (1000 * value for value in (latency.p50, latency.p95, latency.p99))
    return " / ".join(f"{value:.0f}" if value >= 10 else f"{value:.1f}" for value in milliseconds)
