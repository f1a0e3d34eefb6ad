"""Rounded experts of a checkpoint lie in a file beside the exact ones, if they are allowed."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
from checkpoint_packs import opened, packs
from random_experts import same

from triptych.core.errors import InvalidArgument
from triptych.engine.loading import load_model
from triptych.experts.settings import Fraction, OffloadSettings
from triptych.experts.store import open_store, read_blob, rounded
from triptych.models.files import ModelFiles
from triptych.models.lossy_pack import LossyPack
from triptych.models.testing import PagedSequence, RecordingProgress

LOSSY = OffloadSettings(budget=Fraction(0.5), lossy=True, warm=False)


def test_both_files_are_made_once_and_the_second_holds_the_first_rounded(files: ModelFiles) -> None:
    exact = opened(files)
    pack, progress = LossyPack.of(exact), RecordingProgress()

    store = pack.open(progress)

    assert [task.title for task in progress.tasks] == ["Packing experts of model", "Rounding experts of model"]
    assert store.rounded is not None
    assert store.rounded.nbytes < store.nbytes
    for layer, expert in [(0, 0), (len(exact.layers) - 1, 3)]:
        blob = read_blob(store.rounded, layer, expert)
        assert same(store.rounded.layers[layer].layout.view(blob), rounded(exact.read(layer, expert)))
    assert pack.open(again := RecordingProgress()) == store
    assert not again.tasks


def test_whichever_file_is_damaged_is_mended(files: ModelFiles) -> None:
    pack = LossyPack.of(opened(files))
    store = pack.open()
    assert store.rounded is not None
    for one in (store, store.rounded):
        whole = one.path.read_bytes()
        damaged = bytearray(whole)
        damaged[one.offset(1, 2) + 100] ^= 8
        one.path.write_bytes(damaged)

        assert pack.mend(1, 2) == store
        assert one.path.read_bytes() == whole


def test_rounded_experts_are_near_exact_ones_and_are_not_even_made_without_permission(files: ModelFiles) -> None:
    torch.manual_seed(1)
    tokens = torch.randint(0, 100, (24,))
    cache, found = files.path.parent, []
    for settings, made in (
        (None, []),
        (replace(LOSSY, lossy=False), ["compact"]),
        (LOSSY, ["compact", "pack", "rounded"]),
    ):
        decoder = load_model(files, context=64, offload=settings).decoder
        sequence = PagedSequence(decoder)
        found.append(torch.cat([sequence.feed(token.view(1)) for token in tokens]))
        assert packs(cache) == made
        decoder.close()
    resident, exact, lossy = found

    assert torch.equal(exact, resident)
    assert not torch.equal(lossy, resident)
    assert (lossy - resident).norm() < 0.05 * resident.norm()
    assert open_store(next(cache.rglob("*rounded*.experts"))).rounded is None


def test_experts_that_are_rounded_already_cannot_be_rounded_again(files: ModelFiles) -> None:
    with pytest.raises(InvalidArgument, match="use quantization none") as refused:
        load_model(files, quantization="int8", context=64, offload=LOSSY)
    assert refused.value.field == "experts.lossy"
