"""Things made once: complete or absent, whatever happens while they are made."""

from collections.abc import Callable
from pathlib import Path

import pytest

from triptych.models.cache import build_folder, cache_directory


def writer(calls: list[str], text: str = "hello") -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        calls.append(text)
        (folder / "a").write_text(text)
        (folder / "b").write_text(text)

    return build


def test_the_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert cache_directory() == Path("/one")
    monkeypatch.delenv("TRIPTYCH_CACHE")
    assert cache_directory() == Path("/two/triptych")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/three")
    assert cache_directory() == Path("/three/.cache/triptych")


def test_a_folder_is_built_once(tmp_path: Path) -> None:
    calls: list[str] = []
    for _ in range(3):
        folder = build_folder(tmp_path / "cache" / "thing", writer(calls))
    assert calls == ["hello"]
    assert (folder / "a").read_text() == "hello"


@pytest.mark.parametrize("damage", ["gone", "cut", "unmarked", "marked wrongly"])
def test_a_damaged_folder_is_built_anew(tmp_path: Path, damage: str) -> None:
    calls: list[str] = []
    folder = build_folder(tmp_path / "thing", writer(calls))
    match damage:
        case "gone":
            (folder / "a").unlink()
        case "cut":
            (folder / "b").write_text("hel")
        case "unmarked":
            (folder / "complete.json").unlink()
        case "marked wrongly":
            (folder / "complete.json").write_text("[1]")
    build_folder(folder, writer(calls))
    assert len(calls) == 2
    assert (folder / "b").read_text() == "hello"


def test_a_builder_that_fails_leaves_nothing_and_the_next_one_succeeds(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_folder(tmp_path / "thing", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["thing.lock"]
    assert (build_folder(tmp_path / "thing", writer([])) / "a").read_text() == "hello"


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "thing.partial").mkdir()
    (tmp_path / "thing.partial" / "old").touch()
    folder = build_folder(tmp_path / "thing", writer([]))
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "complete.json"]
