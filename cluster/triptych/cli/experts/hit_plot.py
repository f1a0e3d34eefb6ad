"""Draws replays: hit ratio and speed over budget."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from triptych.cli.experts.replaying import Line
from triptych.core.errors import FailedPrecondition

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which nearly everybody can tell apart."""
_MARKERS: Final = "osD^v"
_GREY: Final = "#555555"
_BOUNDS: Final = {
    "belady": ("Belady's optimum, nothing in advance", "--"),
    "on demand": ("on demand, nobody kept", ":"),
}


def draw(model: str, lines: Sequence[Line], path: Path) -> None:
    """Writes a picture in the format of the file's name, such as .svg or .png.

    Raises:
        FailedPrecondition: the format is unknown, or the file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "triptych", "font.family": "sans-serif"}):
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        _curves(left, lines, [100 * line.hit for line in lines])
        left.set(ylabel="demand that no read had to serve, %", ylim=(0, 102))
        _curves(right, lines, [line.tok_s for line in lines])
        right.set(ylabel="tokens a second, predicted")
        right.set_ylim(bottom=0)
        figure.suptitle(f"{model}: experts that do not all fit", fontsize=11)
        handles, names = left.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        try:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
        except (OSError, ValueError) as error:
            raise FailedPrecondition(f"{path} cannot be written: {error}", field="plot") from None


def _curves(axes: "Axes", lines: Sequence[Line], values: Sequence[float]) -> None:
    """A colour for each policy; what it is combined with has another marker."""
    names = list(dict.fromkeys(line.arm for line in lines))
    policies = list(dict.fromkeys(name.split()[0] for name in names if name not in _BOUNDS))
    combined = list(dict.fromkeys(" ".join(name.split()[1:]) for name in names if name not in _BOUNDS))
    for name in names:
        at = [(line.budget, value) for line, value in zip(lines, values, strict=True) if line.arm == name]
        budgets, heights = zip(*at, strict=True)
        if name in _BOUNDS:
            label, style = _BOUNDS[name]
            axes.plot(budgets, heights, style, color=_GREY, linewidth=1.4, label=label)
            continue
        policy, *rest = name.split()
        colour = _COLOURS[policies.index(policy) % len(_COLOURS)]
        marker = _MARKERS[combined.index(" ".join(rest)) % len(_MARKERS)]
        axes.plot(budgets, heights, color=colour, marker=marker, markersize=5, linewidth=1.6, label=name)
    axes.set_xlabel("memory of experts, % of all")
    axes.set_xticks(sorted({line.budget for line in lines}))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
