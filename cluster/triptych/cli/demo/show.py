"""The demo itself: a chat, eight digits, a timeline for each request, and the budgets."""

import contextlib
import os
import statistics
import time
from dataclasses import dataclass, field

import psutil
from rich.console import Console

from triptych.cli.demo.baseline import PROMPT, TOKENS, transformers_decode_rate
from triptych.cli.demo.budgets import Figure, budget_table
from triptych.cli.demo.digits import held_out_digits
from triptych.cli.notes import machine_notes
from triptych.cli.progress import ProgressBars
from triptych.cli.timeline import render_timeline
from triptych.client import Client, Generation
from triptych.config.load import make_spec
from triptych.controller.local import LocalCluster

MODEL, LAYOUT = "builtin:smollm2-digits", "1E1P1D"
QUESTION = "What digit is in the image?"
DIGITS = 8
STARTED = "TRIPTYCH_DEMO_STARTED"  # set by `make demo` to the time before the installation, if there is one


@dataclass(slots=True)
class Measured:
    """What the demo found out."""

    ready_seconds: float = 0.0
    first_token_seconds: float = 0.0
    cluster_bytes: int = 0
    decode_rates: list[float] = field(default_factory=list)
    added_milliseconds: list[float] = field(default_factory=list)
    right: int = 0


def run_demo(console: Console, *, compare: bool) -> bool:
    """Shows everything; True when every digit but one was read at least. A missed budget is printed as such."""
    begun = time.time()
    fresh = bool(os.environ.get(STARTED))
    origin = float(os.environ[STARTED]) if fresh else begun
    measured = Measured()
    spec = make_spec({"model": MODEL, "layout": LAYOUT, "router.grpc": "127.0.0.1:0"})
    for note in machine_notes():
        console.print(f"note: {note}")
    console.print(f"starting {LAYOUT} with {MODEL} on {os.cpu_count()} CPUs ...")
    with LocalCluster(spec, progress=ProgressBars(console)) as cluster, Client(cluster.address) as client:
        measured.ready_seconds = time.time() - begun
        console.print(f"ready after {measured.ready_seconds:.1f} s; the router listens on {cluster.address}\n")
        _chat(console, client, measured, origin)
        _read_digits(console, client, measured)
        _time_decode(client, measured)
        measured.cluster_bytes = _tree_bytes()
    console.print("the cluster has shut down")
    baseline = _baseline(console) if compare else None
    console.print(budget_table(figures(measured, baseline, fresh=fresh)))
    return measured.right >= DIGITS - 1


def _chat(console: Console, client: Client, measured: Measured, origin: float) -> None:
    console.print("> Why is the sky blue? Answer in one sentence.")
    question = [{"role": "user", "content": "Why is the sky blue? Answer in one sentence."}]
    with client.stream(question, temperature=0, max_tokens=48) as stream:
        for chunk in stream:
            if not measured.first_token_seconds:
                measured.first_token_seconds = time.time() - origin
            console.print(chunk.text, end="", markup=False)
        answer = stream.result()
    console.print("\n\n" + render_timeline(answer.timeline) + "\n", markup=False)


def _read_digits(console: Console, client: Client, measured: Measured) -> None:
    for digit in held_out_digits()[:DIGITS]:
        answer = client.chat(QUESTION, images=[digit.png], temperature=0, max_tokens=16)
        measured.right += answer.text == f"The digit is {digit.label}."
        console.print(digit.drawing, markup=False)
        console.print(f"> {QUESTION}\n{answer.text}   (it is a {digit.label})\n", markup=False)
        console.print(render_timeline(answer.timeline) + "\n", markup=False)
    console.print(f"{measured.right} of {DIGITS} digits read right")


def _time_decode(client: Client, measured: Measured) -> None:
    for _ in range(3):
        sent = time.perf_counter()
        with client.stream(PROMPT, temperature=0, max_tokens=TOKENS, ignore_eos=True) as stream:
            next(stream)
            first = time.perf_counter()
            answer = stream.result()
            measured.decode_rates.append((TOKENS - 1) / (time.perf_counter() - first))
        measured.added_milliseconds.append((first - sent) * 1000 - _compute_milliseconds(answer))


def _compute_milliseconds(answer: Generation) -> float:
    return sum(span.duration_us for span in answer.timeline if span.name == "prefill") / 1000


def _tree_bytes() -> int:
    """Resident memory of this process and its children; a page that several share counts once (PSS)."""
    process = psutil.Process()
    total = 0
    for member in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            memory = member.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
    return total


def _baseline(console: Console) -> float:
    from triptych.models.resolve import resolve

    console.print("measuring transformers' generate on the same model ...")
    return transformers_decode_rate(resolve(MODEL).path, threads=os.cpu_count() or 1)


def figures(measured: Measured, baseline: float | None, *, fresh: bool) -> list[Figure]:
    """What was measured, beside its budget.

    Args:
        measured: By the demo.
        baseline: Decode rate of transformers' generate, if it was measured.
        fresh: Whether the installation and the downloads are part of the time.
    """
    label = "fresh clone to first streamed token" if fresh else "command to first streamed token"
    found = [
        Figure("cluster ready", measured.ready_seconds, "s", None if fresh else 25.0),
        Figure(label, measured.first_token_seconds, "s", 480.0 if fresh else 60.0),
        Figure("memory of the whole cluster", measured.cluster_bytes / 2**30, "GiB", 4e9 / 2**30),
        Figure(
            "added to the first token by router and transport",
            statistics.median(measured.added_milliseconds),
            "ms",
            10.0,
        ),
    ]
    decode = statistics.median(measured.decode_rates)
    if baseline is None:
        return [*found, Figure("decode of one stream", decode, "tok/s")]
    return [
        *found,
        Figure("transformers' generate", baseline, "tok/s"),
        Figure("decode of one stream", decode, "tok/s", baseline, at_least=True),
    ]
