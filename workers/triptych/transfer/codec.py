"""Frames as bytes: a fixed header, a small JSON body, then perhaps a payload that only the header announces. Pure.

    magic "TPTX" · version u8 · kind u8 · reserved u16 · body length u32 · payload length u64 · body · payload

Whatever arrives may have been sent by a stranger: every size and every field is checked before it is used.
"""

import dataclasses
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from triptych.core.errors import InvalidArgument
from triptych.transfer.backend import TransferBackend
from triptych.transfer.frames import MAX_TEXT, Ack, Chunk, Fetch, Found, Frame, Hello, Nak, Refusal, Welcome
from triptych.transfer.geometry import PoolGeometry
from triptych.transfer.heads import Heads
from triptych.transfer.runs import Run
from triptych.transfer.segment import SegmentRef

_HEADER = struct.Struct("!4sBBHIQ")
_MAGIC = b"TPTX"
_VERSION = 2
HEADER_BYTES = _HEADER.size
MAX_BODY_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 1 << 40
_KINDS: tuple[type[Frame], ...] = (Hello, Welcome, Chunk, Ack, Nak, Refusal, Fetch, Found)


@dataclass(frozen=True, slots=True)
class Header:
    """A checked frame header."""

    kind: int
    body_bytes: int
    payload_bytes: int


def encode(frame: Frame, payload_bytes: int = 0) -> bytes:
    """Header and body; the caller sends the payload after them.

    Raises:
        InvalidArgument: The body is longer than the limit.
    """
    body = json.dumps(frame, default=_plain, separators=(",", ":")).encode()
    if len(body) > MAX_BODY_BYTES:
        raise InvalidArgument(f"a transfer frame may describe {MAX_BODY_BYTES} bytes, got {len(body)}")
    kind = _KINDS.index(type(frame))
    return _HEADER.pack(_MAGIC, _VERSION, kind, 0, len(body), payload_bytes) + body


def _plain(value: object) -> object:
    if isinstance(value, Run):
        return [value.start, value.count]
    if isinstance(value, Heads):
        return [value.first, value.count]
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} does not travel")


def decode_header(data: bytes | bytearray) -> Header:
    """Reads `HEADER_BYTES` bytes.

    Raises:
        InvalidArgument: They are no header of ours, or announce more than the limits.
    """
    magic, version, kind, _, body_bytes, payload_bytes = _HEADER.unpack(data)
    if magic != _MAGIC or version != _VERSION:
        raise InvalidArgument(f"not a transfer frame of version {_VERSION}: it starts with {bytes(data[:5])!r}")
    if kind >= len(_KINDS) or body_bytes > MAX_BODY_BYTES or payload_bytes > MAX_PAYLOAD_BYTES:
        raise InvalidArgument(f"no such transfer frame: kind {kind}, {body_bytes} + {payload_bytes} bytes")
    return Header(kind, body_bytes, payload_bytes)


def decode_body(kind: int, data: bytes | bytearray) -> Frame:
    """Reads a body.

    Raises:
        InvalidArgument: A field is missing or has the wrong type or range.
    """
    try:
        return _DECODERS[_KINDS[kind]](_Fields(json.loads(data)))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the body of a transfer frame cannot be read: {error}") from error


class _Fields:
    """A JSON object from a stranger; reads typed fields or raises ValueError."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise ValueError("not an object")
        self._values = cast(dict[str, object], value)

    def text(self, name: str) -> str:
        value = self._values.get(name)
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            raise ValueError(f"{name} must be a text of at most {MAX_TEXT} characters")
        return value

    def count(self, name: str) -> int:
        return _count(self._values.get(name), name)

    def flag(self, name: str) -> bool:
        value = self._values.get(name)
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false")
        return value

    def backend(self) -> TransferBackend:
        return TransferBackend(self.text("backend"))

    def geometry(self) -> PoolGeometry:
        inner = _Fields(self._values.get("geometry"))
        return PoolGeometry(
            inner.count("layers"),
            inner.count("blocks"),
            inner.count("page_bytes"),
            inner.heads(),
            inner.count("sides"),
        )

    def segment(self) -> SegmentRef | None:
        if self._values.get("segment") is None:
            return None
        inner = _Fields(self._values["segment"])
        token = bytes.fromhex(inner.text("token")).hex()
        return SegmentRef(
            inner.text("host_id"), inner.count("pid"), inner.count("descriptor"), token, inner.count("size")
        )

    def runs(self) -> tuple[Run, ...]:
        values = self._values.get("runs")
        if not isinstance(values, list):
            raise ValueError("runs must be a list")
        return tuple(Run(*_pair(value, "a run")) for value in values)

    def heads(self) -> Heads:
        return Heads(*_pair(self._values.get("heads"), "heads"))


def _pair(value: object, name: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{name} must be [first, count]")
    return _count(value[0], "first"), _count(value[1], "count")


def _count(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise ValueError(f"{name} must be a whole number below 2^64")
    return value


_DECODERS: dict[type[Frame], Callable[[_Fields], Frame]] = {
    Hello: lambda f: Hello(f.backend(), f.text("host_id"), f.geometry(), f.segment()),
    Welcome: lambda f: Welcome(f.backend()),
    Chunk: lambda f: Chunk(
        f.text("ticket_id"), f.count("first"), f.runs(), f.flag("last"), f.count("checksum"), f.heads()
    ),
    Ack: lambda f: Ack(f.text("ticket_id"), f.count("first")),
    Nak: lambda f: Nak(f.text("ticket_id"), f.count("first")),
    Refusal: lambda f: Refusal(f.count("code"), f.text("message")),
    Fetch: lambda f: Fetch(f.text("incarnation"), f.text("content_hash"), f.backend(), f.text("host_id")),
    Found: lambda f: Found(f.count("size"), f.count("checksum"), f.segment()),
}
