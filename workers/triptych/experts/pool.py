"""What a budget comes to: slots, those of them that each layer keeps, and what may be read into the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from triptych.core.errors import Internal, InvalidArgument
from triptych.core.sizes import show_bytes
from triptych.experts.quotas import measured, shallow, uniform
from triptych.experts.settings import Auto, Bytes, Fraction, OffloadSettings


@dataclass(frozen=True, slots=True)
class LayerNeed:
    """What a layer asks for.

    Attributes:
        experts: E.
        top_k: That a token takes.
        nbytes: Of an expert.
        uses: Of each expert, by local number: the share of steps that ask for it; zeros where nothing is known.
        resident: Bytes of an expert where all are in memory, if they are others than those in a slot.
    """

    experts: int
    top_k: int
    nbytes: int
    uses: tuple[float, ...]
    resident: int | None = None

    @property
    def plain(self) -> int:
        """Bytes of an expert where all are in memory."""
        return self.nbytes if self.resident is None else self.resident

    @property
    def whole(self) -> int:
        """Bytes of all of them where all are in memory."""
        return self.experts * self.plain


@dataclass(frozen=True, slots=True)
class Pool:
    """Slots of one size.

    Attributes:
        slots: N.
        slot_bytes: Of each: the largest expert.
        quotas: Experts that each layer keeps.
        speculative: Most slots that may hold, or wait for, what was read in advance and is not asked for yet.
    """

    slots: int
    slot_bytes: int
    quotas: tuple[int, ...]
    speculative: int

    @property
    def nbytes(self) -> int:
        """Of all slots."""
        return self.slots * self.slot_bytes

    @property
    def spare(self) -> int:
        """Slots that no layer keeps."""
        return self.slots - sum(self.quotas)

    def waves(self, choices: int, experts: int) -> int:
        """In how many turns a layer's experts may have to pass through the spare slots.

        In each but the last, those in half of them are computed, while the next ones are read into the other half.

        Args:
            choices: Of all rows: no more experts are asked for.
            experts: E.
        """
        surplus = min(choices, experts) - self.spare
        return 1 if not self.spare or surplus <= 0 else 1 + -(-surplus // max(self.spare // 2, 1))


def pool_of(settings: OffloadSettings, layers: Sequence[LayerNeed]) -> Pool:
    """Divides a budget.

    What a token asks for, and what is read in advance for it, fits into slots that no layer keeps. What more rows ask
    for passes through these in turns (`Pool.waves`). Where it does not (experts kept by Python: on GPUs, or without a
    compiler), a step that asks for all experts of a layer finds slots for them while all readers are busy with others
    and all that may be read in advance waits. That is why no budget is smaller: one least budget is for all machines.

    Raises:
        InvalidArgument: the experts of one layer do not fit.
    """
    largest = max(layer.experts for layer in layers)
    slot_bytes = max(layer.nbytes for layer in layers)
    everything = sum(layer.experts for layer in layers)
    slots = min(_budget(settings, layers) // slot_bytes, everything)
    if slots < largest:
        share = largest * slot_bytes / sum(layer.whole for layer in layers)
        raise InvalidArgument(
            f"experts.budget must hold the experts of one layer: {largest} of {show_bytes(slot_bytes)} are "
            f"{show_bytes(largest * slot_bytes)} ({share:.1%} of all), got {show_bytes(_budget(settings, layers))}",
            field="experts.budget",
        )
    if slots == everything:
        return Pool(slots, slot_bytes, tuple(layer.experts for layer in layers), 0)
    speculative = max(0, min(_share(settings, slots), slots - largest - settings.readers))
    top_k = max(layer.top_k for layer in layers)
    spare = min(largest, top_k + min(speculative, top_k))
    quotas = _quotas(settings, slots - spare, layers)
    return Pool(slots, slot_bytes, quotas, speculative)


def judged(settings: OffloadSettings, pool: Pool) -> bool:
    """Whether reading in advance is tried against not doing so: the ring is nothing else."""
    return pool.speculative > 0 and settings.policy != "ring"


def _budget(settings: OffloadSettings, layers: Sequence[LayerNeed]) -> int:
    match settings.budget:
        case Bytes(count):
            return count
        case Fraction(of_all):
            return round(of_all * sum(layer.whole for layer in layers))
        case Auto():
            raise Internal("the budget is settled before the experts are opened, got auto")
        case _:
            assert_never(settings.budget)


def _share(settings: OffloadSettings, slots: int) -> int:
    """Of speculation; the ring (SE-MoE, arXiv:2205.10034) is nothing else, and has all that no step needs."""
    if settings.prefetch == "none" or settings.speculation == 0:
        return 0
    return slots if settings.policy == "ring" else max(1, int(settings.speculation * slots))


def _quotas(settings: OffloadSettings, slots: int, layers: Sequence[LayerNeed]) -> tuple[int, ...]:
    experts = [layer.experts for layer in layers]
    if settings.policy == "ring":
        return (0,) * len(layers)
    match settings.shares:
        case "uniform":
            return uniform(slots, experts)
        case "shallow":
            return shallow(slots, experts)
        case "measured":
            return measured(slots, [layer.uses for layer in layers])
        case _:
            assert_never(settings.shares)
