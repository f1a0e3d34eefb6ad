"""What tests of models share: fakes of what loading talks to, and a sequence that runs step by step."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from triptych.kernels import AttentionBatch
from triptych.models.decoder import Decoder
from triptych.models.head import Likeliest
from triptych.models.progress import Advance
from triptych.models.step import EmbeddingRows, StepInput

BLOCK_SIZE = 16
BLOCKS = 20


@dataclass(slots=True)
class Task:
    """What one task was told: its title, its total, and bytes as they were counted."""

    title: str
    total: int | None
    counts: list[int] = field(default_factory=list)

    @property
    def done(self) -> int:
        """All bytes counted."""
        return sum(self.counts)


@dataclass(slots=True)
class RecordingProgress:
    """A Progress that remembers."""

    tasks: list[Task] = field(default_factory=list)

    @contextmanager
    def task(self, title: str, total: int | None) -> Iterator[Advance]:
        """Records one task."""
        self.tasks.append(Task(title, total))
        yield self.tasks[-1].counts.append


def save_adapter(folder: Path, factors: Mapping[str, tuple[Tensor, Tensor]], **settings: object) -> Path:
    """Writes an adapter as PEFT does.

    Args:
        folder: Is made.
        factors: [r, I] and [O, r], by the names of modules in transformers.
        settings: Of adapter_config.json, besides its kind.
    """
    folder.mkdir(parents=True)
    tensors = {
        f"{name}.lora_{factor}": values
        for name, pair in factors.items()
        for factor, values in zip("AB", pair, strict=True)
    }
    save_file(
        {f"base_model.model.{name}.weight": values.contiguous() for name, values in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    kind = {"peft_type": "LORA", "bias": "none", "modules_to_save": None}
    (folder / "adapter_config.json").write_text(json.dumps(kind | settings))
    return folder


def likeliest(decoder: Decoder, step: StepInput, kv: Tensor) -> list[int]:
    """Runs a step, and returns the likeliest token of each row that it scores."""
    head = Likeliest(torch.empty(len(step.logit_rows), dtype=torch.int64), torch.empty(len(step.logit_rows)))
    with torch.inference_mode():
        decoder.compute(step, kv, head)
    return head.token_ids.tolist()


@dataclass(slots=True)
class PagedSequence:
    """One sequence in a pool that is NaN wherever nothing was stored; its blocks lie in random order.

    Attributes:
        decoder: Runs it.
        length: Tokens so far.
        adapter: The number of its adapter; None for none.
    """

    decoder: Decoder
    length: int = 0
    adapter: int | None = None
    kv: Tensor = field(init=False)
    blocks: Tensor = field(default_factory=lambda: torch.randperm(BLOCKS))

    def __post_init__(self) -> None:
        """Makes the pool."""
        self.kv = torch.full(self.decoder.kv_shape(BLOCKS, BLOCK_SIZE), torch.nan, dtype=self.decoder.dtype)

    def feed(self, token_ids: Tensor, embeddings: Iterable[EmbeddingRows] = ()) -> Tensor:
        """Runs one chunk and returns the logits of all its rows."""
        return self.decoder.forward(self._step(token_ids, embeddings), self.kv)

    def follow(self, token_id: int) -> int:
        """Runs one token and returns the likeliest next one."""
        return self.foresee([token_id])[0]

    def foresee(self, token_ids: Sequence[int]) -> list[int]:
        """Runs one chunk and returns the likeliest token behind each of its own."""
        return likeliest(self.decoder, self._step(torch.tensor(token_ids)), self.kv)

    def _step(self, token_ids: Tensor, embeddings: Iterable[EmbeddingRows] = ()) -> StepInput:
        positions = torch.arange(self.length, self.length + len(token_ids))
        self.length += len(token_ids)
        batch = AttentionBatch(
            query_start=torch.tensor([0, len(token_ids)], dtype=torch.int32),
            kv_lengths=torch.tensor([self.length], dtype=torch.int32),
            block_tables=self.blocks.int().unsqueeze(0),
        )
        slots = self.blocks[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        rows = torch.arange(len(token_ids))
        adapters = None if self.adapter is None else torch.full((len(token_ids),), self.adapter, dtype=torch.int32)
        return StepInput(token_ids, positions, slots, batch, rows, tuple(embeddings), adapters=adapters)

    def feed_chunks(self, token_ids: Tensor, chunk: int, embeddings: Tensor | None = None, row: int = 0) -> Tensor:
        """Runs a prompt in chunks; `embeddings` [n, H] replace its rows from `row` on."""
        logits = []
        for start in range(0, len(token_ids), chunk):
            stop = min(start + chunk, len(token_ids))
            rows = []
            if embeddings is not None:
                first, last = max(start, row), min(stop, row + len(embeddings))
                if first < last:
                    rows.append(EmbeddingRows(first - start, embeddings[first - row : last - row]))
            logits.append(self.feed(token_ids[start:stop], rows))
        return torch.cat(logits)
