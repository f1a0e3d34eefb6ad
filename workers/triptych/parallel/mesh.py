"""The ranks of a replica as a grid: who shares matrices with whom, who shares experts, who shares sequences. Pure.

Ranks are numbered row by row over [expert][tensor]. The ranks of a row (`tensor`) divide each matrix, also those of
experts; the ranks of a column (`expert`) divide the experts. What attention makes of the columns is a choice:

    data      each row has sequences and a KV pool of its own, a lane; tokens travel to the experts' owners and back
    tensor    all ranks divide the heads of the same sequences among themselves
"""

from dataclasses import dataclass
from typing import Literal, get_args

from triptych.core.errors import InvalidArgument

AttentionParallelism = Literal["data", "tensor"]

Payload = Literal["plain", "int8", "fp8"]
"""The form of rows on their way to experts and back: their own, or eight bits with one scale per row."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a rank stands.

    Attributes:
        expert: Its row: which share of the experts it has.
        tensor: Its column: which share of every matrix it has.
    """

    expert: int
    tensor: int


@dataclass(frozen=True, slots=True)
class Parallelism:
    """How the ranks of one replica divide a model.

    Attributes:
        tensor: Ranks that divide a matrix.
        expert: Ranks that divide the experts of a layer.
        attention: What attention makes of the ranks that divide the experts.
        payload: What rows travel to their experts as.
        redundant: Slots that a layer has beyond one for each of its experts, for further copies of those in demand.

    Raises:
        InvalidArgument: a size is below 1, a form is none of the above, or there are further copies of experts that
            nobody divides.
    """

    tensor: int = 1
    expert: int = 1
    attention: AttentionParallelism = "data"
    payload: Payload = "plain"
    redundant: int = 0

    def __post_init__(self) -> None:
        """Refuses sizes that nothing can be divided by."""
        for field, size in (("tensor_parallel", self.tensor), ("expert_parallel", self.expert)):
            if size < 1:
                raise InvalidArgument(f"{field} must be at least 1, got {size}", field=field)
        for field, form, forms in (
            ("attention_parallel", self.attention, get_args(AttentionParallelism)),
            ("expert_payload", self.payload, get_args(Payload)),
        ):
            if form not in forms:
                raise InvalidArgument(f"{field} must be one of {', '.join(forms)}, got {form!r}", field=field)
        if self.redundant < 0 or (self.redundant and self.expert == 1):
            raise InvalidArgument(
                f"redundant_experts must be 0, or above with expert_parallel above 1; got {self.redundant}",
                field="redundant_experts",
            )

    @property
    def size(self) -> int:
        """Ranks of the replica."""
        return self.tensor * self.expert

    @property
    def lanes(self) -> int:
        """Groups of ranks with sequences and a KV pool of their own."""
        return self.expert if self.attention == "data" else 1

    @property
    def attention_size(self) -> int:
        """Ranks that divide the heads, the vocabulary and the matrices that every token goes through."""
        return self.size // self.lanes

    def position(self, rank: int) -> Position:
        """Where a rank stands."""
        return Position(*divmod(rank, self.tensor))

    def lane(self, rank: int) -> int:
        """Whose sequences a rank computes."""
        return rank // self.attention_size

    def tensor_ranks(self, rank: int) -> tuple[int, ...]:
        """The ranks that divide the matrices of experts with it."""
        first = self.position(rank).expert * self.tensor
        return tuple(range(first, first + self.tensor))

    def expert_ranks(self, rank: int) -> tuple[int, ...]:
        """The ranks that divide the experts with it."""
        return tuple(range(self.position(rank).tensor, self.size, self.tensor))

    def attention_ranks(self, rank: int) -> tuple[int, ...]:
        """The ranks of its lane."""
        first = self.lane(rank) * self.attention_size
        return tuple(range(first, first + self.attention_size))


ALONE = Parallelism()
"""One rank that has everything."""
