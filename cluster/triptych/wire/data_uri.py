"""Data URIs that hold an encoded picture (RFC 2397): `data:image/png;base64,...`."""

import base64
import binascii
from typing import Final

from triptych.core.errors import InvalidArgument

MEDIA_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"})


def parse_data_uri(uri: str, *, field: str = "image") -> bytes:
    """The encoded picture inside a data URI.

    Args:
        uri: `data:<media type>;base64,<data>` with standard base64 (RFC 4648 section 4) and no white space.
        field: The request field at fault, for the error.

    Raises:
        InvalidArgument: not a base64 data URI, not a picture's media type, or broken base64.
    """
    header, comma, payload = uri.partition(",")
    scheme, colon, media = header.partition(":")
    if not comma or not colon or scheme.lower() != "data":
        raise InvalidArgument(f"{field} must be a data URI, data:image/png;base64,..., got {uri!r:.60}", field=field)
    media_type, *parameters = media.lower().split(";")
    if media_type not in MEDIA_TYPES:
        known = ", ".join(sorted(MEDIA_TYPES))
        raise InvalidArgument(f"{field} must be one of {known}, got {media_type!r:.60}", field=field)
    if parameters != ["base64"]:
        raise InvalidArgument(f"{field} must be base64 encoded: data:{media_type};base64,...", field=field)
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument(f"{field} holds broken base64: {error}", field=field) from error
    if not data:
        raise InvalidArgument(f"{field} holds no data", field=field)
    return data
