"""Token ids to text as they come, with the same result as decoding them all at once.

Decoding each token by itself is wrong: a character may be spread over tokens, and some decoders drop a space at the
start of what they are given. Two streams cover the decoders of `tokenizers`, both in time linear in the tokens.
"""

import codecs
import json
import re
from collections.abc import Callable
from functools import cache
from typing import Protocol, TypeAlias

from tokenizers import Tokenizer

from triptych.core.errors import Unimplemented

_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


class TokenStream(Protocol):
    """The text of one sequence."""

    def push(self, token_id: int) -> str:
        """Takes a token; returns the text that no later token can change."""

    def flush(self) -> str:
        """Ends the sequence: what was held back, an unfinished character as U+FFFD."""


StreamFactory: TypeAlias = Callable[[frozenset[int] | None], TokenStream]
"""Makes a stream; its argument are the special tokens that have no text, None for all of them."""


def stream_factory(tokenizer: Tokenizer) -> StreamFactory:
    """Chooses the stream for a tokenizer's decoder.

    The pieces of a stream that hides all special tokens add up to `tokenizer.decode(ids, skip_special_tokens=True)`,
    those of one that hides none to the same with False.

    Raises:
        Unimplemented: the decoder mixes byte-level tokens with other rules.
    """
    special = frozenset(token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)
    kinds = decoder_kinds(tokenizer)

    def hidden(token_ids: frozenset[int] | None) -> frozenset[str]:
        return special if token_ids is None else special & {tokenizer.id_to_token(token_id) for token_id in token_ids}

    if "ByteLevel" not in kinds:
        holds = _BYTE_TOKEN if "ByteFallback" in kinds else re.compile("(?!)")
        return lambda token_ids: WindowStream(tokenizer, hidden(token_ids), holds)
    if kinds - {"ByteLevel", "Fuse"}:
        raise Unimplemented(f"a tokenizer that decodes with {', '.join(sorted(kinds))} together", field="model")
    return lambda token_ids: ByteLevelStream(tokenizer, hidden(token_ids))


class ByteLevelStream:
    """For byte-level BPE (GPT-2 and after): every token is a run of bytes, and their sum is UTF-8."""

    def __init__(self, tokenizer: Tokenizer, hidden: frozenset[str]) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Takes a token; holds back the bytes of an unfinished character."""
        token = self._tokenizer.id_to_token(token_id)
        if token is None or token in self._hidden:
            return ""
        return self._utf8.decode(token_bytes(token))

    def flush(self) -> str:
        """Ends the sequence."""
        return self._utf8.decode(b"", final=True)


class WindowStream:
    """For every other decoder: decodes the new tokens behind the ones before, and takes what they add.

    A run of byte tokens (`<0xE4>`, SentencePiece's fallback) is one unit: it is decoded as a whole or, when it is not
    UTF-8, replaced as a whole, so it waits for the first token after it.
    """

    def __init__(self, tokenizer: Tokenizer, hidden: frozenset[str], holds: re.Pattern[str]) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._holds = holds
        self._before: list[int] = []
        self._waiting: list[int] = []

    def push(self, token_id: int) -> str:
        """Takes a token; holds back a run of byte tokens."""
        token = self._tokenizer.id_to_token(token_id)
        if token is None or token in self._hidden:
            return ""
        self._waiting.append(token_id)
        return "" if self._holds.fullmatch(token) else self.flush()

    def flush(self) -> str:
        """Decodes what waits; called at the end, and whenever nothing later can change it."""
        before = self._decode(self._before)
        text = self._decode(self._before + self._waiting)
        if self._waiting:
            self._before, self._waiting = self._waiting, []
        return text[len(before) :]

    def _decode(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=False)
        return text


def decoder_kinds(tokenizer: Tokenizer) -> frozenset[str]:
    """The rules that a tokenizer decodes by, by their names in tokenizer.json."""
    if tokenizer.decoder is None:
        return frozenset()
    state = json.loads(tokenizer.decoder.__getstate__())
    return frozenset(part["type"] for part in state.get("decoders", [state]))


def is_byte_token(token: str) -> bool:
    """Whether it is SentencePiece's token for one byte, such as `<0xE4>`."""
    return _BYTE_TOKEN.fullmatch(token) is not None


def token_bytes(token: str) -> bytes:
    """The bytes that a token of byte-level BPE stands for."""
    alphabet = _byte_alphabet()
    try:
        return bytes(alphabet[character] for character in token)
    except KeyError:
        return token.encode()  # an added token is plain text, not the alphabet


@cache
def _byte_alphabet() -> dict[str, int]:
    """The characters that stand for the 256 bytes in byte-level BPE: printable ones for themselves (GPT-2)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
