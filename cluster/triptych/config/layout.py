"""Layouts: how many workers of each stage, written as `1E1P1D`."""

import re
from dataclasses import dataclass
from typing import Final, Self

from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.core.fleet import Stage
from triptych.core.reconcile.roster import MAX_WORKERS

PATTERN: Final = r"^([1-9]\d*[Ee])?([1-9]\d*[Pp])?[1-9]\d*[Dd]$"
"""The grammar: counts of encode, prefill and decode workers, in this order; what is left out is zero."""

_COUNTS = re.compile(r"(?:([1-9]\d*)E)?(?:([1-9]\d*)P)?([1-9]\d*)D", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Layout:
    """Workers per stage. A decode worker prefills too, so it is the one stage that no cluster lacks."""

    encode: int
    prefill: int
    decode: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `2E1P3D`, `1P1D`, `1E1D` or `1D`.

        Raises:
            InvalidArgument: any other text, or a count above `MAX_WORKERS`.
        """
        match = _COUNTS.fullmatch(text)
        if match is None:
            raise InvalidArgument(
                "layout must be auto or counts of encode, prefill and decode workers in this order, at least one of "
                f"decode: 1E1P1D, 2E1P3D, 1P1D, 1E1D, 1D; got {text!r:.60}",
                field="layout",
            )
        counts = [int(count[:9]) if count else 0 for count in match.groups()]
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


def resolve_layout(layout: Layout | None, *, accepts_images: bool) -> Layout:
    """The layout of a model; for None (`auto`) the one with the fewest workers that can serve it.

    On one machine prefill and decode share memory bandwidth and cores, so that splitting them costs a transfer and
    gains nothing. Encoding has a worker of its own all the same: it keeps image decoding and the vision tower out of
    the step loop.

    Raises:
        FailedPrecondition: encode workers for a model that reads text only.
    """
    if layout is None:
        return Layout(int(accepts_images), 0, 1)
    if layout.encode and not accepts_images:
        without = Layout(0, layout.prefill, layout.decode)
        raise FailedPrecondition(
            f"layout {layout} has encode workers, and the model reads text only; use {without}", field="layout"
        )
    return layout
