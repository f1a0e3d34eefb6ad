"""The part of the text that one token stands for, as bytes: what a list of log-probabilities calls it."""

from typing import Final

from tokenizers import Tokenizer

from triptych.models.token_stream import decoder_kinds, is_byte_token, token_bytes


class TokenBytes:
    """The bytes of every token of a vocabulary, each worked out when it is first asked for.

    With byte-level BPE they add up to the text exactly. Other decoders join tokens by rules of their own; there the
    bytes are what the token adds behind an ordinary one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer: Final = tokenizer
        self._byte_level: Final = "ByteLevel" in decoder_kinds(tokenizer)
        words = (i for token, i in sorted(tokenizer.get_vocab().items()) if token.isascii() and token.isalnum())
        self._ordinary: Final = next(words, 0)
        self._known: Final[dict[int, bytes]] = {}

    def of(self, token_id: int) -> bytes:
        """Of one token, special or not; nothing for an id that the vocabulary does not have."""
        if (known := self._known.get(token_id)) is None:
            known = self._known[token_id] = self._work_out(token_id)
        return known

    def _work_out(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self._byte_level:
            return token_bytes(token)
        if is_byte_token(token):
            return bytes((int(token[3:5], 16),))
        before, both = self._decode(self._ordinary), self._decode(self._ordinary, token_id)
        return (both.removeprefix(before) if both.startswith(before) else self._decode(token_id)).encode()

    def _decode(self, *token_ids: int) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=False)
        return text
