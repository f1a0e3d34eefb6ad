"""Groups of ranks that compute on a device: what goes to nccl, what to gloo. No GPU: both are played."""

import os
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store

from triptych.core.trace import Recorder
from triptych.parallel import Group, RankLost
from triptych.parallel.backends import Backends, own_address
from triptych.parallel.standing import Standing
from triptych.parallel.torch_group import TorchGroup

META = torch.device("meta")
"""Stands for a GPU: its tensors are not in main memory, and nobody can read them."""


@dataclass
class Played:
    """A process group that writes down what it is asked for, and has it done at once."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    waits: list[tuple[object, ...]] = field(default_factory=list)
    aborted: threading.Event = field(default_factory=threading.Event)
    failure: str = ""

    def rank(self) -> int:
        return 1

    def allreduce(self, tensors: list[torch.Tensor]) -> "Played":
        return self._note("allreduce", *tensors)

    def _allgather_base(self, out: torch.Tensor, x: torch.Tensor) -> "Played":
        return self._note("allgather", tuple(out.shape), tuple(x.shape))

    def alltoall_base(self, out: torch.Tensor, x: torch.Tensor, received: list[int], sent: list[int]) -> "Played":
        return self._note("alltoall", tuple(out.shape), tuple(x.shape), received, sent)

    def abort(self) -> None:
        self.aborted.set()

    def wait(self, *within: object) -> None:
        self.waits.append(within)
        if self.failure:
            raise RuntimeError(self.failure)

    def is_completed(self) -> bool:
        return True

    def _note(self, *call: Any) -> "Played":
        self.calls.append(call)
        return self


class Pair:
    """The second of three ranks, with a group for its device and one for main memory."""

    def __init__(self) -> None:
        self.now = 0.0
        self.device, self.host, self.standing = Played(), Played(), Standing(15.0, lambda: self.now)
        groups: tuple[Any, Any] = self.device, self.host
        self.group = TorchGroup(*groups, (4, 5, 6), self.standing, Recorder())


@pytest.fixture
def pair() -> Pair:
    return Pair()


def everything(group: Group, where: torch.device) -> None:
    x = torch.zeros(3, 4, device=where)
    group.all_reduce(torch.zeros(1 << 15, device=where))
    group.all_gather(x, torch.zeros(3, 3, 4, device=where))
    group.all_to_all(x, [1, 2, 0], torch.zeros(5, 4, device=where), [0, 2, 3])


@pytest.mark.parametrize("where", [META, torch.device("cpu")], ids=["device", "main-memory"])
def test_tensors_go_to_the_group_of_where_they_are(pair: Pair, where: torch.device) -> None:
    everything(pair.group, where)
    asked, other = (pair.device, pair.host) if where == META else (pair.host, pair.device)
    assert [call[0] for call in asked.calls] == ["allreduce", "allgather", "alltoall"]
    assert asked.calls[1:3] == [("allgather", (36,), (12,)), ("alltoall", (5, 4), (3, 4), [0, 2, 3], [1, 2, 0])]
    assert (other.calls, other.waits) == ([], [])


def test_what_is_sent_is_counted_alike_wherever_it_is() -> None:
    on_device, in_memory = Pair().group, Pair().group
    everything(on_device, META)
    everything(in_memory, torch.device("cpu"))
    assert on_device.traffic == in_memory.traffic
    assert on_device.traffic.sent_bytes["all_to_all"] == 16  # two of the three rows are its own


def test_calls_on_a_device_are_enqueued_and_those_in_main_memory_waited_for(pair: Pair) -> None:
    everything(pair.group, META)
    assert pair.device.waits == [()] * 3  # the stream waits, the process does not
    pair.group.all_reduce(torch.zeros(2))
    ((patience,),) = pair.host.waits
    assert isinstance(patience, timedelta)  # looks up now and then


def test_small_sums_on_a_device_are_left_to_it(pair: Pair) -> None:
    """In main memory everybody adds everything up; on a device that would be kernels of a few numbers."""
    x = torch.zeros(8, device=META)
    pair.group.all_reduce(x)
    assert len(pair.device.calls) == 1
    assert pair.device.calls[0][1] is x
    pair.group.all_reduce(torch.zeros(8))
    assert [call[0] for call in pair.host.calls] == ["allgather"]


def test_a_failure_on_the_device_ends_all_groups_of_the_rank(pair: Pair) -> None:
    pair.device.failure = "NCCL communicator was aborted on rank 1."
    with pytest.raises(RankLost, match=r"all_reduce of ranks \[4, 5, 6\]: NCCL communicator was aborted"):
        pair.group.all_reduce(torch.zeros(8, device=META))
    with pytest.raises(RankLost, match="NCCL communicator was aborted"):
        pair.group.all_reduce(torch.zeros(2))
    assert pair.host.calls == []


def test_abort_ends_what_waits_on_the_device_too(pair: Pair) -> None:
    pair.group.abort(RankLost("rank 6 is gone"))
    assert pair.device.aborted.wait(20)
    assert not pair.host.aborted.is_set()
    with pytest.raises(RankLost, match="rank 6 is gone"):
        pair.group.all_reduce(torch.zeros(8, device=META))
    assert pair.device.calls == []


def test_what_is_read_behind_an_abort_is_not_taken_for_a_result(pair: Pair) -> None:
    pair.group.all_reduce(torch.zeros(8, device=META))
    pair.group.check()
    pair.group.all_reduce(torch.zeros(8, device=META))
    pair.group.abort(RankLost("rank 6 is gone"))  # nccl lets the stream go on
    with pytest.raises(RankLost, match="rank 6 is gone"):
        pair.group.check()


@pytest.mark.parametrize(("seconds", "lost"), [(14.9, False), (15.0, True)])
def test_calls_on_a_device_that_took_as_long_as_the_patience_have_been_given_up(
    pair: Pair, seconds: float, lost: bool
) -> None:
    pair.now = 100.0
    pair.group.all_reduce(torch.zeros(8, device=META))
    pair.now += 0.1
    pair.group.counted_apart().all_reduce(torch.zeros(8, device=META))
    pair.now += seconds - 0.1
    if lost:
        with pytest.raises(RankLost, match="calls on the GPU took 15 s: another rank has not come in time"):
            pair.group.check()
    else:
        pair.group.check()
        pair.now += 60  # nothing was asked for
        pair.group.check()
    assert bool(pair.standing.lost) == lost


def test_what_was_read_from_main_memory_is_there_whoever_is_lost_since(pair: Pair) -> None:
    pair.group.all_reduce(torch.zeros(8))
    pair.now += 60
    pair.group.abort(RankLost("rank 6 is gone"))
    pair.group.check()


def test_gloo_alone_is_never_aborted_from_another_thread() -> None:
    only: Any = Played()
    TorchGroup(only, only, (0, 1, 2), Standing(15.0), Recorder()).abort()
    assert not only.aborted.is_set()


@pytest.fixture
def nccl(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Has groups made as by torch's nccl, and gives the devices that the process has set."""

    def make(store: Store, rank: int, size: int, options: SimpleNamespace) -> SimpleNamespace:
        store.set("unique id", "of nccl")
        mode = os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"]
        return SimpleNamespace(place=(rank, size), options=options, mode=mode)

    devices: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(dist, "ProcessGroupNCCL", make, raising=False)
    monkeypatch.setattr(make, "Options", SimpleNamespace, raising=False)
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "")  # so that it is put back
    monkeypatch.delenv("TORCH_NCCL_ASYNC_ERROR_HANDLING")
    return devices


def test_a_gpu_has_nccl_for_its_tensors_and_gloo_for_the_others(nccl: list[torch.device]) -> None:
    store, gpu = HashStore(), torch.device("cuda:1")
    device, host = Backends(gpu, "127.0.0.1", timedelta(seconds=7)).open(store, 0, 1)
    made: Any = device
    assert made.place == (0, 1)
    assert made.options._timeout == timedelta(seconds=7)
    assert nccl == [gpu]  # of this process, before nccl takes whichever is current
    assert made.mode == "2"  # a timeout gives the group up, and does not end the process
    assert store.get("nccl/unique id") == b"of nccl"
    assert host.name() == "gloo"


def test_main_memory_has_one_group_for_everything() -> None:
    device, host = Backends(torch.device("cpu"), "127.0.0.1", timedelta(seconds=7)).open(HashStore(), 0, 1)
    assert device is host


def test_gloo_is_reached_where_a_rank_meets_rank_0_not_where_its_name_points() -> None:
    assert own_address("127.0.0.1") == "127.0.0.1"
    assert own_address("localhost") in ("127.0.0.1", "::1")
    others = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    for address in others:
        if address.count(".") == 3:
            assert own_address(address) == address
