"""What a user may call a model, and what is said about names that are none."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from triptych.core.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from triptych.models.files import ModelFiles
from triptych.models.resolve import resolve


def test_a_folder_is_a_model(folder: Callable[..., ModelFiles]) -> None:
    path = folder({"model.safetensors": {"a": torch.zeros(2)}}).path
    assert resolve(str(path)) == ModelFiles(str(path), path, "safetensors")


def test_a_gguf_file_is_a_model_and_so_is_a_folder_with_just_one(tmp_path: Path) -> None:
    file = tmp_path / "some.gguf"
    file.touch()
    assert resolve(str(file)) == ModelFiles(str(file), file, "gguf")
    assert resolve(str(tmp_path)) == ModelFiles(str(tmp_path), file, "gguf")


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name.gguf").touch()
    monkeypatch.chdir(tmp_path)
    assert resolve("org/name.gguf").path == tmp_path / "org" / "name.gguf"
    assert resolve("org").path == tmp_path / "org" / "name.gguf"


def test_several_gguf_files_have_to_be_chosen_from(tmp_path: Path) -> None:
    for name in ("q4.gguf", "q8.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(InvalidArgument, match=r"several GGUF files, name one of them: q4\.gguf, q8\.gguf"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("files", "kind", "said"),
    [
        ([], NotFound, r"has no config\.json"),
        (["config.json"], NotFound, r"has no weights: expected model\.safetensors or"),
        (["config.json", "pytorch_model.bin"], Unimplemented, r"pytorch_model\.bin; only safetensors and GGUF"),
    ],
)
def test_a_folder_that_is_no_model_says_what_is_missing(
    tmp_path: Path, files: list[str], kind: type[Exception], said: str
) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(kind, match=said):
        resolve(str(tmp_path))


def test_any_other_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(InvalidArgument, match=r"neither a folder nor a \.gguf file"):
        resolve(str(file))


@pytest.mark.parametrize(
    "name", ["", "nothing", "./nothing", "/no/such/place", "a/b/c", "x/y.gguf", "n" * 5000, "~no-such-user/m", "a\0b"]
)
def test_a_name_of_nothing_says_what_a_model_can_be(name: str) -> None:
    with pytest.raises(NotFound, match=r"give a folder, a \.gguf file, a hub id .* builtin:smollm2") as caught:
        resolve(name)
    assert caught.value.field == "model"
    assert len(caught.value.message) < 500


def test_an_unknown_builtin_lists_the_known_ones() -> None:
    with pytest.raises(NotFound, match=r"'builtin:gpt5'; there are builtin:smollm2, builtin:smollm2-digits"):
        resolve("builtin:gpt5")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_one_may_not_enter_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o000)
    with pytest.raises(FailedPrecondition, match="may not be read by this user"):
        resolve(str(tmp_path / "locked" / "model"))
