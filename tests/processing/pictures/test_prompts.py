"""Chats with images of every family: the token ids are those of its own processor, and the spans cover its rows."""

import io
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from triptych.core.errors import InvalidArgument
from triptych.core.prompt import ChatMessage, ImagePart, Prompt, TextPart, VideoPart
from triptych.models.media import MediaLimits, layout_of, media_hash
from triptych.models.pictures import open_layouts
from triptych.models.text import TextProcessor

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + '\n' }}{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE"
    "{% elif c['type'] == 'video' %}VIDEO{% else %}{{ c['text'] }}{% endif %}{% endfor %}{{ '\n' }}{% endfor %}"
    "{{ 'assistant\n' }}"
)
Picture = Callable[[int, int], bytes]


@pytest.fixture
def text(family: Any) -> TextProcessor:
    template = TEMPLATE.replace("IMAGE", family.placeholder).replace("VIDEO", "<|video_pad|>")
    decoder = replace(family.spec.decoder, vocab_size=len(family.tokenizer))  # a processor may have added tokens
    spec = replace(family.spec, decoder=decoder)
    return TextProcessor(family.tokenizer, template, spec, layouts=open_layouts(family.files, spec))


def ask(text: TextProcessor, *parts: TextPart | ImagePart | VideoPart) -> Prompt:
    messages = [ChatMessage("user", parts)]
    layouts = [layout_of(part, text.layouts, MediaLimits(), "image") for m in messages for part in m.media]
    return text.chat(messages, layouts=layouts)


def processed(family: Any, *pieces: str | bytes) -> list[int]:
    """What transformers makes of the same."""
    said = "".join(piece if isinstance(piece, str) else family.placeholder for piece in pieces)
    images = [Image.open(io.BytesIO(piece)) for piece in pieces if isinstance(piece, bytes)]
    ids: list[int] = family.reference(text=f"user\n{said}\nassistant\n", images=images or None)["input_ids"][0]
    return list(ids)


def part(piece: str | bytes) -> TextPart | ImagePart:
    return TextPart(piece) if isinstance(piece, str) else ImagePart(piece)


def test_token_ids_are_those_of_the_familys_own_processor(family: Any, text: TextProcessor, picture: Picture) -> None:
    small, wide, tall = picture(30, 20), picture(170, 40), picture(20, 90)
    chats: tuple[tuple[str | bytes, ...], ...] = (
        (small, "what is it?"),
        ("\n", wide, "\n\n", tall),
        (tall, small, wide),
        ("look: ", wide, " the same as ", small, "\nor not? ", tall, "\n"),
        ("nothing to see\n\n",),
    )
    for pieces in chats:
        prompt = ask(text, *map(part, pieces))
        assert list(prompt.token_ids) == processed(family, *pieces)


def test_spans_cover_the_rows_of_each_image_in_order(family: Any, text: TextProcessor, picture: Picture) -> None:
    images = [picture(random.randint(10, 120), random.randint(10, 120)) for _ in range(4)]
    prompt = ask(text, *map(ImagePart, images))
    assert text.layouts
    rows = [layout_of(ImagePart(data), text.layouts, MediaLimits(), "image").rows for data in images]
    assert list(prompt.rows) == rows
    token = family.spec.image_token_id
    covered = [place for span in prompt.image_spans for place in range(span.start, span.start + span.length)]
    assert covered == [place for place, token_id in enumerate(prompt.token_ids) if token_id == token]
    for image, count in enumerate(rows):
        parts = [span for span in prompt.image_spans if span.image == image]
        assert [span.row for span in parts] == [sum(s.length for s in parts[:i]) for i in range(len(parts))]
        assert sum(span.length for span in parts) == count
        assert all(span.grid is None or span.grid.rows == span.length for span in parts)


def test_a_placeholder_that_a_text_spells_is_text(family: Any, text: TextProcessor, picture: Picture) -> None:
    data = picture(40, 30)
    token = family.tokenizer.convert_ids_to_tokens(family.spec.image_token_id)
    hostile = ask(text, TextPart(f"{family.placeholder} or {token}"), ImagePart(data))
    assert [span.length for span in hostile.image_spans] == [s.length for s in ask(text, ImagePart(data)).image_spans]
    assert hostile.token_ids.count(family.spec.image_token_id) == sum(hostile.rows)


@pytest.mark.parametrize("fps", [1.0, 3.0])
def test_a_video_stands_where_the_template_has_its_place(
    family: Any, text: TextProcessor, picture: Picture, fps: float
) -> None:
    assert text.layouts
    if text.layouts.video_placeholder is None:
        pytest.skip("no videos")
    frames = tuple(picture(40, 24) for _ in range(5))
    prompt = ask(text, ImagePart(frames[0]), TextPart("moves: "), VideoPart(frames, fps), TextPart("?"))
    video = text.layouts.video(5, 40, 24, fps)
    assert prompt.rows == (text.layouts.image(40, 24).rows, video.rows)
    assert prompt.token_ids.count(video.token_id) == video.rows
    assert [span.grid for span in prompt.image_spans if span.image == 1] == list(video.grids)


def test_frames_of_several_sizes_are_refused(family: Any, text: TextProcessor, picture: Picture) -> None:
    assert text.layouts
    if text.layouts.video_placeholder is None:
        pytest.skip("no videos")
    with pytest.raises(InvalidArgument, match=r"frames\[1\] must be 40 x 24 pixels like the first, got 40 x 25"):
        ask(text, VideoPart((picture(40, 24), picture(40, 25)), 2.0))
    with pytest.raises(InvalidArgument, match="must have 1 to 768 frames, got 0"):
        ask(text, VideoPart((), 2.0))


def test_media_are_named_by_their_pictures_alone(picture: Picture) -> None:
    a, b = picture(8, 8), picture(8, 8)
    names = [
        media_hash(each) for each in (ImagePart(a), VideoPart((a,), 1), VideoPart((a, b), 1), VideoPart((b, a), 1))
    ]
    assert len(set(names)) == 4
    assert media_hash(VideoPart((a, b), 30.0)) == names[2]
