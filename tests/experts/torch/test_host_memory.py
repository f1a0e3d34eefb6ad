"""What an accelerator takes of its host: how much, in which order, and what is left of it after a failure."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.support.offloading import GATING, draw_ids, layer_of, mixed, no_mend, pool_for, scores_of
from tests.support.random_experts import Made, make
from triptych.core.errors import Internal, InvalidArgument, ResourceExhausted
from triptych.experts.opening import neighbours
from triptych.experts.settings import Cold, Fraction, OffloadSettings
from triptych.experts.torch import TorchResidency, open_device, opening
from triptych.experts.torch.finish import Miss
from triptych.experts.torch.mixture import planned_moe
from triptych.experts.torch.testing import FakeDevice

EXPERTS, LAYERS, HIDDEN, READERS = 8, 3, 64, 2
ALL = [tuple(range(EXPERTS))] * LAYERS


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path / "model.experts", *(("bfloat16", EXPERTS),) * LAYERS)


def opened(
    made: Made, device: FakeDevice, host: int | None = None, cold: Cold = "copied", sharing: int = 1
) -> TorchResidency:
    budget = None if host is None else host * made.store.blob_bytes
    settings = OffloadSettings(budget=Fraction(0.5), readers=READERS, host_budget=budget, cold=cold)
    pool = pool_for(made.store, EXPERTS, [0] * LAYERS)
    return open_device(made.store, no_mend, settings, pool, scores_of(made.store), ALL, device, sharing)


def test_where_the_cpu_may_compute_a_layer_more_must_fit(made: Made) -> None:
    opened(made, FakeDevice(), EXPERTS + READERS).close()
    with pytest.raises(InvalidArgument, match="18 experts"):
        opened(made, FakeDevice(), 2 * EXPERTS + READERS - 1, "soonest")


def test_measuring_the_bus_takes_no_memory_beside_what_the_budget_says(made: Made) -> None:
    device, experts = Full(None), 2 * EXPERTS + READERS
    opened(made, device, experts, "soonest").close()
    assert device.asked == [experts * made.store.blob_bytes]
    assert device.copies


def test_steps_that_end_before_the_cpu_computes_hold_no_host_memory(made: Made) -> None:
    residency = opened(made, FakeDevice(), 2 * EXPERTS + READERS, "soonest")
    residency._lane._cold = Everything()  # type: ignore[attr-defined]
    everybody = torch.arange(EXPERTS, dtype=torch.int32).view(1, -1)
    for layer in (0, 1, 0, 2, 1, 2, 0, 1):
        residency.ensure(layer, everybody)
        residency._lane.wait(range(EXPERTS))
        residency.ensure(layer, everybody)  # of what host memory has, the CPU is to compute all
    for layer in range(LAYERS):
        ids, x, weights = draw_ids(3, EXPERTS, 3), torch.randn(3, HIDDEN).bfloat16(), torch.rand(3, 3)
        residency.ensure(layer, ids)
        out = torch.empty_like(x)
        planned_moe(x, residency.experts(layer), ids, weights, GATING, out)
        wanted = mixed(layer_of(made, layer, ALL[layer]), x, ids, weights)
        torch.testing.assert_close(out, wanted, rtol=0.02, atol=0.02 * float(wanted.float().abs().max()))
    residency.check()
    residency._lane._shipping.finish()  # type: ignore[attr-defined]
    assert not residency._lane._tier._slots._pins  # type: ignore[attr-defined]
    residency.close()


def test_what_is_free_is_divided_among_those_who_share_it(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "free_memory", lambda: 2 * 4 * 12 * made.store.blob_bytes)
    device = Full(None)
    opened(made, device, sharing=4).close()
    assert device.asked == [12 * made.store.blob_bytes]


def test_ranks_have_neighbours_and_whoever_computes_alone_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert neighbours(torch.device("cuda"), 1) == 1
    assert neighbours(torch.device("cuda:3"), 4) == 8
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert neighbours(torch.device("cuda:0"), 4) == 4


@pytest.mark.parametrize("full", ["device", "host"])
def test_memory_that_is_not_to_be_had_leaves_nothing_behind(made: Made, full: str) -> None:
    before, device = threading.enumerate(), Full(full)
    with pytest.raises(ResourceExhausted):
        opened(made, device, EXPERTS * LAYERS)
    assert set(threading.enumerate()) <= set(before)
    assert device.closed
    assert len(device.asked) == (full == "host")


def test_a_failure_after_the_readers_began_ends_them(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise Internal("a defect")

    monkeypatch.setattr(opening, "DeviceLane", broken)
    before, device = threading.enumerate(), FakeDevice()
    with pytest.raises(Internal):
        opened(made, device, EXPERTS * LAYERS)
    assert set(threading.enumerate()) <= set(before)
    assert device.closed


class Full(FakeDevice):
    """Has no more of one of its memories; `asked` are the bytes of host memory."""

    def __init__(self, full: str | None) -> None:
        super().__init__()
        self._full = full
        self.asked: list[int] = []

    def host_memory(self, nbytes: int) -> torch.Tensor:
        self.asked.append(nbytes)
        if self._full == "host":
            raise ResourceExhausted("nothing more can be pinned")
        return super().host_memory(nbytes)

    def device_memory(self, nbytes: int) -> torch.Tensor:
        if self._full == "device":
            raise ResourceExhausted("the device is full")
        return super().device_memory(nbytes)


class Everything:
    """Has the CPU compute whatever it can."""

    def choose(self, misses: Sequence[Miss], queued: int) -> frozenset[int]:
        return frozenset(miss.expert for miss in misses)

    def computed(self, misses: Sequence[Miss], expanding: float, computing: float) -> None:
        pass
