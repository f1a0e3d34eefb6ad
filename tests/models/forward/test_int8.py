"""A decoder whose matrices are int8 against transformers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.spec import read_spec


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_off_by_rounding_only(
    tied: bool,
    dtype: torch.dtype,
    llama_config: Callable[..., LlamaConfig],
    saved: Callable[..., ModelFiles],
    paged: Callable[[Decoder], Any],
) -> None:
    model: Any = LlamaForCausalLM(llama_config(tie_word_embeddings=tied, attention_bias=True, mlp_bias=True))
    files, prompt = saved(model), torch.randint(97, (40,))
    decoder = Decoder.load(files, read_spec(files), dtype, quantization="int8")
    with torch.no_grad():
        expected = model(prompt.unsqueeze(0)).logits[0]
    off = torch.linalg.vector_norm(paged(decoder).feed_chunks(prompt, 24) - expected)
    assert off < 0.15 * torch.linalg.vector_norm(expected)


SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 256, "initializer_range": 0.2, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
}  # fmt: skip


def mixtures() -> list[Any]:
    latent: dict[str, Any] = {
        "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
        "kv_lora_rank": 32, "q_lora_rank": 48, "qk_rope_head_dim": 16, "qk_nope_head_dim": 24, "v_head_dim": 20,
    }  # fmt: skip
    grouped: dict[str, Any] = {"num_key_value_heads": 2, "num_experts": 4, "head_dim": 16}
    return [
        DeepseekV3ForCausalLM(DeepseekV3Config(**SIZES, **latent)),
        Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **grouped)),
    ]


@pytest.mark.parametrize("kind", ["latent", "grouped"])
def test_routers_and_what_is_read_across_rows_stay_plain(
    kind: str, saved: Callable[..., ModelFiles], paged: Callable[[Decoder], Any]
) -> None:
    model = mixtures()[kind == "grouped"]
    files, prompt = saved(model), torch.randint(97, (40,))
    decoder = Decoder.load(files, read_spec(files), torch.float32, quantization="int8")
    with torch.no_grad():
        expected = model(prompt.unsqueeze(0)).logits[0]
    off = torch.linalg.vector_norm(paged(decoder).feed_chunks(prompt, 24) - expected)
    assert off < 0.6 * torch.linalg.vector_norm(expected)  # a token may go to other experts
