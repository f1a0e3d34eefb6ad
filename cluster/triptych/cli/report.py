"""Errors as people read them: one line that begins with "error:", and what to do about it."""

import sys
import tempfile
import traceback
from typing import Final

from triptych.core.errors import FailedPrecondition, PromptTooLong, ResourceExhausted, TriptychError, Unavailable

_HINTS: Final[dict[type[TriptychError], str]] = {
    Unavailable: "start a cluster with `triptych serve`, or name a running one with --address or TRIPTYCH_ADDRESS",
    PromptTooLong: "shorten the conversation, or ask for fewer tokens with --max-tokens",
}


def report_error(error: TriptychError) -> None:
    """Writes an error to standard error."""
    print("\n".join(error_lines(error)), file=sys.stderr)


def report_defect(error: Exception) -> None:
    """Writes an error that should not have come this far; its traceback goes to a file."""
    with tempfile.NamedTemporaryFile("w", prefix="triptych-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    print(f"error: a defect of triptych: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"  hint: please report it together with {file.name}", file=sys.stderr)


def error_lines(error: TriptychError) -> list[str]:
    """The message, then the field, the request and a hint, as far as they are known."""
    first, *rest = [" ".join(line.split()) for line in error.message.splitlines() if line.strip()] or [""]
    extra = {"field": error.field, "request": error.request_id, "hint": _hint(error)}
    return [
        f"error: {first}",
        *(f"  {line}" for line in rest),
        *(f"  {name}: {text}" for name, text in extra.items() if text),
    ]


def _hint(error: TriptychError) -> str:
    match error:
        case FailedPrecondition(field="router.grpc"):
            return "choose another address with --grpc HOST:PORT"
        case Unavailable(field=str(field)) if field:  # something that a start needs, not a cluster that is called
            return ""
        case ResourceExhausted(retry_after=float() | int() as seconds):
            return f"try again in {seconds:g} s"
        case _:
            return _HINTS.get(type(error), "")
