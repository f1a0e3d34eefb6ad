"""Low-rank adapters of a model (LoRA, arXiv:2106.09685), from folders as PEFT saves them."""

from triptych.models.adapters.adapters import NO_ADAPTERS, NO_FOLDERS, Adapters, open_adapters

__all__ = ["NO_ADAPTERS", "NO_FOLDERS", "Adapters", "open_adapters"]
