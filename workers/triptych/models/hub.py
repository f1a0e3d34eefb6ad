"""Models of the Hugging Face hub, through its own client and its own cache."""

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is that of whichever client it uses
    DryRunError,
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from tqdm.auto import tqdm

from triptych.core.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from triptych.models.cache import require_space
from triptych.models.files import CONFIG, ModelFiles, local_files
from triptych.models.progress import Advance, Progress

_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def fetch(model: str, progress: Progress) -> ModelFiles:
    """Downloads configuration, tokenizer and safetensors of `org/name`, or finds them in the hub's cache.

    Raises:
        NotFound: the hub has no such model, or it holds no safetensors in Hugging Face layout.
        FailedPrecondition: its licence has to be accepted first.
        Unavailable: the hub cannot be reached, and the model is not in the cache.
        ResourceExhausted: the disk has no room.
    """
    try:
        size = _download_bytes(model)
        require_space(Path(HF_HUB_CACHE), size or 0, f"Downloading {model}", variable="HF_HOME")
        with progress.task(f"Downloading {model}", size) as advance:
            folder = Path(snapshot_download(model, allow_patterns=_PATTERNS, tqdm_class=_reporting_to(advance)))
    except GatedRepoError:
        raise FailedPrecondition(
            f"{model} is gated: accept its licence on the hub's page, then run `hf auth login`", field="model"
        ) from None
    except RepositoryNotFoundError:
        raise NotFound(
            f"the hub has no model {model}; if it is private, run `hf auth login` first", field="model"
        ) from None
    except HFValidationError as error:
        raise InvalidArgument(f"{model!r} is not a hub id: {error}", field="model") from None
    except (LocalEntryNotFoundError, HTTPError, ConnectionError) as error:
        raise Unavailable(
            f"{model} is no folder here and not in the hub's cache, and the hub cannot be reached "
            f"({_reason(error)}): check the network, or download the model elsewhere and give its folder",
            field="model",
        ) from error
    if not (folder / CONFIG).is_file():
        raise NotFound(
            f"{model} on the hub has no {CONFIG}; if it holds GGUF files, run "
            f"`hf download {model} FILE.gguf` and give the path of that file",
            field="model",
        )
    return local_files(model, folder)


def _download_bytes(model: str) -> int | None:
    """What is missing from the hub's cache; None when the hub does not answer."""
    try:
        planned = snapshot_download(
            model, allow_patterns=_PATTERNS, dry_run=True, tqdm_class=_reporting_to(lambda count: None)
        )
    except DryRunError:
        return None
    return sum(file.file_size or 0 for file in planned if file.will_download)


def _reporting_to(advance: Advance) -> type[tqdm]:
    """The hub reports to tqdm bars of its own making: one counts files, one or two count bytes."""

    class Reporting(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            # Where there are two, "Downloading bytes" counts what the network carries, which may be compressed.
            self._counts = options.get("unit") == "B" and options.get("desc") != "Downloading bytes"
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if self._counts and n:
                advance(int(n))
            return None

    return Reporting


def _reason(error: BaseException) -> str:
    """The innermost cause, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:200] or type(error).__name__
