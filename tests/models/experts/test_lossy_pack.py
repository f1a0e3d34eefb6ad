"""Rounded experts of a checkpoint lie in a file beside the exact ones, if they are allowed."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.checkpoint_packs import opened, packs
from tests.support.random_experts import same
from triptych.core.errors import InvalidArgument
from triptych.engine.loading import load_model
from triptych.experts.blob import BlobLayout, Matrix
from triptych.experts.settings import Fraction, OffloadSettings, Rounding
from triptych.experts.store import expand, open_store, read_blob, rounded
from triptych.kernels import DenseWeight
from triptych.models.files import ModelFiles
from triptych.models.lossy_pack import LossyPack
from triptych.models.testing import PagedSequence, RecordingProgress

BOTH = get_args(Rounding)
LOSSY = OffloadSettings(budget=Fraction(0.5), lossy=True, warm=False)


@pytest.mark.parametrize("to", BOTH)
def test_both_files_are_made_once_and_the_second_holds_the_first_rounded(files: ModelFiles, to: Rounding) -> None:
    exact = opened(files)
    pack, progress = LossyPack.of(exact, to), RecordingProgress()

    store = pack.open(progress)

    assert [task.title for task in progress.tasks] == ["Packing experts of model", "Rounding experts of model"]
    assert store.rounded is not None
    assert store.rounded.nbytes < store.nbytes
    for layer, expert in [(0, 0), (len(exact.layers) - 1, 3)]:
        blob = read_blob(store.rounded, layer, expert)
        assert same(store.rounded.layers[layer].layout.view(blob), rounded(exact.read(layer, expert), to))
    assert pack.open(again := RecordingProgress()) == store
    assert not again.tasks


@pytest.mark.parametrize("to", BOTH)
def test_whichever_file_is_damaged_is_mended(files: ModelFiles, to: Rounding) -> None:
    pack = LossyPack.of(opened(files), to)
    store = pack.open()
    assert store.rounded is not None
    for one in (store, store.rounded):
        whole = one.path.read_bytes()
        damaged = bytearray(whole)
        damaged[one.offset(1, 2) + 100] ^= 8
        one.path.write_bytes(damaged)

        assert pack.mend(1, 2) == store
        assert one.path.read_bytes() == whole


def test_a_rounded_file_of_another_layout_is_made_anew(files: ModelFiles) -> None:
    eight, four = (LossyPack.of(opened(files), to) for to in BOTH)
    eight.open()
    shutil.copy(eight.rounded.path, four.rounded.path)
    progress = RecordingProgress()

    store = four.open(progress)

    assert [task.title for task in progress.tasks] == ["Rounding experts of model"]
    assert store.rounded is not None
    assert store.rounded.layers[0].layout.gate.form == "Q4_0"


def test_what_used_to_have_another_name_makes_room_for_what_is_packed(files: ModelFiles) -> None:
    eight, four = (LossyPack.of(opened(files), to) for to in BOTH)
    eight.open()
    former = eight.rounded.path.with_name(eight.rounded.path.name.replace("-rounded_int8-", "-rounded-"))
    shutil.copy(eight.rounded.path, former)

    four.open()

    assert not former.exists()
    assert eight.exact.intact
    assert eight.rounded.intact


def test_rounded_experts_are_near_exact_ones_and_are_not_even_made_without_permission(files: ModelFiles) -> None:
    cache, found = files.path.parent, []
    for settings, made in (
        (None, []),
        (replace(LOSSY, lossy=False), ["compact"]),
        (LOSSY, ["compact", "pack", "rounded_int8"]),
        (replace(LOSSY, lossy="int4"), ["compact", "pack", "rounded_int4", "rounded_int8"]),
    ):
        found.append(logits(files, settings))
        assert packs(cache) == made
    resident, exact, eight, four = found

    assert torch.equal(exact, resident)
    assert 0 < (eight - resident).norm() < 0.05 * resident.norm()
    assert (eight - resident).norm() < (four - resident).norm() < 0.3 * resident.norm()
    assert {open_store(path).rounded for path in cache.rglob("*rounded*.experts")} == {None}


@pytest.mark.parametrize("to", BOTH)
def test_a_model_that_keeps_no_expert_answers_as_one_whose_experts_are_what_rounded_ones_stand_for(
    files: ModelFiles, tmp_path: Path, to: Rounding
) -> None:
    """With `ring` no layer keeps any, so that all are read rounded."""
    lossy = logits(files, replace(LOSSY, lossy=to, policy="ring"))

    assert torch.equal(lossy, logits(stand_for(files, tmp_path / "coarse", to), None))


def stand_for(files: ModelFiles, folder: Path, to: Rounding) -> ModelFiles:
    """A checkpoint of the same model whose experts have been rounded."""
    shutil.copytree(files.path, folder)
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        save_file({name: coarse(name, tensor, to) for name, tensor in tensors.items()}, path)
    return replace(files, path=folder)


def coarse(name: str, tensor: Tensor, to: Rounding) -> Tensor:
    if ".experts." not in name:
        return tensor
    expert = (Matrix(DenseWeight(tensor)),) * 3
    layout = BlobLayout.of(expert)
    blob = torch.zeros(layout.nbytes, dtype=torch.uint8)
    expand(rounded(expert, to), layout, blob)
    found = layout.view(blob)[0].weight
    assert isinstance(found, DenseWeight)
    return found.values.clone()


def logits(files: ModelFiles, settings: OffloadSettings | None) -> Tensor:
    """Of 24 tokens, one after the other."""
    decoder = load_model(files, context=64, offload=settings).decoder
    sequence = PagedSequence(decoder)
    found = torch.cat([sequence.feed(token.view(1)) for token in torch.arange(24) * 7 % 100])
    decoder.close()
    return found


@pytest.mark.parametrize("to", BOTH)
def test_experts_that_are_rounded_already_cannot_be_rounded_again(files: ModelFiles, to: Rounding) -> None:
    with pytest.raises(InvalidArgument, match="use quantization none") as refused:
        load_model(files, quantization="int8", context=64, offload=replace(LOSSY, lossy=to))
    assert refused.value.field == "experts.lossy"
