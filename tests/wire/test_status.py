import random

import grpc
import pytest

from tests.support.seeds import drawn_seed
from triptych.core import errors
from triptych.core.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    PromptTooLong,
    ResourceExhausted,
    TriptychError,
    Unavailable,
    Unimplemented,
)
from triptych.wire.status import error_from_rpc, status_from_error

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TriptychError)]


class FakeRpcError(grpc.RpcError):
    def __init__(
        self, code: grpc.StatusCode, details: str | None, metadata: tuple[tuple[str, str | bytes], ...] | None = ()
    ) -> None:
        self._status = code, details, metadata

    def code(self) -> grpc.StatusCode:
        return self._status[0]

    def details(self) -> str | None:
        return self._status[1]

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...] | None:  # type: ignore[override]
        return self._status[2]


def carried(error: TriptychError) -> TriptychError:
    status = status_from_error(error)
    rpc_error = FakeRpcError(status.code, status.details, status.trailing_metadata)
    return error_from_rpc(rpc_error, address="host:1")


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_keeps_its_type_and_its_fields(kind: type[TriptychError]) -> None:
    plain = carried(kind("broken"))
    assert type(plain) is kind
    assert (plain.message, plain.field, plain.request_id, plain.retry_after) == ("broken", "", "", None)
    full = carried(kind("bröken", field="sampling.stop[1]", request_id="r-7", retry_after=0.125))
    assert type(full) is kind
    assert (full.message, full.field, full.request_id, full.retry_after) == (
        "bröken",
        "sampling.stop[1]",
        "r-7",
        0.125,
    )


def test_a_retry_at_once_is_not_no_retry() -> None:
    assert carried(ResourceExhausted("full", retry_after=0)).retry_after == 0.0


def test_every_code_has_at_most_one_plain_class() -> None:
    assert {kind.code for kind in KINDS} <= {code.value[0] for code in grpc.StatusCode}
    assert errors.error_class(PromptTooLong.code) is errors.InvalidArgument


@pytest.mark.parametrize("letter", ["a", "é", "€", "😀"])
def test_a_status_fits_the_trailers_of_grpc(letter: str) -> None:
    long = letter * 5000
    status = status_from_error(Internal(long, field=long, request_id=long, retry_after=1))
    percent_encoded = 3 * len(status.details.encode()) if letter != "a" else len(status.details)
    ((_, details),) = status.trailing_metadata
    assert percent_encoded + len(details) * 4 / 3 < 8000
    assert status.details.endswith("…")
    assert carried(Internal(long)).message == status.details


def test_text_that_is_not_unicode_does_not_lose_the_error() -> None:
    assert carried(Internal("half a \ud83d pair")).message == "half a ? pair"


@pytest.mark.parametrize(
    ("code", "details", "kind", "sentence"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Connection refused", Unavailable, "host:1 cannot be reached"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", DeadlineExceeded, "host:1 did not finish"),
        (grpc.StatusCode.CANCELLED, "Locally cancelled by application!", Cancelled, "was cancelled"),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", Unimplemented, "host:1 does not serve this call"),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "CLIENT: Sent message larger than max (68157447 vs. 67108864)",
            ResourceExhausted,
            r"has 68157447 bytes; the limit is 67108864 bytes \(64 MiB\)",
        ),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many pings", ResourceExhausted, "Too many pings"),
        (grpc.StatusCode.INTERNAL, None, Internal, "host:1 failed: INTERNAL"),
        (grpc.StatusCode.UNKNOWN, "Exception calling application", TriptychError, "Exception calling application"),
        (grpc.StatusCode.PERMISSION_DENIED, "no", TriptychError, "no"),
    ],
)
def test_a_transport_failure_is_a_plain_sentence(
    code: grpc.StatusCode, details: str | None, kind: type[TriptychError], sentence: str
) -> None:
    for metadata in ((), None):
        error = error_from_rpc(FakeRpcError(code, details, metadata), address="host:1", request_id="r1")
        assert type(error) is kind
        assert error.request_id == "r1"
        with pytest.raises(kind, match=sentence):
            raise error


def test_garbage_in_the_details_is_ignored() -> None:
    seed = drawn_seed()
    noise = b"\xff" + random.Random(seed).randbytes(40)
    error = FakeRpcError(grpc.StatusCode.INTERNAL, "broken", (("grpc-status-details-bin", noise),))
    assert error_from_rpc(error, address="host:1").message == "broken"
