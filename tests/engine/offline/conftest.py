"""Tiny random checkpoints with a tokenizer of their own, as transformers writes them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.support.seeds import drawn_seed
from triptych.engine import Completion, Engine

SPECIAL = ["<|end|>", "<|im_start|>", "<|im_end|>", "<image>"]
VOCABULARY = 320
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NEAR_TIE = 1e-4
"""Difference of two log-probabilities within which float32 may order them either way."""


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and the merges that a line of text yields."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["The quick brown fox jumps over the lazy dog; the dog sleeps."] * 2,
        trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet),
    )
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    )
    fast.chat_template = TEMPLATE
    return fast


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a Llama of three layers."""
    folder = tmp_path_factory.mktemp("llama")
    _save(LlamaForCausalLM, _language(), folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a Mixtral of two layers of eight experts."""
    folder = tmp_path_factory.mktemp("mixture")
    config = MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=48, intermediate_size=32, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.2, num_local_experts=8,
    )  # fmt: skip
    _save(MixtralForCausalLM, config, folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def deepseek(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a DeepSeek V3 of three layers, two of them of eight experts in four groups."""
    folder = tmp_path_factory.mktemp("deepseek")
    config = DeepseekV3Config(
        vocab_size=VOCABULARY, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, initializer_range=0.2, n_routed_experts=8, n_group=4,
        topk_group=2, num_experts_per_tok=3, moe_intermediate_size=32, first_k_dense_replace=1, kv_lora_rank=32,
        q_lora_rank=40, qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=16,
    )  # fmt: skip
    _save(DeepseekV3ForCausalLM, config, folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a LLaVA whose images are 20 × 20 pixels in 16 patches."""
    folder = tmp_path_factory.mktemp("llava")
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4, image_size=20, patch_size=5,
        initializer_range=0.2,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=_language().to_dict(),
        image_token_index=SPECIAL.index("<image>"),
    )
    _save(LlavaForConditionalGeneration, config, folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20})
    LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=5,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def open_engine() -> Callable[..., Engine]:
    """An engine whose KV pool has `blocks` blocks, in float32."""

    def open_(
        folder: Path, *, dtype: str = "float32", blocks: int = 200, block_size: int = 4, **options: Any
    ) -> Engine:
        block_bytes = 3 * 2 * 2 * block_size * 8 * 4  # layers, k and v, heads, tokens, dimensions, bytes
        return Engine(
            str(folder), dtype=dtype, kv_cache_memory=blocks * block_bytes, block_size=block_size, **options
        )

    return open_


@pytest.fixture(scope="session")
def assert_same_answers() -> Callable[..., None]:
    return same_answers


def same_answers(found: Sequence[Completion], expected: Sequence[Completion]) -> None:
    """Equal tokens, up to where rounding cannot tell the two likeliest apart, in one answer at most.

    `expected` needs logprobs=2. What follows such a tie in its answer is not compared.
    """
    ties = 0
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.logprobs is not None
        for a, b, logprobs in zip(ours.token_ids, theirs.token_ids, theirs.logprobs, strict=False):
            if a != b:
                first, second = logprobs.top[:2]
                ties += 1
                assert a == second.token_id, (ours.token_ids, theirs.token_ids)
                assert first.logprob - second.logprob < NEAR_TIE, (ours.token_ids, theirs.token_ids)
                assert ties == 1, "two answers differ"
                break
        else:
            assert (ours.token_ids, ours.text, ours.finish_reason) == (
                theirs.token_ids,
                theirs.text,
                theirs.finish_reason,
            )


def _language() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.2, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip


def _save(kind: type[PreTrainedModel], config: Any, folder: Path) -> None:
    seed = drawn_seed()
    torch.manual_seed(seed)
    kind(config).save_pretrained(folder)
