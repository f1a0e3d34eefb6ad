"""`triptych models`: what is listed, and what is said of a model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from triptych.cli import serving
from triptych.cli.models import embedding, forecasting, survey
from triptych.config.load import make_spec
from triptych.controller.desired import PROCESS_BYTES
from triptych.experts.settings import Auto, OffloadSettings
from triptych.kernels.dispatch import REFERENCE, Op
from triptych.models import compact_pack
from triptych.models.progress import SILENT
from triptych.models.recipes import RECIPES
from triptych.models.recipes.catalogue import FAMILIES
from triptych.models.recipes.text_encoders import TEXT_RECIPES

Run = Callable[..., tuple[int, str, str]]
SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 128,
}  # fmt: skip


class StillMachine:
    """A machine of known speed: 1 GB/s, and 1 GFLOP/s."""

    def __init__(self, threads: int) -> None:
        pass

    def read_bandwidth(self) -> float:
        return 1e9

    def gemm_peak(self, precision: str) -> float:
        return 1e9

    def __enter__(self) -> "StillMachine":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _still(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (survey, embedding):
        monkeypatch.setattr(module, "Machine", StillMachine)
    monkeypatch.setattr(forecasting, "disk_speed", lambda pack, size, readers: 1e8)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """So much memory is free from now on."""

    def free(count: int) -> None:
        for module in (survey, forecasting):
            monkeypatch.setattr(module, "free_memory", lambda: count)

    return free


@pytest.fixture
def mixtral(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    config = MixtralConfig(**SIZES, num_local_experts=8, num_experts_per_tok=2, head_dim=16)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    return tmp_path


def test_the_families_listed_are_those_that_have_a_recipe() -> None:
    assert sorted(family.architecture for family in FAMILIES) == sorted([*RECIPES, *TEXT_RECIPES])
    assert {family.architecture for family in FAMILIES if family.gives == "embeddings"} == TEXT_RECIPES.keys()


def test_list_says_what_each_family_takes(run: Run) -> None:
    status, out, _ = run("models", "list", "--json")
    families = {family["architecture"]: family for family in json.loads(out)}
    assert status == 0
    assert families.keys() == RECIPES.keys() | TEXT_RECIPES.keys()
    assert (families["BertModel"]["takes"], families["BertModel"]["gives"]) == (["text"], "embeddings")
    assert (families["LlamaForCausalLM"]["takes"], families["LlamaForCausalLM"]["gguf"]) == (["text"], True)
    assert families["LlavaForConditionalGeneration"]["takes"] == ["text", "images"]
    status, out, _ = run("models", "list")
    assert status == 0
    assert all(family.name in out for family in FAMILIES)


def test_check_counts_a_model_and_what_the_machine_allows(run: Run, llama: Path) -> None:
    status, out, _ = run("models", "check", llama, "--dtype", "float32", "--json")
    report = json.loads(out)
    layers = 2 * (32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 48 * 32)
    weights = layers + 2 * 64 * 32 + 5 * 32
    assert status == 0
    assert (report["parameters"], report["weights_bytes"]) == (weights, 4 * weights)
    assert report["kv_token_bytes"] == 2 * 2 * 16 * 4
    assert report["decode_tokens_per_second"] == pytest.approx(1e9 / (4 * (weights - 64 * 32)))
    assert report["prefill_tokens_per_second"] == pytest.approx(1e9 / (2 * layers))
    assert (report["architecture"], report["context_length"]) == ("LlamaForCausalLM", 128)
    status, out, _ = run("models", "check", llama)
    assert status == 0
    assert "needed: fits" in out


def test_check_counts_what_each_worker_takes_for_itself(run: Run, llama: Path) -> None:
    _, out, _ = run("models", "check", llama, "--layout", "1P2D", "--json")
    report = json.loads(out)
    assert [(stage["stage"], stage["workers"]) for stage in report["stages"]] == [("prefill", 1), ("decode", 2)]
    cache = report["fits_tokens"] * report["kv_token_bytes"]
    assert all(0 <= stage["bytes"] - PROCESS_BYTES - cache < report["kv_token_bytes"] for stage in report["stages"])


def test_check_of_more_workers_than_the_machine_holds_fails(run: Run, llama: Path) -> None:
    status, out, _ = run("models", "check", llama, "--layout", "1000D")
    assert status == 1
    assert "DOES NOT FIT" in out


def test_check_counts_only_the_experts_that_a_token_uses(run: Run, tmp_path: Path) -> None:
    config = MixtralConfig(**SIZES, num_local_experts=8, num_experts_per_tok=2, head_dim=16)
    model = MixtralForCausalLM(config)
    model.save_pretrained(tmp_path)
    _, out, _ = run("models", "check", tmp_path, "--json")
    report = json.loads(out)
    experts = 2 * 8 * 3 * 32 * 48
    assert report["parameters"] == sum(p.numel() for p in model.parameters())
    assert report["step_parameters"] == report["parameters"] - 64 * 32 - experts * 6 // 8


def test_check_predicts_what_a_mixture_does_with_less_memory_than_its_experts(run: Run, mixtral: Path) -> None:
    status, out, _ = run("models", "check", mixtral, "--dtype", "float32", "--json")
    report = json.loads(out)
    mixture, blob = report["mixture"], 5 * 4096  # 12288 bytes, and 6144
    assert status == 0
    assert (mixture["experts"], mixture["expert_bytes"], mixture["bytes"]) == (16, blob, 16 * blob)
    assert (mixture["token_bytes"], mixture["least_bytes"]) == (4 * blob, 8 * blob)
    assert (mixture["auto"], mixture["auto_bytes"], mixture["counted"]) == ("everything", 16 * blob, False)
    everything = mixture["everything"]["tokens_per_second"]
    assert everything == pytest.approx(report["decode_tokens_per_second"])
    half, most = mixture["forecasts"]  # less than the experts of a layer serves nobody
    assert (half["bytes"], most["bytes"]) == (8 * blob, 12 * blob)
    for one in (half, most):
        reading = (1 - one["hit_ratio"]) * 4 * blob / 1e8
        assert one["bound"] == ("disk" if reading > 1 / everything else "memory")
        assert one["tokens_per_second"] == pytest.approx(min(1 / reading, everything))
    assert half["hit_ratio"] < most["hit_ratio"] < 1


def test_check_knows_that_experts_of_bfloat16_take_less_in_slots_than_all_in_memory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: Callable[[int], None]
) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    sizes = SIZES | {"hidden_size": 64, "intermediate_size": 96}
    MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=8)).save_pretrained(tmp_path / "model")

    def check() -> dict[str, Any]:
        report: dict[str, Any] = json.loads(
            run("models", "check", tmp_path / "model", "--dtype", "bfloat16", "--json")[1]
        )
        return report

    report = check()
    mixture, slot, whole = report["mixture"], 8 * 4096, 16 * 9 * 4096
    assert (mixture["expert_bytes"], mixture["least_bytes"], mixture["bytes"]) == (slot, 8 * slot, whole)
    assert (mixture["auto"], mixture["auto_bytes"], mixture["everything"]["bytes"]) == ("everything", whole, whole)
    assert [one["bytes"] for one in mixture["forecasts"]] == [whole // 2, whole * 3 // 4]
    others = report["weights_bytes"] + report["stages"][0]["bytes"] - 2 * 16 * 3 * 64 * 96
    free(round((others + 10 * slot) / 0.9) + 1)
    mixture = check()["mixture"]
    assert (mixture["auto"], mixture["auto_bytes"] // slot) == ("part", 10)
    monkeypatch.setattr(Op, "backend", lambda op, device: REFERENCE)
    monkeypatch.setattr(compact_pack, "obtainable", lambda: False)
    assert check()["mixture"]["expert_bytes"] == 9 * 4096


def test_check_of_a_mixture_that_fits_in_part_says_how_it_can_be_served(
    run: Run, mixtral: Path, free: Callable[[int], None]
) -> None:
    _, out, _ = run("models", "check", mixtral, "--dtype", "float32", "--json")
    report = json.loads(out)
    blob = report["mixture"]["expert_bytes"]
    needed = report["weights_bytes"] + report["stages"][0]["bytes"]
    others = needed - 4 * 2 * 8 * 3 * 32 * 48
    free(round((others + 10 * blob) / 0.9) + 1)
    status, out, _ = run("models", "check", mixtral, "--dtype", "float32", "--json")
    mixture = json.loads(out)["mixture"]
    assert (status, mixture["auto"], mixture["auto_bytes"] // blob) == (0, "part", 10)
    assert [one["bytes"] // blob for one in mixture["forecasts"]] == [8, 10, 12]
    free(needed - 1)
    status, out, _ = run("models", "check", mixtral, "--dtype", "float32")
    assert status == 1
    assert "DOES NOT FIT" in out
    assert "not even the smallest budget fits, which is 160.00 KiB for each worker" in out


def test_serving_with_a_budget_of_auto_says_first_what_to_expect(mixtral: Path, llama: Path) -> None:
    automatic = {"model": str(mixtral), "dtype": "float32", "experts.budget": "auto"}
    spec = make_spec(automatic)
    offload = serving._open_budget(spec)
    assert offload == OffloadSettings(budget=Auto())
    lines = serving._expected(spec, offload, SILENT)
    assert lines[1] == "  budget auto all of them fit, and none is read again"
    assert [sum(word in line for line in lines) for word in ("at most", "there, about")] == [1, 2]
    assert serving._open_budget(make_spec(automatic | {"experts.budget": "50%"})) is None
    assert serving._expected(make_spec(automatic | {"model": str(llama)}), offload, SILENT) == []


def test_what_to_expect_is_of_experts_in_the_form_that_is_asked_for(tmp_path: Path) -> None:
    sizes = SIZES | {"hidden_size": 64, "intermediate_size": 96}
    MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=8)).save_pretrained(tmp_path)
    automatic = {"model": str(tmp_path), "dtype": "bfloat16", "experts.budget": "auto"}
    for compact, size in ((True, "32.00 KiB"), (False, "36.00 KiB")):
        spec = make_spec(automatic | {"experts.compact": compact})
        offload = serving._open_budget(spec)
        assert offload is not None
        assert f"16 of {size}" in serving._expected(spec, offload, SILENT)[0]


def test_check_of_a_model_without_experts_says_nothing_of_them(run: Run, llama: Path) -> None:
    assert json.loads(run("models", "check", llama, "--json")[1])["mixture"] is None


def test_check_of_a_checkpoint_that_cannot_be_served_says_why_in_a_line(run: Run, llama: Path) -> None:
    weights = load_file(llama / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, llama / "model.safetensors")
    status, out, err = run("models", "check", llama)
    assert (status, out) == (1, "")
    assert "has no tensor model.layers.1.mlp.up_proj.weight; expected shape [48, 32]" in err


def test_check_says_where_a_scaling_that_depends_on_the_prompt_ends(run: Run, tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=rope)).save_pretrained(tmp_path)
    status, out, _ = run("models", "check", tmp_path)
    assert status == 0
    assert "its rotary scaling dynamic depends on the length of the prompt beyond 128 tokens" in out


def test_check_of_an_unknown_architecture_names_it(run: Run, llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text()) | {"architectures": ["FooForCausalLM"]}
    (llama / "config.json").write_text(json.dumps(config))
    status, _, err = run("models", "check", llama)
    assert status == 1
    assert "architecture FooForCausalLM is not supported" in err


def test_check_of_a_text_encoder(run: Run, tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, type_vocab_size=2,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    status, out, _ = run("models", "check", tmp_path, "--json")
    report = json.loads(out)
    matrices = 2 * (4 * 32 * 32 + 2 * 48 * 32)
    vectors = 2 * (4 * 32 + 48 + 32 + 4 * 32) + 2 * 32
    weights = matrices + vectors + (64 + 128 + 2) * 32
    assert status == 0
    assert (report["parameters"], report["weights_bytes"], report["dtype"]) == (weights, 4 * weights, "float32")
    assert (report["size"], report["pooling"], report["normalised"], report["max_tokens"]) == (32, "mean", False, 128)
    assert report["tokens_per_second"] == pytest.approx(1e9 / (2 * matrices))
    status, out, _ = run("models", "check", tmp_path)
    assert status == 0
    assert "embeddings of 32 numbers (pooling: mean)" in out
    status, _, err = run("models", "check", tmp_path, "--quantization", "int8")
    assert status == 1
    assert "gives embeddings" in err
