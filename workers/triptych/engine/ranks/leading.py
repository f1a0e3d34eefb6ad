"""What runs the steps of rank 0's engine on all ranks, put together."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from triptych.engine.balance import open_balancer
from triptych.engine.batch_table import BatchTable
from triptych.engine.ranks.computer import RankComputer
from triptych.engine.ranks.leader import LeaderRunner
from triptych.models.decoder import Decoder
from triptych.parallel.balance import BalancePolicy
from triptych.parallel.channel import Hub

Lead: TypeAlias = Callable[[Decoder, Tensor, BatchTable], LeaderRunner]
"""Makes it of rank 0's decoder, its pool, and the tensors of the first lane's steps; the others' are alike."""


def leading(hub: Hub, policy: BalancePolicy) -> Lead:
    """Runs steps by way of a hub that has gathered all ranks.

    Args:
        hub: Reaches them.
        policy: When experts move among them.
    """

    def lead(decoder: Decoder, kv: Tensor, table: BatchTable) -> LeaderRunner:
        parallelism, blocks = decoder.mesh.parallelism, kv.shape[1]
        tables = (table, *(table.of_lane(lane * blocks) for lane in range(1, parallelism.lanes)))
        computer = RankComputer(decoder, kv, table.rows, table.sequences)
        return LeaderRunner(hub, computer, tables, parallelism, open_balancer(decoder, hub, policy))

    return lead
