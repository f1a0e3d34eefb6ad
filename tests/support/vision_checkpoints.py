"""Tiny random checkpoints of models that read images of any size, with their tokenizers and processors."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

TOKENS = {
    "image_token": "<image>",
    "video_token": "<|video_pad|>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
SPECIAL = [
    "<|end|>", "<|user|>", "<|assistant|>", *TOKENS.values(), "<fake_token_around_image>", "<global-img>",
    "<end_of_utterance>", *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
]  # fmt: skip
HIDDEN, TILE = 64, 32


@dataclass(frozen=True)
class Family:
    """One family: transformers' model, its config, and what it says of images."""

    model: type
    config: Any
    settings: dict[str, Any]
    images: type
    processor: Any
    place: str = "<image>"


def without_videos(processor: type) -> Any:
    """A processor that does not ask for torchvision, which its part for videos needs."""
    return type(processor.__name__, (processor,), {"check_argument_for_proper_class": lambda *_: None})


def tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """Bytes and special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = Tokenizer(BPE(vocab={token: i for i, token in enumerate([*SPECIAL, *alphabet])}, merges=[]))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens(SPECIAL)
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=model, eos_token="<|end|>", pad_token="<|end|>", extra_special_tokens=TOKENS
    )
    fast.chat_template = (
        "{% for m in messages %}<|{{ m['role'] }}|>{% if m['content'] is string %}{{ m['content'] }}{% else %}"
        "{% for c in m['content'] %}{% if c['type'] == 'image' %}PLACE{% elif c['type'] == 'video' %}<|video_pad|>"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ).replace("PLACE", family.place)
    return fast


def family(name: str) -> Family:
    """A family by the name of its `model_type`."""
    text: dict[str, Any] = {
        "vocab_size": len(SPECIAL) + 256, "hidden_size": HIDDEN, "intermediate_size": 80, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "head_dim": 16,
        "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None,
        "tie_word_embeddings": False,
    }  # fmt: skip
    blocks = {"hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4, "initializer_range": 0.2}
    tower = {**blocks, "num_hidden_layers": 2, "image_size": TILE, "patch_size": 8}
    square = {"height": TILE, "width": TILE}
    ids = {
        f"{name}_id": SPECIAL.index(token) for name, token in TOKENS.items() if name not in ("boi_token", "eoi_token")
    } | {"tie_word_embeddings": False}
    match name:
        case "llava_next":
            resolutions = [[32, 64], [64, 32], [64, 64], [96, 32]]
            return Family(
                LlavaNextForConditionalGeneration,
                LlavaNextConfig(
                    vision_config={**tower, "model_type": "clip_vision_model"},
                    text_config={**text, "model_type": "llama"},
                    image_grid_pinpoints=resolutions, image_token_index=SPECIAL.index("<image>"),
                    tie_word_embeddings=False,
                ),
                {"size": {"shortest_edge": TILE}, "crop_size": square, "image_grid_pinpoints": resolutions},
                LlavaNextImageProcessorPil,
                lambda images, text: LlavaNextProcessor(  # type: ignore[no-untyped-call]
                    images, text, patch_size=8, vision_feature_select_strategy="default",
                    num_additional_image_tokens=1,
                ),
            )  # fmt: skip
        case "idefics3":
            return Family(
                Idefics3ForConditionalGeneration,
                Idefics3Config(
                    vision_config=tower, text_config={**text, "model_type": "llama"}, scale_factor=2,
                    image_token_id=SPECIAL.index("<image>"), tie_word_embeddings=False, pad_token_id=None,
                ),
                {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": TILE}},
                Idefics3ImageProcessorPil,
                lambda images, text: Idefics3Processor(images, text, image_seq_len=4),
            )  # fmt: skip
        case "gemma3":
            windows = ["sliding_attention", "full_attention", "sliding_attention"]
            return Family(
                Gemma3ForConditionalGeneration,
                Gemma3Config(
                    vision_config=tower,
                    text_config={
                        **text, "tie_word_embeddings": True, "sliding_window": 13, "layer_types": windows,
                        "query_pre_attn_scalar": 16,
                    },
                    mm_tokens_per_image=4,
                    image_token_index=SPECIAL.index("<image>"),
                    boi_token_index=SPECIAL.index("<start_of_image>"),
                    eoi_token_index=SPECIAL.index("<end_of_image>"),
                ),
                {"size": square, "do_pan_and_scan": None},
                Gemma3ImageProcessorPil,
                lambda images, text: Gemma3Processor(images, text, image_seq_length=4),
                "<start_of_image>",
            )  # fmt: skip
        case "qwen2_5_vl":
            vision = {
                **blocks, "depth": 3, "num_heads": 4, "patch_size": 4, "out_hidden_size": HIDDEN, "window_size": 16,
                "fullatt_block_indexes": [1], "hidden_act": "silu", "tokens_per_second": 2,
            }  # fmt: skip
            rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
            config = Qwen2_5_VLConfig(vision_config=vision, text_config={**text, "rope_parameters": rope}, **ids)
            return Family(
                Qwen2_5_VLForConditionalGeneration, config, _patches(4), Qwen2VLImageProcessorPil,
                without_videos(Qwen2_5_VLProcessor),
            )  # fmt: skip
        case "qwen3_vl":
            vision = {
                **blocks, "depth": 3, "num_heads": 4, "patch_size": 4, "out_hidden_size": HIDDEN,
                "num_position_embeddings": 36, "deepstack_visual_indexes": [0, 1],
            }  # fmt: skip
            rope = {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            }
            config = Qwen3VLConfig(vision_config=vision, text_config={**text, "rope_parameters": rope}, **ids)
            return Family(
                Qwen3VLForConditionalGeneration, config, _patches(4), Qwen2VLImageProcessorPil,
                without_videos(Qwen3VLProcessor),
            )  # fmt: skip
    raise ValueError(name)


def save(name: str, folder: Path) -> Path:
    """Makes the checkpoint; its norms and biases are moved away from what they begin as."""
    chosen = family(name)
    model = chosen.model(chosen.config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.train(False).save_pretrained(folder)
    tokenizer(chosen).save_pretrained(folder)
    kind = chosen.images.__name__.removesuffix("Pil")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind, **chosen.settings}))
    return folder


def processor(name: str) -> Any:
    """transformers' processor of a family."""
    chosen = family(name)
    images: Any = chosen.images
    return chosen.processor(images.from_dict(dict(chosen.settings)), tokenizer(chosen))


def _patches(size: int) -> dict[str, Any]:
    return {"patch_size": size, "size": {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}}
