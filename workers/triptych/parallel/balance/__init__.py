"""Expert balance: which rank has which experts, so that no rank waits long for another.

packing     the two greedy steps
rebalance   where experts should be, by what they had to do
placement   where they are
moves       what to read to get from one placement to another
replicas    which copy a row goes to: the only part that touches tensors
window      what experts had to do in the last steps
policy      when they move
director    rank 0's part in it: asks for loads, plans, has a layer prepared, commits
messages    what rank 0 and the others say to each other
record      what there is to see of it
watch       steps that a commit made slow
"""

from triptych.parallel.balance.director import Director, Planner, balanced
from triptych.parallel.balance.messages import (
    CommitLayer,
    Counts,
    DropLayer,
    LayerFailed,
    LayerStaged,
    Loads,
    Order,
    Report,
    StageLayer,
    TakeLoads,
)
from triptych.parallel.balance.moves import Move, moves, settle
from triptych.parallel.balance.packing import pack, replicate
from triptych.parallel.balance.placement import Placement
from triptych.parallel.balance.policy import DEFAULT_POLICY, BalancePolicy
from triptych.parallel.balance.rebalance import rebalance, rebalance_layer
from triptych.parallel.balance.record import Balance, LayerBalance
from triptych.parallel.balance.replicas import Replicas
from triptych.parallel.balance.watch import StepWatch

__all__ = [
    "DEFAULT_POLICY",
    "Balance",
    "BalancePolicy",
    "CommitLayer",
    "Counts",
    "Director",
    "DropLayer",
    "LayerBalance",
    "LayerFailed",
    "LayerStaged",
    "Loads",
    "Move",
    "Order",
    "Placement",
    "Planner",
    "Replicas",
    "Report",
    "StageLayer",
    "StepWatch",
    "TakeLoads",
    "balanced",
    "moves",
    "pack",
    "rebalance",
    "rebalance_layer",
    "replicate",
    "settle",
]
