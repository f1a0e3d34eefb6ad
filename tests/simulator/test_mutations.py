"""Deliberate bugs in the core: each has to be found by the simulator, and soon."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from triptych import core

HERE = Path(__file__).parent
PATCHES = sorted((HERE / "mutations").glob("*.patch"))
WITHIN = 200
HUNK = re.compile(r"^@@ .* @@.*\n((?:[ +-].*\n|\n)+)", re.MULTILINE)


def apply(patch: str, root: Path) -> None:
    """Applies a unified diff; its lines may have moved, but have to be there once."""
    for file in re.split(r"^--- a/", patch, flags=re.MULTILINE)[1:]:
        path = root / file.splitlines()[0].strip()
        text = path.read_text()
        for hunk in HUNK.findall(file):
            lines = [line if line.strip("\n") else " \n" for line in hunk.splitlines(keepends=True)]
            before = "".join(line[1:] for line in lines if line[0] in " -")
            after = "".join(line[1:] for line in lines if line[0] in " +")
            assert text.count(before) == 1, f"{path.name} does not have these lines once any more:\n{before}"
            text = text.replace(before, after)
        path.write_text(text)


def test_there_are_enough_bugs() -> None:
    assert len(PATCHES) >= 15


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.stem)
def test_a_deliberate_bug_is_found(patch: Path, tmp_path: Path) -> None:
    assert core.__file__ is not None
    # The first folder on the path that has triptych/core provides it; the rest of the namespace stays where it is.
    shutil.copytree(Path(core.__file__).parent, tmp_path / "triptych" / "core")
    apply(patch.read_text(), tmp_path / "triptych")
    hunt = [sys.executable, str(HERE / "hunt.py"), str(WITHIN)]
    run = subprocess.run(hunt, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert " runs: " in run.stdout, f"{patch.stem} survives {WITHIN} runs: {run.stdout}"
    print(run.stdout.strip())
