"""From a Hugging Face config to a spec, and what is refused on the way."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from triptych.core.errors import InvalidArgument, TriptychError, Unimplemented
from triptych.models.files import ModelFiles
from triptych.models.recipes import find_recipe
from triptych.models.spec import Llama3Scaling, LlavaVision, ModelSpec, RopeSpec, read_spec

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 97,
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "eos_token_id": 2,
}
LLAVA: dict[str, Any] = {
    "architectures": ["LlavaForConditionalGeneration"],
    "image_token_index": 90,
    "text_config": LLAMA | {"model_type": "llama"},
    "vision_config": {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, "num_hidden_layers": 4},
}


def read(config: dict[str, Any]) -> ModelSpec:
    return find_recipe(config).read(config)


def test_fields_that_a_config_leaves_out_have_transformers_defaults() -> None:
    spec = read({"architectures": ["LlamaForCausalLM"]})
    layer = spec.decoder.layers[0]
    assert (len(spec.decoder.layers), spec.decoder.hidden_size, spec.decoder.vocab_size) == (32, 4096, 32000)
    assert (layer.attention.num_kv_heads, layer.attention.head_dim, layer.mlp.intermediate_size) == (32, 128, 11008)
    assert (layer.mlp_norms.before.eps, layer.attention.bias, spec.decoder.tied_head) == (1e-6, False, False)
    assert (spec.context_length, spec.eos_token_ids, layer.attention.rope) == (2048, (), RopeSpec(10000.0, 128))


def test_rope_is_read_as_old_and_new_configs_write_it() -> None:
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    expected = RopeSpec(500000.0, 8, Llama3Scaling(8.0, 1.0, 4.0, 8192))
    old = read(LLAMA | {"rope_theta": 500000, "rope_scaling": scaling})
    new = read(LLAMA | {"rope_parameters": scaling | {"rope_theta": 500000}})
    assert old.decoder.layers[0].attention.rope == new.decoder.layers[0].attention.rope == expected


@pytest.mark.parametrize(("written", "ids"), [(2, (2,)), ([2, 5], (2, 5)), (None, ())])
def test_ends_of_an_answer(written: object, ids: tuple[int, ...]) -> None:
    assert read(LLAMA | {"eos_token_id": written}).eos_token_ids == ids


def test_llava_takes_the_end_of_an_answer_from_the_text_model_unless_it_has_its_own() -> None:
    assert read(LLAVA).eos_token_ids == (2,)
    assert read(LLAVA | {"eos_token_id": [7, 8]}).eos_token_ids == (7, 8)


@pytest.mark.parametrize(
    ("layer", "strategy", "layers", "tokens"), [(-2, "default", 3, 16), (-1, "full", 4, 17), (1, "default", 1, 16)]
)
def test_llava_runs_the_tower_as_far_as_its_features_need(
    layer: int, strategy: str, layers: int, tokens: int
) -> None:
    spec = read(LLAVA | {"vision_feature_layer": layer, "vision_feature_select_strategy": strategy})
    assert isinstance(spec.vision, LlavaVision)
    assert (spec.vision.tower.blocks.num_layers, spec.vision.rows) == (layers, tokens)
    assert spec.image_token_id == 90


@pytest.mark.parametrize(
    ("change", "kind", "field", "said"),
    [
        (
            {"architectures": ["FooModel"]},
            Unimplemented,
            "architectures",
            "FooModel is not supported.*Llama",
        ),
        ({"architectures": None}, Unimplemented, "architectures", "names no architectures"),
        ({"hidden_act": "gelu"}, Unimplemented, "hidden_act", "'gelu' is not supported; supported: silu"),
        ({"rope_scaling": {"type": "spiral", "factor": 2.0}}, Unimplemented, "rope_scaling.type", "'spiral'"),
        ({"rope_parameters": {"rope_type": "ntk"}}, Unimplemented, "rope_parameters.rope_type", "default or linear"),
        ({"rope_parameters": {"rope_type": "llama3"}}, InvalidArgument, "rope_parameters.low_freq_factor", "None"),
        ({"partial_rotary_factor": 0.1}, InvalidArgument, "partial_rotary_factor", "0.1"),
        ({"hidden_size": "many"}, InvalidArgument, "hidden_size", "a positive integer, got 'many'"),
        ({"num_hidden_layers": 0}, InvalidArgument, "num_hidden_layers", "a positive integer, got 0"),
        ({"num_hidden_layers": 10**9}, InvalidArgument, "num_hidden_layers", "at most 4096, got 1000000000"),
        ({"num_key_value_heads": 4}, InvalidArgument, "num_attention_heads", "multiple of 4 .* got 6"),
        ({"head_dim": 9}, InvalidArgument, "head_dim", "even, got 9"),
        ({"rms_norm_eps": float("nan")}, InvalidArgument, "rms_norm_eps", "a positive number"),
        ({"tie_word_embeddings": "yes"}, InvalidArgument, "tie_word_embeddings", "true or false, got 'yes'"),
        ({"eos_token_id": [1, "x"]}, InvalidArgument, "eos_token_id", "token id"),
    ],
)
def test_llama_settings_that_cannot_be_honoured_are_refused(
    change: dict[str, Any], kind: type[TriptychError], field: str, said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        read(LLAMA | change)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("change", "kind", "field"),
    [
        ({"text_config": {"model_type": "opt"}}, Unimplemented, "text_config.model_type"),
        ({"text_config": [1]}, InvalidArgument, "text_config"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, Unimplemented, "vision_config.model_type"),
        ({"vision_config": {"hidden_act": "relu"}}, Unimplemented, "vision_config.hidden_act"),
        ({"vision_config": {"image_size": 8}}, InvalidArgument, "vision_config.image_size"),
        ({"vision_config": {"num_attention_heads": 7}}, InvalidArgument, "vision_config.hidden_size"),
        ({"projector_hidden_act": "relu"}, Unimplemented, "projector_hidden_act"),
        ({"vision_feature_layer": [-2, -5]}, InvalidArgument, "vision_feature_layer"),
        ({"vision_feature_layer": -6}, InvalidArgument, "vision_feature_layer"),
        ({"vision_feature_select_strategy": "cls"}, Unimplemented, "vision_feature_select_strategy"),
        ({"image_token_index": 97}, InvalidArgument, "image_token_index"),
    ],
)
def test_llava_settings_that_cannot_be_honoured_are_refused(
    change: dict[str, Any], kind: type[TriptychError], field: str
) -> None:
    with pytest.raises(kind) as caught:
        read(LLAVA | change)
    assert caught.value.field == field
    assert field.rpartition(".")[2] in caught.value.message


@pytest.mark.parametrize(
    ("name", "value"), [("scoring_func", "softmax"), ("topk_method", "greedy"), ("moe_layer_freq", 2)]
)
def test_experts_that_are_chosen_in_another_way_than_deepseek_v3s_are_refused(name: str, value: object) -> None:
    deepseek = {"architectures": ["DeepseekV3ForCausalLM"]}
    meant = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1}
    assert read(deepseek | meant) == read(deepseek)
    with pytest.raises(Unimplemented, match=f"{name} .* is not supported"):
        read(deepseek | meant | {name: value})


def test_reading_a_spec_does_not_import_torch(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAVA))
    files = ModelFiles(name="tiny", path=tmp_path, format="safetensors")
    assert read_spec(files) == read(LLAVA)
    program = (
        "import sys; from pathlib import Path\n"
        "from triptych.models.files import ModelFiles; from triptych.models.spec import read_spec\n"
        f"read_spec(ModelFiles('tiny', Path({str(tmp_path)!r}), 'safetensors'))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
