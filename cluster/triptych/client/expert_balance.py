"""How even the loads of ranks are that divide experts."""

from dataclasses import dataclass

from triptych.stage.v1 import stage_pb2 as pb


@dataclass(frozen=True, slots=True)
class LayerBalance:
    """Of one layer: the mean load of a rank over the largest; 1 is best.

    Attributes:
        layer: Its number in the model.
        now: By the last loads, if the copies of an expert shared its rows equally; None before any has been counted.
        before: By the loads that decided its last move, as its experts were; None without a move.
        after: By the same loads, as they have been since.
    """

    layer: int
    now: float | None
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True)
class ExpertBalance:
    """Of one worker, since it started.

    Attributes:
        layers: Those with experts.
        moving: Whether a rebalance is under way.
        rebalances: That were begun.
        commits: Layers whose experts have moved.
        moved_experts: Read by a rank that did not have them, and `staged_bytes` their size.
        staging_us: Microseconds until every rank was ready, added up over the commits.
        given_up: Moves that a rank could not prepare, or not in time.
        slow_steps: With a commit before them, that took more than twice as long as the longest of those around them.
    """

    layers: tuple[LayerBalance, ...]
    moving: bool
    rebalances: int
    commits: int
    moved_experts: int
    staged_bytes: int
    staging_us: int
    given_up: int
    slow_steps: int


def balance_from_proto(message: pb.ExpertBalance) -> ExpertBalance:
    """What a worker has reported."""
    counts = {name: getattr(message, name) for name in ExpertBalance.__dataclass_fields__ if name != "layers"}
    return ExpertBalance(layers=tuple(_layer(layer) for layer in message.layers), **counts)


def _layer(message: pb.LayerBalance) -> LayerBalance:
    now = message.now if message.HasField("now") else None
    moved = message.HasField("before")
    before, after = (message.before, message.after) if moved else (None, None)
    return LayerBalance(message.layer, now, before, after)
