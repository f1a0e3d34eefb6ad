"""Tiny tokenizers of every kind that language models use, with chat templates, made on the spot."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from triptych.models.files import ModelFiles
from triptych.models.pictures import open_layouts
from triptych.models.spec import BlocksSpec, ClipTower, DecoderSpec, LlavaVision, ModelSpec, NormSpec, ProjectorSpec
from triptych.models.text import TextProcessor

SPECIAL = ["<|end|>", "<|im_start|>", "<|im_end|>", "<image>"]

CORPUS = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps.",
    "Größe, naïve, façade; 你好世界 你好; こんにちは; привет мир; 🙂🙃🙂 👩‍👩‍👧",
    "def f(x):\n    return x + 1\n\n\n\tdone",
]

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

STRING_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_byte_level() -> Tokenizer:
    """GPT-2's kind: bytes, merged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=360, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    tokenizer.add_tokens(["<tool call>"])
    return tokenizer


def make_byte_fallback() -> Tokenizer:
    """Llama 2's kind: SentencePiece with a leading space, and byte tokens for what it does not know."""
    letters = sorted(set("".join(CORPUS[:1]).replace(" ", "")) | {"▁", "\n", "你", "é"})
    merges = [("▁", "t"), ("h", "e"), ("▁", "d"), ("▁d", "o"), ("▁do", "g"), ("▁", "▁"), ("▁t", "he")]
    tokens = ["<unk>", "<s>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    tokens += ["".join(pair) for pair in merges]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", *SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def make_metaspace() -> Tokenizer:
    """A unigram model with a Metaspace decoder, as T5 has."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<unk>", *SPECIAL], unk_token="<unk>")
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def make_words() -> Tokenizer:
    """Whole words and no decoder: tokens are joined with spaces."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "dog": 2, "stop": 3, "�": 4}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": make_byte_level,
    "byte-fallback": make_byte_fallback,
    "metaspace": make_metaspace,
    "words": make_words,
}


@pytest.fixture(scope="session", params=list(KINDS))
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Every kind in turn."""
    return KINDS[request.param]()


@pytest.fixture(scope="session")
def byte_level() -> Tokenizer:
    """Of the kind that SmolLM2 has."""
    return make_byte_level()


@pytest.fixture(scope="session")
def byte_fallback() -> Tokenizer:
    """Of the kind that LLaVA 1.5 has."""
    return make_byte_fallback()


@pytest.fixture(scope="session")
def wrap() -> Callable[..., PreTrainedTokenizerFast]:
    """transformers' view of a tokenizer."""
    return wrapped


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., ModelSpec]:
    """A model of a tokenizer's vocabulary."""
    return spec_for


@pytest.fixture(scope="session")
def make_processor() -> Callable[..., TextProcessor]:
    """The processor under test."""
    return processor_for


@pytest.fixture(scope="session")
def string_template() -> str:
    """A template for models that know no images: it adds up strings."""
    return STRING_TEMPLATE


def wrapped(tokenizer: Tokenizer, template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A copy of the tokenizer in transformers' class."""
    bos = "<s>" if tokenizer.token_to_id("<s>") is not None else None
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=bos, eos_token="<|end|>"
    )
    fast.chat_template = template
    return fast


def spec_for(tokenizer: Tokenizer, *, images: bool = False, context_length: int = 512) -> ModelSpec:
    """With images, 4 tokens stand for one of 8 x 8 pixels."""
    tower = ClipTower(BlocksSpec(8, 8, 2, 1, "gelu", 1e-5), 8, 4, 3, keep_class_token=False)
    vision = LlavaVision(tower, ProjectorSpec(8, "gelu", True))
    return ModelSpec(
        architecture="LlavaForConditionalGeneration" if images else "LlamaForCausalLM",
        decoder=DecoderSpec(tokenizer.get_vocab_size(), 8, (), NormSpec(1e-5), True),
        vision=vision if images else None,
        image_token_id=tokenizer.token_to_id("<image>") if images else None,
        eos_token_ids=(0,),
        context_length=context_length,
    )


def processor_for(
    tokenizer: Tokenizer, template: str | None = TEMPLATE, *, images: bool = False, context_length: int = 512
) -> TextProcessor:
    """By the constructor, without files."""
    spec = spec_for(tokenizer, images=images, context_length=context_length)
    layouts = open_layouts(ModelFiles("tiny", Path(), "safetensors"), spec)
    return TextProcessor(wrapped(tokenizer, template), template, spec, layouts=layouts)
