"""One model divided among ranks: what is cut where, and how weights are read by slice.

intervals   contiguous parts of a dimension
heads       which attention heads each rank has
division    what of each dimension one rank has
local       that part as a spec of its own
cuts        what of every tensor that is
slices      weights of every form, cut
reads       where in its file a part lies
dividing    from a whole model's parameters to those of one rank
reduced     where the parts meet: blocks, embedding, head
norms       norms over whole projections, whose heads are divided
traffic     the bytes that a step sends between ranks
"""

from triptych.models.sharding.cuts import Absent, Columns, Cut, Cuts, Rows, cuts
from triptych.models.sharding.division import vocabulary
from triptych.models.sharding.heads import HeadShard, head_shards, kv_heads
from triptych.models.sharding.intervals import Interval, intervals, shares
from triptych.models.sharding.local import local_spec

__all__ = [
    "Absent",
    "Columns",
    "Cut",
    "Cuts",
    "HeadShard",
    "Interval",
    "Rows",
    "cuts",
    "head_shards",
    "intervals",
    "kv_heads",
    "local_spec",
    "shares",
    "vocabulary",
]
