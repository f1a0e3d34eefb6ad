"""Tiny random checkpoints of every family, against transformers: each logit of a prompt, and a greedy answer.

The prompt runs through a paged cache in chunks whose borders fall inside windows and pages.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from triptych.core.generation import OperationKey
from triptych.engine.core import EngineCore
from triptych.engine.sampling import Sampling
from triptych.engine.scheduler import SchedulerOptions
from triptych.engine.sequence import Sequence
from triptych.kernels import native
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.sharding.testing import Run, divided_answer
from triptych.models.spec import read_spec
from triptych.models.testing import BLOCK_SIZE, BLOCKS, PagedSequence
from triptych.parallel import Parallelism

COMPILED = native.install().isa is not None
CHUNK = 24
PROMPT = 70
ANSWER = 32
CLEAR = 1e-3
"""By how much of the largest score the likeliest token leads: less may be turned around by rounding."""


def randomise(model: PreTrainedModel) -> None:
    """Moves biases and norms away from what they begin as, where mistaking them would not be seen."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))


def save(model: PreTrainedModel, folder: Path) -> ModelFiles:
    """Writes the checkpoint."""
    model.train(False)
    model.save_pretrained(folder)
    return ModelFiles("tiny", folder, "safetensors")


def close(ours: Tensor, theirs: Tensor) -> None:
    """Every row within 1e-4 of its largest logit."""
    off = (ours - theirs).abs().amax(-1) / theirs.abs().amax(-1)
    assert off.max() <= 1e-4, f"row {int(off.argmax())} is off by {off.max():.2e} of its largest logit"


@torch.no_grad()
def clear_answer(model: Any, prompt: Tensor) -> Tensor | None:
    """transformers' greedy answer, token after token; None if some token leads too little to tell."""
    token_ids, past = prompt.unsqueeze(0), None
    answer: list[Tensor] = []
    for _ in range(ANSWER):
        result = model(token_ids, past_key_values=past, use_cache=True)
        scores, past = result.logits[0, -1], result.past_key_values
        best = scores.topk(2).values
        if best[0] - best[1] < CLEAR * scores.abs().max():
            return None
        token_ids = scores.argmax().view(1, 1)
        answer.append(token_ids[0])
    return torch.cat(answer)


def require_parity(model: Any, decoder: Decoder) -> tuple[Tensor, Tensor, list[int]]:
    """The logits of a prompt and the tokens of an answer are transformers'; returns prompt, our logits, answer."""
    vocabulary = decoder.spec.vocab_size
    for _ in range(20):
        prompt = torch.randint(1, vocabulary, (PROMPT,))  # token 0 pads: its embedding is zero
        if (answer := clear_answer(model, prompt)) is not None:
            break
    else:
        raise AssertionError("no prompt of 20 has an answer that is clear")
    with torch.no_grad():
        expected = model(prompt.unsqueeze(0)).logits[0]
    sequence = PagedSequence(decoder)
    logits = sequence.feed_chunks(prompt, CHUNK)
    close(logits, expected)
    found = [logits[-1].argmax()]
    while len(found) < ANSWER:
        found.append(sequence.feed(found[-1].view(1))[0].argmax())
    assert torch.stack(found).tolist() == answer.tolist()
    assert engine_answer(decoder, prompt) == answer.tolist()
    return prompt, logits, answer.tolist()


def require_ranks(
    load: Callable[..., Decoder], run: Run, last: int, logits: Tensor, answer: list[int], ranks: Iterable[int]
) -> None:
    """The logits and the answer of a model divided among ranks are those of one rank.

    Args:
        load: Opens one rank's part.
        run: The prompt.
        last: Its last token.
        logits: Of the rows before that, of one rank.
        answer: Of one rank.
        ranks: Divide every matrix; each number of them is tried.
    """
    for count in ranks:
        found, answers = divided_answer(Parallelism(tensor=count), lambda mesh: load(mesh=mesh), run, last, ANSWER)
        close(found, logits)
        assert torch.linalg.norm(found - logits) <= 1e-5 * torch.linalg.norm(logits)
        assert answers == [answer] * count


def engine_answer(decoder: Decoder, prompt: Tensor) -> list[int]:
    """The greedy answer by way of the scheduler and of steps that are recorded once and replayed."""
    kv = torch.full(decoder.kv_shape(BLOCKS, BLOCK_SIZE), torch.nan, dtype=decoder.dtype)
    core = EngineCore(decoder, kv, (), BLOCKS * BLOCK_SIZE, SchedulerOptions(CHUNK, 4))
    sequence = Sequence(
        OperationKey("tiny"), prompt.tolist(), len(prompt), Sampling(temperature=0.0), 0, len(prompt) + ANSWER
    )
    core.scheduler.add(sequence)
    while sequence.generated < ANSWER:
        core.step()
    chunks = -(-PROMPT // CHUNK)
    assert not COMPILED or core.runner._recorder.recorded == chunks + 1, (
        "a step ran call by call, or was not replayed"
    )
    return sequence.token_ids[PROMPT:]


@pytest.fixture
def divided() -> Callable[..., None]:
    """See `require_ranks`."""
    return require_ranks


@pytest.fixture
def compared(request: pytest.FixtureRequest) -> Iterator[set[str]]:
    """Takes the architectures that a test compares: those that its `family` marks name, no others and no fewer."""
    found: set[str] = set()
    yield found
    assert found == {name for mark in request.node.iter_markers("family") for name in mark.args}


@pytest.fixture
def parity(tmp_path: Path, compared: set[str]) -> Callable[[PretrainedConfig], Decoder]:
    """Builds a model by its config, and compares, as one and divided among ranks; returns our decoder of it."""

    def check(config: PretrainedConfig, ranks: Iterable[int] = (2,)) -> Decoder:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
        randomise(model)
        files = save(model, tmp_path)
        spec = read_spec(files)
        decoder = Decoder.load(files, spec, torch.float32)
        prompt, logits, answer = require_parity(model, decoder)

        def run(part: Decoder) -> tuple[Tensor, PagedSequence]:
            sequence = PagedSequence(part)
            return sequence.feed_chunks(prompt[:-1], CHUNK), sequence

        require_ranks(
            partial(Decoder.load, files, spec, torch.float32), run, int(prompt[-1]), logits[:-1], answer, ranks
        )
        compared.add(spec.architecture)
        return decoder

    return check
