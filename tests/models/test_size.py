"""What a decoder is said to be made of."""

from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from triptych.models.recipes import find_recipe
from triptych.models.size import kv_elements, linear_parameters, parameters


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_those_of_transformers(tied: bool) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 100, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
        "num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": tied,
    }  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**sizes))
    spec = find_recipe(config := {"architectures": ["LlamaForCausalLM"], **sizes}).read(config).decoder
    assert parameters(spec) == sum(p.numel() for p in model.parameters())
    assert linear_parameters(spec) == sum(p.numel() for p in model.model.layers.parameters() if p.dim() == 2)
    assert kv_elements(spec) == 3 * 2 * 2 * 8
