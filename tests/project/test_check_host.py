import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "check_host.py"


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_this_machine_lacks_nothing(script: dict[str, Any]) -> None:
    assert script["missing"]() == []


def test_an_older_python_is_told_what_to_do(script: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.version_info", (3, 9, 0))
    [sentence] = script["missing"]()
    assert sentence.startswith("Python 3.11 or newer is needed")
    assert "make PYTHON=" in sentence


def test_an_older_python_can_read_the_script() -> None:
    compile(SCRIPT.read_text(), str(SCRIPT), "exec", flags=0)
    assert "from __future__ import annotations" in SCRIPT.read_text()
    assert "match " not in SCRIPT.read_text()


def test_too_little_memory_and_disk_are_named(script: dict[str, Any]) -> None:
    script["missing"].__globals__.update(MEMORY_GIB=10**6, DISK_GIB=10**9)
    memory, disk = script["missing"]()
    assert "need 1000000 GiB of memory" in memory
    assert "need 1000000000 GiB of disk" in disk


def test_a_missing_compiler_is_a_note(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no C++ compiler" in script["notes"]()[0]
