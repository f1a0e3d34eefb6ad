"""The rate that a machine allows for a workload: what it must read and compute, over how fast it can.

Nothing is assumed of the engine but that it reads each weight once per step, and each cached key and value once per
step and KV head. What is counted, a multiplication and an addition being two operations:

* linears: 2 · weights of all layers, per row;
* attention: 4 · heads · head_dim, per layer and per pair of a row and a position that it sees (causal);
* head: 2 · vocabulary · hidden, for the last row of each prompt and for every row of a decode step;
* bytes: all projections and the head as stored, once per step (the embedding only where it is the head), as many
  experts as the step's rows would choose at random, and the keys and values of every sequence of the step.

Norms, activations, sampling and the embedding's own rows are left out: they are below a hundredth of either.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import assert_never

from triptych.cli.bench.engine.workloads import Workload
from triptych.kernels import DenseWeight, Experts, GgufWeight, Int8Weight, Weight
from triptych.models.decoder import Decoder
from triptych.models.size import attention_operations, expert_share, kv_elements, linear_parameters
from triptych.models.spec import DecoderSpec


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model asks of a machine.

    Attributes:
        step_bytes: Weights that every step reads.
        expert_bytes: Weights of all experts.
        expert_share: Of which a row uses so many.
        weights_bytes: All weights, those of a separate embedding included.
        kv_bytes: Keys and values of one token, all layers.
        linear_operations: Per row.
        attention_operations: Per row and position that it sees.
        head_operations: Per row with logits.
    """

    step_bytes: int
    expert_bytes: int
    expert_share: float
    weights_bytes: int
    kv_bytes: int
    linear_operations: int
    attention_operations: int
    head_operations: int

    @classmethod
    def of(cls, decoder: Decoder) -> "Cost":
        """Counts a loaded model."""
        spec = decoder.spec
        weights = {id(weight): weight for weight in weights_in(decoder)}
        sizes = [weight_bytes(weight) for weight in weights.values()]
        apart = 0 if spec.tied_head else sizes[0]  # the embedding, which the decoder holds before all else
        experts = sum(weight_bytes(weight) for mixture in _mixtures_in(decoder) for weight in weights_in(mixture))
        return cls(
            step_bytes=sum(sizes) - apart - experts,
            expert_bytes=experts,
            expert_share=expert_share(spec),
            weights_bytes=sum(sizes),
            kv_bytes=kv_token_bytes(spec, decoder.dtype.itemsize),
            linear_operations=2 * round(linear_parameters(spec)),
            attention_operations=attention_operations(spec),
            head_operations=2 * spec.vocab_size * spec.hidden_size,
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """What a machine can do, per second: bytes read, and operations in linears and in attention."""

    read: float
    linear: float
    attention: float


def ceiling(workload: Workload, prompt_tokens: int, cost: Cost, rates: Rates) -> float:
    """Counted tokens per second of an engine that wastes nothing.

    Each step takes the longer of its reading and its computing; the prompts of a batch are one step.

    Args:
        workload: What is done.
        prompt_tokens: Tokens of each prompt, as the model's tokenizer has them.
        cost: Of the model.
        rates: Of the machine.
    """
    batch, prompt = workload.batch, prompt_tokens
    seconds = _step(batch * prompt, batch * prompt * (prompt + 1) // 2, batch, 0, cost, rates)
    for length in range(prompt + 1, prompt + workload.output_tokens):
        seconds += _step(batch, batch * length, batch, batch * length, cost, rates)
    return workload.counted / seconds


def kv_token_bytes(spec: DecoderSpec, item_bytes: int) -> int:
    """Bytes of the keys and values of one token, all layers."""
    return kv_elements(spec) * item_bytes


def weight_bytes(weight: Weight) -> int:
    """Bytes that a kernel reads of it."""
    match weight:
        case DenseWeight(values):
            return values.nbytes
        case Int8Weight(values, scales):
            return values.nbytes + scales.nbytes
        case GgufWeight(blocks):
            return blocks.nbytes
        case _:
            assert_never(weight)


def weights_in(part: object) -> Iterator[Weight]:
    """The weights of a model or of a part of it, in the order of its fields; one that is used twice comes twice."""
    if isinstance(part, DenseWeight | Int8Weight | GgufWeight):
        yield part
    elif isinstance(part, tuple):
        for item in part:
            yield from weights_in(item)
    elif is_dataclass(part):
        for field in fields(part):
            yield from weights_in(getattr(part, field.name))


def _mixtures_in(part: object) -> Iterator[Experts]:
    if isinstance(part, Experts):
        yield part
    elif isinstance(part, tuple):
        for item in part:
            yield from _mixtures_in(item)
    elif is_dataclass(part):
        for field in fields(part):
            yield from _mixtures_in(getattr(part, field.name))


def _step(rows: int, pairs: int, logits: int, cached: int, cost: Cost, rates: Rates) -> float:
    """Seconds of one step: `pairs` of a row and a position it sees, `cached` positions read from the cache."""
    experts = cost.expert_bytes * (1 - (1 - cost.expert_share) ** rows)
    reading = (cost.step_bytes + experts + cached * cost.kv_bytes) / rates.read
    linear = (rows * cost.linear_operations + logits * cost.head_operations) / rates.linear
    return max(reading, linear + pairs * cost.attention_operations / rates.attention)
