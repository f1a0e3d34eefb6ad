"""The built-in mixture with its experts divided: 32 experts, of which twelve compute every token."""

import pytest
import torch

from triptych.kernels import native
from triptych.models.decoder import Decoder
from triptych.models.resolve import resolve
from triptych.models.spec import read_spec
from triptych.models.testing import PagedSequence
from triptych.models.text import TextProcessor
from triptych.parallel import Mesh, Parallelism
from triptych.parallel.testing import run_threads

native.install()
ANSWER, STEPS = 24, 4
TEXTS = (
    "The three laws of thermodynamics are:\n1.",
    "1, 1, 2, 3, 5, 8, 13,",
    "Once upon a time, in a village by the sea,",
    "Liebe Grüße",
)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """One for each lane, of different lengths."""
    files = resolve("builtin:smollm2-moe")
    encode = TextProcessor.load(files, read_spec(files)).encode
    return [encode(text) for text in TEXTS]


def load(mesh: Mesh) -> Decoder:
    files = resolve("builtin:smollm2-moe")
    return Decoder.load(files, read_spec(files), torch.float32, mesh=mesh)


@pytest.fixture(scope="module")
def answers(prompts: list[list[int]]) -> list[list[int]]:
    """Of one rank."""
    decoder = load(Mesh())

    def answer(prompt: list[int]) -> list[int]:
        sequence = PagedSequence(decoder)
        tokens = sequence.foresee(prompt)[-1:]
        while len(tokens) < ANSWER:
            tokens.append(sequence.follow(tokens[-1]))
        return tokens

    return [answer(prompt) for prompt in prompts]


@pytest.mark.parametrize(
    "grid",
    [Parallelism(1, 2), Parallelism(1, 4), Parallelism(2, 2), Parallelism(1, 2, "tensor")],
    ids=["EP 2", "EP 4", "TP 2 EP 2", "EP 2, heads divided"],
)
def test_divided_experts_answer_every_lane_as_one_rank(
    grid: Parallelism, prompts: list[list[int]], answers: list[list[int]]
) -> None:
    """Some tokens step by step; of the rest each is the likeliest behind those before it, which is the same."""

    def run(mesh: Mesh) -> list[int]:
        sequence, lane = PagedSequence(load(mesh)), grid.lane(mesh.rank)
        tokens = sequence.foresee(prompts[lane])[-1:]
        while len(tokens) < STEPS:
            tokens.append(sequence.follow(tokens[-1]))
        return tokens + sequence.foresee(answers[lane][STEPS - 1 : -1])

    assert run_threads(grid, run) == tuple(answers[grid.lane(rank)] for rank in range(grid.size))
