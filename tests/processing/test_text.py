import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from triptych.core.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, PromptTooLong
from triptych.core.prompt import ChatMessage, Prompt, TextPart
from triptych.models.files import ModelFiles
from triptych.models.spec import ModelSpec
from triptych.models.text import TextProcessor

MakeProcessor = Callable[..., TextProcessor]
MakeSpec = Callable[..., ModelSpec]
Wrap = Callable[..., PreTrainedTokenizerFast]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(min_size=1) | st.sampled_from(["<|im_end|> a <image>", "<s>x", " two  spaces "]))
def test_text_has_the_ids_and_the_ids_the_text_that_transformers_gives(
    any_tokenizer: Tokenizer, wrap: Wrap, make_processor: MakeProcessor, text: str
) -> None:
    processor, reference = make_processor(any_tokenizer), wrap(any_tokenizer)
    ids = reference(text)["input_ids"]
    if not ids:
        with pytest.raises(InvalidArgument, match="the prompt is empty"):
            processor.encode(text)
        return
    assert processor.encode(text) == ids
    assert processor.text(text) == Prompt(tuple(ids))
    assert processor.decode(ids) == reference.decode(ids, skip_special_tokens=True)
    assert processor.decode(ids, skip_special_tokens=False) == reference.decode(ids)


def test_a_limit_saved_with_the_tokenizer_cuts_no_prompt(
    byte_level: Tokenizer, make_processor: MakeProcessor
) -> None:
    limited = Tokenizer.from_str(byte_level.to_str())
    limited.enable_truncation(3)
    limited.enable_padding(length=64)
    assert make_processor(limited).encode("The quick brown fox") == byte_level.encode("The quick brown fox").ids


def test_an_empty_prompt_is_refused(make_processor: MakeProcessor, byte_level: Tokenizer) -> None:
    processor = make_processor(byte_level)
    with pytest.raises(InvalidArgument, match="empty") as caught:
        processor.text("")
    assert caught.value.field == "text"
    with pytest.raises(InvalidArgument, match="empty") as caught:
        processor.token_ids([])
    assert caught.value.field == "token_ids"


def test_an_empty_prompt_is_refused_where_the_tokenizer_would_fill_it(
    make_processor: MakeProcessor, byte_fallback: Tokenizer
) -> None:
    assert byte_fallback.encode("").ids == [1]
    with pytest.raises(InvalidArgument, match="empty"):
        make_processor(byte_fallback).text("")


@pytest.mark.parametrize("bad", [-1, 361, 2**31])
def test_an_id_outside_the_vocabulary_is_named_with_its_place(
    make_processor: MakeProcessor, byte_level: Tokenizer, bad: int
) -> None:
    processor = make_processor(byte_level)
    assert byte_level.get_vocab_size() == 361
    assert processor.token_ids([0, 360]) == Prompt((0, 360))
    for refuse in (processor.token_ids, processor.decode):
        with pytest.raises(InvalidArgument, match=rf"^token_ids\[1\] must be in \[0, 360\], got {bad}$") as caught:
            refuse([0, bad])
        assert caught.value.field == "token_ids[1]"


def test_half_a_surrogate_pair_is_refused_with_its_place(
    make_processor: MakeProcessor, byte_level: Tokenizer
) -> None:
    processor = make_processor(byte_level)
    with pytest.raises(InvalidArgument, match="surrogate pair at character 2"):
        processor.text("ab\ud800")
    with pytest.raises(InvalidArgument, match="surrogate pair at character 0"):
        processor.chat([ChatMessage("user", (TextPart("\udfff"),))])


def test_a_text_that_can_never_fit_is_refused_before_it_is_tokenized(
    make_processor: MakeProcessor, byte_level: Tokenizer
) -> None:
    longest = max(map(len, byte_level.get_vocab()))
    processor = make_processor(byte_level, context_length=10)
    assert processor.text("a" * 10 * longest)
    with pytest.raises(PromptTooLong, match=f"at most {10 * longest} characters, got {10 * longest + 1}"):
        processor.text("a" * (10 * longest + 1))
    with pytest.raises(PromptTooLong, match=f"at most {10 * longest} characters"):
        processor.chat([ChatMessage("user", (TextPart("a" * 9 * longest),))] * 2)


