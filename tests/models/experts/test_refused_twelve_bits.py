"""Experts whose exponents lie too far apart for twelve bits: found out once, and never in the midst of serving."""

import errno
import os
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tests.support.checkpoint_packs import compact_of, opened, packs
from triptych.core.errors import DataLoss, ResourceExhausted
from triptych.experts.blob import Expert, Matrix
from triptych.experts.store import open_store
from triptych.kernels import DenseWeight
from triptych.models.compact_pack import CompactPack
from triptych.models.expert_pack import ExpertPack, as_it_is
from triptych.models.files import ModelFiles

Spread = Callable[[int, int], list[tuple[int, int]]]
_READ = ExpertPack.read


@pytest.fixture
def spread(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> Spread:
    """Has the exponents of an expert lie far apart; gives the experts that are read for twelve bits from then on."""
    plain, found = opened(files), list[tuple[int, int]]()

    def begin(layer: int, expert: int) -> list[tuple[int, int]]:
        def read(self: ExpertPack, *who: int) -> Expert:
            gate, up, down = _READ(plain, *who)
            if self.form is not as_it_is:
                found.append((who[0], who[1]))
            if who == (layer, expert):
                assert isinstance(up.weight, DenseWeight)
                values = up.weight.values.clone()
                values[:, ::2] *= 1e-20
                up = Matrix(DenseWeight(values))
            return self.form((gate, up, down))

        monkeypatch.setattr(ExpertPack, "read", read)
        return found

    return begin


def last_of(pack: CompactPack) -> tuple[int, int]:
    return len(pack.plain.layers) - 1, pack.plain.layers[-1].experts - 1


def test_all_are_packed_as_they_are_which_is_said_once(
    files: ModelFiles, spread: Spread, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pack = compact_of(opened(files))
    spread(*last_of(pack))
    store = pack.open()
    assert store == open_store(pack.plain.path)
    assert packs(tmp_path) == ["pack"]
    assert "lie too far apart" in caplog.text
    caplog.clear()
    assert compact_of(opened(files)).open() == store
    assert not caplog.records
    pack.plain.path.write_bytes(b"")
    assert pack.mend(0, 0) == store


def test_ranks_that_wait_for_the_one_that_tries_do_not_try(files: ModelFiles, spread: Spread, tmp_path: Path) -> None:
    ranks = [compact_of(opened(files)) for _ in range(3)]
    tried = spread(*last_of(ranks[0]))
    begin = Barrier(len(ranks), timeout=120)

    def open_(pack: CompactPack) -> Path:
        begin.wait()
        return pack.open().path

    with ThreadPoolExecutor(len(ranks)) as threads:
        assert list(threads.map(open_, ranks)) == [pack.plain.path for pack in ranks]
    assert len(tried) == len(set(tried)) == sum(layer.experts for layer in ranks[0].plain.layers)
    assert packs(tmp_path) == ["pack"]


def test_what_another_rule_has_refused_is_tried(files: ModelFiles) -> None:
    pack = compact_of(opened(files))
    pack.compact.path.parent.mkdir(parents=True, exist_ok=True)
    pack.refused.write_text("", encoding="utf-8")
    assert pack.open().path == pack.compact.path


def test_a_full_disk_is_said_where_the_refusal_cannot_be_written(
    files: ModelFiles, spread: Spread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    pack = compact_of(opened(files))
    spread(0, 0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(ResourceExhausted, match="TRIPTYCH_CACHE"):
            pack.open()
    assert pack.open().path == pack.plain.path


def test_a_file_that_vanishes_is_made_anew_in_the_form_that_was_opened(files: ModelFiles, spread: Spread) -> None:
    pack = compact_of(opened(files))
    tried = spread(*last_of(pack))
    store = pack.open()
    tried.clear()
    shutil.rmtree(store.path.parent)
    assert pack.mend(0, 0) == store
    assert not tried


@pytest.mark.parametrize("vanished", [False, True], ids=["damaged", "vanished"])
def test_a_checkpoint_that_no_longer_allows_it_mends_none(vanished: bool, files: ModelFiles, spread: Spread) -> None:
    pack = compact_of(opened(files))
    store = pack.open()
    assert store.path == pack.compact.path
    layer, expert = last_of(pack)
    spread(layer, expert)
    content = bytearray(store.path.read_bytes())
    content[store.offset(layer, expert) + random.randrange(100)] ^= 1
    store.path.write_bytes(content)
    if vanished:
        store.path.unlink()
    number = pack.plain.layers[layer].number
    with pytest.raises(DataLoss, match=rf"{store.path.name}: expert {expert} of layer {number} cannot be mended"):
        pack.mend(layer, expert)
