"""Handwritten digits that the built-in model has never seen (scikit-learn's, held out from training)."""

import io
from dataclasses import dataclass
from importlib import resources

import numpy as np
from PIL import Image

SHADES = " .:-=+*#%@"


@dataclass(frozen=True, slots=True)
class Digit:
    """One digit.

    Attributes:
        png: 8 x 8 grey pixels, encoded.
        label: What it is, 0 to 9.
        drawing: The same for a terminal.
    """

    png: bytes
    label: int
    drawing: str


def held_out_digits() -> list[Digit]:
    """All 297 of them."""
    path = resources.files("triptych.models") / "data" / "smollm2-digits" / "held-out.npz"
    with path.open("rb") as file, np.load(file) as arrays:
        return [_digit(pixels, int(label)) for pixels, label in zip(arrays["images"], arrays["labels"], strict=True)]


def _digit(pixels: "np.typing.NDArray[np.uint8]", label: int) -> Digit:
    """`pixels` is [8, 8] with values 0 to 16."""
    file = io.BytesIO()
    Image.fromarray((pixels * 255.0 / 16.0).round().astype(np.uint8)).save(file, "PNG")
    rows = ("".join(SHADES[min(int(value) * 10 // 17, 9)] * 2 for value in row) for row in pixels)
    return Digit(file.getvalue(), label, "\n".join(rows))
