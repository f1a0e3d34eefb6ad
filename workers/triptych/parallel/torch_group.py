"""Groups over torch.distributed: gloo between processes on CPU, nccl between GPUs."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

from triptych.core.trace import Lane, Recorder
from triptych.parallel.lost import RankLost
from triptych.parallel.standing import Standing
from triptych.parallel.traffic import SMALL_BYTES, Collective, Traffic, sent_by_all_reduce

_LOOK: Final = timedelta(milliseconds=20)
"""How often a call that waits looks whether the group has been given up: gloo itself cannot be interrupted."""

_SHORT: Final = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class TorchGroup:
    """A process group of torch; see `Group`.

    Attributes:
        device: For tensors of the ranks' device.
        host: For tensors in main memory; with gloo the same.
        ranks: Who is in it, as the replica numbers them.
        standing: Shared by all groups of this rank: what ends one of them ends all.
        recorder: Of what this rank does.
        traffic: What has been sent so far.
    """

    device: dist.ProcessGroup
    host: dist.ProcessGroup
    ranks: tuple[int, ...]
    standing: Standing
    recorder: Recorder
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def rank(self) -> int:
        """See `Group.rank`."""
        return self.host.rank()

    @property
    def size(self) -> int:
        """See `Group.size`."""
        return len(self.ranks)

    def counted_apart(self) -> "TorchGroup":
        """The same group with a count of its own."""
        return replace(self, traffic=Traffic())

    def all_reduce(self, x: Tensor) -> None:
        """See `Group.all_reduce`.

        Bits are equal everywhere: of a large tensor one rank sums a part up and the others copy it; a small one is
        summed up by all in the order of the ranks, so that its sum does not depend on what else is in the tensor.
        """
        if x.is_cpu and x.nbytes <= SMALL_BYTES:
            gathered = x.new_empty((self.size, *x.shape))
            self._finish(self._for(x)._allgather_base(gathered.view(-1), x.reshape(-1)), x, "all_reduce")
            sum_in_order(gathered, x)
        else:
            self._finish(self._for(x).allreduce([x]), x, "all_reduce")
        self.traffic.count("all_reduce", sent_by_all_reduce(x.nbytes, self.size))

    def all_gather(self, x: Tensor, out: Tensor) -> None:
        """See `Group.all_gather`."""
        self._finish(self._for(x)._allgather_base(out.view(-1), x.reshape(-1)), x, "all_gather")
        self.traffic.count("all_gather", x.nbytes * (self.size - 1))

    def all_to_all(self, x: Tensor, sent: Sequence[int], out: Tensor, received: Sequence[int]) -> None:
        """See `Group.all_to_all`."""
        self._finish(self._for(x).alltoall_base(out, x, list(received), list(sent)), x, "all_to_all")
        self.traffic.count("all_to_all", x[:1].nbytes * (sum(sent) - sent[self.rank]))

    def check(self) -> None:
        """See `Group.check`."""
        self.standing.check_enqueued()

    def abort(self, reason: RankLost | None = None) -> None:
        """See `Group.abort`."""
        self.standing.end(reason or RankLost("the group was given up"))
        if self.device is not self.host:  # nccl's kernels would wait for ever; so may the call that ends them
            threading.Thread(target=self.device.abort, daemon=True, name="nccl-abort").start()

    def _for(self, x: Tensor) -> dist.ProcessGroup:
        self.standing.check()
        return self.host if x.is_cpu else self.device

    def _finish(self, work: dist.Work, x: Tensor, what: Collective) -> None:
        if (recording := self.recorder.recording) is None:
            self._join(work, x, what)
        else:
            started = time.monotonic()
            self._join(work, x, what)
            recording.add(Lane.COLLECTIVES, what, started, time.monotonic(), x.nbytes)

    def _join(self, work: dist.Work, x: Tensor, what: Collective) -> None:
        """Waits for the result; on a GPU only the stream does."""
        try:
            if x.is_cpu:
                self._wait(work)
            else:
                self.standing.enqueued()
                work.wait()
        except RuntimeError as error:  # all that torch raises when a peer is gone or late
            raise self.standing.end(RankLost(f"{what} of ranks {list(self.ranks)}: {_plain(error)}")) from error

    def _wait(self, work: dist.Work) -> None:
        while True:
            try:
                work.wait(_LOOK)
                return
            except RuntimeError:
                if work.is_completed():
                    work.wait()  # has a result by now, or an error of its own
                    return
                if self.standing.lost:
                    _leave(work, self.host)
                    raise self.standing.lost from None


def sum_in_order(parts: Sequence[Tensor] | Tensor, out: Tensor) -> None:
    """Adds parts [ranks, ...] up into out [...], the first first; numbers of 16 bits in float32, rounded once."""
    total = parts[0].to(torch.float32 if out.dtype in _SHORT else out.dtype, copy=True)
    for part in parts[1:]:
        total += part
    out.copy_(total)


def _leave(work: dist.Work, group: dist.ProcessGroup) -> None:
    """Keeps a group until gloo has given up its last call: destroying it earlier would block all threads."""

    def wait(work: dist.Work, group: dist.ProcessGroup) -> None:
        with suppress(RuntimeError):
            work.wait()

    threading.Thread(target=wait, args=(work, group), daemon=True, name="abandoned-collective").start()


def _plain(error: RuntimeError) -> str:
    text = str(error)
    if "Timed out" in text:
        return "another rank has not come in time"
    if "closed by peer" in text or "reset by peer" in text or "Broken pipe" in text:
        return "the process of another rank has ended"
    return text
