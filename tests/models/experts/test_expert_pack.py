"""The pack of a model: made once, shared by whoever has the same slice, made anew or mended when it is damaged."""

import errno
import logging
import os
import random
import resource
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from tests.support.checkpoint_packs import opened, packed_in
from tests.support.random_experts import make, same
from triptych.core.errors import DataLoss, FailedPrecondition, ResourceExhausted
from triptych.experts.store import faults, open_store, read_blob
from triptych.models.expert_pack import ExpertPack
from triptych.models.files import ModelFiles
from triptych.models.quantization import Quantization
from triptych.models.resolve import resolve
from triptych.models.spec import read_spec
from triptych.models.synthetic import synthetic
from triptych.models.testing import RecordingProgress
from triptych.parallel import Parallelism


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_CACHE", str(tmp_path_factory.mktemp("models")))
        return synthetic("1MB")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("TRIPTYCH_CACHE", str(folder))
    return folder


@pytest.fixture
def files(checkpoint: Path, cache: Path, tmp_path: Path) -> ModelFiles:
    """A copy, which a test may damage."""
    return resolve(str(shutil.copytree(checkpoint, tmp_path / "model")))


def everyone(pack: ExpertPack) -> list[tuple[int, int]]:
    return [(layer, expert) for layer, one in enumerate(pack.layers) for expert in range(one.experts)]


def equal(pack: ExpertPack) -> bool:
    """Whether every blob is the checkpoint's expert."""
    store = open_store(pack.path)
    blobs = {(layer, expert): read_blob(store, layer, expert) for layer, expert in everyone(pack)}
    return all(same(store.layers[who[0]].layout.view(blob), pack.read(*who)) for who, blob in blobs.items())


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << random.randrange(8)]))


@pytest.mark.parametrize(
    ("dtype", "form"), [(torch.bfloat16, "none"), (torch.float32, "none"), (torch.bfloat16, "int8")]
)
def test_a_pack_is_made_once_and_holds_what_the_checkpoint_does(
    files: ModelFiles, dtype: torch.dtype, form: Quantization
) -> None:
    pack, progress = opened(files, dtype, form), RecordingProgress()

    store = pack.open(progress)

    assert [(task.title, task.done) for task in progress.tasks] == [("Packing experts of model", store.nbytes)]
    assert [layer.experts for layer in store.layers] == [layer.experts for layer in pack.layers]
    assert equal(pack)
    assert opened(files, dtype, form).open(again := RecordingProgress()) == store
    assert not again.tasks


def test_ranks_share_a_file_if_they_have_the_same_slice_of_experts(files: ModelFiles) -> None:
    divided = Parallelism(tensor=2)
    alone, first, second = opened(files), opened(files, grid=divided), opened(files, grid=divided, rank=1)
    spread = [opened(files, grid=Parallelism(expert=2), rank=rank) for rank in range(2)]
    others = [opened(files, torch.float32), opened(files, quantization="int8")]

    assert {pack.path for pack in spread} == {alone.path}
    assert len({pack.path for pack in (alone, first, second, *others)}) == 5
    for pack in (first, second):
        pack.open()
        assert equal(pack)


def test_the_packs_of_a_checkpoint_that_has_changed_are_removed(files: ModelFiles) -> None:
    old = opened(files).open().path
    index = files.path / "model.safetensors.index.json"
    shard = next(files.path.glob("layer-*.safetensors"))
    os.utime(shard, ns=(0, 0))
    assert index.is_file()

    new = opened(files).open().path

    assert new != old
    assert new.parent == old.parent
    assert not old.exists()


@pytest.mark.parametrize("damage", ["torn", "magic", "index", "layout", "empty"])
def test_what_is_not_the_models_pack_is_made_anew(
    damage: str, files: ModelFiles, caplog: pytest.LogCaptureFixture
) -> None:
    pack = opened(files)
    pack.open()
    whole = pack.path.read_bytes()
    match damage:
        case "torn":
            os.truncate(pack.path, random.randrange(1, len(whole)))
        case "empty":
            os.truncate(pack.path, 0)
        case "magic":
            flip(pack.path, 0)
        case "index":
            flip(pack.path, len(whole) - random.randrange(1, 4096))
        case "layout":
            make(pack.path, ("bfloat16", 4))

    with caplog.at_level(logging.WARNING):
        pack.open()

    assert pack.path.read_bytes() == whole
    assert "made anew" in caplog.text


def test_damaged_experts_are_mended_and_the_rest_is_left(files: ModelFiles, caplog: pytest.LogCaptureFixture) -> None:
    pack = opened(files)
    store = pack.open()
    inode, whole = pack.path.stat().st_ino, pack.path.read_bytes()
    damaged = sorted(random.sample(everyone(pack), 3))
    for layer, expert in damaged:
        flip(pack.path, store.offset(layer, expert) + random.randrange(store.layers[layer].layout.nbytes))

    assert list(faults(store)) == damaged
    for who in damaged:
        assert pack.mend(*who) == store

    assert pack.path.read_bytes() == whole
    assert pack.path.stat().st_ino == inode
    assert caplog.text.count("has been written again") == 3
    assert pack.mend(0, 0) == store
    assert caplog.text.count("has been written again") == 3


