"""Many ranks, one model: process groups, the grid of ranks, what divides what among them.

mesh         the grid of ranks, and which of them belong together: pure
group        what the model calls: all_reduce, all_gather, all_to_all
rendezvous   how the ranks of one attempt meet, and no others
traffic      what they have sent
patience     how long they wait for each other
balance      which experts belong where, by what they had to do
channel      what rank 0 and its followers tell each other, and who is alive
"""

from triptych.parallel.group import Group, Mesh, Solo
from triptych.parallel.lost import RankLost
from triptych.parallel.mesh import ALONE, AttentionParallelism, Parallelism, Payload, Position
from triptych.parallel.traffic import Traffic

__all__ = [
    "ALONE",
    "AttentionParallelism",
    "Group",
    "Mesh",
    "Parallelism",
    "Payload",
    "Position",
    "RankLost",
    "Solo",
    "Traffic",
]
