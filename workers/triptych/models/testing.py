"""Fakes for tests of what loads models."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from triptych.models.progress import Advance


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
