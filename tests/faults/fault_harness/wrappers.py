"""Puts traps around what a worker does. Nothing in the worker's own code knows of them."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from fault_harness.traps import Deed, Point, TrapDoor, end_or_halt

from triptych.engine.core import EngineCore
from triptych.models.towers.encoder import VisionEncoder
from triptych.transfer.codec import encode
from triptych.transfer.connection import Connection
from triptych.transfer.frames import Chunk, Found, Frame
from triptych.transfer.heads import Heads
from triptych.transfer.pages import Pages
from triptych.transfer.runs import Run, block_count, runs_of
from triptych.transfer.source import SharedSource, StreamSource


def install(door: TrapDoor) -> None:
    """From now on the process steps into the trap of `door`."""
    _wrap(VisionEncoder, "encode", lambda original: _encode(original, door))
    _wrap(EngineCore, "step", lambda original: _step(original, door))
    _wrap(Connection, "send", lambda original: _send(original, door))
    for source in (SharedSource, StreamSource):
        _wrap(source, "write_into", lambda original: _copy(original, door))
    # `triptych.transfer.pull` is also the name of a function of the package.
    _wrap(import_module("triptych.transfer.pull"), "_copy_shared", lambda original: _copy_shared(original, door))


def _wrap(owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
    setattr(owner, name, wrapper(getattr(owner, name)))


def _encode(original: Any, door: TrapDoor) -> Any:
    def wrapped(self: VisionEncoder, images: Any) -> Any:
        found = original(self, images)
        end_or_halt(door.visit(Point.ENCODE))
        return found

    return wrapped


def _step(original: Any, door: TrapDoor) -> Any:
    def wrapped(self: EngineCore, *arguments: Any) -> Any:
        outcome = original(self, *arguments)
        if outcome and any(c.sequence.computed < c.sequence.prompt_length for c in outcome.plan.prompts):
            end_or_halt(door.visit(Point.CHUNK))
        if outcome and outcome.plan.decodes:
            end_or_halt(door.visit(Point.DECODE))
        return outcome

    return wrapped


def _send(original: Any, door: TrapDoor) -> Any:
    """A frame with payload goes out damaged or by half; one without (shared memory) goes out before the deed."""

    def wrapped(self: Connection, frame: Frame, payload: Sequence[memoryview] = ()) -> int:
        point = Point.SEND if isinstance(frame, Chunk) else Point.FETCH if isinstance(frame, Found) else None
        deed = door.visit(point) if point else None
        if deed is None:
            return int(original(self, frame, payload))
        if not payload:
            calls = original(self, frame)
            end_or_halt(deed)
            return int(calls)
        data = bytearray(b"".join(payload))
        if deed is Deed.DAMAGE:
            data[len(data) // 2] ^= 1
            return int(original(self, frame, [memoryview(data)]))
        self._socket.sendall(encode(frame, len(data)) + data[: len(data) // 2])
        end_or_halt(deed)
        if deed is Deed.TRUNCATE:
            self.cut()
            return 1
        self._socket.sendall(data[len(data) // 2 :])
        return 1

    return wrapped


def _copy(original: Any, door: TrapDoor) -> Any:
    """The first half of a chunk's blocks is copied; then comes the deed, then the rest."""

    def wrapped(self: Any, target: Pages, source: Sequence[Run], runs: Sequence[Run], heads: Heads) -> Any:
        deed = door.visit(Point.COPY)
        if deed is not None and isinstance(self, SharedSource):
            done = original(self, target, _half(source), _half(runs), heads)
            if deed is Deed.TRUNCATE:
                return done
        end_or_halt(deed)
        counts = original(self, target, source, runs, heads)
        if deed is Deed.DAMAGE:
            target.pieces(runs, heads)[0][0] ^= 1
        return counts

    return wrapped


def _half(runs: Sequence[Run]) -> tuple[Run, ...]:
    blocks = [block for run in runs for block in range(run.start, run.start + run.count)]
    return runs_of(blocks[: block_count(runs) // 2])


def _copy_shared(original: Any, door: TrapDoor) -> Any:
    def wrapped(*arguments: Any) -> Any:
        array = original(*arguments)
        deed = door.visit(Point.PULL)
        end_or_halt(deed)
        if deed is Deed.DAMAGE:
            array[len(array) // 2] ^= 1
        return array[: len(array) // 2] if deed is Deed.TRUNCATE else array

    return wrapped
