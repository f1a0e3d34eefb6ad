"""The budget `auto` before a model is loaded."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from triptych.core.errors import FailedPrecondition, ResourceExhausted
from triptych.engine import expert_fit
from triptych.engine.expert_fit import disk_speed, settle
from triptych.engine.loading import pack_experts
from triptych.engine.ranks.settings import RankSettings
from triptych.experts.fit import Speeds, Work, budget, forecast
from triptych.experts.settings import Auto, Bytes, Fraction, OffloadSettings
from triptych.kernels.dispatch import REFERENCE, Op
from triptych.kernels.native import team
from triptych.models.compact_pack import CompactPack
from triptych.models.expert_pack import ExpertPack
from triptych.models.expert_sizes import WeightForm, expert_parameters, layer_needs
from triptych.models.files import WEIGHTS
from triptych.models.layout import decoder_tensors
from triptych.models.parameters import open_parameters
from triptych.models.progress import SILENT
from triptych.models.quantization import Quantization
from triptych.models.resolve import resolve
from triptych.models.size import parameters, step_parameters
from triptych.models.spec import read_spec
from triptych.parallel import ALONE, Parallelism

KV = 3 << 20
MEMORY, DISK = 1e9, 1e7
AUTO = OffloadSettings(budget=Auto(), policy="lru")
SIZES = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
EXPERTS = 3 * 6 * 3 * 64 * 96
BLOB = 6 * 4096 + 3 * 4096
"""2 · 96 · 64 and 96 · 64 numbers of two bytes."""
TWELVE = 5 * 4096 + 3 * 4096
"""The same in twelve bits a weight."""


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixtral")
    model = MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=6, num_experts_per_tok=2))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _a_still_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of its memory stays free, and how fast it is is known."""
    monkeypatch.setattr(budget, "KEPT_FREE", 0)
    monkeypatch.setattr(expert_fit, "read_bandwidth", lambda threads, size: MEMORY)
    monkeypatch.setattr(expert_fit, "disk_speed", lambda pack, size, readers: DISK)


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


@pytest.mark.parametrize(("dtype", "form"), [(torch.float32, "none"), (torch.bfloat16, "int8")])
def test_twelve_bits_are_for_bfloat16(settings: RankSettings, dtype: torch.dtype, form: Quantization) -> None:
    spec = read_spec(settings.files).decoder
    assert not WeightForm.of(settings.files, spec, form, dtype).compactable


