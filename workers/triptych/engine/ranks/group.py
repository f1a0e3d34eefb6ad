"""All ranks of a replica on this host: rank 0 here, the others as child processes."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Protocol

import torch
from torch import Tensor

from triptych.engine.batch_table import BatchTable
from triptych.engine.ranks.joining import Invitation
from triptych.engine.ranks.leader import LeaderRunner
from triptych.engine.ranks.leading import leading
from triptych.engine.ranks.messages import Stop
from triptych.engine.ranks.processes import RankProcesses
from triptych.engine.ranks.readiness import Readiness
from triptych.engine.ranks.seeing import DividedEyes
from triptych.engine.ranks.settings import RankSettings, Share
from triptych.models.decoder import Decoder
from triptych.models.progress import SILENT, Progress
from triptych.parallel import Mesh, RankLost
from triptych.parallel.channel import Hub
from triptych.parallel.patience import PATIENCE, SILENCE
from triptych.parallel.rendezvous import Host, open_mesh

_START = 60.0
"""Seconds that a process may take to start Python and to import what it needs."""


class Followers(Protocol):
    """What runs ranks 1 and up."""

    @property
    def pids(self) -> tuple[int, ...]:
        """Their processes."""

    def join(self) -> None:
        """Waits for their end; they have been told."""

    def kill(self) -> None:
        """Ends them at once, and waits until they are gone."""


StartFollowers = Callable[[Sequence[Invitation], Callable[[str], object]], Followers]
"""Starts a follower for each invitation; what it is given besides is told how one has ended before its time."""


class RankGroup:
    """One generation of ranks: as soon as one of them is lost, all of it is to be killed and opened anew.

    Args:
        settings: Of all ranks.
        progress: Hears of rank 0's loading.
        start: Starts the others.

    Attributes:
        share: What rank 0 has of the model.
        eyes: Has images encoded on all ranks.

    Raises:
        RankLost: a rank has not come, or could not load its share; the error of that rank is its cause.
        TriptychError: rank 0 could not load its own.
    """

    def __init__(
        self, settings: RankSettings, progress: Progress = SILENT, start: StartFollowers = RankProcesses
    ) -> None:
        self._balance = settings.balance
        self._hub = Hub(settings.parallelism.size, patience=SILENCE)
        self.eyes = DividedEyes(self._hub, settings.parallelism.size)
        self._host = Host()
        self._mesh: Mesh | None = None
        self._runner: LeaderRunner | None = None
        self._share: Share | None = None
        hub, rendezvous = self._hub, self._host.rendezvous
        invitations = [
            Invitation(hub.address, hub.key, rendezvous, rank, settings.of_rank(rank))
            for rank in range(1, settings.parallelism.size)
        ]
        self._followers = start(invitations, lambda how: hub.blame(RankLost(how)))
        try:
            self.share = self._open(settings.of_rank(0), progress)
        except RankLost as lost:
            reason = self._hub.blame(lost)
            self.kill()
            raise reason from reason.__cause__
        except BaseException:
            self.kill()
            raise

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes of ranks 1 and up."""
        return self._followers.pids

    def runner(self, decoder: Decoder, kv: Tensor, table: BatchTable) -> LeaderRunner:
        """Rank 0's end of every step; `table` is the first lane's, and those of the others are alike."""
        self._runner = leading(self._hub, self._balance)(decoder, kv, table)
        return self._runner

    def close(self) -> None:
        """Ends all ranks in good order."""
        with suppress(RankLost):
            self._hub.send(Stop())
            self._followers.join()
        self.kill()

    def kill(self) -> None:
        """Ends what is left of it, at once."""
        self._hub.close()
        self._followers.kill()
        if self._mesh is not None:
            self._mesh.abort()
        if self._runner is not None:
            self._runner.close()
        if self._share is not None:  # nobody computes with it any more
            self._share.close()

    def _open(self, settings: RankSettings, progress: Progress) -> Share:
        """Gathers all ranks, and loads while the others do."""
        ready = Readiness(self._hub, settings.parallelism.size)
        self._hub.gather(_START)
        device = torch.device(settings.device)
        self._mesh = mesh = open_mesh(
            settings.parallelism, 0, self._host.rendezvous, patience=PATIENCE, device=device
        )
        self._hub.on_lost(mesh.abort)
        began = monotonic()
        self._share = share = Share.load(settings, mesh, progress)
        ready.wait(began)
        return share
