"""The images of a command: checked, and as the engine takes them."""

from math import isfinite

from torch import Tensor

from triptych.core.errors import InvalidArgument
from triptych.core.positions import Grid
from triptych.core.prompt import ImageSpan
from triptych.engine.eyes import place
from triptych.engine.sequence import Media
from triptych.models.spec import DecoderSpec
from triptych.stage.v1 import stage_pb2 as pb


def media_of(span: pb.MediaSpan, embedding: Tensor | None = None) -> Media:
    """The rows of a span.

    Args:
        span: Checked.
        embedding: [1 + levels, rows, columns]; None while it is elsewhere.
    """
    grid = span.grid
    shape = Grid(grid.time, grid.height, grid.width, grid.interval) if span.HasField("grid") else None
    placed = ImageSpan(span.start, span.length, row=span.row, grid=shape)
    return place(placed, span.handle.content_hash, embedding)


def check_spans(spans: tuple[pb.MediaSpan, ...], length: int, spec: DecoderSpec) -> None:
    """Refuses images that a step of this model would stumble over.

    Raises:
        InvalidArgument: rows that the embedding or tokens that the prompt does not have, a wrong width, or a grid of
            another number of rows.
    """
    end = 0
    for span in spans:
        handle = span.handle
        if (
            span.start < end
            or span.length < 1
            or span.start + span.length > length
            or not 0 <= span.row <= handle.rows - span.length
            or handle.columns != spec.hidden_size
            or not 0 <= handle.levels <= len(spec.layers)
        ):
            raise InvalidArgument(
                f"embeddings must be of {spec.hidden_size} columns and rise within the prompt's {length} tokens, "
                f"got {span.length} from row {span.row} of {1 + handle.levels} x {handle.rows} x {handle.columns} "
                f"at {span.start}",
                field="media",
            )
        if not handle.content_hash:
            raise InvalidArgument("embeddings must be named by a content hash, got none", field="media")
        if span.HasField("grid"):
            _check_grid(span)
        end = span.start + span.length


def _check_grid(span: pb.MediaSpan) -> None:
    grid = span.grid
    sides = (grid.time, grid.height, grid.width)
    if min(sides) < 1 or grid.time * grid.height * grid.width != span.length:
        raise InvalidArgument(
            f"a grid must have a place for each of {span.length} rows: {grid.time} x {grid.height} x {grid.width}",
            field="media",
        )
    if not (isfinite(grid.interval) and 0 <= grid.interval * grid.time < 1 << 31):
        raise InvalidArgument(
            f"the frames of a grid must be some positions apart, got {grid.interval}", field="media"
        )
