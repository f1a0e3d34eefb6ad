"""A tiny mixture whose even tokens take other experts than its odd ones, and whose answers stay even or odd."""

from pathlib import Path

import torch
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerBase

EXPERTS, TOP, LAYERS, VOCABULARY = 32, 8, 2, 320
_SIGN = 0
"""The dimension that says which: blocks read it and do not write to it."""


def save_families(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Writes it, of random weights."""
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=EXPERTS,
        num_experts_per_tok=TOP,
        max_position_embeddings=256,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    model = MixtralForCausalLM(config)
    odd = 1.0 - 2.0 * (torch.arange(VOCABULARY) % 2)
    half = 1.0 - 2.0 * (torch.arange(EXPERTS) >= EXPERTS // 2)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, _SIGN] = odd
        model.lm_head.weight[:, _SIGN] = 8 * odd
        for name, weight in model.named_parameters():
            if name.endswith("gate.weight"):
                weight[:, _SIGN] = 40 * half
            elif name.endswith(("o_proj.weight", "down_proj")):
                weight[..., _SIGN, :] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
