"""How balanced the experts of a replica are, and what has been done about it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from triptych.parallel.balance.messages import LayerStaged


@dataclass(frozen=True, slots=True)
class LayerBalance:
    """Of one layer. Balancedness is the mean load of a rank over the largest; 1 is best.

    Attributes:
        layer: Its number in the model.
        now: By the last loads, if the copies of an expert shared its rows equally; None before any has been counted.
        before: By the loads that the layer's last move was decided by, as the experts were; None without a move.
        after: By the same loads, as they have been since.
    """

    layer: int
    now: float | None = None
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """Of a replica, since it started.

    Attributes:
        layers: Those with experts.
        moving: Whether a rebalance is under way.
        rebalances: Begun: rounds in which at least one layer was looked at.
        commits: Layers whose experts have moved.
        moved_experts: Read by a rank that did not have them.
        staged_bytes: Their size.
        staging_seconds: Of the slowest rank, added up over the commits.
        given_up: Moves that a rank could not prepare, or not in time.
        slow_steps: With a commit before them, that took more than twice as long as the longest of those around them.
    """

    layers: tuple[LayerBalance, ...]
    moving: bool = False
    rebalances: int = 0
    commits: int = 0
    moved_experts: int = 0
    staged_bytes: int = 0
    staging_seconds: float = 0.0
    given_up: int = 0
    slow_steps: int = 0

    def with_now(self, balancedness: Sequence[float | None]) -> "Balance":
        """After new loads; `balancedness` by layer, None where there was no load."""
        layers = zip(self.layers, balancedness, strict=True)
        return replace(self, layers=tuple(replace(layer, now=value) for layer, value in layers))

    def with_staged(self, staged: LayerStaged) -> "Balance":
        """After a rank has prepared a layer."""
        return replace(
            self,
            moved_experts=self.moved_experts + staged.experts,
            staged_bytes=self.staged_bytes + staged.read_bytes,
        )

    def with_commit(self, layer: int, before: float, after: float, seconds: float) -> "Balance":
        """After the experts of the layer at this place have moved."""
        layers = list(self.layers)
        layers[layer] = replace(layers[layer], now=after, before=before, after=after)
        return replace(
            self,
            layers=tuple(layers),
            commits=self.commits + 1,
            staging_seconds=self.staging_seconds + seconds,
        )
