"""One request's way through the stages, drawn with characters."""

from collections.abc import Sequence
from typing import Final

from triptych.core.usage import Span

_ROUTER: Final = "router"


def render_timeline(spans: Sequence[Span], *, width: int = 100) -> str:
    """A Gantt chart: one line per span with name, worker, start and duration in milliseconds, and a bar.

    Args:
        spans: In any order; lines are sorted by start.
        width: Columns of a line; the bars take what the text leaves, and at least ten.
    """
    if not spans:
        return ""
    ordered = sorted(spans, key=lambda span: (span.start_us, span.start_us + span.duration_us))
    end = max(span.start_us + span.duration_us for span in ordered)
    names = max(len("stage"), *(len(span.name) for span in ordered))
    workers = max(len("worker"), *(len(span.worker or _ROUTER) for span in ordered))
    columns = max(10, width - names - workers - 25)
    lines = [f"{'stage':<{names}}  {'worker':<{workers}}  {'start ms':>9} {'ms':>9}"]
    for span in ordered:
        text = f"{span.name:<{names}}  {span.worker or _ROUTER:<{workers}}"
        numbers = f"{span.start_us / 1000:>9.1f} {span.duration_us / 1000:>9.1f}"
        lines.append(f"{text}  {numbers}  {_bar(span, end, columns)}")
    return "\n".join(lines)


def _bar(span: Span, end: int, columns: int) -> str:
    scale = columns / max(end, 1)
    first, last = round(span.start_us * scale), round((span.start_us + span.duration_us) * scale)
    return " " * min(first, columns - 1) + ("█" * (last - first) or "▏")
