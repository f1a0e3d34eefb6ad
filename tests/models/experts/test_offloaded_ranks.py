"""Ranks that do not keep all of their experts: logits are those of ranks that do, bit for bit, in every arm."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.support.tiny_mixtures import VOCABULARY, save_mixture, save_route
from triptych.experts.opening import open_residency
from triptych.experts.residency import Counts
from triptych.experts.settings import Fraction, OffloadSettings, PolicyName, PredictorName
from triptych.experts.steered import SteeredResidency
from triptych.experts.store import PackedStore
from triptych.kernels import native
from triptych.kernels.dispatch import REFERENCE, Op
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.spec import read_spec
from triptych.models.testing import PagedSequence
from triptych.parallel import Mesh, Parallelism
from triptych.parallel.balance import Placement
from triptych.parallel.testing import run_threads

native.install()
PROMPT, CHUNK, ANSWER = 24, 8, 6
STEPS = PROMPT // CHUNK + ANSWER
LANES, WHOLE = Parallelism(1, 2), Parallelism(1, 2, "tensor", redundant=2)
MOVED = {LANES: Placement(((7, 2, 5, 0), (1, 6, 3, 4))), WHOLE: Placement(((7, 2, 5, 0, 1), (1, 6, 3, 4, 2)))}
POLICIES: tuple[PolicyName, ...] = ("lfu-decay", "lru", "static-hot")
PREDICTORS: tuple[PredictorName, ...] = ("none", "next-gate", "route")
ARMS = [*((policy, prefetch) for policy in POLICIES for prefetch in PREDICTORS), ("ring", "next-gate")]


class Model(NamedTuple):
    """Texts by rank, and what ranks that keep all of their experts make of them, by grid and rank, in one dtype."""

    files: ModelFiles
    route: Path
    texts: dict[Parallelism, list[Tensor]]
    logits: dict[Parallelism, tuple[Tensor, ...]]
    dtype: torch.dtype = torch.float32

    def load(self, mesh: Mesh, offload: OffloadSettings | None) -> Decoder:
        return Decoder.load(self.files, read_spec(self.files), self.dtype, mesh=mesh, offload=offload)

    def resident(self, grid: Parallelism) -> tuple[Tensor, ...]:
        return run_threads(grid, lambda mesh: logits_of(self.load(mesh, None), self.texts[grid][mesh.rank]))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        files = save_mixture("mixtral", tmp_path_factory.mktemp("mixtral"))
        lanes = [torch.randint(VOCABULARY, (PROMPT + ANSWER,)) for _ in range(2)]
        texts = {LANES: lanes, WHOLE: lanes[:1] * 2}
        model = Model(files, save_route(files, tmp_path_factory.mktemp("route") / "route"), texts, {})
        yield model._replace(logits={grid: model.resident(grid) for grid in texts})


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing could be compiled."""
    monkeypatch.setattr(Op, "__call__", lambda op, *args, **kwargs: op._reference(*args, **kwargs))
    monkeypatch.setattr(Op, "backend", lambda op, device: REFERENCE)


def logits_of(decoder: Decoder, tokens: Tensor) -> Tensor:
    """Of a prompt in chunks that need every expert of a layer, and of an answer token by token."""
    sequence = PagedSequence(decoder)
    found = []
    for chunk in (*tokens[:PROMPT].split(CHUNK), *tokens[PROMPT:].split(1)):
        found.append(sequence.feed(chunk))
        if decoder.residency is not None:
            decoder.residency.check()
    return torch.cat(found)


def require_equal(
    model: Model,
    grid: Parallelism,
    policy: PolicyName,
    prefetch: PredictorName,
    budget: float = 0.75,
    *,
    warm: bool = True,
) -> tuple[Counts, ...]:
    """With the experts where they are at first, and after all have moved; gives what each rank has counted."""
    settings = OffloadSettings(
        budget=Fraction(budget),
        policy=policy,
        prefetch=prefetch,
        route=model.route,
        speculation=0.5,
        readers=1,
        warm=warm,
    )

    def one(mesh: Mesh) -> tuple[Tensor, Tensor, Counts]:
        decoder = model.load(mesh, settings)
        try:
            before = logits_of(decoder, model.texts[grid][mesh.rank])
            for share in decoder.shares:
                share.commit(share.stage(MOVED[grid]).held)
            after = logits_of(decoder, model.texts[grid][mesh.rank])
            assert decoder.residency is not None
            return before, after, decoder.residency.counts
        finally:
            decoder.close()

    found = run_threads(grid, one)
    for (before, after, _), expected in zip(found, model.logits[grid], strict=True):
        assert torch.equal(before, expected)
        assert torch.equal(after, expected)
    return tuple(counts for *_, counts in found)


@pytest.mark.parametrize("grid", [LANES, WHOLE], ids=["lanes", "redundant"])
@pytest.mark.parametrize(("policy", "prefetch"), ARMS)
def test_no_policy_or_predictor_changes_a_bit(
    model: Model, grid: Parallelism, policy: PolicyName, prefetch: PredictorName
) -> None:
    for counts in require_equal(model, grid, policy, prefetch):
        assert counts.steps == 2 * STEPS
        assert counts.hits < counts.demanded  # some were read; a route may foresee all of them
        assert (counts.prefetched > 0) == (prefetch != "none")


@pytest.mark.parametrize("policy", POLICIES)
def test_experts_that_take_turns_are_read_and_counted_once_in_however_many_parts_rows_are_computed(
    model: Model, policy: PolicyName, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = require_equal(model, LANES, policy, "none", 0.4, warm=False)
    monkeypatch.setattr("triptych.models.expert_exchange.AT_ONCE", 3)
    in_parts = require_equal(model, LANES, policy, "none", 0.4, warm=False)
    for one, other in zip(together, in_parts, strict=True):
        assert other.reads == other.misses
        assert replace(other, stall_ns=0) == replace(one, stall_ns=0)


@pytest.mark.parametrize("grid", [LANES, WHOLE], ids=["lanes", "redundant"])
@pytest.mark.parametrize(("policy", "prefetch"), [("lfu-decay", "next-gate"), ("lru", "none"), ("ring", "next-gate")])
def test_nor_do_twelve_bits_for_sixteen(
    model: Model, grid: Parallelism, policy: PolicyName, prefetch: PredictorName, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = list[str]()

    def opened(store: PackedStore, *args: Any, **options: Any) -> SteeredResidency:
        forms.extend(layer.layout.gate.form for layer in store.layers)
        return open_residency(store, *args, **options)

    monkeypatch.setattr("triptych.models.offload.open_residency", opened)
    short = model._replace(dtype=torch.bfloat16)
    require_equal(short._replace(logits={grid: short.resident(grid)}), grid, policy, prefetch)
    assert forms == ["compact"] * 2 * 4  # ranks, layers


@pytest.mark.parametrize(("policy", "prefetch"), [("lfu-decay", "route"), ("ring", "next-gate")])
def test_nor_does_the_path_without_a_compiler(
    model: Model, reference: None, policy: PolicyName, prefetch: PredictorName
) -> None:
    require_equal(model._replace(logits={LANES: model.resident(LANES)}), LANES, policy, prefetch)
