"""Sequences in every state that a step can meet."""

import random
from itertools import pairwise

import torch

from triptych.core.generation import OperationKey
from triptych.core.positions import Grid
from triptych.engine.plan import Chunk, StepPlan
from triptych.engine.sampling import Sampling
from triptych.engine.sequence import Media, Sequence

ROWS, SEQUENCES, BLOCKS = 64, 12, 20


class Crowd:
    """Sequences that come, grow, change places and leave, and the plans over them."""

    def __init__(self, rng: random.Random, block_size: int, adapters: tuple[str, ...] = ()) -> None:
        self.rng = rng
        self.block_size = block_size
        self.sequences: list[Sequence] = []
        self.adapters = ("", *adapters)
        self.made = 0

    def arrive(self) -> None:
        length = self.rng.randint(1, 12)
        self.made += 1
        key, limit = OperationKey(str(self.made)), BLOCKS * self.block_size
        media = self.pictures(length) if self.rng.random() < 0.4 else ()
        sequence = Sequence(key, self.tokens(length), length, self.sampling(), self.made, limit, media=media)
        sequence.adapter = self.rng.choice(self.adapters)
        sequence.blocks = self.blocks(length)
        sequence.computed = self.rng.randrange(length)
        self.sequences.append(sequence)

    def sampling(self) -> Sampling:
        """Greedy or not, penalised or not, in one group of sequences as well as in the next."""
        if self.rng.random() < 0.6:
            return Sampling(temperature=0.0)
        return Sampling(
            ends=frozenset(self.tokens(self.rng.randint(0, 3))),
            min_tokens=self.rng.randint(0, 3),
            repetition_penalty=self.rng.choice([1.0, 1.3]),
            presence_penalty=self.rng.choice([0.0, -0.7]),
            frequency_penalty=self.rng.choice([0.0, 0.3]),
            temperature=self.rng.choice([0.0, 0.8, 1.0]),
            top_k=self.rng.choice([0, 5, 2**31 - 1]),
            top_p=self.rng.uniform(0.1, 1.0),
            min_p=self.rng.choice([0.0, 0.05]),
            logprobs=self.rng.choice([None, 0, 4]),
        )

    def pictures(self, length: int) -> tuple[Media, ...]:
        """One or two, up to the end of the prompt; all of a sequence in grids or none."""
        start = self.rng.randrange(length)
        ends = sorted({self.rng.randint(start + 1, length), length})
        grids, levels = self.rng.random() < 0.5, self.rng.randint(0, 2)
        found = []
        for first, stop in pairwise([start, *ends]):
            rows = stop - first
            height = self.rng.choice([n for n in range(1, rows + 1) if rows % n == 0])
            grid = Grid(1, height, rows // height) if grids else None
            deepstack = torch.randn(levels, rows, 3) if levels else None
            found.append(Media(first, rows, torch.randn(rows, 3), f"{self.made}-{first}", 0, grid, deepstack))
        return tuple(found)

    def tokens(self, count: int) -> list[int]:
        return [self.rng.randrange(50_000) for _ in range(count)]

    def blocks(self, tokens: int) -> list[int]:
        return [self.rng.randrange(10_000) for _ in range(-(-tokens // self.block_size))]

    def plan(self) -> StepPlan:
        decodes = tuple(s for s in self.sequences if s.pending == 1)
        room, prompts = ROWS - len(decodes), []
        for sequence in (s for s in self.sequences if s.pending > 1):
            if room:
                prompts.append(Chunk(sequence, sequence.computed, self.rng.randint(1, min(room, sequence.pending))))
                room -= prompts[-1].length
        return StepPlan(decodes, tuple(prompts))

    def commit(self, plan: StepPlan) -> None:
        sampling = plan.sampling
        for sequence in plan.decodes:
            sequence.computed += 1
        for chunk in plan.prompts:
            chunk.sequence.computed += chunk.length
        for sequence in sampling:
            sequence.token_ids += self.tokens(1)
            if len(sequence.blocks) * self.block_size < len(sequence.token_ids):
                sequence.blocks += self.blocks(1)
        self.sequences = [s for s in self.sequences if len(s.token_ids) < BLOCKS * self.block_size]

    def change(self) -> None:
        """Some leave, some give their blocks back and start again, some come, and their order may change."""
        for sequence in self.rng.sample(self.sequences, min(len(self.sequences), self.rng.randint(0, 2))):
            self.sequences.remove(sequence)
        if self.sequences and self.rng.random() < 0.3:
            again = self.rng.choice(self.sequences)
            again.blocks = self.blocks(len(again.token_ids))
            again.computed = self.rng.randrange(len(again.token_ids))
        while len(self.sequences) < SEQUENCES and self.rng.random() < 0.6:
            self.arrive()
        if self.rng.random() < 0.2:
            self.rng.shuffle(self.sequences)
