"""Where a model's files lie, and in which of the two formats."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from triptych.core.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, Unimplemented

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of one model on this host.

    Attributes:
        name: The model as its user named it.
        path: A Hugging Face folder (`safetensors`) or one `.gguf` file (`gguf`); absolute.
        format: How the weights are stored.
    """

    name: str
    path: Path
    format: Literal["safetensors", "gguf"]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Says in our terms why a file of a model cannot be opened.

    Raises:
        NotFound: there is no such file.
        FailedPrecondition: this user may not read it.
        DataLoss: it is a folder.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{path} does not exist", field="model") from None
    except PermissionError:
        raise FailedPrecondition(f"{path} may not be read by this user", field="model") from None
    except IsADirectoryError:
        raise DataLoss(f"{path} is a folder, expected a file") from None


def local_files(name: str, path: Path) -> ModelFiles:
    """Recognises a folder or a `.gguf` file, without opening the weights.

    Raises:
        NotFound: the path, its config.json or its weights do not exist.
        InvalidArgument: the path is some other file, or a folder with several GGUF files to choose from.
        Unimplemented: the weights are in a format other than safetensors and GGUF.
    """
    path = path.absolute()
    if path.is_dir():
        return _folder(name, path)
    if not path.exists():
        raise NotFound(f"{path} does not exist", field="model")
    if path.suffix.lower() != ".gguf":
        raise InvalidArgument(
            f"{path} is neither a folder nor a .gguf file; for safetensors give the folder that holds {CONFIG}",
            field="model",
        )
    return ModelFiles(name, path, "gguf")


def _folder(name: str, path: Path) -> ModelFiles:
    quantised = sorted(path.glob("*.gguf"))
    if not (path / CONFIG).is_file():
        if len(quantised) == 1:
            return ModelFiles(name, quantised[0], "gguf")
        if quantised:
            names = ", ".join(file.name for file in quantised)
            raise InvalidArgument(f"{path} holds several GGUF files, name one of them: {names}", field="model")
        raise NotFound(f"{path} has no {CONFIG}: it is not a model folder in Hugging Face layout", field="model")
    if not any((path / weights).is_file() for weights in (WEIGHTS, INDEX)):
        pickled = sorted(file.name for file in (*path.glob("pytorch_model*"), *path.glob("*.pth")))
        if pickled:
            raise Unimplemented(
                f"{path} stores its weights as {pickled[0]}; only safetensors and GGUF are read", field="model"
            )
        raise NotFound(f"{path} has no weights: expected {WEIGHTS} or {INDEX}", field="model")
    return ModelFiles(name, path, "safetensors")
