"""The folder that holds a model's tokenizer."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from triptych.core.errors import DataLoss, NotFound, Unimplemented
from triptych.models.files import ModelFiles
from triptych.models.testing import RecordingProgress
from triptych.models.tokenizer import tokenizer_folder


def test_a_folder_is_its_own_tokenizer_folder(folder: Callable[..., ModelFiles]) -> None:
    files = folder({"model.safetensors": {"a": torch.ones(1)}})
    with pytest.raises(NotFound, match=r"has no tokenizer: expected tokenizer\.json"):
        tokenizer_folder(files)
    (files.path / "tokenizer.json").write_text("{}")
    assert tokenizer_folder(files) == files.path


def test_smollm2s_tokenizer_comes_out_of_the_gguf_with_its_chat_template(smollm2: ModelFiles) -> None:
    first = tokenizer_folder(smollm2)
    progress = RecordingProgress()
    assert tokenizer_folder(smollm2, progress=progress) == first
    assert progress.tasks == []
    tokenizer = AutoTokenizer.from_pretrained(first)
    assert tokenizer("hello world 123 <|im_start|>").input_ids == [28120, 905, 216, 33, 34, 35, 216, 1]
    text = "Héllo  wörld 1234\n\n<|im_start|>user\n日本語 \t def f(x):"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    chat = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_gguf_without_a_tokenizer_is_named(tmp_path: Path, cache: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "bare.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((2, 2), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(DataLoss, match=r"bare\.gguf has no tokenizer: metadata tokenizer\.ggml\.tokens is missing"):
        tokenizer_folder(ModelFiles("bare", tmp_path / "bare.gguf", "gguf"))


def test_a_tokenizer_that_cannot_be_converted_says_why_and_leaves_nothing(
    llama_gguf: Callable[..., ModelFiles], rng: np.random.Generator, cache: Path
) -> None:
    files = llama_gguf(rng, metadata={"tokenizer.ggml.model": "runes"})
    with pytest.raises(Unimplemented, match=r"the tokenizer of .*tiny\.gguf cannot be converted: \w+"):
        tokenizer_folder(files)
    assert [path for path in cache.rglob("*") if path.is_dir()] == [cache / "tokenizers"]


def test_finding_a_model_and_its_config_needs_no_torch() -> None:
    modules = ["resolve", "config", "tokenizer", "conversion", "digits", "gguf_source", "builtin"]
    imports = "; ".join(f"import triptych.models.{module}" for module in modules)
    script = f"{imports}; import sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
