"""The shape of a KV pool, as two peers compare it. Pure."""

from dataclasses import dataclass

from triptych.core.errors import InvalidArgument
from triptych.transfer.heads import Heads

ONE_HEAD = Heads(0, 1)


@dataclass(frozen=True, slots=True)
class PoolGeometry:
    """Shape of a pool `[layer, block, page]`; a page `[side, head]` is what a layer keeps of the tokens of a block.

    Attributes:
        layers: Layers of the model.
        blocks: Blocks of the pool.
        page_bytes: Bytes of one page.
        heads: KV heads of the model that the pool holds.
        sides: 2 for keys and values, 1 for the vectors that latent attention makes both of.
    """

    layers: int
    blocks: int
    page_bytes: int
    heads: Heads = ONE_HEAD
    sides: int = 1

    def __post_init__(self) -> None:
        for field in ("layers", "blocks", "page_bytes", "sides"):
            if getattr(self, field) <= 0:
                raise InvalidArgument(
                    f"{field} of a KV pool must be positive, got {getattr(self, field)}", field=field
                )
        if self.page_bytes % (self.sides * self.heads.count):
            raise InvalidArgument(
                f"{self.page_bytes} bytes of a page are not {self.sides} x {self.heads.count} heads alike",
                field="page_bytes",
            )

    def __str__(self) -> str:
        return (
            f"{self.layers} layers of {self.page_bytes} byte pages "
            f"({self.sides} x {self.heads.count} heads of {self.head_bytes} bytes)"
        )

    @property
    def size(self) -> int:
        """Bytes of the pool."""
        return self.layers * self.blocks * self.page_bytes

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers."""
        return self.layers * self.page_bytes

    @property
    def head_bytes(self) -> int:
        """Bytes of one head on one side of a page."""
        return self.page_bytes // (self.sides * self.heads.count)

    def slice_bytes(self, heads: Heads) -> int:
        """Bytes of some heads of one block over all layers."""
        return self.layers * self.sides * heads.count * self.head_bytes

    def matches(self, other: "PoolGeometry") -> bool:
        """Whether a head of one pool is a head of the other: the ranks may hold different ones, and more or fewer."""
        mine, theirs = (self.layers, self.sides, self.head_bytes), (other.layers, other.sides, other.head_bytes)
        return mine == theirs
