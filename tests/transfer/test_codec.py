import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.core.errors import DataLoss, InvalidArgument
from triptych.transfer import Heads, PoolGeometry, SegmentRef, TransferBackend
from triptych.transfer.codec import HEADER_BYTES, MAX_BODY_BYTES, decode_body, decode_header, encode
from triptych.transfer.frames import MAX_TEXT, Ack, Chunk, Fetch, Found, Frame, Hello, Nak, Refusal, Welcome
from triptych.transfer.runs import Run

_segment = SegmentRef("host", 12, 5, "ab" * 16, 1 << 33)
_frames: list[Frame] = [
    Hello(TransferBackend.AUTO, "höst", PoolGeometry(2, 3, 4), _segment),
    Hello(TransferBackend.TCP, "host", PoolGeometry(2, 3, 16, Heads(6, 2), 2), None),
    Welcome(TransferBackend.SHARED_MEMORY),
    Chunk("t", 4, (Run(1, 2), Run(9, 1)), True, (1 << 64) - 1, Heads(3, 2)),
    Ack("t", 0),
    Nak("t", 7),
    Refusal(9, 'closed "now"'),
    Fetch("inc", "hash", TransferBackend.TCP, "host"),
    Found(10, 11, _segment),
    Found(10, 11, None),
]


@pytest.mark.parametrize("frame", _frames, ids=lambda frame: type(frame).__name__)
def test_frames_come_back_as_they_were(frame: Frame) -> None:
    data = encode(frame, payload_bytes=77)
    header = decode_header(data[:HEADER_BYTES])
    assert header.payload_bytes == 77
    assert header.body_bytes == len(data) - HEADER_BYTES
    assert decode_body(header.kind, data[HEADER_BYTES:]) == frame


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_garbage_is_no_header(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="not a transfer frame of version 2"):
        decode_header(data)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("!4sBBHIQ", b"TPTX", 3, 0, 0, 0, 0),
        struct.pack("!4sBBHIQ", b"TPTX", 2, 99, 0, 0, 0),
        struct.pack("!4sBBHIQ", b"TPTX", 2, 0, 0, MAX_BODY_BYTES + 1, 0),
        struct.pack("!4sBBHIQ", b"TPTX", 2, 0, 0, 0, 1 << 63),
    ],
)
def test_announced_sizes_and_kinds_are_bounded(header: bytes) -> None:
    with pytest.raises(InvalidArgument):
        decode_header(header)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{}", b"[" * 200_000, b'{"ticket_id":1}'])
@pytest.mark.parametrize("kind", range(8))
def test_bodies_that_are_not_ours_are_refused(kind: int, body: bytes) -> None:
    with pytest.raises(InvalidArgument):
        decode_body(kind, body)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ticket_id", "x" * (MAX_TEXT + 1)),
        ("first", -1),
        ("first", True),
        ("first", 1.5),
        ("checksum", 1 << 64),
        ("last", 1),
        ("runs", [[1]]),
        ("runs", [[1, -1]]),
        ("runs", {"a": 1}),
        ("heads", None),
        ("heads", [0]),
        ("heads", [0, 0]),
        ("heads", [-1, 1]),
    ],
)
def test_each_field_has_a_type_and_a_range(field: str, value: object) -> None:
    chunk = {"ticket_id": "t", "first": 0, "runs": [[0, 1]], "last": True, "checksum": 1, "heads": [0, 1]} | {
        field: value
    }
    with pytest.raises(InvalidArgument, match=r"must be|a run"):
        decode_body(2, json.dumps(chunk).encode())


@given(
    st.integers(0, 7), st.recursive(st.none() | st.integers() | st.text(), lambda v: st.dictionaries(st.text(), v))
)
def test_any_json_is_read_or_refused(kind: int, value: object) -> None:
    with pytest.raises(InvalidArgument):
        decode_body(kind, json.dumps(value).encode())


def test_a_frame_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(InvalidArgument, match="may describe"):
        encode(Chunk("t", 0, tuple(Run(2 * i, 1) for i in range(200_000)), True, 0, Heads(0, 1)))


def test_a_refusal_is_cut_to_what_travels() -> None:
    refusal = Refusal.of(DataLoss("x" * 10_000))
    assert refusal == Refusal(15, "x" * MAX_TEXT)
