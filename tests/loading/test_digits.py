"""builtin:smollm2-digits, as a checkpoint that transformers loads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from triptych.models.checkpoint import open_checkpoint
from triptych.models.digits import DATA, assemble
from triptych.models.files import ModelFiles
from triptych.models.resolve import resolve
from triptych.models.spec import read_spec
from triptych.models.testing import RecordingProgress
from triptych.models.towers.encoder import VisionEncoder
from triptych.models.weights import open_weights

QUESTION = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What digit is in the image?"}]}]


@pytest.fixture(scope="module")
def digits() -> ModelFiles:
    return resolve("builtin:smollm2-digits")


def test_transformers_answers_held_out_digits_with_it(digits: ModelFiles) -> None:
    model: Any = LlavaForConditionalGeneration.from_pretrained(digits.path, dtype="auto")
    processor = AutoProcessor.from_pretrained(digits.path)  # type: ignore[no-untyped-call]
    assert model.dtype == torch.bfloat16
    with np.load(DATA / "held-out.npz") as held_out:
        images = [Image.fromarray((image * (255 / 16)).round().astype(np.uint8)) for image in held_out["images"][:9]]
        labels = held_out["labels"][:9]
    prompt = processor.apply_chat_template(QUESTION, add_generation_prompt=True)
    inputs = processor(text=[prompt] * len(images), images=images, return_tensors="pt").to(torch.bfloat16)
    answers = model.generate(**inputs, max_new_tokens=12, do_sample=False)[:, inputs.input_ids.shape[1] :]
    said = processor.batch_decode(answers, skip_special_tokens=True)
    assert said == [f"The digit is {digit}." for digit in labels]


def test_the_language_model_is_smollm2s(digits: ModelFiles, smollm2: ModelFiles) -> None:
    plain = open_weights(open_checkpoint(smollm2), torch.bfloat16)
    theirs = open_weights(open_checkpoint(digits), torch.bfloat16)
    assert theirs.names >= {f"language_model.{name}" for name in plain.names}
    for name in plain.names:
        tensor = theirs.tensor(f"language_model.{name}")
        assert torch.equal(tensor[: plain.shape(name)[0]], plain.tensor(name)), name
    embedding = theirs.tensor("language_model.model.embed_tokens.weight")
    assert embedding.shape == (49153, 576)
    assert not embedding[-1].any()


def test_the_eye_is_a_shard_of_its_own_and_only_that_is_opened(digits: ModelFiles, tmp_path: Path) -> None:
    weights = open_weights(open_checkpoint(digits), torch.bfloat16)
    eye = load_file(DATA / "eye.safetensors")
    assert all(torch.equal(weights.tensor(name), tensor.bfloat16()) for name, tensor in eye.items())
    for name in ("config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"):
        (tmp_path / name).symlink_to(digits.path / name)
    files = ModelFiles("eye", tmp_path, "safetensors")
    assert VisionEncoder.load(files, read_spec(files), torch.bfloat16).dtype is torch.bfloat16


def test_a_cut_checkpoint_is_assembled_anew(smollm2: ModelFiles, tmp_path: Path, progress: RecordingProgress) -> None:
    folder = assemble(tmp_path / "digits", smollm2, progress)
    (folder / "tokenizer.json").write_text("{")
    for _ in range(2):
        assert assemble(folder, smollm2, progress) == folder
    assembled = [task for task in progress.tasks if task.title.startswith("Assembling")]
    assert len(assembled) == 2
    assert all(task.done == task.total for task in assembled)
