"""The life of requests as text: what happens (>), what the router does (<), and what it then knows (=).

Run as a program, this file writes the answers of `transcripts/*.txt` anew: read the difference before committing it.
`transcripts/README.md` says how to read them, and in which order.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, assert_never

import pytest

from triptych.core import errors
from triptych.core.errors import TriptychError
from triptych.core.generation import FinishReason, GeneratedToken, OperationKey
from triptych.core.plan import Plan
from triptych.core.request import Record, Terms, accepted, step, wakeup
from triptych.core.request import actions as do
from triptych.core.request import events as ev
from triptych.core.request.record import Away, Gone, Holding, Present
from triptych.core.request.states import Encoding, Ended, Failed, Finished, Prefilling

FOLDER = Path(__file__).parent / "transcripts"
TRANSCRIPTS = sorted(FOLDER.glob("*.txt"))
PLAN: Final = re.compile(r"(?:(.+) encodes?, )?(\S+) prefills(?:, (\S+) decodes| and decodes)")
TERMS: Final = {"deadline": "deadline", "retries": "max_failures", "patience": "patience", "linger": "linger"}


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# "), "say what it teaches"
    assert replay(text) == text


def test_the_tour_leads_past_every_transcript_once() -> None:
    named = re.findall(r"\((\w+\.txt)\)", (FOLDER / "README.md").read_text())
    assert sorted(named) == [path.name for path in TRANSCRIPTS]


def replay(text: str) -> str:
    """The transcript with its answers computed anew; comments and events are taken over."""
    record = accepted(OperationKey("r"), Terms(), 0.0)
    now, lines, actions = 0.0, list[str](), tuple[do.Action, ...]()
    for line in text.splitlines():
        if line.startswith(">"):
            timed = re.fullmatch(r"> (?:at ([\d.]+) s: )?(.+)", line)
            assert timed, line
            now = float(timed[1] or now)
            if timed[2].startswith("accepted"):
                record, actions = _accepted(timed[2], now), ()
            else:
                record, actions = step(record, read_event(timed[2], record.terms), now)
            lines += [line, *(f"< {show_action(action, record)}" for action in actions), f"= {show_record(record)}"]
        elif not line.startswith(("<", "=")):
            lines.append(line)
    return "\n".join(lines) + "\n"


def read_event(line: str, terms: Terms) -> ev.Event:
    """One event, such as `placed: P1 prefills, D1 decodes`, `D1#0: tokens 8 9 at 1, stop` or `D1 lost`."""
    match line.split():
        case ["placed:", *_]:
            parts = PLAN.fullmatch(line.removeprefix("placed: "))
            assert parts, line
            return ev.Dispatched(Plan(tuple((parts[1] or "").split()), parts[2], parts[3] or parts[2], "test"))
        case [worker, "lost"]:
            return ev.WorkerLost(worker)
        case [worker, "drained"]:
            return ev.WorkerDrained(worker)
        case ["client", "left:", kind, *message]:
            return ev.ClientLeft(_error(kind, message))
        case ["client", "has", "the", "end"]:
            return ev.ClientLeft(None)
        case ["client", "returned"]:
            return ev.ClientReturned(terms)
        case ["completed:", reason]:
            return ev.Completed(FinishReason(reason))
        case ["abandoned:", kind, *message]:
            return ev.Abandoned(_error(kind, message))
        case ["time", "passes"]:
            return ev.TimePassed()
        case [holder, *words] if parts := re.fullmatch(r"(\w+)#(\d+):", holder):
            return _said(parts[1], int(parts[2]), words)
    raise ValueError(f"no event: {line}")


def _said(worker: str, epoch: int, words: list[str]) -> ev.FromWorker:
    match words:
        case ["encoded", *indices]:
            return ev.ImagesEncoded(worker, epoch, frozenset(map(int, indices)))
        case ["reserved"]:
            return ev.BlocksReserved(worker, epoch)
        case ["tokens", *ids, "at", first]:
            return ev.TokensArrived(worker, epoch, int(first), _tokens(ids), None)
        case ["tokens", *ids, "at", first, reason]:
            return ev.TokensArrived(worker, epoch, int(first.rstrip(",")), _tokens(ids), FinishReason(reason))
        case ["has", "all", "KV"]:
            return ev.KvArrived(worker, epoch)
        case ["failed:", kind, *message]:
            return ev.StageFailed(worker, epoch, _error(kind, message))
        case ["freed"]:
            return ev.HolderFreed(worker, epoch)
    raise ValueError(f"no worker says: {_words(words)}")


def show_action(action: do.Action, record: Record) -> str:
    """One action in words; `record` is that after it."""
    match action:
        case do.Place():
            return f"find workers for attempt {record.key.epoch}"
        case do.Deliver(tokens):
            return f"client: {_words(t.token_id for t in tokens)}"
        case do.End(outcome):
            return f"client: end, {show_outcome(outcome)}"
        case do.SendEncode(_, _, indices):
            what = f"encode {_words(indices)}"
        case do.SendReserve(_, _, emitted):
            what = f"reserve ({_length(emitted)})"
        case do.SendPrefill(_, _, emitted, with_ticket):
            what = f"prefill ({_length(emitted)})" + (", send the KV away" if with_ticket else "")
        case do.SendDecode(_, _, emitted):
            what = f"decode from token {emitted}"
        case do.SendFree():
            what = "free"
        case unknown:
            assert_never(unknown)
    return f"{action.worker_id}#{action.epoch}: {what}"


def show_outcome(outcome: FinishReason | TriptychError) -> str:
    """Why a request ended."""
    return str(outcome) if isinstance(outcome, FinishReason) else f"{type(outcome).__name__} ({outcome})"


def show_record(record: Record) -> str:
    """What the router knows of the request."""
    match record.state:
        case Encoding(_, missing):
            state = f"encoding, {len(missing)} missing"
        case Prefilling(_, kv_arrived):
            state = "prefilling" + (", KV first" if kv_arrived else "")
        case Finished(reason):
            state = f"finished, {reason}"
        case Failed(error):
            state = f"failed, {type(error).__name__}"
        case other:
            state = type(other).__name__.lower()
    past, due = record.past, wakeup(record)
    failures = f"{past.failures} failed attempt" + ("s" if past.failures > 1 else "")
    parts = [state, *([_count(record.emitted)] if record.emitted else [])]
    parts += [f"{failures}, at {_words(sorted(past.avoid))}"] if past.failures else []
    parts += [f"held by {_holders(record.holders)}"] if record.holders else []
    parts += [f"being freed by {_holders(record.freeing)}"] if record.freeing else []
    parts += _client(record)
    parts += [f"due at {due:g} s"] if due is not None else []
    return "; ".join(parts)


def _client(record: Record) -> list[str]:
    match record.client:
        case Away():
            return ["client away"]
        case Present():
            return ["kept for its client"] if isinstance(record.state, Ended) else []
        case Gone():
            return ["closed"] if record.closed else []
        case unknown:
            assert_never(unknown)


def _accepted(line: str, now: float) -> Record:
    """Such as `accepted; deadline 30; retries 1; linger 10; emitted 2`."""
    _, *parts = line.split("; ")
    said = {name: float(value) for name, value in (part.split() for part in parts)}
    emitted = int(said.pop("emitted", 0))
    terms = Terms(**{TERMS[name]: value for name, value in said.items()})  # type: ignore[arg-type]
    return accepted(OperationKey("r"), terms, now, emitted)


def _count(tokens: int) -> str:
    return f"{tokens} token" + ("s" if tokens > 1 else "")


def _length(emitted: int) -> str:
    return "prompt" + (f" + {_count(emitted)}" if emitted else "")


def _holders(holdings: Iterable[Holding]) -> str:
    return _words(f"{worker}#{epoch}" for worker, epoch in sorted(holdings))


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
