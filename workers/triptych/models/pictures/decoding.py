"""Encoded pictures to pixels."""

from collections.abc import Callable
from typing import TypeVar

from PIL import Image

from triptych.core.errors import InvalidArgument
from triptych.models.images import PIXEL_CEILING, check_image, open_image
from triptych.models.orientation import upright

_Result = TypeVar("_Result")


def decoded(data: bytes, use: Callable[[Image.Image], _Result], field: str) -> _Result:
    """What `use` makes of a picture that stands upright; the first frame of an animation counts.

    Raises:
        InvalidArgument: not an image, damaged, or above `PIXEL_CEILING`.
    """
    check_image(data, max_pixels=PIXEL_CEILING, max_bytes=len(data), field=field)
    image = open_image(data, field=field)
    try:
        return use(upright(image, data))
    except InvalidArgument:
        raise
    except Exception as error:  # decoders meet hostile bytes with errors of any class
        raise InvalidArgument(f"{field} is a damaged {image.format}: {error}", field=field) from error
