"""The comparison as markdown."""

from collections.abc import Mapping, Sequence
from statistics import median

from comparison.rows import Figures, Side, Verdict


def targets(verdicts: Sequence[Verdict]) -> str:
    """One line per target; empty cells where a contestant is missing."""
    lines = ["| | ours | against | ratio | target | reached |", "| --- | --- | --- | --- | --- | --- |"]
    for verdict in verdicts:
        row = verdict.row
        ratio = "" if verdict.ratio is None else f"{verdict.ratio:.2f}"
        sign = "≤" if row.at_most else "≥"
        reached = {None: "", True: "yes", False: "**no**"}[verdict.reached]
        cells = (row.title, _side(verdict.ours), _side(verdict.theirs), ratio, f"{sign} {row.target:g}", reached)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def everything(rounds: Sequence[Figures]) -> str:
    """Every figure of every contestant, medians over the rounds."""
    names = list(dict.fromkeys(name for found in rounds for name, _ in found))
    columns = list(dict.fromkeys(figure for found in rounds for _, figure in found if "ceiling" not in figure))
    lines = [f"| | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
    for name in names:
        cells = ([found[name, column] for found in rounds if (name, column) in found] for column in columns)
        lines.append(f"| {name} | {' | '.join(f'{median(values):.4g}' if values else '' for values in cells)} |")
    return "\n".join(lines)


def page(verdicts: Sequence[Verdict], rounds: Sequence[Figures], notes: Mapping[str, str], machine: str) -> str:
    """Both tables, and why somebody is missing."""
    count = f"{len(rounds)} round{'s' if len(rounds) != 1 else ''}"
    missing = [f"* {name}: {reason}" for name, reason in notes.items()]
    return "\n\n".join(
        [
            f"{machine}; {count}, medians.",
            targets(verdicts),
            "Every figure (tokens a second unless the column says otherwise):",
            everything(rounds),
            *(["Not measured:", "\n".join(missing)] if missing else []),
        ]
    )


def _side(side: Side | None) -> str:
    return "" if side is None else f"{side.value:.4g} ({side.name})"
