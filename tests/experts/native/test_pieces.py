"""Large experts are read in pieces: in their order, each verified, and never taken for more than is there."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.held_back import Expected, as_slot, open_pool
from tests.support.random_experts import Made, draw, make
from tests.support.resident import choices, fresh, in_memory, open_native
from triptych.core.errors import DataLoss, TriptychError, Unavailable
from triptych.experts.blob import PAGE, BlobLayout
from triptych.experts.cache import ExpertCache
from triptych.experts.native import residency
from triptych.experts.store import write_pack
from triptych.experts.store.writing import sums_of
from triptych.kernels import moe
from triptych.kernels.native import install

LAYERS, EXPERTS, TOP, HIDDEN = 3, 8, 3, 64
FIRST, SECOND = 3, 2
"""Pieces of the sections of an expert."""
GATE_UP, DOWN = 1, 2


@pytest.fixture(autouse=True)
def every_expert_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    monkeypatch.setattr(residency, "_SPLIT", 0)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    made = make(tmp_path / "pack", *(("bfloat16", EXPERTS),) * LAYERS, piece=PAGE)
    assert [piece.stop <= layer.layout.first for layer in made.store.layers for piece in layer.pieces] == LAYERS * (
        [True] * FIRST + [False] * SECOND
    )
    return made


def damage(made: Made, layer: int, expert: int, place: int) -> None:
    with made.path.open("r+b") as file:
        file.seek(made.store.offset(layer, expert) + place)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1 << random.randrange(8)]))


@pytest.mark.parametrize("readers", [1, 4])
def test_steps_equal_those_of_resident_experts(made: Made, readers: int) -> None:
    kept = open_native(made, EXPERTS + 7, (1, 0, 4), most=5, readers=readers)
    for _ in range(30):
        x = torch.randn(2, HIDDEN).bfloat16()
        for layer in range(LAYERS):
            ids, weights = choices(2, TOP, EXPERTS)
            out, expected = torch.empty_like(x), torch.empty_like(x)
            kept.ensure(layer, ids)
            kept.prefetch((layer + 1) % LAYERS, torch.randn(2, EXPERTS), TOP)
            moe(x, kept.experts(layer), ids, weights, "silu", out)
            moe(x, in_memory(made, layer), ids, weights, "silu", expected)
            assert torch.equal(out, expected)
        kept.check()
    assert kept.counts.failed_reads == 0
    kept.close()


def test_gate_and_up_of_all_who_are_missing_come_before_down_of_any(made: Made) -> None:
    pool = open_pool(made, EXPERTS, (0,) * LAYERS, "lru", split=0)
    flags = pool.layers[1].flags
    pool.ensure(1, torch.tensor([[5, 2]], dtype=torch.int32))
    seen = []
    while pool.read():
        seen.append([int(flags[expert]) & (GATE_UP | DOWN) for expert in (2, 5)])
    assert seen == [
        *[[0, 0]] * (FIRST - 1),
        *[[GATE_UP, 0]] * FIRST,
        *[[GATE_UP, GATE_UP]] * SECOND,
        *[[GATE_UP | DOWN, GATE_UP]] * SECOND,
        [GATE_UP | DOWN] * 2,
    ]


def test_all_of_the_wave_that_is_computed_comes_before_anything_of_the_next(made: Made) -> None:
    pool = open_pool(made, 4, (0,) * LAYERS, "lru", split=0)
    pool.ensure(1, torch.arange(EXPERTS, dtype=torch.int32).view(1, -1))
    for _ in range(2 * (FIRST + SECOND)):
        assert pool.read()
    there = GATE_UP | DOWN
    assert [int(word) & there for word in pool.layers[1].flags[:4]] == [there, there, 0, 0]


def test_what_is_asked_for_waits_for_one_piece_of_what_is_read_in_advance(made: Made) -> None:
    pool = open_pool(made, 2 * EXPERTS, (0,) * LAYERS, "lru", split=0)
    pool.allow(4)
    pool.prefetch(2, torch.eye(EXPERTS)[3:4], 1)
    assert pool.read()
    pool.ensure(0, torch.tensor([[6]], dtype=torch.int32))
    for _ in range(FIRST + SECOND):
        assert pool.read()
    assert int(pool.layers[0].flags[6]) & (GATE_UP | DOWN) == GATE_UP | DOWN
    assert int(pool.layers[2].flags[3]) & (GATE_UP | DOWN) == 0
    pool.ensure(2, torch.tensor([[3]], dtype=torch.int32))  # the rest of it
    assert [pool.read() for _ in range(FIRST + SECOND)] == [True] * (FIRST + SECOND - 1) + [False]
    assert pool.counts().reads == 2
    assert pool.counts().read_bytes == 2 * made.store.blob_bytes


def test_what_turns_out_not_to_be_wanted_is_read_no_further(made: Made) -> None:
    pool = open_pool(made, 2 * EXPERTS, (0,) * LAYERS, "lru", split=0)
    pool.allow(4)
    pool.prefetch(1, torch.eye(EXPERTS)[[3, 4]], 1)
    assert pool.read()
    pool.ensure(1, torch.tensor([[0]], dtype=torch.int32))
    while pool.read():
        pass
    there = {(slot.layer, slot.expert) for slot in pool.slots() if slot.state == 2}
    assert there == {(1, 0)}
    assert pool.counts().read_bytes == made.store.blob_bytes + PAGE


def test_slots_hold_what_they_say_when_much_is_dropped_while_it_is_read(tmp_path: Path) -> None:
    """Of a slot that has been given away nothing is read any more, however far readers are when it is."""
    count, pieces, rounds = 8, 300, 30
    experts = {(layer, expert): draw("bfloat16", width=3200) for layer in (0, 1) for expert in range(count)}
    layout = BlobLayout.of(experts[0, 0])
    store = write_pack(tmp_path / "many", [(layout, count)] * 2, lambda *who: experts[who], piece=PAGE)
    assert len(store.layers[0].pieces) == pieces
    pool = open_pool(Made(experts, store), count, (0, 0), "lru", split=0, readers=4)
    memory, _ = pool._kept
    pool.allow(count)
    for _ in range(rounds):
        for layer in (0, 1):
            pool.prefetch(layer, torch.randn(1, count), 2)
        for layer in (1, 0):
            pool.ensure(layer, torch.randint(count, (1, TOP), dtype=torch.int32))
        pool.settle()
        for slot, blob in zip(pool.slots(), memory, strict=True):
            assert slot.state in (0, 2)
            if slot.state == 2:
                assert sums_of(store.layers[slot.layer], blob) == store.checksums(slot.layer, slot.expert)
    assert pool.counts().failed_reads == 0
    pool.close()


@pytest.mark.parametrize("place", [0, PAGE + 7, FIRST * PAGE - 1, FIRST * PAGE, (FIRST + SECOND) * PAGE - 1])
def test_a_damaged_piece_fails_its_expert_once(made: Made, place: int) -> None:
    fails_once(made, lambda: damage(made, 0, 4, place), DataLoss)


def test_a_file_that_ends_within_an_expert_fails_it_and_hangs_nobody(made: Made) -> None:
    fails_once(made, lambda: os.truncate(made.path, made.store.offset(0, 4) + PAGE + 100), Unavailable)


def fails_once(made: Made, harm: Callable[[], None], error: type[TriptychError]) -> None:
    """Expert 4 of the first layer does, and the kernels end."""
    kept = open_native(made, EXPERTS, (0,) * LAYERS, readers=3)
    harm()
    x, ids = torch.randn(1, HIDDEN).bfloat16(), torch.tensor([[1, 4]], dtype=torch.int32)
    kept.ensure(0, ids)
    moe(x, kept.experts(0), ids, torch.ones(1, 2), "silu", torch.empty_like(x))
    with pytest.raises(error, match="expert 4 of mixture 0"):
        kept.check()
    assert kept.counts.failed_reads == 1
    kept.close()


def test_slots_are_as_the_cache_decides(made: Made) -> None:
    slots, quotas, most = EXPERTS + 6, (2, 1, 3), 3
    pool = open_pool(made, slots, quotas, "lfu-decay", split=0)
    pool.allow(most)
    expected = Expected(ExpertCache(slots, quotas, fresh("lfu-decay", [EXPERTS] * LAYERS)), most)
    for _ in range(200):
        layer = random.randrange(LAYERS)
        ids = torch.randint(-1, EXPERTS, (1, TOP), dtype=torch.int32)
        pool.ensure(layer, ids)
        expected.ensure(layer, ids)
        assert [as_slot(slot) for slot in pool.slots()] == expected.cache.slots
        while pool.read():
            pass
        while expected.read():
            pass
        scores = torch.randn(1, EXPERTS)
        pool.prefetch((layer + 1) % LAYERS, scores, TOP)
        expected.prefetch((layer + 1) % LAYERS, scores, TOP)
        assert [as_slot(slot) for slot in pool.slots()] == expected.cache.slots
    assert {name: getattr(pool.counts(), name) for name in expected.counts} == expected.counts
