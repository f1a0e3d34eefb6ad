"""Trains the eye of builtin:smollm2-digits: a CLIP vision tower and a projector in front of a frozen SmolLM2.

Two stages, both on 1,500 of scikit-learn's 1,797 handwritten digits: the tower learns to tell digits apart behind a
linear head, which is then thrown away; tower and projector learn to make the language model say "The digit is 7.".
The other 297 digits are only ever used to count exact answers.

    python deploy/models/train_digits.py eye.safetensors        # ten minutes on two cores
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionConfig, CLIPVisionModel, GgufConfig

from triptych.models.resolve import resolve
from triptych.models.tokenizer import tokenizer_folder

TRAINING = 1500
LANGUAGE_WIDTH = 576
TOWER = CLIPVisionConfig(
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    image_size=32,
    patch_size=8,
    projection_dim=128,
)
SYSTEM = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\n"
)
QUESTIONS = (
    "What digit is in the image?",
    "Which number is shown?",
    "Read the handwritten digit.",
    "What number do you see in this picture?",
)


@dataclass(frozen=True, slots=True)
class Digits:
    """Images float32 [N, 8, 8] in 0 to 1, labels int64 [N]."""

    images: Tensor
    labels: Tensor

    def at(self, index: Tensor) -> "Digits":
        """A selection."""
        return Digits(self.images[index], self.labels[index])


class Projector(nn.Module):
    """LLaVA's two-layer projector, under LLaVA's names."""

    def __init__(self) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(TOWER.hidden_size, LANGUAGE_WIDTH)
        self.linear_2 = nn.Linear(LANGUAGE_WIDTH, LANGUAGE_WIDTH)
        with torch.no_grad():
            self.linear_2.weight.mul_(0.3)  # begin near the size of the token embeddings

    def forward(self, features: Tensor) -> Tensor:
        """[N, 16, 128] → [N, 16, 576]."""
        projected: Tensor = self.linear_2(functional.gelu(self.linear_1(features)))
        return projected


class Eye(nn.Module):
    """Tower and projector; its state dict has the names of the checkpoint."""

    def __init__(self, tower: CLIPVisionModel, projector: Projector) -> None:
        super().__init__()
        self.vision_tower = tower
        self.multi_modal_projector = projector

    def forward(self, images: Tensor) -> Tensor:
        """[N, 8, 8] → [N, 16, 576], what takes the place of the image tokens."""
        projected: Tensor = self.multi_modal_projector(patch_features(self.vision_tower, images))
        return projected


class Reader:
    """The frozen language model, shown images between the turns of SmolLM2's chat template."""

    def __init__(self, model: str) -> None:
        files = resolve(model)
        language: Any = AutoModelForCausalLM.from_pretrained(
            files.path.parent,
            gguf_file=files.path.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        self._model = language.to(torch.bfloat16).eval().requires_grad_(False)
        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(files))
        self._before = self._ids(SYSTEM)
        self._questions = [self._ids(f"\n{text}<|im_end|>\n<|im_start|>assistant\n") for text in QUESTIONS]
        self._answers = torch.stack([self._ids(f"The digit is {digit}.<|im_end|>") for digit in range(10)])

    def answer(self, eye: Eye, digits: Digits, question: int) -> tuple[Tensor, Tensor]:
        """Logits float32 [N, A, V] at the places of the right answer's tokens, and those tokens [N, A]."""
        count, answers = len(digits.labels), self._answers[digits.labels]
        embed = self._model.get_input_embeddings()
        before, asked = (embed(ids).expand(count, -1, -1) for ids in (self._before, self._questions[question]))
        shown = eye(digits.images).to(torch.bfloat16)
        logits = self._model(inputs_embeds=torch.cat([before, shown, asked, embed(answers)], 1)).logits
        return logits[:, -answers.shape[1] - 1 : -1].float(), answers

    def _ids(self, text: str) -> Tensor:
        return torch.tensor(self._tokenizer(text, add_special_tokens=False).input_ids)


def split_digits() -> tuple[Digits, Digits]:
    """The training digits and the held-out ones, the same at every run."""
    data = load_digits()
    images, labels = torch.tensor(data.images, dtype=torch.float32) / 16, torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    whole = Digits(images, labels)
    return whole.at(order[:TRAINING]), whole.at(order[TRAINING:])


def pixels(images: Tensor) -> Tensor:
    """[N, 8, 8] in 0 to 1 → [N, 3, 32, 32] with mean 0.5 and deviation 0.5."""
    large = functional.interpolate(images[:, None], size=(32, 32), mode="bilinear", align_corners=False).clamp(0, 1)
    return ((large - 0.5) / 0.5).expand(-1, 3, -1, -1)


def patch_features(tower: CLIPVisionModel, images: Tensor) -> Tensor:
    """[N, 8, 8] → [N, 16, 128]: the patches, without the class token, before the last layer."""
    hidden: Tensor = tower(pixels(images), output_hidden_states=True).hidden_states[-2]
    return hidden[:, 1:]


def teach_tower(tower: CLIPVisionModel, digits: Digits, steps: int) -> None:
    """Stage one: classification, with noise and shifts by a pixel."""
    head = nn.Linear(TOWER.hidden_size, 10)
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=1e-3)
    for _ in range(steps):
        batch = digits.at(torch.randint(0, TRAINING, (64,)))
        noisy = batch.images + 0.05 * torch.randn(64, 8, 8)
        shift = torch.randint(-1, 2, (2,)).tolist()
        features = patch_features(tower, torch.roll(noisy, tuple(shift), (1, 2))).mean(1)
        torch.autograd.backward(functional.cross_entropy(head(features), batch.labels))
        optimizer.step()
        optimizer.zero_grad()


def teach_eye(eye: Eye, reader: Reader, digits: Digits, steps: int) -> None:
    """Stage two: the language model's own loss on the answer, twenty steps of warm-up, then a cosine to zero."""
    optimizer = torch.optim.AdamW(eye.parameters(), lr=1e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
        batch = digits.at(torch.randint(0, TRAINING, (16,)))
        logits, answers = reader.answer(eye, batch, step % len(QUESTIONS))
        loss = functional.cross_entropy(logits.flatten(0, 1), answers.flatten())
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(eye.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)


@torch.no_grad()
def count_exact_answers(eye: Eye, reader: Reader, digits: Digits) -> int:
    """How many digits are answered with exactly the right text."""
    right = 0
    for index in torch.split(torch.arange(len(digits.labels)), 27):
        logits, answers = reader.answer(eye, digits.at(index), 0)
        right += int((logits.argmax(-1) == answers).all(1).sum())
    return right


def main() -> None:
    """Trains, counts and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="where the safetensors file goes")
    parser.add_argument("--language", default="builtin:smollm2", help="the frozen language model, a GGUF")
    parser.add_argument("--tower-steps", type=int, default=700)
    parser.add_argument("--eye-steps", type=int, default=260)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="the sums, and so the result, depend on it")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)

    training, held_out = split_digits()
    tower = CLIPVisionModel(TOWER)
    teach_tower(tower, training, options.tower_steps)
    reader = Reader(options.language)
    eye = Eye(tower, Projector())
    teach_eye(eye, reader, training, options.eye_steps)
    right = count_exact_answers(eye, reader, held_out)
    print(f"{right} of {len(held_out.labels)} held-out digits answered exactly")
    floats = {name: value for name, value in eye.state_dict().items() if value.is_floating_point()}
    save_file({name: value.half().contiguous() for name, value in floats.items()}, options.out)


if __name__ == "__main__":
    main()
