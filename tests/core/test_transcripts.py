"""The life of requests as text: what happens (>), what the router does (<), and what it then knows (=).

Run as a program, this file writes the answers of `transcripts/*.txt` anew: read the difference before committing it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import assert_never

import pytest

from triptych.core import errors
from triptych.core import events as ev
from triptych.core.errors import TriptychError
from triptych.core.generation import FinishReason, GeneratedToken, OperationKey
from triptych.core.plan import Plan
from triptych.core.request import Decoding, Encoding, Ended, Record, step

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    assert replay(path.read_text()) == path.read_text()


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 12


def replay(text: str) -> str:
    """The transcript with its answers computed anew; comments and events are taken over."""
    record = Record(OperationKey("r"))
    lines = []
    for line in text.splitlines():
        if line.startswith(">"):
            record, actions = step(record, read_event(line.removeprefix(">").strip()))
            lines += [line, *(f"< {show_action(action)}" for action in actions), f"= {show_record(record)}"]
        elif not line.startswith(("<", "=")):
            lines.append(line)
    return "\n".join(lines) + "\n"


def read_event(line: str) -> ev.Event:
    """One event, such as `dispatched E1,E2 P1 D1`, `tokens 7 8 stop` or `failed P1 Internal why`."""
    match line.split():
        case ["dispatched", encode, prefill, decode]:
            return ev.Dispatched(Plan(() if encode == "-" else tuple(encode.split(",")), prefill, decode, "test"))
        case ["encoded", *indices]:
            return ev.ImagesEncoded(frozenset(map(int, indices)))
        case ["reserved"]:
            return ev.BlocksReserved()
        case ["tokens", *tokens, ("stop" | "length") as reason]:
            return ev.TokensArrived(_tokens(tokens), FinishReason(reason))
        case ["tokens", *tokens]:
            return ev.TokensArrived(_tokens(tokens), None)
        case ["kv"]:
            return ev.KvArrived()
        case ["stop-text"]:
            return ev.StopTextFound()
        case ["failed", worker, kind, *message]:
            return ev.StageFailed(worker, _error(kind, message))
        case ["abandoned", kind, *message]:
            return ev.Abandoned(_error(kind, message))
        case ["lost", worker]:
            return ev.WorkerLost(worker)
        case ["freed", worker]:
            return ev.HolderFreed(worker)
    raise ValueError(f"no event: {line}")


def show_action(action: ev.Action) -> str:
    """One action in words."""
    match action:
        case ev.SendEncode(worker, indices):
            return f"{worker}: encode images {_words(indices)}"
        case ev.SendReserve(worker):
            return f"{worker}: reserve"
        case ev.SendPrefill(worker, with_ticket):
            return f"{worker}: prefill" + (", send the KV away" if with_ticket else "")
        case ev.SendDecode(worker):
            return f"{worker}: decode"
        case ev.SendFree(worker):
            return f"{worker}: free"
        case ev.Deliver(tokens):
            return f"client: {_words(t.token_id for t in tokens)}"
        case ev.End(outcome):
            return f"client: end, {show_outcome(outcome)}"
        case unknown:
            assert_never(unknown)


def show_outcome(outcome: FinishReason | TriptychError) -> str:
    """Why a request ended."""
    return str(outcome) if isinstance(outcome, FinishReason) else f"{type(outcome).__name__} ({outcome})"


def show_record(record: Record) -> str:
    """What the router knows of the request."""
    match record.state:
        case Encoding(_, missing):
            state = f"encoding, {len(missing)} missing"
        case Decoding(_, awaits_kv):
            state = "decoding" + (", KV under way" if awaits_kv else "")
        case Ended(outcome):
            state = f"ended, {outcome if isinstance(outcome, FinishReason) else type(outcome).__name__}"
        case other:
            state = type(other).__name__.lower()
    parts = [state, "KV early" if record.early_kv and not isinstance(record.state, Decoding | Ended) else ""]
    parts += [f"held by {_words(sorted(record.holders))}" if record.holders else ""]
    parts += [f"being freed by {_words(sorted(record.freeing))}" if record.freeing else ""]
    parts += ["closed" if record.closed else ""]
    return "; ".join(part for part in parts if part)


def _words(words: Iterable[object]) -> str:
    return " ".join(map(str, words))


def _tokens(words: list[str]) -> tuple[GeneratedToken, ...]:
    return tuple(GeneratedToken(int(word)) for word in words)


def _error(kind: str, message: list[str]) -> TriptychError:
    error: TriptychError = getattr(errors, kind)(" ".join(message))
    return error


if __name__ == "__main__":
    for file in TRANSCRIPTS:
        file.write_text(replay(file.read_text()))
