import errno
import os
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.offloading import draw_ids, layer_of, mixed, no_mend, pack_path, pool_for, scores_of, step
from tests.support.random_experts import Made, make
from triptych.core.errors import DataLoss, Unavailable
from triptych.experts.settings import Fraction, OffloadSettings
from triptych.experts.store import Mend, PackedStore, mend_blob
from triptych.experts.store.direct import DirectFile
from triptych.experts.torch import TorchResidency, open_cpu
from triptych.experts.torch.candidates import candidates
from triptych.experts.torch.reads import ReadQueue
from triptych.kernels.dispatch import NoBackend
from triptych.kernels.native.team import capture

SETTINGS = OffloadSettings(budget=Fraction(0.5), readers=2)
EXPERTS, HIDDEN = 8, 64
ALL = tuple(range(EXPERTS))


def opened(
    store: PackedStore,
    slots: int = 12,
    quota: int = 1,
    speculative: int = 2,
    mend: Mend = no_mend,
    settings: OffloadSettings = SETTINGS,
) -> TorchResidency:
    pool = pool_for(store, slots, [quota] * len(store.layers), speculative)
    return open_cpu(store, mend, settings, pool, scores_of(store), [ALL] * len(store.layers))


@pytest.fixture(params=["bfloat16", "float32", "int8"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    layer = (request.param, EXPERTS)
    return make(pack_path(tmp_path), layer, layer, bias=request.param == "bfloat16")


@pytest.mark.parametrize(("slots", "quota", "speculative"), [(8, 0, 0), (8, 2, 0), (13, 2, 3), (16, 8, 0)])
def test_results_are_those_of_resident_experts_bit_for_bit(
    made: Made, slots: int, quota: int, speculative: int
) -> None:
    residency = opened(made.store, slots, quota, speculative)
    for tokens in (1, 1, 5, 1, 20, 1):
        for layer in range(2):
            x, ids = torch.randn(tokens, HIDDEN).bfloat16(), draw_ids(tokens, EXPERTS, 3)
            weights = torch.rand(tokens, 3)
            got = step(residency, layer, x, ids, weights)
            residency.prefetch(1 - layer, torch.randn(tokens, EXPERTS), 3)
            assert torch.equal(got, mixed(layer_of(made, layer, ALL), x, ids, weights))
        residency.check()
    counts = residency.counts
    assert counts.steps == 6
    assert counts.demanded == counts.hits + counts.covered + counts.misses
    assert counts.failed_reads == 0
    residency.close()


def ids(*experts: int) -> torch.Tensor:
    return torch.tensor([experts], dtype=torch.int32)


def scores(*likely: int) -> torch.Tensor:
    """The earlier, the likelier."""
    row = torch.full((1, EXPERTS), -10.0)
    for place, expert in enumerate(likely):
        row[0, expert] = -float(place)
    return row


def right(residency: TorchResidency, made: Made, layer: int, chosen: torch.Tensor) -> bool:
    x, weights = torch.randn(len(chosen), HIDDEN).bfloat16(), torch.rand(chosen.shape)
    got = step(residency, layer, x, chosen, weights)
    return torch.equal(got, mixed(layer_of(made, layer, residency._numbers[layer]), x, chosen, weights))


class Gate:
    """Holds the readers of a residency until somebody waits for what they read; `read` is in the order they began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = threading.Event()
        self._begun = threading.Event()
        self.read: list[int] = []
        read = DirectFile.read

        def waiting(file: DirectFile, into: torch.Tensor, offset: int) -> int:
            self.read.append(offset)
            self._begun.set()
            assert self._open.wait(60)
            return read(file, into, offset)

        monkeypatch.setattr(DirectFile, "read", waiting)
        wait = ReadQueue.wait

        def opening(queue: ReadQueue, slots: Iterable[int]) -> None:
            self._open.set()
            wait(queue, slots)

        monkeypatch.setattr(ReadQueue, "wait", opening)

    def begun(self) -> None:
        """Returns when a reader is held."""
        assert self._begun.wait(60)


@pytest.fixture
def dense(tmp_path: Path) -> Made:
    return make(pack_path(tmp_path), ("bfloat16", EXPERTS), ("bfloat16", EXPERTS))


def test_what_was_read_in_advance_and_asked_for_is_no_miss(dense: Made) -> None:
    residency = opened(dense.store)
    residency.ensure(0, ids(0, 1))
    residency.prefetch(1, scores(4, 5), 2)
    residency._lane.wait(range(12))
    residency.ensure(1, ids(4, 6))
    counts = residency.counts
    assert (counts.covered, counts.misses, counts.prefetched, counts.used) == (1, 3, 2, 1)
    assert counts.wasted_bytes == dense.store.blob_bytes
    assert counts.precision == 0.5
    residency.close()


def test_queued_speculation_is_dropped_when_its_layer_is_reached_and_promoted_when_it_is_asked_for(
    dense: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    residency = opened(dense.store, slots=16, quota=0, speculative=6)
    gate = Gate(monkeypatch)
    residency.prefetch(1, scores(7, 6, 5, 4, 3), 5)
    gate.begun()  # one is with a reader, four are queued: the other reader is for what is asked for
    residency.ensure(1, ids(3))
    residency._lane.wait(range(16))
    assert gate.read == [dense.store.offset(1, expert) for expert in (7, 3)]
    assert residency.counts.covered == 1
    residency.close()


def test_an_expert_that_a_step_waits_for_is_read_before_those_that_are_merely_likely(
    dense: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_reader = replace(SETTINGS, readers=1)
    residency = opened(dense.store, slots=16, quota=0, speculative=6, settings=one_reader)
    gate = Gate(monkeypatch)
    residency.prefetch(1, scores(7, 6, 5, 4), 4)
    gate.begun()
    residency.ensure(0, ids(2))
    residency._lane.wait(range(16))
    likely = [dense.store.offset(1, expert) for expert in (7, 6, 5, 4)]
    assert gate.read == [likely[0], dense.store.offset(0, 2), *likely[1:]]
    residency.close()


def test_speculation_stays_within_its_bound_and_stops_when_told(dense: Made) -> None:
    residency = opened(dense.store, slots=16, quota=0, speculative=3)
    residency.prefetch(1, scores(*range(8)), 8)
    assert residency.counts.prefetched == 3
    residency._lane.wait(range(16))
    residency.ensure(1, ids(0))
    residency.speculate(False)
    residency.prefetch(0, scores(*range(8)), 8)
    assert residency.counts.prefetched == 3
    residency.close()


def test_a_full_demand_waits_for_slots_that_warm_experts_are_read_into(
    dense: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    residency = opened(dense.store, slots=EXPERTS, quota=3, speculative=0)
    Gate(monkeypatch)
    residency.warm([(1, expert) for expert in range(3)] + [(0, expert) for expert in range(3)])
    assert right(residency, dense, 0, torch.arange(EXPERTS).int().view(1, -1))
    residency.check()
    residency.close()


def test_warm_experts_are_hits(dense: Made) -> None:
    residency = opened(dense.store, slots=14, quota=3)
    residency.warm([(0, 5), (0, 6), (1, 7), (0, 1), (0, 2)])
    residency._lane.wait(range(14))
    residency.ensure(0, ids(5, 6))
    assert residency.counts.hits == 2
    residency.ensure(0, ids(2))  # more than the layer keeps: was not read
    assert residency.counts.misses == 1
    residency.close()


def test_a_damaged_expert_is_mended_and_the_step_is_run_again(dense: Made) -> None:
    mended: list[tuple[int, int]] = []

    def mend(layer: int, expert: int) -> PackedStore:
        mended.append((layer, expert))
        mend_blob(dense.store, layer, expert, dense.read)
        return dense.store

    residency = opened(dense.store, mend=mend)
    _overwrite(dense, 0, 3)
    residency.ensure(0, ids(2, 3))
    with pytest.raises(DataLoss, match="expert 3 of mixture 0 is damaged"):
        residency.check()
    assert mended == [(0, 3)]
    assert right(residency, dense, 0, ids(2, 3))
    residency.check()
    assert residency.counts.failed_reads == 1
    residency.close()


def test_a_damaged_expert_that_nobody_asked_for_is_no_error(dense: Made) -> None:
    residency = opened(dense.store)
    _overwrite(dense, 1, 3)
    residency.prefetch(1, scores(3), 1)
    residency._lane.wait(range(12))
    residency.check()
    assert residency.counts.failed_reads == 1
    residency.close()


def test_a_file_cut_short_fails_the_step_and_another_one_in_its_place_is_read(dense: Made, tmp_path: Path) -> None:
    whole = dense.path.read_bytes()

    def mend(layer: int, expert: int) -> PackedStore:
        fresh = tmp_path / "fresh"
        fresh.write_bytes(whole)
        fresh.rename(dense.path)
        return dense.store

    residency = opened(dense.store, mend=mend)
    os.truncate(dense.path, dense.store.offset(1, 2))
    residency.ensure(1, ids(2))
    with pytest.raises(Unavailable, match="cut short"):
        residency.check()
    assert right(residency, dense, 1, ids(2))
    residency.check()
    residency.close()


def test_an_error_of_the_disk_fails_the_step_and_not_the_next(dense: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    residency = opened(dense.store, mend=lambda layer, expert: dense.store)

    def broken(file: DirectFile, into: torch.Tensor, offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(DirectFile, "read", broken)
        residency.ensure(0, ids(1))
        with pytest.raises(Unavailable, match="Input/output error"):
            residency.check()
    assert right(residency, dense, 0, ids(1))
    residency.check()
    residency.close()


def test_a_file_that_vanished_is_still_read_by_whoever_has_it_open(dense: Made) -> None:
    residency = opened(dense.store)
    dense.path.unlink()
    assert right(residency, dense, 0, ids(1, 2))
    residency.check()
    residency.close()
    with pytest.raises(Unavailable, match="cannot be opened"):
        opened(dense.store)


def test_experts_that_took_others_places_are_found_by_their_new_numbers(dense: Made) -> None:
    residency = opened(dense.store)
    assert right(residency, dense, 0, ids(0, 1, 2))
    residency.rebind(0, (4, 5, 0, 1, 6, 7, 2, 3))
    assert residency.uses(0) == [0] * EXPERTS
    for chosen in (ids(0, 1, 2), ids(3, 6), ids(7)):
        assert right(residency, dense, 0, chosen)
    residency.check()
    residency.close()


def test_who_stays_is_there_and_nothing_is_read_when_experts_change_places(dense: Made) -> None:
    residency = opened(dense.store, slots=16, quota=4)
    assert right(residency, dense, 0, ids(*range(4)))
    reads = residency.counts.reads
    residency.rebind(0, (0, 1, 7, 6, 4, 5, 3, 2))
    residency._lane.wait(range(16))
    residency.check()
    assert residency.counts.reads == reads == 4
    assert residency._cache.scores[0].values[2:4] == [0.0, 0.0]
    assert right(residency, dense, 0, ids(0, 1, 7))  # the last was the third
    assert (residency.counts.hits, residency.counts.misses) == (2, 5)
    residency.close()


def test_a_recorded_step_ends_up_call_by_call(dense: Made) -> None:
    residency = opened(dense.store)
    with pytest.raises(NoBackend, match="ensure"), capture():
        residency.ensure(0, ids(1))
    with pytest.raises(NoBackend, match="prefetch"), capture():
        residency.prefetch(0, scores(1), 1)
    assert residency.counts.demanded == 0
    residency.close()


def test_what_is_asked_for_can_be_traced(dense: Made) -> None:
    residency = opened(dense.store)
    residency.ensure(0, ids(1))
    residency.trace(True)
    residency.ensure(1, ids(2, -1))
    residency.ensure(0, ids(3))
    asked = residency.drain()
    assert [(each.layer, each.ids.tolist()) for each in asked] == [(1, [[2, -1]]), (0, [[3]])]
    assert not residency.drain()
    assert [list(residency.uses(layer)).count(1) for layer in range(2)] == [2, 1]
    residency.close()


def test_likely_experts_are_ordered_by_what_all_rows_say_together() -> None:
    rows = torch.tensor([[3.0, 2.0, -9.0, 1.0], [-9.0, 2.0, 3.0, 1.0], [-9.0, 5.0, 3.0, 5.0]])
    assert candidates(rows, 1) == [1, 2, 0]
    assert candidates(torch.zeros(1, 4), 2) == [0, 1]
    assert candidates(rows, 4)[0] == 1


def _overwrite(made: Made, layer: int, expert: int) -> None:
    with made.path.open("r+b") as file:
        file.seek(made.store.offset(layer, expert) + 10)
        file.write(b"triptych")
