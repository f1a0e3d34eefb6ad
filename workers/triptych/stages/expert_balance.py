"""The balance of a worker's experts, as it is reported."""

from triptych.parallel.balance import Balance, LayerBalance
from triptych.stage.v1 import stage_pb2 as pb


def balance_to_proto(balance: Balance) -> pb.ExpertBalance:
    """The message."""
    return pb.ExpertBalance(
        layers=map(_layer, balance.layers),
        moving=balance.moving,
        rebalances=balance.rebalances,
        commits=balance.commits,
        moved_experts=balance.moved_experts,
        staged_bytes=balance.staged_bytes,
        staging_us=round(balance.staging_seconds * 1e6),
        given_up=balance.given_up,
        slow_steps=balance.slow_steps,
    )


def _layer(layer: LayerBalance) -> pb.LayerBalance:
    return pb.LayerBalance(layer=layer.layer, now=layer.now, before=layer.before, after=layer.after)
