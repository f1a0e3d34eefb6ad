"""transformers' tokenizer and chat template from a folder, without torch."""

from itertools import takewhile
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerFast

from triptych.core.errors import DataLoss, NotFound
from triptych.models.config import read_json


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Reads tokenizer.json and its settings.

    AutoTokenizer would import torch; where a folder holds tokenizer.json, the class it picks reads the same file.

    Raises:
        NotFound: the folder has no tokenizer.json.
        DataLoss: it cannot be parsed.
    """
    if not (folder / "tokenizer.json").is_file():
        raise NotFound(f"{folder} has no tokenizer.json", field="model")
    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers reports a damaged file as a bare Exception
        raise DataLoss(f"the tokenizer in {folder} cannot be read: {error}", field="model") from error
    return tokenizer


def read_chat_template(tokenizer: PreTrainedTokenizerFast, folder: Path) -> str | None:
    """The tokenizer's own template (the one named "default" among several), or what older processors keep apart."""
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    apart = folder / "chat_template.json"
    if template is None and apart.is_file():
        template = read_json(apart).get("chat_template")
    return template if isinstance(template, str) else None


def read_tool_template(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """The template for conversations with tools, where a model has several; None where one serves for all."""
    template: Any = tokenizer.chat_template
    return template.get("tool_use") if isinstance(template, dict) else None


def takes_parts(tokenizer: PreTrainedTokenizerFast, template: str) -> bool:
    """Whether the template wants a message's content as a list of parts, found out by trying."""
    probe = "probe-5f1d"
    message: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": probe}]}
    try:
        text = cast(str, tokenizer.apply_chat_template([message], chat_template=template, tokenize=False))
    except Exception:  # the template was made for plain strings
        return False
    return probe in text and "'type'" not in text


def leading_tokens(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens that the tokenizer puts before any text.

    transformers' processors, unlike its tokenizers, put them before a rendered chat that lacks them (LLaVA 1.5).
    """
    encoding = tokenizer.backend_tokenizer.encode("a")
    length = len(list(takewhile(bool, encoding.special_tokens_mask)))
    return list(encoding.ids[:length])
