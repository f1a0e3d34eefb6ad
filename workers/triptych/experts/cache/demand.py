"""What a layer asks for, gone through in ascending order, in as many turns as it takes."""

from dataclasses import dataclass

from triptych.experts.cache.slots import Load


@dataclass(frozen=True, slots=True)
class Ensured:
    """What a demand came to, or the next part of it.

    Attributes:
        slots: Of the experts that the step computes with now, in their order.
        loads: To be read, in this order; some of them for the next part.
        hits: Experts that were there since an earlier step.
        covered: That had been read in advance, or are being.
    """

    slots: tuple[int, ...]
    loads: tuple[Load, ...]
    hits: int
    covered: int


@dataclass(slots=True)
class Demand:
    """Of the layer that a step is at.

    Attributes:
        layer: Which.
        experts: In ascending order.
        awaited: Slots of those that were read in advance.
        next: Place of the first that nobody computes with yet.
        taken: And of the first that no slot has been taken for.
    """

    layer: int
    experts: tuple[int, ...]
    awaited: set[int]
    next: int = 0
    taken: int = 0

    @property
    def over(self) -> bool:
        """Whether the step has computed with all, or does so now."""
        return self.next == len(self.experts)
