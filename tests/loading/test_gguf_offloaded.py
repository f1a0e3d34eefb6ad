"""Experts in the blocks of a GGUF file, packed as they are stored."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from triptych.experts.settings import Fraction, OffloadSettings
from triptych.kernels import native
from triptych.models.convert import convert
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.spec import read_spec
from triptych.models.testing import PagedSequence

Tiny = Callable[..., tuple[ModelFiles, PreTrainedModel]]


@pytest.mark.parametrize("name", ["MixtralForCausalLM", "Qwen2MoeForCausalLM"])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16"])
def test_logits_are_those_of_resident_blocks(
    name: str, kind: str, tiny_family: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native.install()
    files, _ = tiny_family(name)
    path = tmp_path / "model.gguf"
    convert(files, path, kind)
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    stored, tokens = ModelFiles("tiny", path, "gguf"), torch.randint(3, 250, (30,))

    def logits(offload: OffloadSettings | None) -> torch.Tensor:
        decoder = Decoder.load(stored, read_spec(stored), torch.float32, quantization="gguf", offload=offload)
        sequence = PagedSequence(decoder)
        found = [sequence.feed(part) for part in tokens.split([20] + [1] * 10)]
        if decoder.residency is not None:
            decoder.residency.check()
            assert decoder.residency.counts.misses > 0
        decoder.close()
        return torch.cat(found)

    assert torch.equal(logits(OffloadSettings(budget=Fraction(0.5), warm=False)), logits(None))
