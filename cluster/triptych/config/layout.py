"""Layouts: how many workers of each stage, written as `1E1P1D`."""

import re
from dataclasses import dataclass
from typing import Final, Literal, Self

from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.core.fleet import Stage
from triptych.core.reconcile.roster import MAX_WORKERS

GENERATING: Final = r"^([1-9]\d*[Ee])?([1-9]\d*[Pp])?[1-9]\d*[Dd]$"
"""The grammar: counts of encode, prefill and decode workers, in this order; what is left out is zero."""
PATTERN: Final = GENERATING.removesuffix("$") + r"$|^[1-9]\d*[Ee]$"
"""The same, or encode workers alone, for a model that gives embeddings."""

Serves = Literal["texts", "images", "vectors"]
"""What a model does: it generates from texts, or from images too, or turns texts into vectors."""

_COUNTS = re.compile(r"(?:([1-9]\d*)E)?(?:([1-9]\d*)P)?([1-9]\d*)D|([1-9]\d*)E", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Layout:
    """Workers per stage. A decode worker prefills too, so no cluster lacks it whose model generates."""

    encode: int
    prefill: int
    decode: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `2E1P3D`, `1P1D`, `1E1D`, `1D` or `2E`.

        Raises:
            InvalidArgument: any other text, or a count above `MAX_WORKERS`.
        """
        match = _COUNTS.fullmatch(text)
        if match is None:
            raise InvalidArgument(
                "layout must be auto or counts of encode, prefill and decode workers in this order, at least one of "
                "decode: 1E1P1D, 2E1P3D, 1P1D, 1E1D, 1D; or of encode workers alone, for a model that gives "
                f"embeddings: 1E; got {text!r:.60}",
                field="layout",
            )
        encode, prefill, decode, alone = match.groups()
        counts = [int(count[:9]) if count else 0 for count in (encode or alone, prefill, decode)]
        if max(counts) > MAX_WORKERS:
            raise InvalidArgument(
                f"layout may have at most {MAX_WORKERS} workers of a stage, got {text!r:.60}", field="layout"
            )
        return cls(*counts)

    def replicas(self, stage: Stage) -> int:
        """Workers of one stage."""
        return {Stage.ENCODE: self.encode, Stage.PREFILL: self.prefill, Stage.DECODE: self.decode}[stage]

    @property
    def total(self) -> int:
        """Workers of all stages."""
        return self.encode + self.prefill + self.decode

    def __str__(self) -> str:
        """The text that `parse` reads."""
        counts = ((self.encode, "E"), (self.prefill, "P"), (self.decode, "D"))
        return "".join(f"{count}{letter}" for count, letter in counts if count)


def resolve_layout(layout: Layout | None, serves: Serves) -> Layout:
    """The layout of a model; for None (`auto`) the one with the fewest workers that can serve it.

    On one machine prefill and decode share memory bandwidth and cores, so that splitting them costs a transfer and
    gains nothing. Encoding has a worker of its own all the same: it keeps image decoding and the vision tower out of
    the step loop.

    Raises:
        FailedPrecondition: workers of a stage that the model does not have, or none of one that it needs.
    """
    fewest = {"texts": Layout(0, 0, 1), "images": Layout(1, 0, 1), "vectors": Layout(1, 0, 0)}[serves]
    if layout is None:
        return fewest
    match serves:
        case "vectors" if layout.prefill or layout.decode:
            instead, reason = (
                Layout(max(1, layout.encode), 0, 0),
                "and the model gives embeddings, which encode workers make",
            )
        case "texts" if layout.encode and layout.decode:
            instead, reason = Layout(0, layout.prefill, layout.decode), "and the model reads text only"
        case "texts" | "images" if not layout.decode:
            instead, reason = fewest, "and the model generates, which decode workers do"
        case _:
            return layout
    raise FailedPrecondition(
        f"layout {layout} has {_stages(layout)} workers, {reason}; use {instead}", field="layout"
    )


def _stages(layout: Layout) -> str:
    return " and ".join(stage for stage in Stage if layout.replicas(stage))
