"""One rank beside several that divide the same model."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from triptych.kernels import native
from triptych.models.decoder import Decoder
from triptych.models.sharding.testing import divided_answer
from triptych.models.testing import PagedSequence
from triptych.parallel import Mesh, Parallelism

native.install()
CHUNK, PROMPT, ANSWER = 24, 40, 32
CLEAR = 1e-3
CLOSE = 1e-5


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))


def sequence_of(decoder: Decoder) -> PagedSequence:
    """With the adapter that the decoder has, if it has one."""
    return PagedSequence(decoder, adapter=0 if decoder.adapters else None)


def clear_answer(decoder: Decoder, prompt: Tensor) -> tuple[Tensor, list[int]] | None:
    """Logits of the prompt and a greedy answer; None if some token leads by less of the largest score."""
    sequence = sequence_of(decoder)
    logits = sequence.feed_chunks(prompt, CHUNK)
    scores, tokens = logits[-1], list[int]()
    while len(tokens) < ANSWER:
        best = scores.topk(2)
        if best.values[0] - best.values[1] < CLEAR * scores.abs().max():
            return None
        tokens.append(int(best.indices[0]))
        scores = sequence.feed(torch.tensor(tokens[-1:]))[0]
    return logits, tokens


@pytest.fixture
def same() -> Callable[..., None]:
    """Compares ranks with one: same(load, ranks) where load(mesh=...) gives a rank's decoder."""

    def check(load: Callable[..., Decoder], ranks: Iterable[int] = (2,)) -> None:
        alone = load(mesh=Mesh())
        for _ in range(50):
            prompt = torch.randint(3, alone.spec.vocab_size, (PROMPT,))
            if (found := clear_answer(alone, prompt)) is not None:
                break
        else:
            raise AssertionError("no prompt of 50 has an answer that is clear")
        logits, answer = found

        def run(part: Decoder) -> tuple[Tensor, PagedSequence]:
            sequence = sequence_of(part)
            return sequence.feed_chunks(prompt[:-1], CHUNK), sequence

        for count in ranks:
            gathered, answers = divided_answer(
                Parallelism(tensor=count), lambda mesh: load(mesh=mesh), run, int(prompt[-1]), ANSWER
            )
            assert torch.linalg.norm(gathered - logits[:-1]) <= CLOSE * torch.linalg.norm(logits[:-1])
            assert answers == [answer] * count

    return check
