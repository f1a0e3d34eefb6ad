"""Tiny random checkpoints of every family, against transformers: each logit of a prompt, and a greedy answer.

The prompt runs through a paged cache in chunks whose borders fall inside windows and pages.
"""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from triptych.core.generation import OperationKey
from triptych.engine.core import EngineCore
from triptych.engine.sampling import Sampling
from triptych.engine.scheduler import SchedulerOptions
from triptych.engine.sequence import Sequence
from triptych.kernels import AttentionBatch, native
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.spec import read_spec
from triptych.models.step import EmbeddingRows, StepInput

COMPILED = native.install().isa is not None
BLOCK_SIZE = 16
CHUNK = 24
PROMPT = 70
ANSWER = 32
BLOCKS = 12
CLEAR = 1e-3
"""By how much of the largest score the likeliest token leads: less may be turned around by rounding."""


@pytest.fixture(autouse=True)
def seed() -> int:
    """Fresh random inputs every run; the seed is printed with a failure."""
    value = secrets.randbits(32)
    print(f"seed {value}")
    torch.manual_seed(value)
    return value


@dataclass(slots=True)
class PagedSequence:
    """One sequence in a pool that is NaN wherever nothing was stored."""

    decoder: Decoder
    length: int = 0
    kv: Tensor = field(init=False)
    blocks: Tensor = field(default_factory=lambda: torch.randperm(BLOCKS))

    def __post_init__(self) -> None:
        self.kv = torch.full(self.decoder.kv_shape(BLOCKS, BLOCK_SIZE), torch.nan, dtype=self.decoder.dtype)

    def feed(self, token_ids: Tensor, embeddings: tuple[EmbeddingRows, ...] = ()) -> Tensor:
        """Runs one chunk and returns the logits of all its rows."""
        positions = torch.arange(self.length, self.length + len(token_ids))
        self.length += len(token_ids)
        batch = AttentionBatch(
            query_start=torch.tensor([0, len(token_ids)], dtype=torch.int32),
            kv_lengths=torch.tensor([self.length], dtype=torch.int32),
            block_tables=self.blocks.int().unsqueeze(0),
        )
        slots = self.blocks[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        rows = torch.arange(len(token_ids))
        return self.decoder.forward(StepInput(token_ids, positions, slots, batch, rows, embeddings), self.kv)

    def prompt(self, token_ids: Tensor) -> Tensor:
        """The logits of a prompt that runs in chunks."""
        return torch.cat([self.feed(chunk) for chunk in token_ids.split(CHUNK)])


def randomise(model: PreTrainedModel) -> None:
    """Moves biases and norms away from what they begin as, where mistaking them would not be seen."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))


def save(model: PreTrainedModel, folder: Path) -> ModelFiles:
    """Writes the checkpoint."""
    model.train(False)
    model.save_pretrained(folder)
    return ModelFiles("tiny", folder, "safetensors")


def close(ours: Tensor, theirs: Tensor) -> None:
    """Every row within 1e-4 of its largest logit."""
    off = (ours - theirs).abs().amax(-1) / theirs.abs().amax(-1)
    assert off.max() <= 1e-4, f"row {int(off.argmax())} is off by {off.max():.2e} of its largest logit"


@torch.no_grad()
def clear_answer(model: Any, prompt: Tensor) -> Tensor | None:
    """transformers' greedy answer, token after token; None if some token leads too little to tell."""
    token_ids, past = prompt.unsqueeze(0), None
    answer: list[Tensor] = []
    for _ in range(ANSWER):
        result = model(token_ids, past_key_values=past, use_cache=True)
        scores, past = result.logits[0, -1], result.past_key_values
        best = scores.topk(2).values
        if best[0] - best[1] < CLEAR * scores.abs().max():
            return None
        token_ids = scores.argmax().view(1, 1)
        answer.append(token_ids[0])
    return torch.cat(answer)


def require_parity(model: Any, decoder: Decoder) -> None:
    """The logits of a prompt and the tokens of an answer are transformers'."""
    vocabulary = decoder.spec.vocab_size
    for _ in range(20):
        prompt = torch.randint(1, vocabulary, (PROMPT,))  # token 0 pads: its embedding is zero
        if (answer := clear_answer(model, prompt)) is not None:
            break
    else:
        raise AssertionError("no prompt of 20 has an answer that is clear")
    with torch.no_grad():
        expected = model(prompt.unsqueeze(0)).logits[0]
    sequence = PagedSequence(decoder)
    logits = sequence.prompt(prompt)
    close(logits, expected)
    found = [logits[-1].argmax()]
    while len(found) < ANSWER:
        found.append(sequence.feed(found[-1].view(1))[0].argmax())
    assert torch.stack(found).tolist() == answer.tolist()
    assert engine_answer(decoder, prompt) == answer.tolist()


def engine_answer(decoder: Decoder, prompt: Tensor) -> list[int]:
    """The greedy answer by way of the scheduler and of steps that are recorded once and replayed."""
    kv = torch.full(decoder.kv_shape(BLOCKS, BLOCK_SIZE), torch.nan, dtype=decoder.dtype)
    core = EngineCore(decoder, kv, (), BLOCKS * BLOCK_SIZE, SchedulerOptions(CHUNK, 4))
    sequence = Sequence(
        OperationKey("tiny"), prompt.tolist(), len(prompt), Sampling(temperature=0.0), 0, len(prompt) + ANSWER
    )
    core.scheduler.add(sequence)
    while sequence.generated < ANSWER:
        core.step()
    chunks = -(-PROMPT // CHUNK)
    assert not COMPILED or core.runner._recorder.recorded == chunks + 1, (
        "a step ran call by call, or was not replayed"
    )
    return sequence.token_ids[PROMPT:]


@pytest.fixture
def compared(request: pytest.FixtureRequest) -> Iterator[set[str]]:
    """Takes the architectures that a test compares: those that its `family` marks name, no others and no fewer."""
    found: set[str] = set()
    yield found
    assert found == {name for mark in request.node.iter_markers("family") for name in mark.args}


@pytest.fixture
def parity(tmp_path: Path, compared: set[str]) -> Callable[[PretrainedConfig], Decoder]:
    """Builds a model by its config, and compares; returns our decoder of it."""

    def check(config: PretrainedConfig) -> Decoder:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
        randomise(model)
        files = save(model, tmp_path)
        spec = read_spec(files)
        decoder = Decoder.load(files, spec, torch.float32)
        require_parity(model, decoder)
        compared.add(spec.architecture)
        return decoder

    return check
