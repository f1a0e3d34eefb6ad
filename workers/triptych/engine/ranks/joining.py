"""How a process becomes a rank: it is invited, joins the group, loads its share, and follows."""

from dataclasses import dataclass, field

import torch

from triptych.engine.ranks.following import Following
from triptych.engine.ranks.readiness import ToldProgress
from triptych.engine.ranks.settings import RankSettings, Share
from triptych.parallel.channel import Member
from triptych.parallel.patience import PATIENCE
from triptych.parallel.rendezvous import Rendezvous, open_mesh


@dataclass(frozen=True, slots=True)
class Invitation:
    """What makes a process a rank of a group.

    Attributes:
        address: Rank 0's end of the channel.
        key: Opens it.
        rendezvous: Where the groups are made.
        rank: The process's own.
        settings: Of all ranks.
    """

    address: tuple[str, int]
    key: bytes = field(repr=False)
    rendezvous: Rendezvous
    rank: int
    settings: RankSettings


def follow(invitation: Invitation) -> None:
    """Joins the group, loads the rank's share, and computes until rank 0 says that it is over.

    Raises:
        RankLost: another rank is gone.
        TriptychError: the model cannot be loaded; rank 0 has been told.
    """
    settings = invitation.settings
    member = Member(invitation.address, invitation.key, invitation.rank)
    try:
        device = torch.device(settings.device)
        mesh = open_mesh(
            settings.parallelism, invitation.rank, invitation.rendezvous, patience=PATIENCE, device=device
        )
        member.on_lost(mesh.abort)
        share = Share.load(settings, mesh, ToldProgress(member.send))
        following = Following(member, mesh, share, share.pool(), settings.threads)
    except Exception as error:
        member.give_up(error)
        raise
    try:
        following.run()
    finally:
        following.close()
    member.close()
