"""A Hugging Face folder as a GGUF file."""

from pathlib import Path
from typing import Any

from gguf import GGUFWriter
from gguf.constants import GGMLQuantizationType, LlamaFileType

from triptych.core.errors import Unimplemented
from triptych.models.checkpoint import open_safetensors
from triptych.models.config import read_config
from triptych.models.convert.gguf_file import add_entries, write_gguf
from triptych.models.convert.metadata import family_for, metadata_of, rope_tensors
from triptych.models.convert.same import require_same_model
from triptych.models.convert.tensors import targets_of
from triptych.models.convert.vocabulary import add_vocabulary
from triptych.models.files import ModelFiles
from triptych.models.packed import unpacked
from triptych.models.progress import Progress
from triptych.models.spec import read_spec

_MOST_ENDS = 3  # tokens that end an answer: of the text, of a turn, of a message
_FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "Q5_1": LlamaFileType.MOSTLY_Q5_1,
    "Q5_0": LlamaFileType.MOSTLY_Q5_0,
    "Q4_1": LlamaFileType.MOSTLY_Q4_1,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
}


def write_file(files: ModelFiles, path: Path, kind: str, progress: Progress) -> None:
    """Writes metadata, tokenizer and weights.

    Args:
        files: The folder.
        path: Of the file.
        kind: Of its matrices.
        progress: Told about bytes.

    Raises:
        Unimplemented: GGUF files of this family are not written, or cannot say something of the model.
    """
    config = _complete_config(files)
    family, spec = family_for(config), read_spec(files)
    if len(spec.eos_token_ids) > _MOST_ENDS:
        raise Unimplemented(
            f"{files.path} ends answers at {len(spec.eos_token_ids)} tokens, a GGUF file at {_MOST_ENDS} at most"
        )
    # GPTQ and the like become plain numbers here; llama.cpp has its own ways to pack them.
    source = unpacked(open_safetensors(files.path), read_config(files))
    writer = GGUFWriter(None, family.name)
    writer.add_string("general.type", "model")
    writer.add_string("general.name", files.path.name)
    writer.add_file_type(_FILE_TYPES[kind])
    writer.add_quantization_version(2)
    add_entries(writer, {f"{family.name}.{key}": value for key, value in metadata_of(config, family).items()})
    add_vocabulary(writer, files.path, config, spec.eos_token_ids)
    targets = targets_of(source.shapes, family, config, GGMLQuantizationType[kind])
    path.parent.mkdir(parents=True, exist_ok=True)
    with progress.task(
        f"Converting {files.path.name} to {kind}", sum(target.nbytes for target in targets)
    ) as advance:
        write_gguf(path, writer, targets, rope_tensors(config), source, advance)
    require_same_model(files, ModelFiles(files.name, path, "gguf"))


def _complete_config(files: ModelFiles) -> dict[str, Any]:
    """The config with what transformers takes for granted, which a GGUF file has to say."""
    from transformers import AutoConfig  # takes seconds, and only this needs it

    stated = read_config(files)
    complete: dict[str, Any] = AutoConfig.from_pretrained(files.path, local_files_only=True).to_dict()
    return complete | {name: stated[name] for name in ("architectures", "eos_token_id") if name in stated}