def test_what_refused_twelve_bits_and_what_cannot_expand_them_is_counted_as_it_is(
    mixture: Path, others: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An expert of the model has exponents that lie too far apart, as its packing finds out."""
    tensors = load_file(mixture / WEIGHTS)
    name = next(name for name in tensors if "experts" in name and name.endswith("weight") and ".0." in name)
    tensors[name] = (10.0 ** torch.linspace(-30, 30, tensors[name].numel())).to(torch.bfloat16).view_as(tensors[name])
    monkeypatch.setattr("triptych.models.conversion.cache_directory", lambda: tmp_path / "cache")
    shutil.copytree(mixture, tmp_path / "model")
    save_file(tensors, tmp_path / "model" / WEIGHTS, {"format": "pt"})
    files = resolve(str(tmp_path / "model"))
    settings = RankSettings(files=files, parallelism=ALONE, dtype="bfloat16", kv_memory=KV, adapters={}, offload=AUTO)
    for refuses in (False, True):
        least = 6 * (BLOB if refuses else TWELVE)
        free(monkeypatch, others + KV + least)
        assert settle(settings).offload == OffloadSettings(budget=Bytes(least), policy="lru")
        free(monkeypatch, others + KV + least - 1)
        with pytest.raises(FailedPrecondition, match="one layer do not fit"):
            settle(settings)
        pack_experts(files, "bfloat16", "none", AUTO, progress=SILENT)


def test_a_machine_whose_kernels_expand_nothing_keeps_experts_as_they_are(
    settings: RankSettings, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Op, "backend", lambda op, device: REFERENCE)
    free(monkeypatch, others + KV + 6 * BLOB)
    assert settle(settings).offload == OffloadSettings(budget=Bytes(6 * BLOB), policy="lru")
    free(monkeypatch, others + KV + 6 * BLOB - 1)
    with pytest.raises(FailedPrecondition, match="one layer do not fit"):
        settle(settings)


def test_what_a_part_comes_to_is_foretold_as_models_check_does(
    settings: RankSettings, others: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    free(monkeypatch, others + KV + 9 * TWELVE)
    assert settle(settings).offload == OffloadSettings(budget=Bytes(9 * TWELVE), policy="lru")
    spec = read_spec(settings.files).decoder
    layers = layer_needs(spec, WeightForm(2.0, compactable=True))
    work = Work(2 * step_parameters(spec) - 3 * 2 * (BLOB - TWELVE), 3 * 2 * TWELVE)
    found = forecast(9 * TWELVE, AUTO, layers, work, Speeds(MEMORY, DISK))
    assert found.bound == "disk"
    assert caplog.messages[-1] == (
        f"experts.budget auto: about {found.tokens_per_second:.3g} tokens/s of one request, which reading from "
        f"disk limits; {100 * found.hit_ratio:.0f}% of the experts that it asks for are expected to be there"
    )
    free(monkeypatch, others + KV + 2 * EXPERTS)
    settle(settings)
    assert caplog.messages[-1] == "experts.budget auto: all experts fit into memory"


def test_the_team_of_other_engines_is_measured_as_it_is(
    settings: RankSettings, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(expert_fit, "read_bandwidth", lambda threads, size: asked.append(threads) or MEMORY)
    free(monkeypatch, others + KV + 9 * TWELVE)
    settle(replace(settings, threads=team.threads() + 1))
    assert asked == [team.threads()]


def test_a_cache_directory_that_cannot_be_written_leaves_the_budget_as_it_is(
    settings: RankSettings,
    others: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(expert_fit, "disk_speed", disk_speed)
    monkeypatch.setattr(expert_fit, "cache_directory", lambda: tmp_path / "file")
    monkeypatch.setattr(expert_fit, "with_earlier_uses", lambda layers, files: (layers, None))
    free(monkeypatch, others + KV + 9 * TWELVE)
    assert settle(settings).offload == OffloadSettings(budget=Bytes(9 * TWELVE), policy="lru")
    assert f"not foretold: {tmp_path / 'file'} cannot be written" in caplog.messages[-1]


def test_a_disk_that_cannot_be_measured_leaves_the_budget_as_it_is(
    settings: RankSettings, others: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> float:
        raise ResourceExhausted("no room")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(expert_fit, "disk_speed", full)
    free(monkeypatch, others + KV + 9 * TWELVE)
    assert settle(settings).offload == OffloadSettings(budget=Bytes(9 * TWELVE), policy="lru")
    assert caplog.messages[-1] == "experts.budget auto: tokens a second are not foretold: no room"


def test_the_disk_is_measured_by_a_file_that_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_fit, "cache_directory", lambda: tmp_path)
    assert disk_speed(None, 4096, 2) > 0
    assert not list(tmp_path.iterdir())


def test_sizes_that_are_expected_are_those_that_are_packed(settings: RankSettings) -> None:
    model = read_spec(settings.files)
    spec, cpu = model.decoder, torch.device("cpu")
    form = WeightForm.of(settings.files, spec, "none", torch.bfloat16)
    assert form == WeightForm(2.0, compactable=True)
    needs = layer_needs(spec, form, compact=False)
    weights = open_parameters(settings.files, model, decoder_tensors(spec), torch.bfloat16, cpu, SILENT)
    pack = ExpertPack.of(settings.files, spec, weights)
    assert [(need.experts, need.nbytes) for need in needs] == [(6, layer.layout.nbytes) for layer in pack.layers]
    assert needs[0].nbytes == BLOB
    assert expert_parameters(spec) == EXPERTS
    compact, twelve = CompactPack.of(pack), layer_needs(spec, form)
    assert isinstance(compact, CompactPack)
    assert twelve[0].nbytes == TWELVE
    assert [need.nbytes for need in twelve] == [layer.layout.nbytes for layer in compact.compact.layers]
    assert [need.resident for need in twelve] == [need.nbytes for need in needs]
    halves = layer_needs(spec, form, Parallelism(2, 3), compact=False)
    assert [(need.experts, need.top_k, need.nbytes) for need in halves] == [
        (2, 2, 5 * 4096)
    ] * 3  # three pages, and one and a half
