"""The budget `auto` before a model is loaded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from triptych.core.errors import FailedPrecondition
from triptych.engine import expert_fit
from triptych.engine.expert_fit import settle
from triptych.engine.ranks.settings import RankSettings
from triptych.experts.fit import budget
from triptych.experts.settings import Auto, Bytes, Fraction, OffloadSettings
from triptych.models.compact_pack import CompactPack
from triptych.models.expert_pack import ExpertPack
from triptych.models.expert_sizes import expert_parameters, layer_needs
from triptych.models.layout import decoder_tensors
from triptych.models.parameters import open_parameters
from triptych.models.progress import SILENT
from triptych.models.resolve import resolve
from triptych.models.size import parameters
from triptych.models.spec import read_spec
from triptych.parallel import ALONE, Parallelism

KV = 3 << 20
AUTO = OffloadSettings(budget=Auto(), policy="lru")
SIZES = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
EXPERTS = 3 * 6 * 3 * 64 * 96
BLOB = 6 * 4096 + 3 * 4096
TWELVE = 5 * 4096 + 3 * 4096
"""The same in twelve bits a weight."""
"""2 · 96 · 64 and 96 · 64 numbers of two bytes."""


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixtral")
    model = MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=6, num_experts_per_tok=2))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _nothing_stays_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "KEPT_FREE", 0)


@pytest.fixture
def settings(mixture: Path) -> RankSettings:
    return RankSettings(
        files=resolve(str(mixture)), parallelism=ALONE, dtype="bfloat16", kv_memory=KV, adapters={}, offload=AUTO
    )


@pytest.fixture
def others(settings: RankSettings) -> int:
    """Bytes of all weights that are no experts."""
    return 2 * (parameters(read_spec(settings.files).decoder) - EXPERTS)


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(expert_fit, "free_memory", lambda: count)


def test_where_everything_fits_nothing_is_offloaded(
    settings: RankSettings, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, others + KV + 2 * EXPERTS)
    assert settle(settings) == replace(settings, offload=None)


def test_else_a_rank_gets_what_kv_cache_and_other_weights_leave(
    settings: RankSettings, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, others + KV + 10 * BLOB)
    assert settle(settings).offload == OffloadSettings(budget=Bytes(10 * BLOB), policy="lru")


def test_ranks_on_one_host_divide_what_is_left(
    settings: RankSettings, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, others + 2 * KV + 10 * BLOB)
    divided = settle(replace(settings, parallelism=Parallelism(1, 2)))
    assert divided.offload == OffloadSettings(budget=Bytes(5 * BLOB), policy="lru")


def test_less_than_the_experts_of_a_layer_is_refused(
    settings: RankSettings, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, others + KV + 6 * TWELVE)
    assert settle(settings).offload == OffloadSettings(budget=Bytes(6 * TWELVE), policy="lru")
    free(monkeypatch, others + KV + 5 * TWELVE)
    with pytest.raises(FailedPrecondition, match=r"one layer do not fit .* 32\.00 KiB of memory") as caught:
        settle(settings)
    assert caught.value.field == "experts.budget"


def test_a_budget_that_was_given_stays(settings: RankSettings) -> None:
    given = replace(settings, offload=OffloadSettings(budget=Fraction(0.5)))
    assert settle(given) is given
    assert settle(replace(settings, offload=None)).offload is None


def test_for_a_model_without_experts_auto_means_nothing(settings: RankSettings, tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    assert settle(replace(settings, files=resolve(str(tmp_path)))).offload is None


def test_sizes_that_are_expected_are_those_that_are_packed(settings: RankSettings) -> None:
    model = read_spec(settings.files)
    spec, cpu = model.decoder, torch.device("cpu")
    needs = layer_needs(spec, 2.0, compact=False)
    weights = open_parameters(settings.files, model, decoder_tensors(spec), torch.bfloat16, cpu, SILENT)
    pack = ExpertPack.of(settings.files, spec, weights)
    assert [(need.experts, need.nbytes) for need in needs] == [(6, layer.layout.nbytes) for layer in pack.layers]
    assert needs[0].nbytes == BLOB
    assert expert_parameters(spec) == EXPERTS
    compact, twelve = CompactPack.of(pack), layer_needs(spec, 2.0)
    assert isinstance(compact, CompactPack)
    assert twelve[0].nbytes == TWELVE
    assert [need.nbytes for need in twelve] == [layer.layout.nbytes for layer in compact.compact.layers]
    assert [need.resident for need in twelve] == [need.nbytes for need in needs]
    halves = layer_needs(spec, 2.0, Parallelism(2, 3), compact=False)
    assert [(need.experts, need.top_k, need.nbytes) for need in halves] == [
        (2, 2, 5 * 4096)
    ] * 3  # three pages, and one and a half
