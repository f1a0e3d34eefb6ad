"""Turns what a request asks for into a prompt, and asks a cluster."""

import io
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from triptych.cli.bench.serve.schedule import Work
from triptych.cli.bench.words import text
from triptych.client import AsyncClient, ChatMessage, ImagePart, SamplingParams, load_image, user_message

_SALTS: Final = 900_000
_FEWER_WORDS: Final = 3  # a salt of six digits is six tokens, where `text` counts three
_PICTURES: Final = 16
_PICTURE_SIZE: Final = 336


class Sender:
    """Asks for answers of a given length: greedy, the end of sequence ignored.

    The prompts of two senders differ even where the works are the same, so that no prefix cache knows them.

    Args:
        client: Of the cluster.
        model: Its name there; empty for the one that is served.
        pictures: Taken in turn by requests with images.
    """

    def __init__(self, client: AsyncClient, model: str = "", pictures: Sequence[ImagePart] = ()) -> None:
        self._client = client
        self._model = model
        self._pictures = pictures
        self._base = secrets.randbelow(_SALTS)

    async def __call__(self, work: Work) -> AsyncIterator[int]:
        """Yields the number of tokens of each message.

        Raises:
            TriptychError: the request failed.
        """
        sampling = SamplingParams(temperature=0, repetition_penalty=1, max_tokens=work.output_tokens, ignore_eos=True)
        async with self._client.stream(self.prompt(work), sampling=sampling, model=self._model) as stream:
            async for chunk in stream:
                if chunk.token_ids:
                    yield len(chunk.token_ids)

    def prompt(self, work: Work) -> str | list[ChatMessage]:
        """A text, or one turn of a chat with pictures."""
        salt = 100_000 + (self._base + work.number) % _SALTS
        words = text(max(4, work.prompt_tokens - _FEWER_WORDS), salt)
        if not work.images:
            return words
        chosen = [self._pictures[(work.number + i) % len(self._pictures)] for i in range(work.images)]
        return [user_message(words, images=chosen)]


def read_pictures(files: Sequence[Path]) -> tuple[ImagePart, ...]:
    """The pictures of these files; without files, some that are nothing but noise.

    Raises:
        TriptychError: a file cannot be read; names it.
    """
    return tuple(load_image(file) for file in files) or tuple(_noise() for _ in range(_PICTURES))


def _noise() -> ImagePart:
    from PIL import Image

    size = (_PICTURE_SIZE, _PICTURE_SIZE)
    file = io.BytesIO()
    Image.frombytes("RGB", size, os.urandom(3 * _PICTURE_SIZE**2)).save(file, "PNG")
    return ImagePart(file.getvalue())
