"""The families that are served, for people: what they are called, take and give.

`RECIPES` and `TEXT_RECIPES` are for programs.
"""

from dataclasses import dataclass
from typing import Literal

Input = Literal["text", "images", "videos"]
Output = Literal["text", "embeddings"]

_TEXT: tuple[Input, ...] = ("text",)
_IMAGES: tuple[Input, ...] = ("text", "images")
_VIDEOS: tuple[Input, ...] = ("text", "images", "videos")


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture.

    Attributes:
        name: As people call it.
        architecture: As config.json calls it.
        models: Some that are of it.
        takes: What a prompt may hold.
        gives: What comes of it.
    """

    name: str
    architecture: str
    models: str
    takes: tuple[Input, ...] = _TEXT
    gives: Output = "text"


FAMILIES: tuple[Family, ...] = (
    Family("Llama", "LlamaForCausalLM", "Llama 2, 3, 3.1, 3.2, 3.3, SmolLM2, TinyLlama, Yi"),
    Family("Mistral", "MistralForCausalLM", "Mistral 7B, Nemo, Small 2501"),
    Family("Qwen2", "Qwen2ForCausalLM", "Qwen2, Qwen2.5, QwQ"),
    Family("Qwen3", "Qwen3ForCausalLM", "Qwen3 0.6B to 32B"),
    Family("Phi-3", "Phi3ForCausalLM", "Phi-3, Phi-3.5 mini, Phi-4, Phi-4 mini"),
    Family("SmolLM3", "SmolLM3ForCausalLM", "SmolLM3 3B"),
    Family("Granite", "GraniteForCausalLM", "Granite 3.0 to 3.3"),
    Family("Gemma 2", "Gemma2ForCausalLM", "Gemma 2 2B, 9B, 27B"),
    Family("Gemma 3 (text)", "Gemma3ForCausalLM", "Gemma 3 270M, 1B"),
    Family("OLMo 2", "Olmo2ForCausalLM", "OLMo 2 1B to 32B"),
    Family("OLMo 3", "Olmo3ForCausalLM", "OLMo 3 7B, 32B"),
    Family("Mixtral", "MixtralForCausalLM", "Mixtral 8x7B, 8x22B"),
    Family("Qwen2 MoE", "Qwen2MoeForCausalLM", "Qwen1.5-MoE, Qwen2-57B-A14B"),
    Family("Qwen3 MoE", "Qwen3MoeForCausalLM", "Qwen3-30B-A3B, Qwen3-235B-A22B"),
    Family("OLMoE", "OlmoeForCausalLM", "OLMoE 1B-7B"),
    Family("Granite MoE", "GraniteMoeForCausalLM", "Granite 3.0, 3.1 1B-A400M, 3B-A800M"),
    Family("gpt-oss", "GptOssForCausalLM", "gpt-oss 20B, 120B"),
    Family("DeepSeek V3", "DeepseekV3ForCausalLM", "DeepSeek V3, V3.1, R1, Moonlight"),
    Family("LLaVA", "LlavaForConditionalGeneration", "LLaVA 1.5", _IMAGES),
    Family("LLaVA-NeXT", "LlavaNextForConditionalGeneration", "LLaVA 1.6", _IMAGES),
    Family("Qwen2.5-VL", "Qwen2_5_VLForConditionalGeneration", "Qwen2.5-VL 3B to 72B", _VIDEOS),
    Family("Qwen3-VL", "Qwen3VLForConditionalGeneration", "Qwen3-VL 2B to 32B", _VIDEOS),
    Family("SmolVLM", "SmolVLMForConditionalGeneration", "SmolVLM2 256M to 2.2B", _IMAGES),
    Family("Idefics3", "Idefics3ForConditionalGeneration", "Idefics3 8B, SmolVLM, Granite Docling", _IMAGES),
    Family("Gemma 3", "Gemma3ForConditionalGeneration", "Gemma 3 4B, 12B, 27B", _IMAGES),
    Family("BERT", "BertModel", "all-MiniLM, BGE, E5, GTE, MixedBread", _TEXT, "embeddings"),
    Family("RoBERTa", "RobertaModel", "all-distilroberta, all-roberta-large", _TEXT, "embeddings"),
    Family("XLM-RoBERTa", "XLMRobertaModel", "multilingual-e5, BGE-M3 (dense)", _TEXT, "embeddings"),
    Family("DistilBERT", "DistilBertModel", "multi-qa-distilbert-cos, msmarco-distilbert", _TEXT, "embeddings"),
)
