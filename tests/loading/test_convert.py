"""GGUF files become folders and folders GGUF files, and the model stays the same."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from triptych.cli.main import main
from triptych.core.errors import AlreadyExists, InvalidArgument, TriptychError, Unimplemented
from triptych.kernels import AttentionBatch
from triptych.models.convert import convert
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.hf_tokenizer import read_tokenizer
from triptych.models.quantization import Quantization
from triptych.models.sources import SafetensorsSource
from triptych.models.spec import read_spec
from triptych.models.step import StepInput
from triptych.models.testing import RecordingProgress

Tiny = Callable[..., tuple[ModelFiles, PreTrainedModel]]
PROMPT = 23


def logits(files: ModelFiles, quantization: Quantization = "none") -> torch.Tensor:
    """Of all rows of one prompt."""
    decoder = Decoder.load(files, read_spec(files), torch.float32, quantization=quantization)
    positions = torch.arange(PROMPT)
    batch = AttentionBatch(
        query_start=torch.tensor([0, PROMPT], dtype=torch.int32),
        kv_lengths=torch.tensor([PROMPT], dtype=torch.int32),
        block_tables=torch.tensor([[0, 1]], dtype=torch.int32),
    )
    step = StepInput(positions * 7 % 300, positions, positions, batch, positions)
    return decoder.forward(step, torch.zeros(decoder.kv_shape(2, 16)))


def near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-4 * expected.abs().max())


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Gemma3ForCausalLM", "Qwen2MoeForCausalLM"])
def test_there_and_back_the_logits_are_those_of_transformers(
    name: str, tiny_family: Tiny, tmp_path: Path, cache: Path, progress: RecordingProgress
) -> None:
    files, model = tiny_family(name)
    there, back = ModelFiles("m", tmp_path / "m.gguf", "gguf"), ModelFiles("m", tmp_path / "back", "safetensors")
    convert(files, there.path, "F32", progress=progress)
    convert(there, back.path, "F32", progress=progress)
    prompt = (torch.arange(PROMPT) * 7 % 300).unsqueeze(0)
    with torch.no_grad():
        expected = model(prompt).logits[0]
        again = AutoModelForCausalLM.from_pretrained(back.path)(prompt).logits[0]
    assert near(again, expected)
    assert all(near(logits(form), expected) for form in (files, there, back))
    assert all(task.done == task.total for task in progress.tasks if task.total)
    first, last = (read_tokenizer(form.path).backend_tokenizer for form in (files, back))
    assert first.encode("Zwölf Boxkämpfer 12 </s>").ids == last.encode("Zwölf Boxkämpfer 12 </s>").ids
    assert {path.name for path in tmp_path.iterdir()} == {"back", "cache", name, "m.gguf"}


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_llama_cpps_reader_finds_the_numbers_packed_as_asked(kind: str, tiny_family: Tiny, tmp_path: Path) -> None:
    files, _ = tiny_family("Qwen3ForCausalLM")
    convert(files, tmp_path / "m.gguf", kind)
    source = SafetensorsSource(files.path / "model.safetensors")
    packing, found = gguf.GGMLQuantizationType[kind], gguf.GGUFReader(tmp_path / "m.gguf")
    tensors = {tensor.name: tensor for tensor in found.tensors}
    embedding, norm = tensors["token_embd.weight"], tensors["output_norm.weight"]
    assert (embedding.tensor_type, norm.tensor_type) == (packing, gguf.GGMLQuantizationType.F32)
    packed = gguf.quants.quantize(source.read("model.embed_tokens.weight", 0, 300), packing)
    assert np.array_equal(embedding.data.reshape(-1).view(np.uint8), packed.reshape(-1).view(np.uint8))
    assert found.fields["general.architecture"].contents() == "qwen3"
    assert found.fields["tokenizer.ggml.tokens"].contents()[1] == "<s>"


def test_what_a_gguf_file_cannot_say_is_named_and_nothing_is_left(tiny_family: Tiny, tmp_path: Path) -> None:
    files, _ = tiny_family("Gemma3ForCausalLM", query_pre_attn_scalar=48)
    with pytest.raises(Unimplemented, match=r"would be another model, whose decoder\.layers\[0\]\.\S*scale is"):
        convert(files, tmp_path / "m.gguf", "F32")
    assert [path.name for path in tmp_path.iterdir()] == [files.path.name]


def test_refusals(tiny_family: Tiny, tmp_path: Path) -> None:
    files, _ = tiny_family("LlamaForCausalLM")
    (tmp_path / "there.gguf").touch()
    cases: list[tuple[ModelFiles, str, str, type[TriptychError], str]] = [
        (files, "there.gguf", "F16", AlreadyExists, r"there\.gguf exists and is not overwritten"),
        (files, "folder", "F16", InvalidArgument, "LlamaForCausalLM is stored as safetensors already"),
        (files, "m.gguf", "Q4_K", InvalidArgument, "kind must be one of BF16, F16, F32, Q8_0, .* got 'Q4_K'"),
        (
            ModelFiles("m", tmp_path / "there.gguf", "gguf"),
            "folder",
            "Q8_0",
            InvalidArgument,
            "one of BF16, F16, F32, got",
        ),
    ]
    for source, target, kind, error, said in cases:
        with pytest.raises(error, match=said):
            convert(source, tmp_path / target, kind)
    config = files.path / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "OlmoeForCausalLM"))
    with pytest.raises(Unimplemented, match="a GGUF file of the architecture OlmoeForCausalLM is not written; these"):
        convert(files, tmp_path / "m.gguf", "F16")


def test_the_command_writes_both_formats_and_refuses_what_it_cannot(
    tiny_family: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["models", "convert", *map(str, arguments)])
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    source, _ = tiny_family("LlamaForCausalLM")
    file, folder = tmp_path / "there.gguf", tmp_path / "back"
    assert run(source.path, file, "--as", "f32")[:2] == (0, f"{file}\n")
    assert run(file, folder, "--as", "F32")[:2] == (0, f"{folder}\n")
    assert torch.equal(logits(ModelFiles("back", folder, "safetensors")), logits(source))
    status, out, error = run(source.path, file)
    assert (status, out) == (1, "")
    assert f"{file} exists" in error
    status, out, error = run(source.path, tmp_path / "other.gguf", "--as", "q9_0")
    assert (status, out) == (1, "")
    assert "Q9_0" in error
    assert not (tmp_path / "other.gguf").exists()
