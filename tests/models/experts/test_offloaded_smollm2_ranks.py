"""The built-in mixture on two ranks that keep a part of their experts: the bits of one rank with all of them."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from triptych.experts.residency import Counts
from triptych.experts.settings import Fraction, OffloadSettings, PolicyName, PredictorName
from triptych.kernels import native
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.resolve import resolve
from triptych.models.spec import ModelSpec, read_spec
from triptych.models.testing import PagedSequence
from triptych.models.text import TextProcessor
from triptych.parallel import Mesh, Parallelism
from triptych.parallel.testing import run_threads

native.install()
PROMPT, CHUNK, ANSWER = 10, 5, 4
"""Both texts together have at most eight rows for each expert of a rank: more are added up in another order."""
TEXTS = ("Once upon a time, in a village by the sea, there lived a man who", "1, 1, 2, 3, 5, 8, 13, 21, 34, 55")
LAYER = 1 / 30
"""Of all experts: none stays from one step to the next."""
ARMS: list[tuple[float, PolicyName, PredictorName]] = [
    (LAYER, "ring", "none"),
    (0.1, "lru", "none"),
    (0.5, "lfu-decay", "next-gate"),
    (0.5, "static-hot", "none"),
    (0.5, "ring", "next-gate"),
]


class Model(NamedTuple):
    """A text for each rank, and the logits of greedy answers to them on one rank."""

    files: ModelFiles
    spec: ModelSpec
    prompts: list[Tensor]
    logits: list[Tensor]

    def load(self, mesh: Mesh, offload: OffloadSettings | None) -> Decoder:
        """In float32, in which results come home from other ranks as they are."""
        return Decoder.load(self.files, self.spec, torch.float32, mesh=mesh, offload=offload)


@pytest.fixture(scope="module")
def model() -> Model:
    files = resolve("builtin:smollm2-moe")
    spec = read_spec(files)
    encode = TextProcessor.load(files, spec).encode
    model = Model(files, spec, [torch.tensor(encode(text)[:PROMPT]) for text in TEXTS], [])
    resident = model.load(Mesh(), None)
    return model._replace(logits=[answer(resident, prompt) for prompt in model.prompts])


def answer(decoder: Decoder, prompt: Tensor) -> Tensor:
    """Logits of a prompt in chunks, and of the likeliest tokens behind it."""
    sequence = PagedSequence(decoder)
    found: list[Tensor] = []
    for step in range(PROMPT // CHUNK + ANSWER):
        chunk = prompt[step * CHUNK : (step + 1) * CHUNK]
        found.append(sequence.feed(chunk if len(chunk) else found[-1][-1:].argmax(-1)))
        if decoder.residency is not None:
            decoder.residency.check()
    return torch.cat(found)


def answered(model: Model, offload: OffloadSettings, mesh: Mesh) -> tuple[Tensor, Counts]:
    decoder = model.load(mesh, offload)
    try:
        found = answer(decoder, model.prompts[mesh.rank])
        assert decoder.residency is not None
        return found, decoder.residency.counts
    finally:
        decoder.close()


@pytest.mark.parametrize(("share", "policy", "prefetch"), ARMS)
def test_greedy_answers_are_those_of_one_rank_with_all_experts(
    model: Model, share: float, policy: PolicyName, prefetch: PredictorName
) -> None:
    settings = OffloadSettings(
        budget=Fraction(share), policy=policy, prefetch=prefetch, warm=False, readers=1, speculation=0.1
    )
    found = run_threads(Parallelism(1, 2), partial(answered, model, settings))
    for (logits, counts), expected in zip(found, model.logits, strict=True):
        assert torch.equal(logits, expected)
        assert counts.misses > 0
        assert (counts.covered > 0) == (prefetch != "none")
        assert counts.failed_reads == 0
