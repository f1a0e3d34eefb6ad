"""Texts to the token ids that an embedding model reads. No torch: the router loads this too."""

from collections.abc import Sequence
from typing import Self

from tokenizers import Tokenizer

from triptych.core.errors import InvalidArgument, PromptTooLong
from triptych.models.files import ModelFiles
from triptych.models.hf_tokenizer import read_tokenizer
from triptych.models.spec import EmbedderSpec
from triptych.models.tokenizer import tokenizer_folder


class EmbeddingText:
    """The tokenizer of an embedding model. May be used from several threads at once.

    Args:
        tokenizer: As its tokenizer.json says.
        spec: Bounds of the ids and of the length.
    """

    def __init__(self, tokenizer: Tokenizer, spec: EmbedderSpec) -> None:
        self._whole, self._cut = tokenizer, Tokenizer.from_str(tokenizer.to_str())
        for each in (self._whole, self._cut):
            each.no_padding()
        self._whole.no_truncation()
        self._cut.enable_truncation(spec.max_tokens)
        self._spec = spec
        self._longest_text = spec.max_tokens * max(map(len, tokenizer.get_vocab()))

    @classmethod
    def load(cls, files: ModelFiles, spec: EmbedderSpec) -> Self:
        """Reads the tokenizer of a model.

        Raises:
            NotFound: there is no tokenizer.json.
            DataLoss: it is damaged.
        """
        return cls(read_tokenizer(tokenizer_folder(files)).backend_tokenizer, spec)

    def encode(self, text: str, field: str, *, truncate: bool = False) -> tuple[int, ...]:
        """Token ids of a text, with the special ones around it.

        Args:
            text: Any; an empty one is special tokens alone.
            field: What the caller calls it, for errors.
            truncate: Whether a text that is too long loses its end. Special tokens stay.

        Raises:
            PromptTooLong: it has more tokens than the model reads, and may not be cut.
            InvalidArgument: it holds half a surrogate pair.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(
                f"{field} is not Unicode text: half a surrogate pair at character {error.start}", field=field
            ) from error
        if self._spec.lower_case:
            text = text.lower()
        if truncate:
            return tuple(self._cut.encode(text).ids)
        if len(text) > self._longest_text:
            raise PromptTooLong(
                f"{field} has {len(text)} characters; {self._longest_text} are the most that "
                f"{self._spec.max_tokens} tokens can spell. Ask to truncate it, or split it",
                field=field,
            )
        return self._fitting(self._whole.encode(text).ids, field)

    def token_ids(self, token_ids: Sequence[int], field: str, *, truncate: bool = False) -> tuple[int, ...]:
        """Ready token ids, special ones included; arguments and errors are those of `encode`.

        Raises:
            InvalidArgument: also when there are none, or one lies outside the vocabulary.
        """
        if not token_ids:
            raise InvalidArgument(f"{field} holds no token ids", field=field)
        last = self._spec.encoder.vocab_size - 1
        for place, token_id in enumerate(token_ids):
            if not 0 <= token_id <= last:
                raise InvalidArgument(f"{field}[{place}] must be in [0, {last}], got {token_id}", field=field)
        return self._fitting(token_ids[: self._spec.max_tokens] if truncate else token_ids, field)

    def _fitting(self, token_ids: Sequence[int], field: str) -> tuple[int, ...]:
        if len(token_ids) > self._spec.max_tokens:
            raise PromptTooLong(
                f"{field} has {len(token_ids)} tokens; the model reads {self._spec.max_tokens}. "
                "Ask to truncate it, or split it",
                field=field,
            )
        return tuple(token_ids)


def require_dimensions(dimensions: int, spec: EmbedderSpec) -> None:
    """Refuses vectors longer than the model's.

    Raises:
        InvalidArgument: names the limit and the value.
    """
    if not 1 <= dimensions <= spec.size:
        raise InvalidArgument(f"dimensions must be in [1, {spec.size}], got {dimensions}", field="dimensions")
