"""A rank other than rank 0, put together: what it computes, and what else it can be asked for."""

from torch import Tensor

from triptych.engine.balance import ExpertMover
from triptych.engine.ranks.follower import Follower
from triptych.engine.ranks.seeing import FollowerEyes
from triptych.engine.ranks.settings import Share
from triptych.engine.ranks.tracing import TracingRank
from triptych.parallel import Mesh
from triptych.parallel.channel import Member


class Following:
    """Computes steps; between two of them it moves experts, takes images, and records what it does.

    Args:
        member: The rank's end of the channel.
        mesh: Its groups.
        share: What it has of the model.
        kv: Its pool.
        threads: Of its vision tower.
    """

    def __init__(self, member: Member, mesh: Mesh, share: Share, kv: Tensor, threads: int) -> None:
        self._share = share
        self._mover = ExpertMover(share.model.decoder.shares, mesh, member.send)
        self._eyes = FollowerEyes(share.eyes, threads, member.send)
        tracing = TracingRank(mesh.recorder, member.send)
        handlers = {**self._mover.handlers, **self._eyes.handlers, **tracing.handlers}
        self._follower = Follower(member, share.computer(kv), share.mirror(), handlers)

    def run(self) -> None:
        """See `Follower.run`."""
        self._follower.run()

    def close(self) -> None:
        """Ends what runs beside the steps, and what keeps experts."""
        self._mover.close()
        self._eyes.close()
        self._share.close()
