"""How text is split before byte-pair merges, by the names that GGUF files have for it.

transformers converts the tokenizers of GGUF files, with gaps that would give other ids without a word: it does not
know the names whose digits stand alone nor Qwen's normalisation, it merges within words that are tokens themselves,
and takes any name that it does not know for GPT-2's. What each name means is written in llama.cpp's llama-vocab.cpp.
"""

from collections.abc import Mapping

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from triptych.core.errors import Unimplemented
from triptych.models.gguf_header import GgufHeader

GPT2 = frozenset(
    {
        "gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum",
        "modern-bert", "jina-v1-en", "jina-v2-code", "roberta-bpe", "mpt", "olmo", "jais", "trillion",
        "granite-docling", "exaone4",
    }
)  # fmt: skip
"""Split as GPT-2 splits."""
DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"})
"""Likewise, but every digit stands alone."""
WHOLE_WORDS = frozenset(
    {
        "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano",
        "tekken",
    }
)  # fmt: skip
"""A word that is a token is not merged, and a text begins with bos unless the file says otherwise."""
COMPOSED = "qwen2"
"""Composes characters first (NFC), as the tokenizers of Qwen 2, 2.5 and 3 do."""
SPLITS: Mapping[str, str] = GGUF_PRE_TOKENIZER_SPLITS
"""Patterns of the others."""


def defaults(header: GgufHeader) -> dict[str, bool]:
    """Settings that llama.cpp takes where the file is silent."""
    begins = header.metadata.get("tokenizer.ggml.pre") in WHOLE_WORDS
    return {"add_bos_token": True} if begins and "tokenizer.ggml.add_bos_token" not in header.metadata else {}


def correct(backend: Tokenizer, header: GgufHeader) -> None:
    """Makes a converted tokenizer what its file describes.

    Raises:
        Unimplemented: it splits text in a way that is not known; the message names it.
    """
    match header.metadata.get("tokenizer.ggml.model"):
        case "gpt2":
            _correct_bytes(backend, str(header.metadata.get("tokenizer.ggml.pre", "gpt-2")))
        case "llama" if header.metadata.get("tokenizer.ggml.add_space_prefix") is False:
            if isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
                backend.pre_tokenizer.prepend_scheme = "never"


def _correct_bytes(backend: Tokenizer, name: str) -> None:
    if name in DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    elif name not in GPT2 and name not in SPLITS:
        raise Unimplemented(f"the pre-tokenizer {name!r:.40} (tokenizer.ggml.pre) is not read", field="model")
    if name == COMPOSED:
        backend.normalizer = normalizers.NFC()
    if name in WHOLE_WORDS:
        backend.model.ignore_merges = True
