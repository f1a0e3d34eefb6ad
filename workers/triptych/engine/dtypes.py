"""Which element type a model is computed in."""

from typing import Any, Literal

import torch

from triptych.core.errors import InvalidArgument

DtypeName = Literal["auto", "float32", "bfloat16"]


def choose_dtype(name: str, config: dict[str, Any], device: str = "cpu") -> torch.dtype:
    """The type asked for, or for "auto" the best one that the model and the machine share.

    bfloat16 halves the bytes of every decode step, so "auto" takes it for checkpoints that were saved in 16 bits or
    quantised, unless the CPU would only emulate it.

    Raises:
        InvalidArgument: the name is none of auto, float32, bfloat16.
    """
    match name:
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case "auto":
            stored = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
            native = device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
            return torch.bfloat16 if native and stored != "float32" else torch.float32
        case _:
            raise InvalidArgument(f"dtype must be auto, float32 or bfloat16, got {name!r}", field="dtype")


def dtype_name(dtype: torch.dtype) -> str:
    """Its name as options and wire messages spell it: float32 or bfloat16."""
    return str(dtype).removeprefix("torch.")
