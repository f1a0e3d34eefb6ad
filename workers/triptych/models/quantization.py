"""In which form the matrices of a language model are held and multiplied."""

from typing import Literal, get_args

from triptych.core.errors import InvalidArgument
from triptych.models.files import ModelFiles

Quantization = Literal["none", "int8", "gguf"]
_PLAIN = (".router.weight", ".attention.kv_up.weight")
_NAMES: tuple[Quantization, ...] = get_args(Quantization)


def choose_quantization(name: str, files: ModelFiles) -> Quantization:
    """The form asked for: as plain numbers, as 8-bit integers, or the blocks of a GGUF file as they are stored.

    Raises:
        InvalidArgument: the name is none of these, or the model is not a GGUF file and so has no blocks.
    """
    chosen = next((known for known in _NAMES if known == name), None)
    if chosen is None:
        raise InvalidArgument(f"quantization must be none, int8 or gguf, got {name!r:.60}", field="quantization")
    if chosen == "gguf" and files.format != "gguf":
        raise InvalidArgument(
            f"quantization gguf needs a .gguf file, {files.name} is stored as {files.format}; use int8 or none",
            field="quantization",
        )
    return chosen


def stays_plain(name: str) -> bool:
    """Whether a matrix of ours is held as plain numbers in every form.

    Rounding a router would send tokens to other experts, and the matrix that latent attention expands keys and values
    by is read across its rows.
    """
    return name.endswith(_PLAIN)
