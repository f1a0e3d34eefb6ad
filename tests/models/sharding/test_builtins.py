"""The built-in models divided among ranks: real weights, and heads that do not divide evenly."""

from dataclasses import dataclass, field

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from triptych.kernels import AttentionBatch
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.head import Likeliest
from triptych.models.resolve import resolve
from triptych.models.spec import read_spec
from triptych.models.step import StepInput
from triptych.models.testing import PagedSequence
from triptych.models.tokenizer import tokenizer_folder
from triptych.parallel import Mesh, Parallelism
from triptych.parallel.testing import run_ranks, run_threads

PROMPTS = ("The capital of France is", "def fibonacci(n):\n    ", "1, 1, 2, 3, 5, 8, 13,")
ANSWER, STEPS, BLOCK_SIZE, BLOCKS = 20, 4, 16, 4


@pytest.fixture(autouse=True)
def cache() -> None:
    """The cache of everybody: converted weights are kept there."""


@dataclass
class Batch:
    """Sequences that take their steps together."""

    decoder: Decoder
    sequences: list[list[int]]
    kv: Tensor = field(init=False)
    stored: list[int] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.sequences)
        self.kv = torch.full(self.decoder.kv_shape(count * BLOCKS, BLOCK_SIZE), torch.nan)
        self.tables = torch.arange(count * BLOCKS).view(count, BLOCKS)
        self.stored = [0] * count

    def follow(self) -> None:
        """Runs what is not stored yet of every sequence, and adds the likeliest next token to it."""
        new = [sequence[stored:] for sequence, stored in zip(self.sequences, self.stored, strict=True)]
        places = [torch.arange(stored, stored + len(ids)) for ids, stored in zip(new, self.stored, strict=True)]
        slots = [
            table[place // BLOCK_SIZE] * BLOCK_SIZE + place % BLOCK_SIZE
            for table, place in zip(self.tables, places, strict=True)
        ]
        self.stored = [len(sequence) for sequence in self.sequences]
        ends = torch.tensor([0, *map(len, new)]).cumsum(0)
        lengths = torch.tensor(self.stored, dtype=torch.int32)
        step = StepInput(
            token_ids=torch.tensor([token for ids in new for token in ids]),
            positions=torch.cat(places),
            slots=torch.cat(slots),
            attention=AttentionBatch(ends.int(), lengths, self.tables.int()),
            logit_rows=ends[1:] - 1,
        )
        head = Likeliest(torch.empty(len(new), dtype=torch.int64), torch.empty(len(new)))
        with torch.inference_mode():
            self.decoder.compute(step, self.kv, head)
        for sequence, token in zip(self.sequences, head.token_ids.tolist(), strict=True):
            sequence.append(token)


def load(files: ModelFiles, mesh: Mesh) -> Decoder:
    return Decoder.load(files, read_spec(files), torch.float32, positions=BLOCKS * BLOCK_SIZE, mesh=mesh)


def answers(decoder: Decoder, prompts: list[list[int]], count: int) -> list[list[int]]:
    batch = Batch(decoder, [list(prompt) for prompt in prompts])
    for _ in range(count):
        batch.follow()
    return batch.sequences


@pytest.mark.parametrize("name", ["builtin:smollm2", "builtin:smollm2-moe"])
def test_two_and_four_ranks_answer_as_one(name: str) -> None:
    """Some tokens step by step; of the rest each is the likeliest behind those before it, which is the same."""
    files = resolve(name)
    tokenizer = Tokenizer.from_file(str(tokenizer_folder(files) / "tokenizer.json"))
    prompts = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    alone = answers(load(files, Mesh()), prompts, ANSWER)
    begun = [sequence[: STEPS - ANSWER] for sequence in alone]
    whole = [sequence[-ANSWER:] for sequence in alone]

    def run(mesh: Mesh) -> tuple[list[list[int]], list[list[int]]]:
        decoder = load(files, mesh)
        foreseen = [PagedSequence(decoder).foresee(sequence[:-1])[-ANSWER:] for sequence in alone]
        return answers(decoder, prompts, STEPS), foreseen

    for ranks in (2, 4):
        assert run_threads(Parallelism(tensor=ranks), run) == ((begun, whole),) * ranks


def test_over_gloo_too() -> None:
    files = resolve("builtin:smollm2")
    prompts = [[504, 3575, 282, 4649, 314], [1, 2, 3]]
    found = run_ranks(Parallelism(tensor=2), lambda mesh: answers(load(files, mesh), prompts, STEPS))
    assert found == (answers(load(files, Mesh()), prompts, STEPS),) * 2
