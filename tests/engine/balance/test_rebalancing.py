"""Experts that move while ranks generate: the same tokens, whatever moves, and no step that waits for it."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from tests.support.leads import clear_answer
from tests.support.seeds import drawn_seed
from triptych.engine.balance import Balancer, ExpertMover, open_balancer
from triptych.models.decoder import Decoder
from triptych.models.expert_share import Expert
from triptych.models.files import ModelFiles
from triptych.models.offloaded import OffloadedLayer
from triptych.models.spec import read_spec
from triptych.models.testing import PagedSequence
from triptych.parallel import Mesh, Parallelism
from triptych.parallel.balance import Balance, BalancePolicy, Placement, Planner, balanced
from triptych.parallel.channel import Hub, Member
from triptych.parallel.testing import run_threads

EXPERTS, LAYERS = 8, 2
PROMPT, ANSWER = 9, 25
WHEN_FORCED = BalancePolicy(threshold=0.0, gain=-1.0)
IF_BETTER = BalancePolicy(threshold=0.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    seed = drawn_seed()
    torch.manual_seed(seed)
    folder = tmp_path_factory.mktemp("mixture")
    config = MixtralConfig(
        vocab_size=97, hidden_size=64, intermediate_size=32, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.2, num_local_experts=EXPERTS,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(folder)
    return ModelFiles("tiny", folder, "safetensors")


def load(files: ModelFiles, mesh: Mesh) -> Decoder:
    return Decoder.load(files, read_spec(files), torch.float32, mesh=mesh)


def generate(decoder: Decoder, prompt: Sequence[int]) -> Iterator[int]:
    """The likeliest answer, a token for each step; the first step also reads the prompt."""
    sequence, token_id = PagedSequence(decoder), prompt[-1]
    sequence.feed(torch.tensor(prompt[:-1]))
    for _ in range(ANSWER):
        token_id = sequence.follow(token_id)
        yield token_id


@dataclass(frozen=True, slots=True)
class Step:
    """A step of every lane; `prompt` begins an answer."""

    prompt: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Stop:
    """There are no more steps."""


class Lane:
    """Answers of one rank, one after the other; a second lane reads the prompts backwards."""

    def __init__(self, decoder: Decoder) -> None:
        self.answers: list[list[int]] = []
        self.order = -1 if decoder.mesh.parallelism.lane(decoder.mesh.rank) else 1
        self._decoder = decoder
        self._tokens: Iterator[int] = iter(())

    def step(self, step: Step) -> None:
        if step.prompt:
            self.answers.append([])
            self._tokens = generate(self._decoder, step.prompt[:: self.order])
        self.answers[-1].append(next(self._tokens))


Reading: TypeAlias = Callable[[Callable[[int], Expert], int], Expert]
"""Reads an expert by way of what really reads it."""
Direct: TypeAlias = Callable[[Balancer], bool]
"""Called before each step: does something to the balancer, and says whether there shall be further answers."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the ranks have done, as rank 0 has it."""

    prompts: list[tuple[int, ...]]
    answers: list[list[int]]
    balance: Balance
    steps: int


def lead(decoder: Decoder, hub: Hub, planner: Planner, direct: Direct, policy: BalancePolicy) -> Served:
    """Rank 0: plans, and computes its lane."""
    balancer = open_balancer(decoder, hub, policy, planner)
    assert balancer is not None
    hub.gather(60)
    lane, prompts, steps, more = Lane(decoder), list[tuple[int, ...]](), 0, True
    while more:
        prompts.append(tuple(torch.randint(1, 97, (PROMPT,)).tolist()))
        for place in range(ANSWER):
            more = direct(balancer)
            balancer.before_step()
            step = Step(() if place else prompts[-1])
            hub.send(step)
            lane.step(step)
            balancer.after_step()
            steps += 1
        assert steps < 20_000, balancer.balance
    hub.send(Stop())
    balancer.close()
    return Served(prompts, lane.answers, balancer.balance, steps)


def follow(decoder: Decoder, member: Member) -> list[list[int]]:
    """Another rank."""
    lane, mover = Lane(decoder), ExpertMover(decoder.shares, decoder.mesh, member.send)
    handlers: dict[type, Callable[[Any], None]] = {
        **mover.handlers,
        Step: lane.step,
    }
    while not isinstance(message := member.receive(), Stop):
        handlers[type(message)](message)
    mover.close()
    return lane.answers


def read_at_once(real: Callable[[int], Expert], expert: int) -> Expert:
    return real(expert)


TWO = Parallelism(expert=2, redundant=4)


