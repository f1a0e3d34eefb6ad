"""One arm, in a process of its own: what it answers, how fast, and what it read."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from triptych.cli.bench.engine.ceiling import kv_token_bytes, weights_in
from triptych.cli.bench.experts.process import own_peak_bytes
from triptych.cli.bench.experts.work import PROMPT, Work
from triptych.engine import Completion, Engine, SamplingParams
from triptych.engine.dtypes import choose_dtype
from triptych.experts.residency import Counts
from triptych.experts.settings import OffloadSettings
from triptych.kernels.expert_slots import arrays
from triptych.models.config import read_config
from triptych.models.resolve import resolve
from triptych.models.spec import read_spec

_BLOCK = 16
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Machine:
    """What an engine computes with.

    Attributes:
        threads: Of all ranks together.
        dtype: auto, float32 or bfloat16.
        ranks: That divide the experts: this process, and children of it.
    """

    threads: int
    dtype: str = "auto"
    ranks: int = 1


@dataclass(frozen=True, slots=True)
class Order:
    """What an arm is to do.

    Attributes:
        model: A folder, a .gguf file, a hub id or builtin:NAME.
        work: The prompts.
        offload: How experts are kept; None for all in memory.
        machine: Who computes.
        past: Files that ranks look into for who was needed on other texts, and what is to be in them.
    """

    model: str
    work: Work
    offload: OffloadSettings | None
    machine: Machine
    past: Mapping[Path, bytes]


@dataclass(frozen=True, slots=True)
class Served:
    """What an arm has done. With several ranks, counts and bytes are those of the first.

    Attributes:
        tokens: Of every answer.
        digest: Of all tokens and of their log-probabilities, to the bit.
        seconds: Of decoding alone, after every text has been completed once.
        first: Of those first answers, from an empty pool on; None where all experts are in memory.
        then: Of the steps that `seconds` counts; None likewise.
        pool_bytes: Of the slots; 0 where all experts are in memory.
        peak_bytes: The most that was resident in the process.
    """

    tokens: tuple[tuple[int, ...], ...]
    digest: str
    seconds: float
    first: Counts | None
    then: Counts | None
    pool_bytes: int
    peak_bytes: int

    @property
    def stall(self) -> float:
        """Seconds of `seconds` that computing waited for reads."""
        return 0.0 if self.then is None else self.then.stall_ns / 1e9


def serve(order: Order) -> Served:
    """Completes all prompts, then once more with what has been learnt, and times that.

    The second time every prompt but its last token is in the prefix cache, so that all steps are decode steps.

    Raises:
        TriptychError: the model cannot be found, read or run, or the second answers are others than the first.
    """
    for path, uses in order.past.items():
        path.write_bytes(uses)
    with open_engine(order.model, order.work, order.offload, order.machine) as engine:
        first = complete(engine, order.work, logprobs=0)
        cold = counts(engine)
        begun = time.perf_counter()
        second = complete(engine, order.work)
        seconds = time.perf_counter() - begun
        warm = counts(engine)
        if order.offload is None:
            _touch(engine)
        residency = engine.core.decoder.residency
        return Served(
            tokens=tuple(tuple(answer.token_ids) for answer in first),
            digest=_digest(first, second),
            seconds=seconds,
            first=cold,
            then=None if warm is None or cold is None else less(warm, cold),
            pool_bytes=0 if residency is None else residency.nbytes,
            peak_bytes=own_peak_bytes(),
        )


def open_engine(model: str, work: Work, offload: OffloadSettings | None, machine: Machine) -> Engine:
    """An engine with room for all prompts and answers at once, on every rank."""
    files = resolve(model)
    item_bytes = choose_dtype(machine.dtype, read_config(files)).itemsize
    tokens = (len(work.prompts) + 1) * (PROMPT + work.tokens + 2 * _BLOCK)
    return Engine(
        model,
        expert_offload=offload,
        kv_cache_memory=tokens * kv_token_bytes(read_spec(files).decoder, item_bytes),
        block_size=_BLOCK,
        threads=machine.threads,
        dtype=machine.dtype,
        expert_parallel=machine.ranks,
    )


def complete(engine: Engine, work: Work, *, logprobs: int | None = None) -> list[Completion]:
    """All answers."""
    params = SamplingParams(
        temperature=0, repetition_penalty=1, max_tokens=work.tokens, ignore_eos=True, logprobs=logprobs
    )
    return [answer for batch in work.batches() for answer in engine.generate(batch, params)]


def counts(engine: Engine) -> Counts | None:
    """Since the beginning; None where all experts are in memory."""
    residency = engine.core.decoder.residency
    return None if residency is None else residency.counts


def less(later: Counts, earlier: Counts) -> Counts:
    """What happened between; of the switch of reading in advance what is so later."""
    summed = (name for name in Counts.__slots__ if name not in ("switched_off", "turns"))
    between = {name: getattr(later, name) - getattr(earlier, name) for name in summed}
    return Counts(**between, switched_off=later.switched_off, turns=later.turns)


def _touch(engine: Engine) -> None:
    """Reads every weight but the embedding, which comes first: experts of a mapped file that no text needed, too."""
    for weight in islice(weights_in(engine.core.decoder), 1, None):
        for tensor in arrays(weight):
            if tensor is not None:
                tensor.flatten().view(torch.uint8)[::_PAGE].sum()


def _digest(first: list[Completion], second: list[Completion]) -> str:
    """Of the first answers with what the model thought of them, and of the tokens of the second."""
    digest = hashlib.blake2b(digest_size=16)
    for answer in first:
        digest.update(repr((answer.token_ids, [entry.logprob.hex() for entry in answer.logprobs or ()])).encode())
    for answer in second:
        digest.update(repr(answer.token_ids).encode())
    return digest.hexdigest()
