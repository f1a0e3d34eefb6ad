"""From the one token that a chat template writes for an image to the tokens and rows that the image becomes.

The model's processors put text in the place of the placeholder and tokenize the whole: a line break in it may become
one token with its neighbours. So it is done here; only a run of equal image tokens is written once and repeated
afterwards, because special tokens have no neighbours.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from transformers import PreTrainedTokenizerFast

from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.core.positions import Grid
from triptych.core.prompt import ImagePart, ImageSpan, MediaPart, Prompt, VideoPart
from triptych.models.pictures.layout import Layouts, MediaLayout, Rows, Token

_MARK: Final = "\U000f0000"
"""transformers puts this before a special token that a caller's text spells: it is no placeholder."""


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of one image that follow each other in the prompt."""

    image: int
    row: int
    count: int
    grid: Grid | None
    token_id: int


@dataclass(frozen=True, slots=True)
class Expanded:
    """A rendered chat in which each run of image tokens is written once."""

    text: str
    runs: tuple[Run, ...]


class Placeholders:
    """The placeholders of one model.

    Args:
        tokenizer: Spells tokens.
        layouts: Of the model.

    Raises:
        FailedPrecondition: the tokenizer does not know a placeholder.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, layouts: Layouts) -> None:
        self._tokens = tokenizer.added_tokens_decoder
        self._image = self._spelled(layouts.image_placeholder)
        known = [self._image]
        self.takes_videos = layouts.video_placeholder is not None
        if layouts.video_placeholder is not None:
            known.append(self._spelled(layouts.video_placeholder))
        self._pattern = re.compile(f"(?<!{_MARK})(?:{'|'.join(map(re.escape, known))})")

    def expand(self, rendered: str, parts: Sequence[MediaPart], layouts: Sequence[MediaLayout]) -> Expanded:
        """Writes what each image and video becomes.

        Args:
            rendered: The chat, with marks around the special tokens of callers' texts.
            parts: Its images and videos.
            layouts: Of each of them.

        Raises:
            InvalidArgument: the template has other places than there are images and videos.
        """
        found = [match[0] for match in self._pattern.finditer(rendered)]
        images = [index for index, part in enumerate(parts) if isinstance(part, ImagePart)]
        videos = [index for index, part in enumerate(parts) if isinstance(part, VideoPart)]
        _require_places(found.count(self._image), len(images), "images")
        _require_places(len(found) - found.count(self._image), len(videos), "videos")
        following = iter(images), iter(videos)
        order = [next(following[placeholder != self._image]) for placeholder in found]
        texts = iter([self._written(layouts[index]) for index in order])
        runs = [run for index in order for run in _runs(index, layouts[index])]
        return Expanded(self._pattern.sub(lambda _: next(texts), rendered), tuple(runs))

    def _written(self, layout: MediaLayout) -> str:
        spelled = []
        for piece in layout.pieces:
            match piece:
                case str(text):
                    spelled.append(text)
                case Token(token_id):
                    spelled.append(self._spelled(token_id))
                case Rows():
                    spelled.append(self._spelled(layout.token_id))
        return "".join(spelled)

    def _spelled(self, token_id: int) -> str:
        if token_id not in self._tokens:
            raise FailedPrecondition(f"the tokenizer has no special token {token_id} for images", field="model")
        return self._tokens[token_id].content


def repeated(token_ids: Sequence[int], runs: Sequence[Run]) -> Prompt:
    """Repeats each image token as often as its run is long.

    Raises:
        InvalidArgument: a text spells an image token that no template keeps it from becoming.
    """
    expanded: list[int] = []
    spans: list[ImageSpan] = []
    image_tokens, waiting = {run.token_id for run in runs}, list(reversed(runs))
    for token_id in token_ids:
        if token_id not in image_tokens:
            expanded.append(token_id)
            continue
        if not waiting or waiting[-1].token_id != token_id:
            message = f"a text of this conversation spells the image token {token_id}"
            raise InvalidArgument(message, field="chat.messages")
        run = waiting.pop()
        spans.append(ImageSpan(len(expanded), run.count, run.image, run.row, run.grid))
        expanded += [token_id] * run.count
    return Prompt(tuple(expanded), tuple(spans))


def _require_places(found: int, wanted: int, name: str) -> None:
    if found != wanted:
        raise InvalidArgument(
            f"the model's chat template has {found} places for the {wanted} {name} of this conversation; "
            f"{name} may belong to the user's turns only",
            field="chat.messages",
        )


def _runs(image: int, layout: MediaLayout) -> list[Run]:
    runs: list[Run] = []
    grids, row = iter(layout.grids), 0
    for piece in layout.pieces:
        if isinstance(piece, Rows):
            runs.append(Run(image, row, piece.count, next(grids, None), layout.token_id))
            row += piece.count
    return runs
