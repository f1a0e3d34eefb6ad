"""Tiny random checkpoints that read pictures, against transformers: embeddings, logits of a prompt, a greedy answer.

Pictures of two sizes stand in one prompt, which runs through a paged cache in chunks whose borders fall inside them.
"""

import io
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from tests.support.seeds import drawn_seed
from triptych.core.positions import Grid
from triptych.core.prompt import ImageSpan
from triptych.engine.positions import Positions, positions_of
from triptych.kernels import AttentionBatch
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.parameters import require_whole
from triptych.models.pictures import MediaLayout, PreparedImage, Rows, Token, open_preprocessor
from triptych.models.spec import AttentionSpec, read_spec
from triptych.models.step import EmbeddingRows, StepInput, TokenAxes
from triptych.models.testing import likeliest
from triptych.models.towers.encoder import VisionEncoder

VOCABULARY, WORDS = 100, 90  # ids from 90 on are those of pictures
BLOCK_SIZE, CHUNK, BLOCKS = 16, 24, 16
PROMPT, ANSWER = 70, 32
CLEAR = 1e-3
"""By how much of the largest score the likeliest token leads: less may be turned around by rounding."""

Sizes = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Case:
    """What a family's test gives.

    Attributes:
        model: transformers', of random weights.
        settings: preprocessor_config.json.
        inputs: What the model wants beside token ids.
        features: Embeddings that the model has of pictures: [rows, H] each, and those of each level.
    """

    model: PreTrainedModel
    settings: dict[str, Any]
    inputs: Callable[[Sequence[Any], Tensor], dict[str, Any]]
    features: Callable[[Any, dict[str, Any]], tuple[Sequence[Tensor], Sequence[Sequence[Tensor]]]]


@dataclass(slots=True)
class Prompt:
    """Token ids, and where the rows of pictures are."""

    ids: list[int] = field(default_factory=list)
    spans: list[ImageSpan] = field(default_factory=list)

    def words(self, count: int) -> None:
        self.ids += random.choices(range(3, WORDS), k=count)

    def picture(self, index: int, layout: MediaLayout) -> None:
        grids, row = iter(layout.grids), 0
        for piece in layout.pieces:
            match piece:
                case str():
                    self.words(1)
                case Token(token_id):
                    self.ids.append(token_id)
                case Rows(count):
                    grid: Grid | None = next(grids, None)
                    self.spans.append(ImageSpan(len(self.ids), count, index, row, grid))
                    self.ids += [layout.token_id] * count
                    row += count