@pytest.mark.parametrize("fate", ["file", "folder", "torn"])
def test_a_pack_that_is_gone_is_made_anew_when_it_is_missed(fate: str, files: ModelFiles) -> None:
    pack = opened(files)
    store = pack.open()
    whole = pack.path.read_bytes()
    match fate:
        case "file":
            pack.path.unlink()
        case "folder":
            shutil.rmtree(pack.path.parents[1])
        case "torn":
            os.truncate(pack.path, store.offset(1, 2))

    assert pack.mend(1, 2) == store
    assert pack.path.read_bytes() == whole


def test_a_disk_that_does_not_take_a_blob_gets_a_new_file(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pack = opened(files)
    store = pack.open()
    whole, write = pack.path.read_bytes(), os.pwrite
    flip(pack.path, store.offset(0, 3))

    def once(*args: object) -> int:
        monkeypatch.setattr(os, "pwrite", write)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwrite", once)
    assert pack.mend(0, 3) == store
    assert pack.path.read_bytes() == whole
    assert "all are packed anew" in caplog.text


@pytest.mark.parametrize(
    ("fault", "refusal"),
    [
        (errno.ENOSPC, ResourceExhausted),
        (errno.EDQUOT, ResourceExhausted),
        (errno.EROFS, FailedPrecondition),
        (errno.EACCES, FailedPrecondition),
    ],
)
def test_a_full_or_closed_disk_costs_no_expert_but_the_damaged_one(
    fault: int, refusal: type[Exception], files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = opened(files)
    store = pack.open()
    inode, whole = pack.path.stat().st_ino, pack.path.read_bytes()
    flip(pack.path, store.offset(0, 3))

    def refused(*args: object) -> int:
        raise OSError(fault, os.strerror(fault))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refused)
        with pytest.raises(refusal, match=os.strerror(fault)):
            pack.mend(0, 3)
    assert pack.path.stat().st_ino == inode
    assert pack.intact
    assert list(faults(store)) == [(0, 3)]

    assert pack.mend(0, 3) == store
    assert pack.path.read_bytes() == whole


def test_where_the_checkpoint_is_cut_short_too_nothing_can_be_mended(files: ModelFiles) -> None:
    pack = opened(files)
    store = pack.open()
    flip(pack.path, store.offset(0, 1))
    for shard in files.path.glob("layer-*.safetensors"):
        os.truncate(shard, 4096)

    with pytest.raises(DataLoss, match="cut short since"):
        pack.mend(0, 1)
    pack.path.unlink()
    with pytest.raises(DataLoss, match="cut short since"):
        pack.mend(0, 1)
    assert list(pack.path.parent.glob("*.partial")) == []


def test_a_checkpoint_that_nobody_has_open_and_is_gone_is_said_to_be(files: ModelFiles) -> None:
    pack = opened(files)
    pack.open()
    pack.path.unlink()
    pack.parameters.weights.close()
    for shard in files.path.glob("layer-*.safetensors"):
        shard.unlink()

    with pytest.raises(DataLoss, match="cannot be read any more"):
        pack.mend(0, 0)


def test_a_model_without_experts_has_none_to_pack(files: ModelFiles) -> None:
    pack, spec = opened(files), read_spec(files).decoder

    with pytest.raises(FailedPrecondition, match="no experts") as refused:
        ExpertPack.of(files, replace(spec, layers=()), pack.parameters)
    assert refused.value.field == "experts.budget"


def test_no_room_is_said_before_anything_is_written(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = opened(files)
    monkeypatch.setattr("triptych.models.cache.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(2, 1, 1))

    with pytest.raises(ResourceExhausted, match=r"needs \d+ MB in .*TRIPTYCH_CACHE"):
        pack.open()
    assert left(pack) == set()


def test_a_file_system_that_refuses_the_size_leaves_nothing_behind(files: ModelFiles) -> None:
    pack = opened(files)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(ResourceExhausted, match=r"File too large.*TRIPTYCH_CACHE"):
            pack.open()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left(pack) == set()
    pack.open()


def test_a_disk_that_fills_up_while_it_is_written_leaves_nothing_behind(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack, write = opened(files), os.pwrite

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        if offset > 500_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:8192], offset)  # a write may do less than it is asked to

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ResourceExhausted, match="No space left"):
        pack.open()
    assert left(pack) == set()
    monkeypatch.undo()


def left(pack: ExpertPack) -> set[str]:
    """What of it is in the cache."""
    return {path.name for path in pack.path.parent.glob("*-pack-*") if path.suffix != ".lock"}


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_packing_leaves_no_experts_of_the_checkpoint_in_memory(files: ModelFiles) -> None:
    pack = opened(files)
    sum(pack.read(*who)[0].weight.values.float().sum() for who in everyone(pack))
    before = resident(files.path)

    store = pack.open()

    others = sum(shard.stat().st_size for shard in files.path.glob("layer-*.safetensors")) - store.nbytes
    assert before > store.nbytes / 4 > others
    assert resident(files.path) <= others


def resident(folder: Path) -> int:
    """Bytes of a folder's files that this process has mapped and touched."""
    own, size = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            own = str(folder) in line
        elif own and line.startswith("Rss:"):
            size += int(line.split()[1]) * 1024
    return size


@pytest.mark.usefixtures("found_by_children")
def test_two_processes_that_want_a_pack_make_it_once(files: ModelFiles, cache: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        made = [pool.submit(packed_in, str(files.path), str(cache)) for _ in range(2)]
        (first, one), (second, other) = (future.result(timeout=280) for future in made)

    assert first + second == 1
    assert one == other
