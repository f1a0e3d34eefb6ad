"""A decoder whose matrices are int8 against transformers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

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
