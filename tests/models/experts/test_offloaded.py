"""Models whose experts do not all fit: logits are those of the same model in memory, bit for bit."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from tests.support.tiny_mixtures import CONFIGS, VOCABULARY, save_mixture, save_route
from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.experts.settings import Budget, Bytes, Fraction, OffloadSettings, PolicyName, PredictorName
from triptych.experts.steered import SteeredResidency
from triptych.kernels import native
from triptych.kernels.dispatch import REFERENCE, Op
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.quantization import Quantization
from triptych.models.spec import read_spec
from triptych.models.testing import PagedSequence

native.install()
SETTINGS = OffloadSettings(budget=Fraction(0.5), readers=2)
PROMPT, CHUNK, ANSWER = 40, 16, 12


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=CONFIGS)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    saved: ModelFiles = save_mixture(request.param, tmp_path_factory.mktemp(request.param))
    return saved


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    saved: ModelFiles = save_mixture("mixtral", tmp_path_factory.mktemp("mixtral"))
    return saved


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing could be compiled."""
    monkeypatch.setattr(Op, "__call__", lambda op, *args, **kwargs: op._reference(*args, **kwargs))
    monkeypatch.setattr(Op, "backend", lambda op, device: REFERENCE)


def load(
    files: ModelFiles,
    offload: OffloadSettings | None,
    dtype: torch.dtype = torch.float32,
    form: Quantization = "none",
) -> Decoder:
    return Decoder.load(files, read_spec(files), dtype, quantization=form, offload=offload)


def logits_of(decoder: Decoder, tokens: Tensor) -> Tensor:
    """Of a prompt in chunks that need every expert of a layer, and of an answer token by token."""
    sequence = PagedSequence(decoder)
    found = [sequence.feed_chunks(tokens[:PROMPT], CHUNK)]
    for token in tokens[PROMPT:]:
        found.append(sequence.feed(token.unsqueeze(0)))
        if decoder.residency is not None:
            decoder.residency.check()
    return torch.cat(found)


def text() -> Tensor:
    return torch.randint(VOCABULARY, (PROMPT + ANSWER,))


def blob(decoder: Decoder) -> int:
    """Bytes of an expert, all of a model being alike."""
    assert decoder._offload is not None
    [nbytes] = {layer.layout.nbytes for layer in decoder._offload.store.layers}
    return nbytes


def require_equal(
    files: ModelFiles, arms: list[OffloadSettings], dtype: torch.dtype = torch.float32, form: Quantization = "none"
) -> None:
    tokens = text()
    expected = logits_of(load(files, None, dtype, form), tokens)
    for settings in arms:
        decoder = load(files, settings, dtype, form)
        try:
            for _ in range(2):  # what the first has left in the pool changes nothing
                assert torch.equal(logits_of(decoder, tokens), expected), settings
            assert decoder.residency is not None
            assert decoder.residency.counts.steps == 2 * (-(-PROMPT // CHUNK) + ANSWER)
        finally:
            decoder.close()


@pytest.mark.parametrize(("dtype", "form"), [("float32", "none"), ("bfloat16", "none"), ("bfloat16", "int8")])
def test_logits_are_those_of_resident_experts(files: ModelFiles, dtype: str, form: Quantization) -> None:
    arms = [replace(SETTINGS, budget=Fraction(share)) for share in (0.5, 0.75, 1)]
    require_equal(files, [*arms, replace(SETTINGS, prefetch="none")], getattr(torch, dtype), form)


@pytest.mark.parametrize("policy", get_args(PolicyName))
def test_no_policy_predictor_or_budget_changes_a_bit(mixtral: ModelFiles, policy: PolicyName) -> None:
    smallest = 8 * blob(load(mixtral, SETTINGS))
    budgets: list[Budget] = [Bytes(smallest), Bytes(smallest * 10 // 8), Fraction(0.6), Fraction(1)]
    ahead: list[tuple[PredictorName, float]] = [("none", 0.0), ("next-gate", 0.1), ("next-gate", 0.5)]
    arms = [
        replace(SETTINGS, policy=policy, budget=budget, prefetch=prefetch, warm=False, speculation=speculation)
        for budget in budgets
        for prefetch, speculation in ahead
    ]
    require_equal(mixtral, arms)


def test_nor_does_the_path_without_a_compiler(files: ModelFiles, reference: None) -> None:
    require_equal(files, [SETTINGS, replace(SETTINGS, policy="ring", prefetch="none")])


@pytest.fixture
def route(mixtral: ModelFiles, tmp_path: Path) -> Path:
    return save_route(mixtral, tmp_path / "route")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nor_does_a_trained_route(mixtral: ModelFiles, route: Path, dtype: str) -> None:
    settings = replace(SETTINGS, prefetch="route", route=route, budget=Fraction(0.6), speculation=0.5)
    require_equal(mixtral, [settings], getattr(torch, dtype))


def test_experts_are_read_ahead_by_the_next_router(mixtral: ModelFiles) -> None:
    decoder = load(mixtral, replace(SETTINGS, budget=Fraction(0.6), speculation=0.5, warm=False))
    logits_of(decoder, text())
    assert decoder.residency is not None
    counts = decoder.residency.counts
    assert counts.covered > 0
    assert counts.prefetched >= counts.used > 0
    decoder.close()


def test_a_budget_below_a_layer_is_refused_and_leaves_nothing_open(mixtral: ModelFiles) -> None:
    with pytest.raises(InvalidArgument, match=r"experts\.budget must hold the experts of one layer"):
        load(mixtral, replace(SETTINGS, budget=Bytes(4096)))


def test_a_route_of_another_model_is_refused_and_leaves_nothing_open(
    route: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[SteeredResidency] = []
    close = SteeredResidency.close
    monkeypatch.setattr(SteeredResidency, "close", lambda self: (closed.append(self), close(self))[1])
    with pytest.raises(FailedPrecondition, match=r"experts\.route: .* was trained for tiny"):
        load(save_mixture("mixtral", tmp_path / "other"), replace(SETTINGS, prefetch="route", route=route))
    assert len(closed) == 1


def test_a_closed_model_is_closed_once(mixtral: ModelFiles) -> None:
    decoder = load(mixtral, SETTINGS)
    decoder.close()
    decoder.close()
    load(mixtral, None).close()
