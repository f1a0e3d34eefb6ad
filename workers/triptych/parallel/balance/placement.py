"""Where the experts of a layer are."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

from triptych.core.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Placement:
    """Which expert is in which slot, of one layer. Slots are numbered over all ranks, in the order of the ranks.

    Attributes:
        slots: By rank, the expert in each of its slots. Every expert is in one at least.
    """

    slots: tuple[tuple[int, ...], ...]

    @classmethod
    def even(cls, experts: int, ranks: int, redundant: int = 0) -> "Placement":
        """Before anything is known of their load: in order, and the further copies are of the first experts.

        Args:
            experts: E.
            ranks: Among which they are divided, the first getting one more where that does not come out even.
            redundant: Slots beyond E; then the slots must come out even.

        Raises:
            InvalidArgument: they do not, or a rank would have none.
        """
        total = experts + redundant
        if experts < ranks:
            raise InvalidArgument(
                f"expert_parallel must be at most the {experts} experts of a layer, got {ranks}",
                field="expert_parallel",
            )
        if redundant < 0 or (redundant and total % ranks):
            fewest = -experts % ranks
            raise InvalidArgument(
                f"redundant_experts must give {ranks} ranks equally many slots, beside {experts} experts: "
                f"{fewest}, {fewest + ranks}, {fewest + 2 * ranks} and so on, got {redundant}",
                field="redundant_experts",
            )
        numbers = [slot % experts for slot in range(total)]
        sizes = [total // ranks + (rank < total % ranks) for rank in range(ranks)]
        ends = list(accumulate(sizes))
        return cls(tuple(tuple(numbers[end - size : end]) for size, end in zip(sizes, ends, strict=True)))

    @property
    def experts(self) -> int:
        """E."""
        return len(self.copies())

    @property
    def ranks(self) -> int:
        """Among which the slots are divided."""
        return len(self.slots)

    @property
    def bounds(self) -> tuple[int, ...]:
        """[ranks + 1], the number of each rank's first slot, and how many slots there are."""
        return tuple(accumulate(map(len, self.slots), initial=0))

    @property
    def regular(self) -> bool:
        """Whether every rank has equally many slots; only then can they be balanced."""
        return len(set(map(len, self.slots))) == 1

    @property
    def by_slot(self) -> tuple[int, ...]:
        """The expert in every slot."""
        return tuple(chain.from_iterable(self.slots))

    def copies(self) -> Counter[int]:
        """How many slots each expert is in."""
        return Counter(self.by_slot)

    def rank_loads(self, weights: Sequence[float]) -> tuple[float, ...]:
        """What each rank has to do if the copies of an expert [E] share its load equally."""
        copies = self.copies()
        return tuple(sum(weights[expert] / copies[expert] for expert in rank) for rank in self.slots)

    def balancedness(self, weights: Sequence[float]) -> float:
        """Mean over largest load of a rank, in (0, 1]: the part of the time that a rank does not wait for another."""
        loads = self.rank_loads(weights)
        return sum(loads) / len(loads) / max(loads) if max(loads) > 0 else 1.0
