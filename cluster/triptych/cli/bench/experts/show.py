"""The result of a run as JSON lines, and as tables for people."""

import json
from collections.abc import Iterator
from dataclasses import asdict

from rich.console import Group
from rich.table import Table

from triptych.cli.bench.experts.figures import Failed, Figures
from triptych.cli.bench.experts.run import Found
from triptych.cli.bench.experts.targets import Target

_COLUMNS = (
    *("arm", "budget", "tok/s", "share", "hit", "live/replayed", "recall", "prec.", "wasted", "reads", "MB"),
    *("stall", "peak/allowed", "saved/of RSS", "equal", "1 rank"),
)


def json_lines(found: Found, targets: tuple[Target, ...]) -> Iterator[str]:
    """What was measured, every arm, and every target, each an object with `what`."""
    run = {
        "what": "run",
        **asdict(found.wanted),
        "expert_bytes": found.expert_bytes,
        "blob_bytes": found.blob_bytes,
        **asdict(found.tier),
    }
    yield json.dumps(run)
    for arm in found.arms:
        yield json.dumps({"what": "failed" if isinstance(arm, Failed) else "arm", **arm.line})
    for target in targets:
        yield json.dumps({"what": "target", **asdict(target), "reached": target.reached})


def tables(found: Found, targets: tuple[Target, ...]) -> Group:
    """Arms, then targets.

    Of a token: MB wasted, experts and MB read, ms of stall. Of the arm: MB of memory, and the share of the experts'
    bytes that it saves, by the pool's size and by what is resident.
    """
    tier, wanted = found.tier, found.wanted
    ranks = f", experts divided among {wanted.expert_parallel} ranks" if wanted.expert_parallel > 1 else ""
    source = "read past the page cache" if tier.direct else "read through the page cache, which no figure is without"
    head = (
        f"{wanted.model}: experts of {found.expert_bytes / 1e6:,.0f} MB, each {found.blob_bytes / 1e3:,.0f} kB, "
        f"{source}; the disk gave {tier.before / 1e9:.2f} GB/s before the arms, {tier.after / 1e9:.2f} after, "
        f"{tier.best / 1e9:.2f} at best\n"
        f"{wanted.texts} texts, {wanted.tokens} tokens each, {wanted.batch} at a time, {wanted.threads} threads"
        f"{ranks}\n"
    )
    return Group(head, _arms(found), *_failures(found), "", _targets(targets))


def _arms(found: Found) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(_COLUMNS):
        table.add_column(name, justify="left" if place < 2 else "right", no_wrap=True)
    lines = [arm for arm in found.arms if isinstance(arm, Figures)]
    resident = next((line.tok_s for line in reversed(lines) if line.arm == "resident"), None)
    for line in lines:
        table.add_row(*_row(line, resident))
    return table


def _row(line: Figures, resident: float | None) -> tuple[str, ...]:
    off = " (off)" if line.switched_off else ""
    return (
        f"{line.arm}{off}",
        line.budget,
        f"{line.tok_s:.1f}",
        "" if resident is None else f"{line.tok_s / resident:.2f}",
        f"{line.hit:.3f}",
        "" if line.replayed_hit is None else f"{line.first_hit:.3f}/{line.replayed_hit:.3f}",
        _share(line.recall),
        _share(line.precision),
        f"{line.wasted_bytes / 1e6:.2f}",
        f"{line.reads_per_token:.1f}",
        f"{line.read_mb_per_token:.1f}",
        f"{line.stall_ms_per_token:.1f}",
        f"{line.peak_rss / 1e6:.0f}" + (f"/{line.allowed_rss / 1e6:.0f}" if line.allowed_rss else ""),
        "" if line.rss_saved is None else f"{line.experts_saved:.3f}/{line.rss_saved:.3f}",
        _said(line.equal),
        _said(line.as_one_rank),
    )


def _share(ahead: float | None) -> str:
    return "off" if ahead is None else f"{ahead:.2f}"


def _said(equal: bool | None) -> str:
    return "" if equal is None else "yes" if equal else "NO"


def _failures(found: Found) -> list[str]:
    return [f"{arm.arm} {arm.budget} failed: {arm.error}" for arm in found.arms if isinstance(arm, Failed)]


def _targets(targets: tuple[Target, ...]) -> Table:
    table = Table("target", "measured", "limit", "reached", box=None, pad_edge=False, header_style="bold")
    for target in targets:
        limit = f"{'≥' if target.at_least else '≤'} {target.limit:g}"
        table.add_row(target.name, f"{target.value:.4g}", limit, "yes" if target.reached else "no")
    return table