@dataclass(slots=True)
class PagedSequence:
    """One sequence in a pool that is NaN wherever nothing was stored."""

    decoder: Decoder
    prompt: Prompt
    embeddings: Sequence[Tensor]
    positions: Positions | None = field(init=False)
    kv: Tensor = field(init=False)
    blocks: Tensor = field(default_factory=lambda: torch.randperm(BLOCKS))
    length: int = 0

    def __post_init__(self) -> None:
        self.kv = torch.full(self.decoder.kv_shape(BLOCKS, BLOCK_SIZE), torch.nan, dtype=self.decoder.dtype)
        self.positions = positions_of(len(self.prompt.ids), self.prompt.spans)

    def run(self, stop: int) -> Tensor:
        """The logits of the prompt up to a token."""
        borders = [0, *(self._border(place) for place in range(CHUNK, stop, CHUNK))]
        parts = pairwise([*borders, stop])
        return torch.cat([self.feed(self.prompt.ids[start:stop]) for start, stop in parts if stop > start])

    def _border(self, place: int) -> int:
        """Where a chunk may end: inside a picture unless its tokens see each other."""
        inside = [span for span in self.prompt.spans if span.start < place < span.start + span.length]
        return inside[0].start + inside[0].length if inside and self._sees_whole else place

    @property
    def _sees_whole(self) -> bool:
        attention = self.decoder.spec.layers[0].attention
        return isinstance(attention, AttentionSpec) and attention.images_see_themselves

    def feed(self, token_ids: list[int]) -> Tensor:
        """Runs one chunk and returns the logits of all its rows."""
        return self.decoder.forward(self._step(token_ids), self.kv)

    def follow(self, token_id: int) -> int:
        """Runs one token and returns the likeliest next one."""
        return likeliest(self.decoder, self._step([token_id]), self.kv)[0]

    def _step(self, token_ids: list[int]) -> StepInput:
        start, stop = self.length, self.length + len(token_ids)
        self.length = stop
        places = torch.arange(start, stop)
        axes = None if self.positions is None else torch.from_numpy(self.positions.between(start, stop).copy())
        images = tuple((0, span.start, span.start + span.length) for span in self.prompt.spans)
        return StepInput(
            token_ids=torch.tensor(token_ids),
            positions=places if axes is None else axes[0],
            slots=self.blocks[places // BLOCK_SIZE] * BLOCK_SIZE + places % BLOCK_SIZE,
            attention=AttentionBatch(
                query_start=torch.tensor([0, len(token_ids)], dtype=torch.int32),
                kv_lengths=torch.tensor([stop], dtype=torch.int32),
                block_tables=self.blocks.int().unsqueeze(0),
                images=images if self._sees_whole else (),
            ),
            logit_rows=torch.arange(len(token_ids)),
            embeddings=tuple(self._rows(start, stop)),
            axes=None if axes is None else TokenAxes(axes),
        )

    def _rows(self, start: int, stop: int) -> list[EmbeddingRows]:
        found = []
        for span in self.prompt.spans:
            first, last = max(span.start, start), min(span.start + span.length, stop)
            if first < last:
                row = span.row + first - span.start
                rows = self.embeddings[span.image][:, row : row + last - first]
                found.append(EmbeddingRows(first - start, rows[0], rows[1:] if len(rows) > 1 else None))
        return found


def picture(size: tuple[int, int]) -> bytes:
    noise = np.random.default_rng(drawn_seed()).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def randomise(model: PreTrainedModel) -> None:
    """Moves biases, norms and what begins as zero away from there, where mistaking them would not be seen."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif not parameter.any():
                parameter.normal_(0, 0.2)


def close(ours: Tensor, theirs: Tensor) -> None:
    """Within 1e-4 of the largest number of each row."""
    assert ours.shape == theirs.shape
    off = (ours - theirs).abs().amax(-1) / theirs.abs().amax(-1)
    assert off.max() <= 1e-4, f"row {int(off.argmax())} is off by {off.max():.2e} of its largest number"


def prompt_of(images: Sequence[PreparedImage]) -> Prompt:
    prompt = Prompt()
    prompt.words(5)
    for index, image in enumerate(images):
        prompt.picture(index, image.layout)
        prompt.words(4)
    prompt.words(max(PROMPT - len(prompt.ids), 0))
    return prompt


def clear_answer(case: Case, ids: Tensor, images: Sequence[Any]) -> Tensor | None:
    """transformers' greedy answer; None if some token leads too little to tell."""
    result: Any = case.model.generate(  # type: ignore[operator]
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **case.inputs(images, ids),
        max_new_tokens=ANSWER,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    for scores in result.logits:
        best = scores[0].topk(2).values
        if best[0] - best[1] < CLEAR * scores.abs().max():
            return None
    answer: Tensor = result.sequences[0, ids.shape[1] :]
    return answer


def require_parity(
    case: Case, files: ModelFiles, images: Sequence[PreparedImage], divided: Callable[..., None], ranks: Sequence[int]
) -> None:
    spec = read_spec(files)
    embeddings = VisionEncoder.load(files, spec, torch.float32).encode(images)
    decoder = Decoder.load(files, spec, torch.float32)
    for _ in range(20):
        prompt = prompt_of(images)
        ids = torch.tensor([prompt.ids])
        if (answer := clear_answer(case, ids, images)) is not None:
            break
    else:
        raise AssertionError("no prompt of 20 has an answer that is clear")
    inputs = case.inputs(images, ids)
    rows, levels = case.features(case.model, inputs)
    for index, embedding in enumerate(embeddings):
        assert embedding.shape == (1 + len(levels), images[index].layout.rows, spec.decoder.hidden_size)
        for found, expected in zip(embedding, (rows, *levels), strict=True):
            close(found, expected[index])
    alone = VisionEncoder.load(files, spec, torch.bfloat16).encode(images[:1])[0]
    assert alone.dtype is torch.bfloat16
    assert torch.cosine_similarity(alone.float().flatten(), embeddings[0].flatten(), dim=0) > 0.99
    sequence = PagedSequence(decoder, prompt, embeddings)
    logits = sequence.run(len(prompt.ids))
    close(logits, case.model(input_ids=ids, **inputs).logits[0])
    tokens = [int(logits[-1].argmax())]
    while len(tokens) < ANSWER:
        tokens.append(int(sequence.feed(tokens[-1:])[0].argmax()))
    assert tokens == answer.tolist()

    def run(part: Decoder) -> tuple[Tensor, PagedSequence]:
        own = PagedSequence(part, prompt, embeddings)
        return own.run(len(prompt.ids) - 1), own

    divided(partial(Decoder.load, files, spec, torch.float32), run, prompt.ids[-1], logits[:-1], tokens, ranks)


def require_other_names(model: PreTrainedModel, files: ModelFiles) -> None:
    """The tensors are found by the names that other versions of transformers give them, too."""
    spec, path = read_spec(files), files.path / "model.safetensors"
    saved = load_file(path)
    older = {name.replace("vision_tower.", "vision_tower.vision_model."): tensor for name, tensor in saved.items()}
    newer = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for tensors in (older, newer):
        save_file(tensors, path)
        require_whole(files, spec)


@pytest.fixture
def seeing(tmp_path: Path, compared: set[str], divided: Callable[..., None]) -> Callable[..., None]:
    """Compares a model with transformers on pictures of some sizes, or on a video of so many frames.

    Then one rank with several of them that divide the language model.
    """

    def check(
        case: Case,
        sizes: Sizes = (),
        video: tuple[int, tuple[int, int], float] | None = None,
        ranks: Sequence[int] = (2,),
    ) -> None:
        random.seed(int(torch.randint(2**31, ())))
        model = case.model.train(False)
        model.generation_config.eos_token_id = None  # the answer has its full length
        randomise(model)
        model.save_pretrained(tmp_path)
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(case.settings))
        files = ModelFiles("tiny", tmp_path, "safetensors")
        preprocessor = open_preprocessor(files, read_spec(files))
        images: list[PreparedImage] = [preprocessor.image(picture(size)) for size in sizes]
        if video is not None:
            frames, size, fps = video
            images.append(preprocessor.video([picture(size) for _ in range(frames)], fps))
        with torch.no_grad():
            require_parity(case, files, images, divided, ranks)
        require_other_names(model, files)
        compared.add(read_spec(files).architecture)

    return check


@pytest.fixture
def case() -> type[Case]:
    """What a test gives."""
    return Case


@pytest.fixture
def text() -> Callable[..., dict[str, Any]]:
    """A tiny language model's configuration."""

    def make(kind: str, **changes: Any) -> dict[str, Any]:
        return {
            "model_type": kind, "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 64,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
            "max_position_embeddings": 256, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1,
            "eos_token_id": 2, **changes,
        }  # fmt: skip

    return make


@pytest.fixture
def vision() -> Callable[..., dict[str, Any]]:
    """A tiny tower's configuration."""

    def make(**changes: Any) -> dict[str, Any]:
        return {
            "hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4, "num_hidden_layers": 3,
            "initializer_range": 0.2, **changes,
        }  # fmt: skip

    return make


@pytest.fixture
def tiles() -> Callable[..., Tensor]:
    """Tiles of several pictures, those of each filled up to `most`: [pictures, most, C, S, S]."""

    def stack(images: Sequence[Any], most: int | None = None) -> Tensor:
        most = max(len(image.pixels) for image in images) if most is None else most
        filled = [np.pad(image.pixels, ((0, most - len(image.pixels)), *((0, 0),) * 3)) for image in images]
        return torch.from_numpy(np.stack(filled))

    return stack
