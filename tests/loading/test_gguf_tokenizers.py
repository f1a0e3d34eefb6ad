"""Tokenizers written into GGUF files and read back give the ids that they gave before, on random Unicode text."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from tests.support.seeds import drawn_seed
from triptych.core.errors import Unimplemented
from triptych.models import gguf_tokenizer
from triptych.models.convert.vocabulary import add_vocabulary, read_vocabulary
from triptych.models.gguf_header import GgufHeader
from triptych.models.gguf_pretokenizer import SPLITS, correct
from triptych.models.hf_tokenizer import read_tokenizer

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<|turn|>")
CORPUS = (
    "the quick brown fox jumps over the lazy dog, doesn't it? 12 345 6789 def f(x):\n    return x ** 2\n\n"
    "日本語のテキスト 한국어 텍스트 привет мир مرحبا é é ñ 😀👍🏽 ½ ² ٣٤ \t\u00a0\u3000 HELLO World "
    "x=1; <html></html> ▁ "
)
BYTES = "gpt-2", "smollm", "qwen2", "llama-bpe", "tekken"
PIECES = "llama", "gemma3"


def byte_level(pre: str) -> Tokenizer:
    """What GPT-2, SmolLM, Qwen 2, Llama 3 and Mistral Nemo have."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre in ("llama-bpe", "tekken")))
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in SPLITS)
    first = {"gpt-2": [], "smollm": [pre_tokenizers.Digits(individual_digits=True)]}
    split = first[pre] if pre in first else [pre_tokenizers.Split(Regex(SPLITS[pre]), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, bytes_alone])
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def pieces(architecture: str) -> Tokenizer:
    """SentencePiece's pairs: with a space before the first word (Llama 2), or without (Gemma)."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if architecture == "llama":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def trained(name: str, folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer of its own kind, saved."""
    tokenizer = byte_level(name) if name in BYTES else pieces(name)
    single = [] if name in BYTES else [f"<0x{n:02X}>" for n in range(256)]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if name in BYTES else []
    size = 500 if name in BYTES else 420
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[*SPECIAL, *single], initial_alphabet=alphabet, show_progress=False
    )
    words = CORPUS.split(" ")
    texts = [" ".join(words[i:] + words[:i]) for i in range(len(words))]
    if name in PIECES:  # merges never cross a word in training, as in SentencePiece
        tokenizer.train_from_iterator([part for text in texts for part in text.split(" ")], trainer)
    else:
        tokenizer.train_from_iterator(texts, trainer)
    if single:
        tokenizer = _without_added(tokenizer, single)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    if name in ("llama", "gemma3", "llama-bpe"):
        bos = [("<s>", tokenizer.token_to_id("<s>"))]
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=bos)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    fast.chat_template = "{% for m in messages %}<|turn|>{{ m.content }}{% endfor %}"
    fast.save_pretrained(folder)
    return fast


def _without_added(tokenizer: Tokenizer, tokens: list[str]) -> Tokenizer:
    """Bytes are tokens of the vocabulary, not of the text."""
    parsed = json.loads(tokenizer.to_str())
    parsed["added_tokens"] = [added for added in parsed["added_tokens"] if added["content"] not in tokens]
    return Tokenizer.from_str(json.dumps(parsed))


def written(folder: Path, architecture: str) -> Path:
    path, writer = folder / "model.gguf", gguf.GGUFWriter(None, architecture)
    add_vocabulary(writer, folder, {"vocab_size": 600}, (2, 4))
    writer.add_tensor("token_embd.weight", np.zeros((600, 2), dtype=np.float32))
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def texts(seed: int) -> Iterator[str]:
    """Words of the corpus in any order, and characters from all over Unicode."""
    dice = random.Random(seed)
    words = [*CORPUS.split(" "), *SPECIAL, "<think>", "  ", "\n", "\r\n", "12345", "x1y22"]
    ranges = ((0x20, 0x7F), (0x80, 0x2FFF), (0x3000, 0xD7FF), (0x1F300, 0x1FAFF), (9, 13))
    for _ in range(200):
        yield dice.choice(("", " ", "  ")).join(dice.choices(words, k=dice.randrange(1, 12)))
        yield "".join(chr(dice.randrange(*dice.choice(ranges))) for _ in range(dice.randrange(1, 24)))


@pytest.mark.parametrize("name", [*BYTES, *PIECES])
def test_ids_are_those_of_the_tokenizer_that_was_written(name: str, tmp_path: Path) -> None:
    seed = drawn_seed()
    expected = trained(name, tmp_path)
    path = written(tmp_path, name if name in PIECES else "qwen2")
    gguf_tokenizer.main(path, tmp_path / "again")
    found = read_tokenizer(tmp_path / "again")
    for text in texts(seed):
        ids = expected.backend_tokenizer.encode(text).ids
        assert found.backend_tokenizer.encode(text).ids == ids, repr(text)
        assert found.decode(ids) == expected.decode(ids), repr(text)
    assert found.chat_template == expected.chat_template
    assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (1, 2, 0)


def test_a_word_that_is_a_token_is_not_merged_where_llama_cpp_does_not(tmp_path: Path) -> None:
    trained("llama-bpe", tmp_path)
    file = tmp_path / "tokenizer.json"
    parsed = json.loads(file.read_text())
    left, right = parsed["model"]["merges"].pop()
    file.write_text(json.dumps(parsed))
    gguf_tokenizer.main(written(tmp_path, "llama"), tmp_path / "again")
    backend = read_tokenizer(tmp_path / "again").backend_tokenizer
    text = backend.decoder.decode([left, right])
    assert backend.encode(text, add_special_tokens=False).tokens == [left + right]


def test_a_tokenizer_without_merges_is_refused_at_once(tmp_path: Path) -> None:
    trained("llama-bpe", tmp_path)
    file = tmp_path / "tokenizer.json"
    parsed = json.loads(file.read_text())
    parsed["model"]["merges"] = []
    file.write_text(json.dumps(parsed))
    with pytest.raises(Unimplemented, match="a BPE tokenizer without merges cannot be written to GGUF"):
        written(tmp_path, "llama")


def test_a_pre_tokenizer_that_is_not_known_is_named(tmp_path: Path) -> None:
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "runes"}
    with pytest.raises(Unimplemented, match=r"the pre-tokenizer 'runes' \(tokenizer\.ggml\.pre\) is not read"):
        correct(Tokenizer(models.BPE()), GgufHeader(tmp_path, metadata, {}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Whitespace()), "without bytes cannot be written"),
        (lambda t: setattr(t, "normalizer", normalizers.NFC()), "splits text in a way that GGUF files have no name"),
    ],
)
def test_a_tokenizer_without_a_name_in_gguf_is_refused(
    tmp_path: Path, change: Callable[[Tokenizer], None], said: str
) -> None:
    fast = trained("gpt-2", tmp_path)
    change(fast.backend_tokenizer)
    fast.save_pretrained(tmp_path)
    with pytest.raises(Unimplemented, match=said):
        read_vocabulary(tmp_path, 600)
