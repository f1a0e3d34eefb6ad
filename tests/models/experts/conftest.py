import shutil
from pathlib import Path

import pytest

from triptych.models.files import ModelFiles
from triptych.models.resolve import resolve
from triptych.models.synthetic import synthetic


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFiles:
    """A small mixture in a folder of the test's own, and so is what is made of it."""
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    return resolve(str(shutil.copytree(synthetic("1MB"), tmp_path / "model")))
