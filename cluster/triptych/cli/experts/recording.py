"""Completes prompts for `triptych experts record`."""

from dataclasses import dataclass
from pathlib import Path

from triptych.cli.experts.texts import TEXTS
from triptych.cli.progress import ProgressBars
from triptych.core.errors import InvalidArgument, NotFound
from triptych.engine import Engine, SamplingParams
from triptych.engine.route_recording import record
from triptych.experts.traces import write_routes


@dataclass(frozen=True, slots=True)
class Recorded:
    """What is recorded.

    Attributes:
        model: As its user named it.
        out: Where to.
        prompts: To be completed.
        tokens: Of each answer.
        batch: Answers that are computed together.
    """

    model: str
    out: Path
    prompts: tuple[str, ...]
    tokens: int
    batch: int


def read_prompts(path: Path | None) -> tuple[str, ...]:
    """One a line; without a file texts of many kinds.

    Raises:
        NotFound: there is no such file.
        InvalidArgument: it holds no text.
    """
    if path is None:
        return TEXTS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", field="prompts") from None
    except UnicodeDecodeError:
        raise InvalidArgument(f"{path} is no text in UTF-8", field="prompts") from None
    prompts = tuple(line for line in lines if line.strip())
    if not prompts:
        raise InvalidArgument(f"{path} holds no prompt", field="prompts")
    return prompts


def record_to(work: Recorded, dtype: str, quantization: str, budget: str | None) -> str:
    """Records, writes the file, and says what is in it.

    Answers are drawn: the likeliest of a small model soon repeat themselves, and so would their routes. Every prompt
    has a seed of its own, so that the same command records the same.

    Raises:
        TriptychError: the model cannot be run or has no experts, or the file cannot be written.
    """
    params = [
        SamplingParams(temperature=0.8, seed=place, max_tokens=work.tokens, ignore_eos=True)
        for place in range(len(work.prompts))
    ]
    with Engine(
        work.model,
        dtype=dtype,
        quantization=quantization,
        max_running=work.batch,
        expert_offload=budget,
        progress=ProgressBars(),
    ) as engine:
        routes = record(engine, work.model, list(work.prompts), params)
    write_routes(work.out, routes)
    size = work.out.stat().st_size / 1e6
    return (
        f"{work.out}: {len(routes):,} steps, {len(routes.tokens):,} tokens of {len(work.prompts)} sequences, "
        f"{routes.model.layers} layers of {routes.model.experts} experts, {size:.1f} MB"
    )