def serve(
    files: ModelFiles,
    direct: Direct,
    planner: Planner = balanced,
    read: Reading = read_at_once,
    parallelism: Parallelism = TWO,
    policy: BalancePolicy = WHEN_FORCED,
) -> Served:
    """Answers of ranks that are joined by the channel, until there shall be no more; they are those of one rank.

    As far as these are clear: how many prompts there are, and so which, depends on the threads that read.
    """
    hub = Hub(parallelism.size)

    def run(mesh: Mesh) -> Served | list[list[int]]:
        decoder = load(files, mesh)
        for share in decoder.shares:
            assert not isinstance(share.source, OffloadedLayer)
            share.source = partial(read, share.source)
        if mesh.rank:
            return follow(decoder, Member(hub.address, hub.key, mesh.rank))
        return lead(decoder, hub, planner, direct, policy)

    first, *others = run_threads(parallelism, run)
    hub.close()
    assert isinstance(first, Served)
    alone = load(files, Mesh())
    lanes = [
        [clear_answer(alone, p[::order], ANSWER) for p in first.prompts] for order in (1, -1)[: parallelism.lanes]
    ]
    for rank, answers in enumerate((first.answers, *others)):
        expected = lanes[parallelism.lane(rank)]
        assert [found[: len(clear)] for found, clear in zip(answers, expected, strict=True)] == expected
    return first


def at_random(weights: Sequence[float], old: Placement, groups: int, nodes: int) -> Placement:
    """Every expert somewhere."""
    slots = [*range(EXPERTS), *random.choices(range(EXPERTS), k=len(old.by_slot) - EXPERTS)]
    random.shuffle(slots)
    room = len(slots) // old.ranks
    return Placement(tuple(tuple(slots[rank * room : (rank + 1) * room]) for rank in range(old.ranks)))


def swapped(weights: Sequence[float], old: Placement, groups: int, nodes: int) -> Placement:
    """What one rank has goes to the next: something is read for every layer."""
    return Placement((*old.slots[1:], old.slots[0]))


@pytest.mark.parametrize(
    "parallelism",
    [Parallelism(2, 2, redundant=2), Parallelism(2, 2, "tensor", redundant=2), Parallelism(1, 4, "tensor")],
    ids=["lanes", "columns", "four"],
)
def test_grids_of_ranks_rebalance(files: ModelFiles, parallelism: Parallelism) -> None:
    def direct(balancer: Balancer) -> bool:
        balance = balancer.balance
        if not balance.moving:
            balancer.force()
        return balance.rebalances < 8

    assert serve(files, direct, at_random, parallelism=parallelism).balance.commits > 4


def test_no_step_waits_for_experts_that_are_being_read(files: ModelFiles) -> None:
    waited, gate = 0, threading.Event()

    def read(real: Callable[[int], Expert], expert: int) -> Expert:
        assert gate.wait(240)
        return real(expert)

    def direct(balancer: Balancer) -> bool:
        nonlocal waited
        if balancer.balance.rebalances == 0:
            balancer.force()
        waited += 1
        if waited == ANSWER:
            assert balancer.balance.commits == 0
            gate.set()
        return balancer.balance.moving or waited < 2 * ANSWER

    try:
        served = serve(files, direct, swapped, read)
    finally:
        gate.set()
    assert served.balance.commits == LAYERS


def test_an_unreadable_expert_ends_the_rebalance_and_nothing_else(files: ModelFiles) -> None:
    def read(real: Callable[[int], Expert], expert: int) -> Expert:
        raise OSError("the disk is gone")

    def direct(balancer: Balancer) -> bool:
        if balancer.balance.rebalances == 0:
            balancer.force()
        return balancer.balance.given_up == 0

    balance = serve(files, direct, swapped, read).balance  # which reads for every layer, as a random one may not
    assert (balance.given_up, balance.commits) == (1, 0), balance


def test_balance_gets_better_on_what_was_counted(files: ModelFiles) -> None:
    forced = 0

    def direct(balancer: Balancer) -> bool:
        nonlocal forced
        forced += 1
        if forced % ANSWER == 0 and not balancer.balance.moving:  # or another would follow
            balancer.force()
        return balancer.balance.commits == 0 or balancer.balance.moving

    served = serve(files, direct, policy=IF_BETTER)
    moved = [layer for layer in served.balance.layers if layer.before is not None]
    assert len(moved) == served.balance.commits > 0
    for layer in moved:
        assert layer.before is not None
        assert layer.after is not None
        assert layer.after > layer.before
