"""What of each dimension one rank has: the answer that its spec and its slices of weights are made of. Pure."""

from dataclasses import dataclass

from triptych.core.errors import InvalidArgument
from triptych.models.sharding.heads import HeadShard, head_shards
from triptych.models.sharding.intervals import Interval, shares
from triptych.models.spec import AttentionSpec, DecoderSpec, LatentAttentionSpec
from triptych.parallel import Parallelism


@dataclass(frozen=True, slots=True)
class Division:
    """The place of one rank among those that divide a model.

    Attributes:
        parallelism: Of the replica.
        rank: Among all its ranks.
        block: Elements of a row of a feed-forward block's last matrix that are packed together.
    """

    parallelism: Parallelism
    rank: int
    block: int = 1

    @property
    def lane_rank(self) -> int:
        """Among those that divide heads, vocabulary, and the matrices that every token goes through."""
        return self.rank % self.parallelism.attention_size

    @property
    def row_rank(self) -> int:
        """Among those that divide the matrices of experts."""
        return self.parallelism.position(self.rank).tensor

    def heads(self, attention: AttentionSpec | LatentAttentionSpec) -> HeadShard:
        """Its heads of a layer."""
        return head_shards(attention, self.parallelism.attention_size)[self.lane_rank]

    def width(self, total: int) -> Interval:
        """Its part of the width of a feed-forward block that every token goes through."""
        return _share(total, self.parallelism.attention_size, self.block, "intermediate_size")[self.lane_rank]

    def expert_width(self, total: int) -> Interval:
        """Its part of the width of every expert."""
        return _share(total, self.parallelism.tensor, self.block, "intermediate_size of experts")[self.row_rank]

    def vocabulary(self, spec: DecoderSpec) -> Interval:
        """The tokens whose rows of embedding and head it has."""
        return vocabulary(spec, self.parallelism.attention_size)[self.lane_rank]


def vocabulary(spec: DecoderSpec, parts: int) -> tuple[Interval, ...]:
    """The tokens whose logits each rank of a lane computes.

    Raises:
        InvalidArgument: there are more ranks than tokens.
    """
    return _share(spec.vocab_size, parts, 1, "vocab_size")


def _share(total: int, parts: int, block: int, what: str) -> tuple[Interval, ...]:
    if parts > total:
        raise InvalidArgument(
            f"at most {total} ranks can divide {what} {total}, got {parts}; lower tensor_parallel",
            field="tensor_parallel",
        )
    return shares(total, parts, block)