def test_an_image_token_outside_a_chat_is_refused(make_processor: MakeProcessor, byte_level: Tokenizer) -> None:
    image = byte_level.token_to_id("<image>")
    processor = make_processor(byte_level, images=True)
    with pytest.raises(InvalidArgument, match=f"text holds the image token {image} at place 1"):
        processor.text("a<image>")
    with pytest.raises(InvalidArgument, match=f"token_ids holds the image token {image} at place 2"):
        processor.token_ids([7, 8, image or 0])
    assert image in make_processor(byte_level).text("a<image>").token_ids, "means nothing to a text-only model"


def test_a_model_without_a_chat_template_says_to_send_text(
    make_processor: MakeProcessor, byte_level: Tokenizer
) -> None:
    with pytest.raises(FailedPrecondition, match="no chat template; send the prompt as text") as caught:
        make_processor(byte_level, None).chat([ChatMessage("user", (TextPart("hi"),))])
    assert caught.value.field == "chat"


def test_threads_share_a_processor(make_processor: MakeProcessor, byte_level: Tokenizer) -> None:
    processor = make_processor(byte_level, images=True)
    messages = [ChatMessage("user", (TextPart("The dog <|im_end|> sleeps. " * 20),))]
    expected = (processor.encode("The dog " * 50), processor.chat(messages))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: (processor.encode("The dog " * 50), processor.chat(messages)), range(64)))
    assert results == [expected] * 64


def test_a_folder_is_read_without_torch(byte_level: Tokenizer, wrap: Wrap, tmp_path: Path) -> None:
    wrap(byte_level).save_pretrained(tmp_path)
    script = f"""
import sys
from pathlib import Path
import triptych.models.images
from triptych.core.prompt import ChatMessage, TextPart
from triptych.models.detokenize import IncrementalDetokenizer
from triptych.models.files import ModelFiles
from triptych.models.spec import DecoderSpec, ModelSpec, NormSpec
from triptych.models.text import TextProcessor

spec = ModelSpec("LlamaForCausalLM", DecoderSpec(361, 8, (), NormSpec(1e-5), True), None, None, (0,), 512)
processor = TextProcessor.load(ModelFiles("tiny", Path({str(tmp_path)!r}), "safetensors"), spec)
prompt = processor.chat([ChatMessage("user", (TextPart("The quick <|im_end|> fox"),))])
print(IncrementalDetokenizer(processor, ("lazy",)).push(prompt.token_ids))
print("torch" in sys.modules)
"""
    shown = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown == "user\nThe quick <|im_end|> fox\nassistant\n\nFalse\n"


def test_folders_keep_their_chat_template_in_several_places(
    byte_level: Tokenizer, wrap: Wrap, make_spec: MakeSpec, tmp_path: Path
) -> None:
    template = "{{ messages[0]['content'] }}!"
    files = ModelFiles("tiny", tmp_path, "safetensors")
    expected = tuple(byte_level.encode("dog!").ids)

    def answer() -> tuple[int, ...]:
        return (
            TextProcessor.load(files, make_spec(byte_level)).chat([ChatMessage("user", (TextPart("dog"),))]).token_ids
        )

    wrap(byte_level, template).save_pretrained(tmp_path)
    assert answer() == expected
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert answer() == expected
    (tmp_path / "chat_template.json").unlink()
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    named = [{"name": "tool_use", "template": "?"}, {"name": "default", "template": template}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": named}))
    assert answer() == expected


def test_a_missing_or_damaged_tokenizer_is_named(
    byte_level: Tokenizer, wrap: Wrap, make_spec: MakeSpec, tmp_path: Path
) -> None:
    files = ModelFiles("tiny", tmp_path, "safetensors")
    with pytest.raises(NotFound, match=r"tokenizer\.json"):
        TextProcessor.load(files, make_spec(byte_level))
    wrap(byte_level).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text((tmp_path / "tokenizer.json").read_text()[:1000])
    with pytest.raises(DataLoss, match=f"the tokenizer in {tmp_path} cannot be read"):
        TextProcessor.load(files, make_spec(byte_level))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(NotFound, match=r"has no tokenizer\.json"):
        TextProcessor.load(files, make_spec(byte_level))
