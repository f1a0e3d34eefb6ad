"""Experts of bfloat16 lie in a file of three quarters of their size, if their exponents allow it."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.support.checkpoint_packs import compact_of, opened, packs
from tests.support.random_experts import same
from tests.support.seeds import drawn_seed
from triptych.engine.loading import load_model
from triptych.experts.blob import Expert, Matrix
from triptych.experts.settings import Fraction, OffloadSettings
from triptych.experts.store import compact_layout, read_blob
from triptych.kernels import DenseWeight, native
from triptych.kernels.compact import CompactWeight, expanded
from triptych.kernels.dispatch import REFERENCE, Op
from triptych.models import compact_pack
from triptych.models.compact_pack import CompactPack, expandable, refused
from triptych.models.expert_pack import ExpertPack, as_it_is
from triptych.models.files import ModelFiles
from triptych.models.offload import pack_of
from triptych.models.spec import read_spec
from triptych.models.testing import PagedSequence, RecordingProgress

native.install()
HALF = OffloadSettings(budget=Fraction(0.5), warm=False)


def as_plain(expert: Expert) -> Expert:
    def of(matrix: Matrix) -> Matrix:
        assert isinstance(matrix.weight, CompactWeight)
        return Matrix(DenseWeight(expanded(matrix.weight)), matrix.bias)

    gate, up, down = map(of, expert)
    return gate, up, down


def test_every_expert_is_what_the_checkpoint_has(files: ModelFiles, tmp_path: Path) -> None:
    plain = opened(files)
    pack = compact_of(plain)
    assert not pack.intact
    store = pack.open()
    assert pack.intact
    assert packs(tmp_path) == ["compact"]
    for layer, one in enumerate(plain.layers):
        layout = store.layers[layer].layout
        assert layout.nbytes <= one.layout.nbytes
        assert layout.resident == one.layout.resident
        for expert in range(one.experts):
            assert same(as_plain(layout.view(read_blob(store, layer, expert))), plain.read(layer, expert))


def test_it_is_made_once_and_mended(files: ModelFiles) -> None:
    pack = compact_of(opened(files))
    store = pack.open()
    assert pack.open(again := RecordingProgress()) == store
    assert not again.tasks
    whole = store.path.read_bytes()
    damaged = bytearray(whole)
    damaged[store.offset(1, 2) + 100] ^= 1
    store.path.write_bytes(damaged)
    assert pack.mend(1, 2) == store
    assert store.path.read_bytes() == whole


@pytest.mark.parametrize(("dtype", "quantization"), [(torch.float32, "none"), (torch.bfloat16, "int8")])
def test_other_forms_have_none(files: ModelFiles, dtype: torch.dtype, quantization: str) -> None:
    plain = opened(files, dtype, "int8" if quantization == "int8" else "none")
    assert compact_layout(plain.layers[0].layout) is None
    assert CompactPack.of(plain) is plain


def test_without_a_compiler_experts_stay_as_they_are(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, plain = read_spec(files).decoder, opened(files)
    assert isinstance(pack_of(files, spec, plain.parameters, HALF), CompactPack)
    monkeypatch.setattr(Op, "backend", lambda op, device: REFERENCE)
    pack = pack_of(files, spec, plain.parameters, HALF)
    assert isinstance(pack, ExpertPack)
    assert (pack.path, pack.form) == (plain.path, as_it_is)


def test_what_was_refused_is_known_before_anything_is_opened(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not refused(files)
    pack = compact_of(opened(files))
    pack.refused.parent.mkdir(parents=True, exist_ok=True)
    pack.refused.write_text("a rule of before")
    assert not refused(files)
    monkeypatch.setattr("triptych.experts.store.compact.compacted", lambda weight: None)
    pack.open()
    assert refused(files)
    assert not refused(replace(files, path=files.path.with_name("absent")))


def test_kernels_that_nobody_has_loaded_count_if_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert expandable()
    monkeypatch.setattr(Op, "backend", lambda op, device: REFERENCE)
    assert not expandable(), "they have been tried"
    monkeypatch.setattr(native, "install", cache(native.install))
    for can in (True, False):
        monkeypatch.setattr(compact_pack, "obtainable", lambda can=can: can)
        assert expandable() == can


def test_answers_have_the_bits_of_plain_experts_and_a_budget_is_a_share_of_those(files: ModelFiles) -> None:
    torch.manual_seed(drawn_seed())
    tokens, found, held = torch.randint(0, 100, (24,)), [], []
    for settings in (replace(HALF, compact=False), HALF):
        decoder = load_model(files, context=64, offload=settings).decoder
        sequence = PagedSequence(decoder)
        found.append(torch.cat([sequence.feed(token.view(1)) for token in tokens]))
        assert decoder.residency is not None
        held.append(decoder.residency.nbytes)
        decoder.close()
    assert torch.equal(*found)
    assert 0.9 * held[0] < held[1] <= held[0]
