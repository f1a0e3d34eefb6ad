"""`triptych models check`: whether a model can be served on this machine, and what it would take."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from triptych.cli.models.mixture import MixtureReport, mixture_lines
from triptych.core.sizes import show_bytes


@dataclass(frozen=True, slots=True)
class StageMemory:
    """What the workers of a stage take beside the weights that they share.

    Attributes:
        stage: encode, prefill or decode.
        workers: How many.
        bytes: Of each: its process, its KV cache, its vision tower.
    """

    stage: str
    workers: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """What is said of a model.

    Attributes:
        model: As it was asked for.
        architecture: As its config calls it.
        takes: What a prompt may hold.
        context_length: Tokens of prompt and answer.
        dtype: Element type of the computation.
        quantization: Form of the language model's matrices.
        parameters: Of the language model.
        step_parameters: Of them, what a step of one row reads.
        weights_bytes: Of the language model in memory, shared by the workers of a host.
        vision_bytes: Of the vision tower.
        kv_token_bytes: What the cache keeps of one token.
        stages: What the workers take besides.
        available_bytes: Free memory of this machine.
        fits_tokens: Tokens that the cache of a default worker holds.
        decode_tokens_per_second: At most, for one request alone: its bytes over the measured bandwidth.
        prefill_tokens_per_second: At most: its operations over the measured rate of matrix products.
        notes: What a user should know.
        mixture: Of its experts, where it has any.
    """

    model: str
    architecture: str
    takes: tuple[str, ...]
    context_length: int
    dtype: str
    quantization: str
    parameters: int
    step_parameters: int
    weights_bytes: int
    vision_bytes: int
    kv_token_bytes: int
    stages: tuple[StageMemory, ...]
    available_bytes: int
    fits_tokens: int
    decode_tokens_per_second: float
    prefill_tokens_per_second: float
    notes: tuple[str, ...]
    mixture: MixtureReport | None = None

    @property
    def needed_bytes(self) -> int:
        """Of all workers together."""
        return self.weights_bytes + sum(stage.workers * stage.bytes for stage in self.stages)

    @property
    def fits_whole(self) -> bool:
        """Whether all workers do, with all experts."""
        return self.needed_bytes <= self.available_bytes

    @property
    def fits(self) -> bool:
        """Whether all workers do, perhaps with a part of the experts each."""
        return self.fits_whole or (self.mixture is not None and self.mixture.auto == "part")


@dataclass(frozen=True, slots=True)
class EmbeddingReport:
    """What is said of a model that gives embeddings.

    Attributes:
        model: As it was asked for.
        architecture: As its config calls it.
        size: Numbers of a vector.
        pooling: How the rows of a text become one.
        normalised: Whether vectors have length 1.
        max_tokens: Tokens of a text.
        dtype: Element type of the computation.
        parameters: Of encoder and what follows.
        weights_bytes: Of them in memory, shared by the workers of a host.
        available_bytes: Free memory of this machine.
        tokens_per_second: At most: its operations over the measured rate of matrix products.
    """

    model: str
    architecture: str
    size: int
    pooling: str
    normalised: bool
    max_tokens: int
    dtype: str
    parameters: int
    weights_bytes: int
    available_bytes: int
    tokens_per_second: float

    @property
    def fits_whole(self) -> bool:
        """Whether its weights do."""
        return self.weights_bytes <= self.available_bytes

    @property
    def fits(self) -> bool:
        """The same: it has no part that could be left out."""
        return self.fits_whole


def check(
    model: Annotated[str, typer.Argument(help="A folder, a .gguf file, a hub id or builtin:NAME.")],
    *,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    quantization: Annotated[str, typer.Option(help="none, int8 or gguf (blocks of a .gguf as stored).")] = "none",
    layout: Annotated[
        str, typer.Option(help="Workers of each stage, such as 1E1P1D; auto as `serve` takes it.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Of a worker; by default one per core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say whether a model can be served here, from its configuration and the headers of its files alone."""
    from triptych.cli.models.survey import survey
    from triptych.cli.progress import ProgressBars
    from triptych.experts.settings import Auto, OffloadSettings

    report = survey(model, dtype, quantization, layout, threads, OffloadSettings(budget=Auto()), ProgressBars())
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        Console().print(
            _table(_lines(report) if isinstance(report, Report) else _lines_of_embedder(report)), soft_wrap=True
        )
    if not report.fits:
        raise typer.Exit(1)


def _table(lines: Iterable[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in lines:
        table.add_row(name, text)
    return table


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    yield "model", f"{report.model} ({report.architecture})"
    yield "takes", ", ".join(report.takes)
    yield "context", f"{report.context_length:,} tokens"
    share = f", {report.step_parameters / 1e9:.2f} B of them in a step of one token"
    yield (
        "parameters",
        f"{report.parameters / 1e9:.2f} B{share if 2 * report.step_parameters < report.parameters else ''}",
    )
    yield "form", f"{report.dtype}, quantization {report.quantization}"
    yield (
        "memory",
        f"weights {show_bytes(report.weights_bytes)}, mapped once for all prefill and decode workers of a host",
    )
    for stage in report.stages:
        yield "", f"{stage.workers} {stage.stage}: {show_bytes(stage.bytes)} each besides"
    yield (
        "",
        f"KV cache {show_bytes(report.kv_token_bytes)} a token: a default worker holds {report.fits_tokens:,} tokens",
    )
    yield "this machine", _verdict(report, report.needed_bytes)
    yield (
        "decode",
        f"at most {report.decode_tokens_per_second:,.0f} tokens/s of one request (bandwidth measured now)",
    )
    yield "prefill", f"at most {report.prefill_tokens_per_second:,.0f} tokens/s (matrix products, measured now)"
    if report.mixture is not None:
        yield from mixture_lines(report.mixture)
    for note in report.notes:
        yield "note", note


def _lines_of_embedder(report: EmbeddingReport) -> Iterator[tuple[str, str]]:
    yield "model", f"{report.model} ({report.architecture})"
    yield "takes", f"texts of up to {report.max_tokens:,} tokens"
    length = ", of length 1" if report.normalised else ""
    yield "gives", f"embeddings of {report.size:,} numbers{length} (pooling: {report.pooling})"
    yield "parameters", f"{report.parameters / 1e6:.1f} M"
    yield "form", report.dtype
    yield "memory", f"weights {show_bytes(report.weights_bytes)}, mapped once for all encode workers of a host"
    yield "this machine", _verdict(report, report.weights_bytes)
    yield "speed", f"at most {report.tokens_per_second:,.0f} tokens/s (matrix products)"


def _verdict(report: Report | EmbeddingReport, needed: int) -> str:
    verdict = "fits" if report.fits_whole else "DOES NOT FIT"
    if report.fits and not report.fits_whole:
        verdict += ", but does with `experts.budget: auto`"
    return f"{show_bytes(report.available_bytes)} free, {show_bytes(needed)} needed: {verdict}"
