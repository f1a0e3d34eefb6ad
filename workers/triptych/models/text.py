"""Text to token ids and back, for one model. No torch: the router loads this too."""

from collections.abc import Sequence
from typing import Self

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from triptych.core.chat import NO_OPTIONS, ChatOptions
from triptych.core.errors import FailedPrecondition, InvalidArgument, PromptTooLong
from triptych.core.generation import GeneratedToken, PositionLogprobs, TokenLogprob
from triptych.core.prompt import ChatMessage, Prompt
from triptych.models.chat import ChatTemplate
from triptych.models.conversation import texts_of
from triptych.models.files import ModelFiles
from triptych.models.hf_tokenizer import read_chat_template, read_tokenizer, read_tool_template
from triptych.models.pictures.layout import Layouts, MediaLayout
from triptych.models.pictures.opening import open_layouts
from triptych.models.spec import ModelSpec
from triptych.models.token_bytes import TokenBytes
from triptych.models.token_stream import TokenStream, stream_factory
from triptych.models.tokenizer import tokenizer_folder


class TextProcessor:
    """The tokenizer and the chat template of a model. May be used from several threads at once.

    Args:
        tokenizer: transformers' wrapper of the model's tokenizer.json.
        template: The chat template; None for a model that has none.
        spec: Bounds of the ids and of the context.
        tool_template: For conversations with tools, where the model has a template of its own for them.
        layouts: Of a vision-language model's images.

    Attributes:
        layouts: As given.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        template: str | None,
        spec: ModelSpec,
        tool_template: str | None = None,
        layouts: Layouts | None = None,
    ) -> None:
        self.layouts = layouts
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._image_tokens = _image_tokens(spec, layouts)
        self._chat = ChatTemplate(tokenizer, template, layouts, tool_template) if template else None
        self._vocab_size = spec.decoder.vocab_size
        self._longest_text = spec.context_length * max(map(len, self._backend.get_vocab()))
        self._new_stream = stream_factory(self._backend)
        self._token_bytes = TokenBytes(self._backend)

    @classmethod
    def load(cls, files: ModelFiles, spec: ModelSpec) -> Self:
        """Reads the tokenizer of a model.

        Raises:
            NotFound: there is no tokenizer.json.
            DataLoss: it, or a file beside it, is damaged.
            TriptychError: as `open_layouts`.
        """
        folder = tokenizer_folder(files)
        tokenizer = read_tokenizer(folder)
        template, tool_template = read_chat_template(tokenizer, folder), read_tool_template(tokenizer)
        return cls(tokenizer, template, spec, tool_template, open_layouts(files, spec))

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, exactly as transformers' tokenizer gives them.

        Special tokens that the model wants around its input are added, and those that the text spells are taken as
        such: plain text is raw input. Only a chat keeps a caller's text and the model's special tokens apart.

        Raises:
            InvalidArgument: the text is empty or holds half a surrogate pair.
            PromptTooLong: the context could not hold the text even if every token were the longest there is.
        """
        self._require_readable([text])
        token_ids: list[int] = self._backend.encode(text).ids if text else []
        if not token_ids:
            raise InvalidArgument("the prompt is empty", field="text")
        return self._require_ids(token_ids, "text")

    def text(self, text: str) -> Prompt:
        """A prompt of plain text; see `encode`.

        Raises:
            InvalidArgument: also when the text spells an image token, which needs an image.
        """
        return self._without_images(self.encode(text), "text")

    def token_ids(self, token_ids: Sequence[int]) -> Prompt:
        """A prompt of ready token ids.

        Raises:
            InvalidArgument: there are none, one lies outside the vocabulary, or one is an image token.
        """
        if not token_ids:
            raise InvalidArgument("the prompt is empty: token_ids holds nothing", field="token_ids")
        return self._without_images(self._require_ids(token_ids, "token_ids"), "token_ids")

    def chat(
        self,
        messages: Sequence[ChatMessage],
        options: ChatOptions = NO_OPTIONS,
        layouts: Sequence[MediaLayout] = (),
    ) -> Prompt:
        """A conversation, by default up to where the assistant's next turn begins.

        Args:
            messages: The conversation.
            options: What else the template is to know.
            layouts: Of each of its images and videos, in order (`triptych.models.media`).

        Raises:
            FailedPrecondition: the model has no chat template, or takes no images or no videos.
            InvalidArgument: see `ChatTemplate.apply`.
            PromptTooLong: see `encode`.
        """
        if self._chat is None:
            raise FailedPrecondition("the model has no chat template; send the prompt as text", field="chat")
        calls = [text for m in messages for call in m.tool_calls for text in (call.name, call.arguments, call.id)]
        self._require_readable([*texts_of(messages), *calls, *options.tools, options.template_kwargs])
        prompt = self._chat.apply(messages, options, layouts)
        self._require_ids(prompt.token_ids, "chat")
        return prompt

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids; bytes that are not UTF-8 become U+FFFD.

        Raises:
            InvalidArgument: an id lies outside the vocabulary.
        """
        ids = self._require_ids(token_ids, "token_ids")
        text: str = self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def open_stream(self, hidden: frozenset[int] | None = None) -> TokenStream:
        """A decoder for the tokens of one sequence as they come.

        Args:
            hidden: The special tokens that have no text; None for all of them. Added tokens that the tokenizer does
                not call special, such as `<think>` and `<tool_call>`, always have their text.
        """
        return self._new_stream(hidden)

    def named(self, token: GeneratedToken) -> PositionLogprobs | None:
        """The token's log-probabilities with the bytes of every token in them; None where it has none."""
        logprobs = token.logprobs
        if logprobs is None:
            return None
        top = tuple(TokenLogprob(t.token_id, t.logprob, self._token_bytes.of(t.token_id)) for t in logprobs.top)
        return PositionLogprobs(logprobs.logprob, top, self._token_bytes.of(token.token_id))

    def _require_readable(self, texts: Sequence[str]) -> None:
        characters = sum(map(len, texts))
        if characters > self._longest_text:
            raise PromptTooLong(
                f"a prompt may have at most {self._longest_text} characters, got {characters}: "
                "no tokens make it fit the context",
                field="prompt",
            )
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidArgument(
                    f"the prompt is not Unicode text: half a surrogate pair at character {error.start}",
                    field="prompt",
                ) from error

    def _require_ids(self, token_ids: Sequence[int], field: str) -> list[int]:
        for place, token_id in enumerate(token_ids):
            if not 0 <= token_id < self._vocab_size:
                raise InvalidArgument(
                    f"{field}[{place}] must be in [0, {self._vocab_size - 1}], got {token_id}",
                    field=f"{field}[{place}]",
                )
        return list(token_ids)

    def _without_images(self, token_ids: list[int], field: str) -> Prompt:
        if found := self._image_tokens.intersection(token_ids):
            token_id = min(found)
            place = token_ids.index(token_id)
            raise InvalidArgument(
                f"{field} holds the image token {token_id} at place {place}; send images in a chat", field=field
            )
        return Prompt(tuple(token_ids))


def _image_tokens(spec: ModelSpec, layouts: Layouts | None) -> frozenset[int]:
    """Tokens that stand for rows of images or videos."""
    found = {spec.image_token_id, layouts.video_placeholder if layouts else None}
    return frozenset(token_id for token_id in found if token_id is not None)
