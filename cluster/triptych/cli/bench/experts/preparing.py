"""What has to be there before arms can be compared: the model, its packed experts, and recordings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from triptych.cli.bench.experts.serving import Machine, open_engine
from triptych.cli.bench.experts.work import Work, texts_of, walks_of
from triptych.cli.experts.packing import packed_by
from triptych.cli.experts.texts import TEXTS
from triptych.cli.progress import ProgressBars
from triptych.core.sampling import SamplingParams
from triptych.engine.route_recording import record
from triptych.experts.settings import Auto, OffloadSettings
from triptych.experts.store import open_store
from triptych.experts.traces import Routes, train, write_route_model, write_routes
from triptych.experts.warm import WarmSet, warm_path, write_warm
from triptych.models.files import ModelFiles
from triptych.models.page_cache import forget_pages
from triptych.models.progress import Progress
from triptych.models.resolve import resolve
from triptych.models.spec import read_spec
from triptych.models.synthetic import SyntheticShape, synthetic
from triptych.models.text import TextProcessor

SYNTHETIC: Final = "synthetic:"
_PAST: Final = 8  # walks, at least: a predictor is tried on some that it has not seen
_WIDEN: Final = OffloadSettings(budget=Auto()).widen


@dataclass(frozen=True, slots=True)
class Known:
    """What is known from other texts.

    Attributes:
        route: A trained predictor.
        warm: Who was needed, in a file of the benchmark's own.
        places: Where the ranks of an engine look for it; what users' engines remember is there.
    """

    route: Path
    warm: Path
    places: tuple[Path, ...]

    @property
    def past(self) -> dict[Path, bytes]:
        """As `Order.past`."""
        return dict.fromkeys(self.places, self.warm.read_bytes())


@dataclass(frozen=True, slots=True)
class Prepared:
    """What arms need.

    Attributes:
        model: As an engine takes it.
        work: What arms complete.
        routes: The recording of it.
        pack: The packed experts.
        known: From other texts; None where no arm asks.
    """

    model: str
    work: Work
    routes: Path
    pack: Path
    known: Known | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured.

    Attributes:
        model: A folder, a .gguf file, a hub id, builtin:NAME or synthetic:SIZE.
        texts: How many prompts.
        tokens: Of each answer.
        batch: Prompts that are completed together.
        threads: Of the computation.
        dtype: Of it: auto, float32 or bfloat16.
        expert_parallel: Ranks that divide the experts.
    """

    model: str
    texts: int
    tokens: int
    batch: int
    threads: int
    dtype: str = "auto"
    expert_parallel: int = 1

    @property
    def one_rank(self) -> Machine:
        """What computes where nothing is divided."""
        return Machine(self.threads, self.dtype)

    @property
    def ranks(self) -> Machine:
        """What arms compute with."""
        return Machine(self.threads, self.dtype, self.expert_parallel)


def prepare(wanted: Wanted, folder: Path, *, past: bool) -> Prepared:
    """Finds or writes the model, packs its experts, and records what arms will ask for.

    Args:
        wanted: What is to be measured.
        folder: For what is made and not kept.
        past: Whether other texts are recorded and learnt from, too.

    Raises:
        TriptychError: the model cannot be found, written, packed or run.
    """
    progress = ProgressBars()
    name, prompts = _prompts(wanted, progress)
    pack = Path(packed_by(name, wanted.dtype, "none", progress, verify=False).path)
    work, routes = Work(prompts, wanted.tokens, wanted.batch), folder / "measured.npz"
    write_routes(routes, _recorded(name, work, wanted.one_rank))
    known = None
    if past:
        others = Work(_past_prompts(wanted, name), wanted.tokens, wanted.batch)
        known = _learn(_recorded(name, others, wanted.one_rank), pack, folder, wanted.expert_parallel)
    for file in _weights(resolve(name)):
        forget_pages(file)
    return Prepared(name, work, routes, pack, known)


def _prompts(wanted: Wanted, progress: Progress) -> tuple[str, tuple[tuple[int, ...], ...]]:
    if wanted.model.startswith(SYNTHETIC):
        size = wanted.model.removeprefix(SYNTHETIC)
        return str(synthetic(size, progress=progress)), walks_of(SyntheticShape.parse(size), wanted.texts, past=False)
    return wanted.model, texts_of(_processor(resolve(wanted.model, progress=progress)), wanted.texts)


def _past_prompts(wanted: Wanted, name: str) -> tuple[tuple[int, ...], ...]:
    if wanted.model.startswith(SYNTHETIC):
        shape = SyntheticShape.parse(wanted.model.removeprefix(SYNTHETIC))
        return walks_of(shape, max(_PAST, wanted.texts), past=True)
    processor = _processor(resolve(name))
    return tuple(tuple(processor.encode(text)) for text in TEXTS)


def _processor(files: ModelFiles) -> TextProcessor:
    return TextProcessor.load(files, read_spec(files))


def _recorded(name: str, work: Work, machine: Machine) -> Routes:
    """All prompts at once, which is quicker; `replaying.as_served` has them in the order of the arms."""
    params = SamplingParams(temperature=0, repetition_penalty=1, max_tokens=work.tokens, ignore_eos=True)
    with open_engine(name, work, None, machine) as engine:
        return record(engine, name, list(work.prompts), [params] * len(work.prompts))


def _learn(routes: Routes, pack: Path, folder: Path, ranks: int) -> Known:
    route = folder / "route.safetensors"
    write_route_model(route, train([routes], _WIDEN).model)
    counted = (np.bincount(layer.ravel(), minlength=routes.model.experts) for layer in routes.ids)
    uses = tuple(tuple((count / len(routes.tokens)).tolist()) for count in counted)
    store, warm = open_store(pack), folder / "known.warm"
    write_warm(warm, store, WarmSet(uses))
    return Known(route, warm, tuple(warm_path(store, rank) for rank in range(ranks)))


def _weights(files: ModelFiles) -> list[Path]:
    return sorted(files.path.glob("*.safetensors")) if files.path.is_dir() else [files.path]
