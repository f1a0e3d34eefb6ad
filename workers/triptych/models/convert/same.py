"""Whether what was written is the model that was read."""

from dataclasses import replace

from triptych.core.errors import Unimplemented
from triptych.models.files import ModelFiles
from triptych.models.parameters import require_whole
from triptych.models.spec import ModelSpec, read_spec


def require_same_model(source: ModelFiles, written: ModelFiles) -> None:
    """Compares both by what their configurations say, and looks for every tensor.

    Raises:
        Unimplemented: the format could not say something of the model; the message names it.
        DataLoss: a tensor is missing.
    """
    first, second = (_language(read_spec(files)) for files in (source, written))
    for name in ModelSpec.__dataclass_fields__:
        wanted, found = getattr(first, name), getattr(second, name)
        if wanted != found:
            said = _difference(name, wanted, found)
            raise Unimplemented(f"{source.path}: as {written.format} it would be another model, whose {said}")
    require_whole(written, second)


def _language(spec: ModelSpec) -> ModelSpec:
    """In which order answers end, a GGUF file does not say."""
    return replace(spec, eos_token_ids=tuple(sorted(spec.eos_token_ids)))


def _difference(name: str, wanted: object, found: object) -> str:
    """The innermost fields that differ."""
    if isinstance(wanted, tuple) and isinstance(found, tuple) and len(wanted) == len(found):
        pairs = enumerate(zip(wanted, found, strict=True))
        return next(_difference(f"{name}[{i}]", a, b) for i, (a, b) in pairs if a != b)
    fields = getattr(type(wanted), "__dataclass_fields__", None)
    if fields is None or type(wanted) is not type(found):
        return f"{name} is {found!r:.60} instead of {wanted!r:.60}"
    changed = next(field for field in fields if getattr(wanted, field) != getattr(found, field))
    return _difference(f"{name}.{changed}", getattr(wanted, changed), getattr(found, changed))
