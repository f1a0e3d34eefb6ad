"""`triptych experts pack`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from triptych.experts.store import open_store
from triptych.kernels.dispatch import REFERENCE, Op
from triptych.models import compact_pack
from triptych.models.synthetic import synthetic

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    return synthetic("1MB")


def test_a_pack_is_made_then_verified_then_mended(model: Path, run: Run) -> None:
    status, made, _ = run("experts", "pack", model)
    path, summary = made.splitlines()
    store = open_store(Path(path))
    experts = sum(layer.experts for layer in store.layers)

    assert status == 0
    assert summary.startswith(f"{experts} experts of {len(store.layers)} layers, 2 MB: packed in ")
    assert run("experts", "pack", model)[1].endswith(": there already\n")
    assert "2 MB: verified in" in run("experts", "pack", model, "--verify")[1]

    whole = bytearray(store.path.read_bytes())
    whole[store.offset(1, 2) + 7] ^= 1
    store.path.write_bytes(whole)
    status, mended, _ = run("experts", "pack", model, "--verify")

    assert status == 0
    assert mended.splitlines()[-1] == "1 were damaged, and have been written again"
    assert "damaged" not in run("experts", "pack", model, "--verify")[1]


def test_without_a_compiler_what_could_not_be_computed_with_is_not_packed(
    model: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("experts", "pack", model, "--dtype", "bfloat16", "--json")
    plain = json.loads(run(*arguments, "--plain")[1])
    twelve = json.loads(run(*arguments)[1])
    assert ("-compact-" in twelve["path"], "-compact-" in plain["path"]) == (True, False)
    monkeypatch.setattr(Op, "backend", lambda op, device: REFERENCE)
    monkeypatch.setattr(compact_pack, "obtainable", lambda: False)
    assert json.loads(run(*arguments)[1])["path"] == plain["path"]


def test_what_is_printed_as_json_says_where_it_is_and_what_it_took(model: Path, run: Run) -> None:
    status, out, _ = run("experts", "pack", model, "--quantization", "int8", "--json")
    said = json.loads(out)
    store = open_store(Path(said["path"]))

    assert status == 0
    assert said["experts"] == sum(layer.experts for layer in store.layers)
    assert (said["layers"], said["bytes"]) == (len(store.layers), store.nbytes)
    assert said["file_bytes"] == store.path.stat().st_size
    assert (said["built"], said["mended"]) == (True, None)
    assert said["seconds"] > 0
    assert said["mb_per_s"] == pytest.approx(said["bytes"] / 1e6 / said["seconds"])
