"""The Llama decoder against transformers, through the paged cache."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from triptych.core.errors import DataLoss
from triptych.kernels import AttentionBatch
from triptych.kernels.pages import keys_view
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.spec import read_spec
from triptych.models.step import StepInput

Config = Callable[..., LlamaConfig]
Saved = Callable[..., ModelFiles]

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "tied": {"tie_word_embeddings": True},
    "biased": {"attention_bias": True, "mlp_bias": True},
    "one_kv_head": {"num_key_value_heads": 1},
    "all_kv_heads": {"num_key_value_heads": 6},
    "wide_heads": {"head_dim": 12, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
    "llama3_rope": {"rope_parameters": LLAMA3},
}


def load(files: ModelFiles, dtype: torch.dtype = torch.float32) -> Decoder:
    return Decoder.load(files, read_spec(files), dtype)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_chunks_and_of_single_tokens_equal_transformers(
    variant: str, llama_config: Config, saved: Saved, paged: Callable[..., Any]
) -> None:
    """Every logit, not the likeliest tokens: two of them may be as likely as each other."""
    model: Any = LlamaForCausalLM(llama_config(**VARIANTS[variant]))
    sequence = paged(load(saved(model)))
    token_ids = torch.randint(97, (102,))
    with torch.no_grad():
        expected = model(token_ids.unsqueeze(0)).logits[0]
    steps = [sequence.feed_chunks(token_ids[:70], 24), *(sequence.feed(token_ids[i : i + 1]) for i in range(70, 102))]
    assert (torch.cat(steps) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_a_mixed_batch_equals_its_sequences(llama_config: Config, saved: Saved, paged: Callable[..., Any]) -> None:
    decoder = load(saved(LlamaForCausalLM(llama_config())))
    prompts = [torch.randint(97, (n,)) for n in (1, 19, 40)]
    expected = torch.stack([paged(decoder).feed_chunks(prompt, 24)[-1] for prompt in prompts])
    kv = torch.full(decoder.kv_shape(10, 16), torch.nan)
    tables = torch.tensor([[3, 0, 0], [7, 2, 0], [9, 1, 4]], dtype=torch.int32)
    positions = torch.cat([torch.arange(len(prompt)) for prompt in prompts])
    owner = torch.repeat_interleave(torch.arange(3), torch.tensor([1, 19, 40]))
    batch = AttentionBatch(
        query_start=torch.tensor([0, 1, 20, 60], dtype=torch.int32),
        kv_lengths=torch.tensor([1, 19, 40], dtype=torch.int32),
        block_tables=tables,
    )
    slots = tables[owner, positions // 16].long() * 16 + positions % 16
    logits = decoder.forward(StepInput(torch.cat(prompts), positions, slots, batch, torch.tensor([0, 19, 59])), kv)
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_no_logits_are_computed_when_none_are_wanted(llama_config: Config, saved: Saved) -> None:
    decoder = load(saved(LlamaForCausalLM(llama_config())))
    batch = AttentionBatch(*(torch.tensor(x, dtype=torch.int32) for x in ([0, 3], [3], [[0]])))
    rows, none = torch.arange(3), torch.empty(0, dtype=torch.int64)
    kv = torch.zeros(decoder.kv_shape(1, 16))
    assert decoder.forward(StepInput(rows, rows, rows, batch, none), kv).shape == (0, 97)
    assert keys_view(kv.flatten(0, 1))[:, :, :3].abs().amin() > 0


def test_logits_are_the_callers_to_change(llama_config: Config, saved: Saved, paged: Callable[..., Any]) -> None:
    sequence = paged(load(saved(LlamaForCausalLM(llama_config()))))
    first = sequence.feed(torch.tensor([5]))
    kept = first.clone()
    sequence.feed(torch.tensor([6]))
    assert torch.equal(first, kept)
    first.fill_(0)


def test_bfloat16_is_no_farther_from_float32_than_transformers_is(
    llama_config: Config, saved: Saved, paged: Callable[..., Any]
) -> None:
    """Of weights this random and layers this narrow, rounding to 8 bits in between makes logits 1 to 3 % of noise."""
    model: Any = LlamaForCausalLM(llama_config()).bfloat16()
    files = saved(model)
    prompt = torch.randint(97, (40,))
    exact, rounded = (paged(load(files, dtype)).feed_chunks(prompt, 24) for dtype in (torch.float32, torch.bfloat16))
    with torch.no_grad():
        theirs = model(prompt.unsqueeze(0)).logits[0].float()
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() <= min(0.03 * exact.norm(), 1.2 * (theirs - exact).norm())


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_hidden_layers", 4, r"no tensor model\.layers\.3\.\S+\.weight; expected shape \["),
        ("vocab_size", 98, r"model\.embed_tokens\.weight must have shape \[98, 48\], found \[97, 48\]"),
        ("attention_bias", True, r"no tensor model\.layers\.0\.self_attn\.q_proj\.bias; expected shape \[48\]"),
        ("intermediate_size", 81, r"mlp\.gate_proj\.weight must have shape \[81, 48\], found \[80, 48\]"),
    ],
)
def test_a_checkpoint_that_is_not_what_its_config_says_is_refused(
    field: str, value: object, said: str, llama_config: Config, saved: Saved
) -> None:
    files = saved(LlamaForCausalLM(llama_config()))
    config = LlamaConfig.from_pretrained(files.path)
    setattr(config, field, value)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(files.path)
    with pytest.raises(DataLoss, match=said) as caught:
        load(files)
    assert str(files.path) in caught.value.message
