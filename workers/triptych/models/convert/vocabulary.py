"""The tokenizer of a Hugging Face folder as metadata of a GGUF file."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType

from triptych.core.errors import Unimplemented
from triptych.models.config import read_json
from triptych.models.gguf_pretokenizer import COMPOSED, SPLITS, WHOLE_WORDS
from triptych.models.hf_tokenizer import leading_tokens, read_chat_template, read_tokenizer

_OUT_OF_REACH = -1e6  # score of tokens that no merge makes


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens as GGUF files have them.

    Attributes:
        model: gpt2 for byte-level pairs, llama for those of SentencePiece.
        pre: llama.cpp's name of how text is split first.
        tokens: By id.
        types: Of each.
        scores: Of each, the best merge having the highest; empty where `merges` say it.
        merges: Pairs, best first; empty where `scores` say it.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[TokenType]
    scores: list[float]
    merges: list[str]


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """Reads tokenizer.json.

    Args:
        folder: The model's.
        size: Rows of the embedding; ids without a token are filled up.

    Raises:
        NotFound, DataLoss: there is no tokenizer.json, or it is damaged.
        Unimplemented: a kind of tokenizer that GGUF files have no name for.
    """
    parsed = read_json(folder / "tokenizer.json")
    model, pieces = parsed["model"], _pre_tokenizers(parsed.get("pre_tokenizer"))
    if model.get("type") != "BPE":
        raise Unimplemented(f"{folder}: a {model.get('type')} tokenizer cannot be written to GGUF; BPE can")
    byte_level = any(piece["type"] == "ByteLevel" for piece in pieces)
    if not model["merges"]:
        raise Unimplemented(f"{folder}: a BPE tokenizer without merges cannot be written to GGUF")
    if not byte_level and not model.get("byte_fallback"):
        raise Unimplemented(f"{folder}: a BPE tokenizer without bytes cannot be written to GGUF")
    tokens, types = _tokens(parsed, size)
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    if byte_level:
        pairs = [" ".join(merge) for merge in merges]
        return Vocabulary("gpt2", _pre_name(folder, parsed, pieces), tokens, types, [], pairs)
    return Vocabulary("llama", "default", tokens, types, _scores(tokens, merges), [])


def add_vocabulary(writer: GGUFWriter, folder: Path, config: Mapping[str, Any], ends: tuple[int, ...]) -> None:
    """Adds tokens, special tokens and chat template to a file that is written.

    Args:
        writer: Of the file.
        folder: With the tokenizer.
        config: Of the model.
        ends: Tokens that end an answer, at most three.

    Raises:
        NotFound, DataLoss, Unimplemented: see `read_vocabulary`.
    """
    vocabulary, tokenizer = read_vocabulary(folder, config["vocab_size"]), read_tokenizer(folder)
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    special = {
        "bos": config.get("bos_token_id", tokenizer.bos_token_id),
        "unknown": tokenizer.unk_token_id,
        "padding": config.get("pad_token_id", tokenizer.pad_token_id),
        # All three, as readers look for tokens that are called like ends where one of them is not named.
        **dict(zip(("eos", "eot", "eom"), chain(ends, repeat(ends[-1])) if ends else (), strict=False)),
    }
    for name, token in special.items():
        if token is not None:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    leading = leading_tokens(tokenizer)
    writer.add_add_bos_token(bool(leading))
    writer.add_add_eos_token(False)
    if vocabulary.model == "llama":
        first = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).tokens[0]
        writer.add_add_space_prefix(first.startswith("\u2581"))
    if template := read_chat_template(tokenizer, folder):
        writer.add_chat_template(template)


def _tokens(parsed: Mapping[str, Any], size: int) -> tuple[list[str], list[TokenType]]:
    known: dict[int, tuple[str, TokenType]] = {}
    for token, number in parsed["model"]["vocab"].items():
        is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        known[number] = token, TokenType.BYTE if is_byte else TokenType.NORMAL
    for added in parsed.get("added_tokens") or ():
        special = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        known[added["id"]] = added["content"], special
    unknown = parsed["model"].get("unk_token")
    for number, (token, _) in known.items():
        if token == unknown:
            known[number] = token, TokenType.UNKNOWN
    count = max(size, max(known, default=-1) + 1)
    filled = [known.get(number, (f"[PAD{number}]", TokenType.UNUSED)) for number in range(count)]
    return [token for token, _ in filled], [kind for _, kind in filled]


def _scores(tokens: list[str], merges: list[list[str]]) -> list[float]:
    """The order of merges, as a score of what each makes."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    return [-float(ranks[token]) if token in ranks else _OUT_OF_REACH for token in tokens]


def _pre_tokenizers(settings: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if settings is None:
        return []
    if settings["type"] == "Sequence":
        return list(chain.from_iterable(map(_pre_tokenizers, settings["pretokenizers"])))
    return [settings]


def _pre_name(folder: Path, parsed: Mapping[str, Any], pieces: list[Mapping[str, Any]]) -> str:
    whole_words = bool(parsed["model"].get("ignore_merges"))
    composed = (parsed.get("normalizer") or {}).get("type") == "NFC"
    match pieces:
        case [{"type": "ByteLevel", "use_regex": True}] if not whole_words and not composed:
            return "gpt-2"
        case [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "use_regex": True}] if (
            not whole_words and not composed
        ):
            return "smollm"
        case [{"type": "Split", "pattern": {"Regex": pattern}}, {"type": "ByteLevel", "use_regex": False}]:
            for name, known in SPLITS.items():
                if known == pattern and (name in WHOLE_WORDS, name == COMPOSED) == (whole_words, composed):
                    return name
    raise Unimplemented(f"{folder}: tokenizer.json splits text in a way that GGUF files have no name for")
