"""Embeddings of images on ranks that plan nothing: held by name from the step that first reads them to the last."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from triptych.engine.plan import StepPlan
from triptych.engine.ranks.rows import ShownRows
from triptych.engine.sequence import Media
from triptych.engine.step_images import shown
from triptych.models.step import EmbeddingRows


@dataclass(frozen=True, slots=True, eq=False)
class HoldEmbedding:
    """Rank 0 to the others: keep this; later steps name it. And of a rank to rank 0: this is what you asked for.

    Attributes:
        name: What steps call it.
        values: The bytes of a tensor [1 + levels, rows, hidden].
        shape: Its shape.
        dtype: Its type.
    """

    name: str
    values: npt.NDArray[np.uint8]
    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, media: Media) -> "HoldEmbedding":
        """The rows that stand for the tokens of an image."""
        assert media.values is not None, "a sequence without its embeddings was scheduled for prefill"
        levels = [media.values[None], *([] if media.deepstack is None else [media.deepstack])]
        return cls.carrying(name_of(media), torch.cat(levels))

    @classmethod
    def carrying(cls, name: str, embedding: Tensor) -> "HoldEmbedding":
        """An embedding [1 + levels, rows, hidden]."""
        values = embedding.cpu().contiguous()
        return cls(name, values.view(torch.uint8).numpy(), tuple(values.shape), values.dtype)

    def tensor(self) -> Tensor:
        """[1 + levels, rows, hidden]."""
        return torch.from_numpy(self.values).view(self.dtype).view(self.shape)


@dataclass(frozen=True, slots=True)
class DropEmbedding:
    """Rank 0 to the others: no later step names this."""

    name: str


class HeldEmbeddings:
    """What a follower holds."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def __len__(self) -> int:
        """How many."""
        return len(self._held)

    def hold(self, message: HoldEmbedding) -> None:
        """Takes one."""
        self._held[message.name] = message.tensor()

    def drop(self, message: DropEmbedding) -> None:
        """Lets one go."""
        del self._held[message.name]

    def rows(self, wanted: Iterable[ShownRows]) -> tuple[EmbeddingRows, ...]:
        """The rows that a step reads."""
        return tuple(self._rows(one) for one in wanted)

    def _rows(self, wanted: ShownRows) -> EmbeddingRows:
        part = self._held[wanted.name][:, wanted.first : wanted.first + wanted.count]
        return EmbeddingRows(wanted.row, part[0], part[1:] if len(part) > 1 else None)


class HeldNames:
    """What the followers of a lane hold, as rank 0 knows it: what the last step read, and nothing else.

    So nothing has to be kept of sequences that end or are given up; an image that is cut by chunks is told once, as
    one chunk follows the other.
    """

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset()

    def before(self, read: Iterable[Media]) -> Iterator[HoldEmbedding | DropEmbedding]:
        """What the followers must be told before a step that reads these."""
        media = {name_of(one): one for one in read}
        for name in sorted(self._names - media.keys()):
            yield DropEmbedding(name)
        for name in sorted(media.keys() - self._names):
            yield HoldEmbedding.of(media[name])
        self._names = frozenset(media)


def name_of(media: Media) -> str:
    """Names the rows that stand for the tokens of an image; equal names, equal rows."""
    return f"{media.content}/{media.row}+{media.length}"


def images_of(plan: StepPlan) -> list[tuple[Media, ShownRows]]:
    """The images that a step reads, and which of its rows are whose."""
    spans = [(s, range(s.computed, s.computed + 1)) for s in plan.decodes]
    spans += [(c.sequence, range(c.start, c.start + c.length)) for c in plan.prompts]
    found, row = [], 0
    for sequence, tokens in spans:
        if sequence.media:
            for media, part in shown(sequence, tokens):
                place = row + media.start + part.start - tokens.start
                found.append((media, ShownRows(place, name_of(media), part.start, part.stop - part.start)))
        row += len(tokens)
    return found
