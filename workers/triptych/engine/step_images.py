"""What images mean for the rows of a step."""

from collections.abc import Iterator
from collections.abc import Sequence as Sequence_
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from triptych.engine.positions import Axes, one_each
from triptych.engine.sequence import Media, Sequence
from triptych.models.step import EmbeddingRows, TokenAxes


@dataclass(frozen=True, slots=True)
class Seen:
    """What images mean for some tokens of one sequence.

    Attributes:
        row: The batch's row of the first token.
        embeddings: Rows that are not of the token table.
        axes: The tokens' positions, where they are not the indices.
        whole: Sequence of the batch, first token and the one after the last of images that see all of themselves.
    """

    row: int
    embeddings: list[EmbeddingRows]
    axes: Axes | None
    whole: list[tuple[int, int, int]]


def see(sequence: Sequence, tokens: range, place: int, row: int, *, whole_images: bool) -> Seen:
    """Looks at tokens of the batch's `place`th sequence, whose rows begin at `row`."""
    spans = [(m.start, m.start + m.length) for m in sequence.media] if whole_images else []
    return Seen(
        row,
        embeddings=_embeddings(sequence, tokens, row),
        axes=None if sequence.positions is None else sequence.positions.between(tokens.start, tokens.stop),
        whole=[(place, *span) for span in spans if span[0] < tokens.stop and span[1] > tokens.start],
    )


def token_axes(positions: npt.NDArray[np.int64], seen: Sequence_[Seen]) -> TokenAxes | None:
    """The three positions of every row of a step; None where each row's are equal.

    Args:
        positions: [T], the first of the three.
        seen: Of the step.
    """
    turned = [(images.row, images.axes) for images in seen if images.axes is not None and not one_each(images.axes)]
    if not turned:
        return None
    axes = np.broadcast_to(positions, (3, len(positions))).copy()
    for row, values in turned:
        axes[:, row : row + values.shape[1]] = values
    return TokenAxes(torch.from_numpy(axes))


def shown(sequence: Sequence, tokens: range) -> Iterator[tuple[Media, slice]]:
    """The images that some tokens of a sequence stand for, and which rows of each they are."""
    for media in sequence.media:
        first = max(media.start, tokens.start)
        stop = min(media.start + media.length, tokens.stop)
        if first < stop:
            yield media, slice(first - media.start, stop - media.start)


def _embeddings(sequence: Sequence, tokens: range, row: int) -> list[EmbeddingRows]:
    """The part of each image that falls into these tokens."""
    found = []
    for media, part in shown(sequence, tokens):
        assert media.values is not None, "a sequence without its embeddings was scheduled for prefill"
        deepstack = None if media.deepstack is None else media.deepstack[:, part]
        found.append(EmbeddingRows(row + media.start + part.start - tokens.start, media.values[part], deepstack))
    return found
