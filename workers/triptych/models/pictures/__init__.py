"""Pictures and videos on the way into a model: their places in a prompt, and the pixels that its tower reads."""

from triptych.models.pictures.layout import Layouts, MediaLayout, Piece, Rows, Token
from triptych.models.pictures.opening import open_layouts, open_preprocessor
from triptych.models.pictures.prepared import Patches, PreparedImage, Preprocessor, Tiles

__all__ = [
    "Layouts",
    "MediaLayout",
    "Patches",
    "Piece",
    "PreparedImage",
    "Preprocessor",
    "Rows",
    "Tiles",
    "Token",
    "open_layouts",
    "open_preprocessor",
]
