"""Shows an answer while it arrives."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from rich.console import Console

from triptych.cli.timeline import render_timeline
from triptych.client import ChatMessage, Client, FinishReason, Generation, ModelInfo, SamplingParams

# A model may say anything, and a terminal obeys escape sequences: control characters are shown as a replacement.
_CONTROLS: Final = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)
}


CALM: Final = 0.2
"""Temperature of a talk with a model that names none: small models ramble at 1."""


def calm(sampling: SamplingParams, models: Sequence[ModelInfo]) -> SamplingParams:
    """With `CALM` where no model has a temperature of its own."""
    named = any(model.default_sampling.temperature is not None for model in models)
    return sampling if named else replace(sampling, temperature=CALM)


@dataclass(frozen=True, slots=True)
class Shown:
    """What the user has seen; `stopped` when Ctrl-C ended it."""

    text: str
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Answerer:
    """Asks a cluster and writes its answers to a console."""

    client: Client
    console: Console
    sampling: SamplingParams
    model: str
    timeline: bool
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, messages: Sequence[ChatMessage]) -> Shown:
        """Shows the answer to a conversation; Ctrl-C ends the request and keeps what has been said.

        Raises:
            TriptychError: the request failed.
        """
        pieces: list[str] = []
        begun = time.perf_counter()
        first = begun
        stream = self.client.stream(
            messages, sampling=self.sampling, model=self.model, chat_template_kwargs=self.template_kwargs
        )
        try:
            with stream, self.console.status("waiting for the first token") as waiting:
                for chunk in stream:
                    if chunk.text:
                        waiting.stop()
                        first = first if pieces else time.perf_counter()
                        pieces.append(chunk.text)
                        self._write(chunk.text)
                generation = stream.result()
        except KeyboardInterrupt:
            return Shown("".join(pieces), stopped=True)
        finally:
            self._end_line(pieces)
        self._report(generation, first - begun, time.perf_counter() - first)
        return Shown(generation.text)

    def _write(self, text: str) -> None:
        self.console.file.write(text.translate(_CONTROLS) if self.console.is_terminal else text)
        self.console.file.flush()

    def _end_line(self, pieces: list[str]) -> None:
        if pieces and not pieces[-1].endswith("\n"):
            self._write("\n")

    def _report(self, generation: Generation, wait: float, rest: float) -> None:
        tokens = generation.usage.completion_tokens
        if generation.finish_reason is FinishReason.LENGTH:
            print(f"note: the answer stops at {tokens} tokens; --max-tokens allows more", file=sys.stderr)
        if self.console.is_terminal:
            pace = f", then {(tokens - 1) / rest:.1f} a second" if tokens > 1 and rest > 0 else ""
            self.console.print(f"{tokens} tokens, the first after {wait:.2f} s{pace}", style="dim")
        if self.timeline:
            chart = render_timeline(generation.timeline, width=self.console.width)
            self.console.print(chart, markup=False, soft_wrap=True)
