"""How much of which prompts goes into one step."""

from triptych.engine.plan import Chunk
from triptych.engine.sequence import Sequence


class Chunks:
    """Prompts of the step being planned, and the rows that are left for them.

    Args:
        room: Rows for prompts.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.chunks: list[Chunk] = []

    def add(self, sequence: Sequence) -> None:
        """As much of a sequence as there is room for."""
        self._take(sequence, min(sequence.pending, self.room))

    def _take(self, sequence: Sequence, length: int) -> None:
        if length > 0:
            self.chunks.append(Chunk(sequence, sequence.computed, length))
            self.room = max(self.room - length, 0)


class WholeImages(Chunks):
    """For a model in which the tokens of an image see each other: no chunk ends inside one."""

    def add(self, sequence: Sequence) -> None:
        """As `Chunks.add`, up to an image or to its end."""
        end = sequence.computed + min(sequence.pending, self.room)
        for media in sequence.media:
            if media.start < end < media.start + media.length:
                end = media.start
        self._take(sequence, end - sequence.computed)


def image_ahead(sequence: Sequence) -> int:
    """Rows that end the image whose token is the next to be computed; 0 where that is text."""
    for media in sequence.media:
        if media.start <= sequence.computed < media.start + media.length:
            return media.start + media.length - sequence.computed
    return 0
