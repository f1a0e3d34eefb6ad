"""The sampling parameters that a model asks for: `generation_config.json`."""

from typing import Any, Final

from triptych.core.errors import DataLoss, InvalidArgument
from triptych.core.sampling import SamplingParams
from triptych.models.config import GENERATION_CONFIG, read_json
from triptych.models.files import ModelFiles

NEUTRAL: Final = SamplingParams()

_NAMES: Final = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}


def read_sampling_defaults(files: ModelFiles) -> SamplingParams:
    """What the model's file names, and nothing else; `do_sample: false` is greedy, whatever else is there.

    Only what the file says counts: transformers' own default of greedy decoding and its top_k of 50 do not.

    Raises:
        DataLoss: a value that no sampler can honour; names the file.
    """
    path = files.path / GENERATION_CONFIG
    if files.format != "safetensors" or not path.is_file():
        return NEUTRAL
    written = read_json(path)
    values: dict[str, Any] = {ours: written[name] for name, ours in _NAMES.items() if written.get(name) is not None}
    if written.get("do_sample") is False:
        values |= {"temperature": 0.0}
    try:
        return SamplingParams(**values)
    except InvalidArgument as error:
        raise DataLoss(f"{path}: {error.message}; generation_config: none does without the file") from None
