import pytest

from triptych.core.errors import (
    DataLoss,
    Internal,
    InvalidArgument,
    PromptTooLong,
    ResourceExhausted,
    TriptychError,
    Unavailable,
)
from triptych.stage.v1 import stage_pb2 as pb
from triptych.wire.failed import failed_from_proto, failed_to_proto

KEY = pb.OperationKey(request_id="r", epoch=3)


@pytest.mark.parametrize(
    "error",
    [
        PromptTooLong("too long", field="prompt"),
        InvalidArgument("wrong", field="sampling.top_k"),
        ResourceExhausted("full", retry_after=1.25),
        Unavailable("gone", retry_after=0.0),
        DataLoss("damaged"),
        Internal("a defect"),
    ],
)
def test_a_workers_error_arrives_as_it_was_raised(error: TriptychError) -> None:
    message = pb.Failed.FromString(failed_to_proto(KEY, error).SerializeToString())
    back = failed_from_proto(message)
    assert message.key == KEY
    assert type(back) is type(error)
    assert (back.message, back.field, back.retry_after) == (error.message, error.field, error.retry_after)


def test_an_unknown_reason_leaves_the_class_to_the_code() -> None:
    back = failed_from_proto(pb.Failed(code=InvalidArgument.code, message="new", reason="NOT_YET_INVENTED"))
    assert type(back) is InvalidArgument
