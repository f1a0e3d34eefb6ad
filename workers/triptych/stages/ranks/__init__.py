"""KV transfers of a worker with several ranks.

Each rank sends and receives for itself, and rank 0 says what. ::

    DecoderStage ── Movers ── ReplicaKv (rank 0)
                                │ own pool                 RankKv ── KvReceiver, KvSender
                                │ RemoteRank ═ channel ═▶ ServedRank ── RankKv ── KvReceiver, KvSender (rank 1, …)

Orders are carried out as they come, also in the middle of a step: the KV of one chunk travels while the next one is
computed, and a lease has to be open when the other replica's first chunk comes.
"""

from triptych.stages.ranks.layout import KvLayout
from triptych.stages.ranks.rank import RankKv
from triptych.stages.ranks.remote import RemoteRank, remote_ranks
from triptych.stages.ranks.replica import ReplicaKv
from triptych.stages.ranks.served import ServedRank

__all__ = ["KvLayout", "RankKv", "RemoteRank", "ReplicaKv", "ServedRank", "remote_ranks"]
