"""Packs of an earlier version make room for those of this one."""

import shutil
import struct
from pathlib import Path

import pytest

from tests.support.checkpoint_packs import compact_of, opened
from triptych.core.errors import ResourceExhausted
from triptych.experts.store import file_bytes, outdated
from triptych.experts.store.header import VERSION
from triptych.models.expert_pack import ExpertPack
from triptych.models.files import ModelFiles


def of_version(version: int, path: Path) -> Path:
    with path.open("r+b") as file:
        file.seek(8)  # behind the magic
        file.write(struct.pack("<I", version))
    return path


@pytest.fixture
def plain(files: ModelFiles) -> ExpertPack:
    """A pack that is there."""
    pack = opened(files)
    pack.open()
    return pack


def test_a_file_of_an_earlier_version_is_one_and_no_other(plain: ExpertPack, tmp_path: Path) -> None:
    assert not outdated(plain.path)
    assert outdated(of_version(VERSION - 1, plain.path))
    assert not outdated(of_version(VERSION + 1, plain.path))
    assert not outdated(tmp_path / "nothing")
    for content in (b"", b"TRIPTYCX", bytes(4096)):
        plain.path.write_bytes(content)
        assert not outdated(plain.path)


@pytest.mark.parametrize("version", [VERSION - 1, VERSION])
def test_what_nobody_can_read_any_more_is_removed_for_what_is_packed(version: int, plain: ExpertPack) -> None:
    of_version(version, plain.path)
    pack = compact_of(plain)
    assert pack.open().path == pack.compact.path
    assert plain.path.exists() == (version == VERSION)


@pytest.mark.parametrize("missing", [0, 1])
def test_the_room_that_it_leaves_counts(missing: int, plain: ExpertPack, monkeypatch: pytest.MonkeyPatch) -> None:
    of_version(VERSION - 1, plain.path)
    pack = compact_of(plain)
    needed = file_bytes([(layer.layout, layer.experts) for layer in pack.compact.layers])
    free = needed - plain.path.stat().st_size - missing
    usage = shutil._ntuple_diskusage(2**40, 2**40 - free, free)  # type: ignore[attr-defined]
    monkeypatch.setattr("triptych.models.cache.shutil.disk_usage", lambda _: usage)
    if missing:
        with pytest.raises(ResourceExhausted, match=r"needs .* are free"):
            pack.open()
        assert outdated(plain.path)
    else:
        pack.open()
        assert not plain.path.exists()
