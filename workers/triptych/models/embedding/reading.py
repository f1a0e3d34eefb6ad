"""The configuration of an embedding model, as sentence-transformers saves it beside transformers' config.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from triptych.core.errors import DataLoss, InvalidArgument, Unimplemented
from triptych.models.config import blaming, read_config, read_json
from triptych.models.files import ModelFiles, reading
from triptych.models.recipes.fields import Fields
from triptych.models.recipes.text_encoders import find_text_recipe, gives_embeddings
from triptych.models.spec import DenseActivation, DenseSpec, EmbedderSpec, ModelSpec, Pooling, read_spec

MODULES = "modules.json"

_POOLINGS: Final[Mapping[str, Pooling]] = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}
_FLAGS: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS: Final[Mapping[str, DenseActivation]] = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.linear.Identity": "identity",
}
_ORDER: Final = ("Transformer", "Pooling", "Dense", "Normalize")
_LENGTHS: Final = ("bert", "roberta", "distilbert", "xlm-roberta")


def read_embedder(files: ModelFiles) -> EmbedderSpec:
    """Reads an embedding model's configuration.

    A folder without modules.json is a plain encoder: its rows are averaged, as sentence-transformers does.

    Raises:
        NotFound: a file is missing.
        DataLoss: a file cannot be parsed.
        InvalidArgument: a field has an impossible value.
        Unimplemented: an architecture, a module or a setting that this version does not have; the message names it.
    """
    config = read_config(files)
    with blaming(files):
        encoder = find_text_recipe(config).read(config)
    folder = files.path
    modules = _modules(folder)
    _refuse_prompts(folder)
    width = encoder.blocks.hidden_size
    dense: list[DenseSpec] = []
    for kind, place in modules:
        if kind == "Dense":
            dense.append(_dense(folder, place, width))
            width = dense[-1].outputs
    pooling = next(
        (_pooling(folder / place, encoder.blocks.hidden_size) for k, place in modules if k == "Pooling"), None
    )
    limits = _transformer_settings(folder)
    max_tokens = _max_tokens(folder, limits, encoder.max_tokens)
    return EmbedderSpec(
        encoder=encoder,
        pooling=pooling or "mean",
        dense=tuple(dense),
        normalise=any(kind == "Normalize" for kind, _ in modules),
        max_tokens=max_tokens,
        lower_case=limits.flag("do_lower_case", False),
    )


def read_either(files: ModelFiles) -> ModelSpec | EmbedderSpec:
    """Reads the configuration of a model of either kind.

    Raises:
        TriptychError: as `read_spec` or `read_embedder`.
    """
    return read_embedder(files) if gives_embeddings(read_config(files)) else read_spec(files)


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Kinds and folders of the modules, in order."""
    path = folder / MODULES
    if not path.is_file():
        return []
    with reading(path):
        raw = path.read_text(encoding="utf-8", errors="replace")
    try:
        modules = [(str(entry["type"]), str(entry["path"])) for entry in json.loads(raw)]
    except (ValueError, TypeError, KeyError):
        raise DataLoss(f"{path} is not a list of modules, each with a type and a path") from None
    kinds = [kind.rpartition(".")[2] for kind, _ in modules]
    for kind, (full, _) in zip(kinds, modules, strict=True):
        if kind not in _ORDER or not full.startswith("sentence_transformers."):
            raise Unimplemented(
                f"{path}: module {full} is not supported; supported: {', '.join(_ORDER)}", field="model"
            )
    ranks = [_ORDER.index(kind) for kind in kinds]
    if ranks != sorted(ranks) or any(kinds.count(kind) != 1 for kind in _ORDER[:2]) or kinds.count("Normalize") > 1:
        raise Unimplemented(
            f"{path}: modules must be Transformer, Pooling, any Dense, perhaps Normalize; got {', '.join(kinds)}",
            field="model",
        )
    return [(kind, place) for kind, (_, place) in zip(kinds, modules, strict=True)]


def _pooling(folder: Path, width: int) -> Pooling:
    path = folder / "config.json"
    values = read_json(path)
    modes = values.get("pooling_mode", [mode for flag, mode in _FLAGS.items() if values.get(flag)])
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in _POOLINGS:
        raise Unimplemented(
            f"{path}: pooling {modes!r:.80} is not supported; supported: one of {', '.join(_POOLINGS)}", field="model"
        )
    found = Fields(values).count("embedding_dimension", values.get("word_embedding_dimension") or width)
    if found != width:
        raise InvalidArgument(f"{path}: embedding_dimension must be {width}, the encoder's width; got {found}")
    return _POOLINGS[modes[0]]


def _dense(folder: Path, place: str, width: int) -> DenseSpec:
    path = folder / place / "config.json"
    fields = Fields(read_json(path))
    fields.refuse("use_residual", False)
    inputs = fields.count("in_features", None)
    if inputs != width:
        raise InvalidArgument(f"{path}: in_features must be {width}, what comes before is so wide; got {inputs}")
    tanh = next(iter(_ACTIVATIONS))
    activation = _ACTIVATIONS[fields.choice("activation_function", tanh, tuple(_ACTIVATIONS))]
    return DenseSpec(place, inputs, fields.count("out_features", None), fields.flag("bias", True), activation)


def _transformer_settings(folder: Path) -> Fields:
    """sentence_bert_config.json, which older versions named after the encoder's kind."""
    paths = (folder / f"sentence_{kind}_config.json" for kind in _LENGTHS)
    return Fields(next((read_json(path) for path in paths if path.is_file()), {}))


def _max_tokens(folder: Path, settings: Fields, most: int) -> int:
    """What the model was made for: said in one of two places, and never more than it has positions."""
    tokenizer: dict[str, Any] = {}
    if (path := folder / "tokenizer_config.json").is_file():
        tokenizer = read_json(path)
    length = settings.optional_count("max_seq_length", None)
    if length is None:
        length = tokenizer.get("model_max_length")
    return min(most, int(length)) if isinstance(length, int | float) and length >= 1 else most


def _refuse_prompts(folder: Path) -> None:
    path = folder / "config_sentence_transformers.json"
    if path.is_file() and (name := read_json(path).get("default_prompt_name")) is not None:
        raise Unimplemented(
            f"{path}: default_prompt_name {name!r} is not supported: a prompt is put before texts by the caller",
            field="model",
        )
