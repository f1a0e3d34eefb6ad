"""What an architecture must say about itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from triptych.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Recipe:
    """One architecture.

    Attributes:
        read: Fills the spec from a config dict.
        prefixes: For each prefix of our tensor names, the prefixes that checkpoints write instead, newest first. Ours
            are those of LlamaForCausalLM (`model.`, `lm_head.`), and `vision_tower.` and `projector.`.
    """

    read: Callable[[Mapping[str, Any]], ModelSpec]
    prefixes: Mapping[str, tuple[str, ...]]

    def candidates(self, name: str) -> tuple[str, ...]:
        """The names under which a checkpoint may hold our tensor `name`, most likely first."""
        ours = next(prefix for prefix in self.prefixes if name.startswith(prefix))
        return tuple(theirs + name.removeprefix(ours) for theirs in self.prefixes[ours])
