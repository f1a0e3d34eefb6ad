"""When experts move."""

from collections.abc import Sequence
from dataclasses import dataclass

from triptych.core.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancePolicy:
    """What is worth a move. Balancedness is the mean load of a rank over the largest; 1 is best.

    Attributes:
        window: Steps whose loads count; also the least number of steps between two rebalances.
        threshold: Balancedness of a layer under which a rebalance begins.
        margin: It takes along the layers that are less than this above the threshold, which would soon be under it.
        gain: Of balancedness that a new placement must promise, on the loads of the window.
        rows: That a layer's experts must have had on average before their loads mean anything.
        nodes: Machines that the rows of expert ranks are on, equally many on each, in their order.
        patience: Seconds that ranks may take to prepare a layer; beyond that the move is given up.

    Raises:
        InvalidArgument: a field is out of range.
    """

    window: int = 1024
    threshold: float = 0.8
    margin: float = 0.1
    gain: float = 0.05
    rows: int = 32
    nodes: int = 1
    patience: float = 60.0

    def __post_init__(self) -> None:
        """Refuses what could never, or would always, move."""
        if self.window < 1:
            raise InvalidArgument(
                f"expert_balance.window must be at least 1, got {self.window}", field="expert_balance.window"
            )
        if not 0 <= self.threshold <= 1:
            raise InvalidArgument(
                f"expert_balance.threshold must be in [0, 1], got {self.threshold}", field="expert_balance.threshold"
            )

        if self.nodes < 1:
            raise InvalidArgument(
                f"expert_balance.nodes must be at least 1, got {self.nodes}", field="expert_balance.nodes"
            )

    @property
    def chunk(self) -> int:
        """Steps after which the ranks are asked for their loads."""
        return max(1, self.window // CHUNKS)

    def due(self, balancedness: Sequence[float], steps: int) -> tuple[int, ...]:
        """The layers to rebalance, the worst first.

        Args:
            balancedness: By layer, over the window; those of layers with too few rows are 1.
            steps: Since the last rebalance ended.
        """
        if steps < self.window or min(balancedness, default=1.0) >= self.threshold:
            return ()
        low = [layer for layer, value in enumerate(balancedness) if value < self.threshold + self.margin]
        return tuple(sorted(low, key=lambda layer: balancedness[layer]))


CHUNKS = 8
"""Pieces that a window slides by."""

DEFAULT_POLICY = BalancePolicy()
"""Where nothing is said."""
