"""A rank's part in moving experts."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from triptych.core.trace import Lane
from triptych.models.expert_share import ExpertShare, Held
from triptych.parallel import Mesh, Parallelism
from triptych.parallel.balance import (
    CommitLayer,
    DropLayer,
    LayerFailed,
    LayerStaged,
    Loads,
    Report,
    StageLayer,
    TakeLoads,
)

logger = logging.getLogger(__name__)


class _Ready(NamedTuple):
    move: int
    share: ExpertShare
    held: Held


class ExpertMover:
    """Does what rank 0 says of experts. Its handlers are called between two steps, on the thread that computes them.

    Args:
        shares: Of the layers with experts.
        mesh: The rank's.
        report: Takes what rank 0 is to hear; called on the thread of the handlers and on one in the background.
    """

    def __init__(self, shares: Sequence[ExpertShare], mesh: Mesh, report: Callable[[Report], None]) -> None:
        self._shares = shares
        self._recorder = mesh.recorder
        self._report = report
        self._thread = ThreadPoolExecutor(1, "experts")
        self._ready: _Ready | None = None
        if counts_rows(mesh.parallelism, mesh.rank):
            for share in (share for share in shares if share.placement.regular):
                device = share.replicas.slots.device
                share.counts = torch.zeros(share.placement.experts, dtype=torch.int64, device=device)

    @property
    def handlers(self) -> Mapping[type, Callable[[Any], None]]:
        """By the kind of message."""
        return {
            TakeLoads: lambda _: self.take_loads(),
            StageLayer: self.stage,
            CommitLayer: self.commit,
            DropLayer: lambda _: self.drop(),
        }

    def take_loads(self) -> None:
        """Reports what has been counted, and begins anew."""
        counted = [share.counts for share in self._shares if share.counts is not None]
        if counted:
            self._report(Loads(torch.stack(counted).cpu().numpy().astype(np.int64)))
        for counts in counted:
            counts.zero_()

    def stage(self, order: StageLayer) -> None:
        """Prepares a layer in the background."""
        self._thread.submit(self._stage, order)

    def commit(self, order: CommitLayer) -> None:
        """Computes with what was prepared from now on."""
        ready = self._ready
        assert ready is not None, "rank 0 commits what every rank has said is ready"
        assert ready.move == order.move, f"move {order.move} is to be committed, {ready.move} is ready"
        self._ready = None
        ready.share.commit(ready.held)

    def drop(self) -> None:
        """Forgets what was prepared."""
        self._ready = None

    def close(self) -> None:
        """Prepares nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _stage(self, order: StageLayer) -> None:
        started = time.monotonic()
        share = self._shares[order.layer]
        try:
            staged = share.stage(order.placement)
        except Exception as error:
            logger.warning("cannot read the experts of layer %d", share.layer, exc_info=True)
            self._report(LayerFailed(order.move, f"{type(error).__name__}: {error}"))
            return
        self._ready = _Ready(order.move, share, staged.held)
        ended = time.monotonic()
        seconds = ended - started
        if (recording := self._recorder.recording) is not None:
            name = f"{staged.experts} experts of layer {share.layer}"
            recording.add(Lane.WEIGHT_PREFETCH, name, started, ended, staged.read_bytes)
        self._report(LayerStaged(order.move, staged.experts, staged.read_bytes, seconds))


def counts_rows(parallelism: Parallelism, rank: int) -> bool:
    """Whether a rank counts: those that divide an expert's matrices among themselves all see the same rows."""
    return parallelism.position(rank).tensor == 0
