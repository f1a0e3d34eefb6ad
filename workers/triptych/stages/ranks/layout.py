"""Which rank of a replica holds what. Pure."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from triptych.core.errors import Internal
from triptych.models.sharding import kv_heads
from triptych.models.spec import DecoderSpec
from triptych.parallel import Parallelism
from triptych.stages.ranks.messages import Share
from triptych.transfer import Endpoint, Heads, PoolGeometry, head_plan


def heads_of(spec: DecoderSpec, parallelism: Parallelism) -> tuple[Heads, ...]:
    """KV heads in the pool of each rank of a lane.

    Raises:
        InvalidArgument: there are more ranks than query heads.
    """
    return tuple(Heads(held.start, held.size) for held in kv_heads(spec, parallelism))


def geometry_of(shape: tuple[int, int, int, int, int, int], itemsize: int, heads: Heads) -> PoolGeometry:
    """A rank's pool as its peers see it.

    Args:
        shape: [layer, block, side, kv_head, token, dim].
        itemsize: Bytes of an element.
        heads: Those of the model that the pool has.
    """
    layers, blocks, sides, *page = shape
    return PoolGeometry(layers, blocks, sides * math.prod(page) * itemsize, heads, sides)


@dataclass(frozen=True, slots=True)
class KvLayout:
    """Ranks, lane by lane. The ranks of a lane hold the same blocks, each some of their heads.

    Attributes:
        heads: KV heads of the model in the pool of each rank of a lane; the same in all lanes.
        blocks: Blocks of one rank's pool. Block b of lane l is known to the scheduler as l * blocks + b.
        endpoints: Where each rank can be reached.
    """

    heads: tuple[Heads, ...]
    blocks: int
    endpoints: tuple[Endpoint, ...]

    def ranks(self, block_ids: Sequence[int]) -> range:
        """The ranks that hold some blocks.

        Raises:
            Internal: they lie in two lanes.
        """
        lanes = {block // self.blocks for block in block_ids}
        if len(lanes) != 1:
            raise Internal(f"blocks of one sequence must lie in one lane, got lanes {sorted(lanes)}")
        first = lanes.pop() * len(self.heads)
        return range(first, first + len(self.heads))

    def in_pool(self, block_ids: Sequence[int]) -> tuple[int, ...]:
        """The blocks as the pool of their ranks numbers them."""
        return tuple(block % self.blocks for block in block_ids)

    def taking(self, block_ids: Sequence[int]) -> tuple[Share, ...]:
        """Where each part of some blocks can be sent to."""
        return tuple(
            Share(self.endpoints[rank], heads) for rank, heads in zip(self.ranks(block_ids), self.heads, strict=True)
        )

    def sending(self, ticket_id: str, wanted: Sequence[Share]) -> dict[int, tuple[Share, ...]]:
        """What each rank of a lane sends, by its number in the lane; who has nothing to send is left out.

        Raises:
            FailedPrecondition: a head is wanted that the model does not have.
        """
        moves = head_plan(self.heads, [share.heads for share in wanted], zlib.crc32(ticket_id.encode()))
        shares: dict[int, tuple[Share, ...]] = {}
        for move in moves:
            share = Share(wanted[move.receiver].endpoint, move.heads)
            shares[move.sender] = (*shares.get(move.sender, ()), share)
        return shares

    @property
    def all_heads(self) -> Heads:
        """Of the model."""
        return Heads(0, max(heads.end for heads in self.heads))
