"""What a recording says of the model that it was made with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from triptych.engine.loading import load_model
from triptych.experts.settings import Fraction, OffloadSettings
from triptych.kernels import native
from triptych.models.files import ModelFiles
from triptych.models.route_tap import traced_model

native.install()
SIXTEEN_BITS = 9 * 4096
"""6 pages for gate and up, and 3 for down."""
TWELVE_BITS = 8 * 4096


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    folder = tmp_path_factory.mktemp("mixtral")
    config = MixtralConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    model: Any = MixtralForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    return ModelFiles("mixtral", folder, "safetensors")


@pytest.mark.parametrize(
    ("offload", "blob"),
    [
        (None, TWELVE_BITS),
        (OffloadSettings(budget=Fraction(0.75), warm=False), TWELVE_BITS),
        (OffloadSettings(budget=Fraction(0.75), warm=False, compact=False), SIXTEEN_BITS),
        (OffloadSettings(budget=Fraction(0.75), warm=False, lossy=True), SIXTEEN_BITS),
        (OffloadSettings(budget=Fraction(0.75), warm=False, lossy="int4"), SIXTEEN_BITS),
    ],
)
def test_experts_are_as_large_as_those_that_are_read(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offload: OffloadSettings | None, blob: int
) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    decoder = load_model(files, context=64, dtype="bfloat16", offload=offload).decoder
    try:
        model = traced_model("mixtral", decoder)
        assert (model.blob, model.resident) == (blob, SIXTEEN_BITS)
    finally:
        decoder.close()
