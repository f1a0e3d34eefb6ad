import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.core.errors import InvalidArgument
from triptych.core.sampling import MAX_CHOICES, MAX_LOGPROBS, SamplingParams
from triptych.inference.v1 import sampling_pb2 as pb
from triptych.wire.sampling import sampling_from_proto, sampling_to_proto

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)

PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.none() | st.integers(1, 2**31 - 1),
    stop=st.lists(TEXT, max_size=4).map(tuple),
    stop_token_ids=st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple),
    ignore_eos=st.booleans(),
    min_tokens=st.integers(0, 100),
    skip_special_tokens=st.booleans(),
    n=st.integers(1, MAX_CHOICES),
    repetition_penalty=st.none() | st.floats(0.1, 10.0),
    presence_penalty=st.floats(-2.0, 2.0),
    frequency_penalty=st.floats(-2.0, 2.0),
    temperature=st.none() | st.floats(0.0, 2.0),
    top_k=st.none() | st.integers(0, 1000),
    top_p=st.none() | st.floats(0.01, 1.0),
    min_p=st.none() | st.floats(0.0, 1.0),
    seed=st.none() | st.integers(0, 2**64 - 1),
    logprobs=st.none() | st.integers(0, MAX_LOGPROBS),
)


@given(PARAMS)
def test_sampling_survives_the_wire(params: SamplingParams) -> None:
    raw = sampling_to_proto(params).SerializeToString()
    assert sampling_from_proto(pb.SamplingParams.FromString(raw)) == params


def test_defaults_send_nothing() -> None:
    assert sampling_to_proto(SamplingParams()).SerializeToString() == b""
    assert sampling_from_proto(pb.SamplingParams()) == SamplingParams()


def test_the_neutral_value_and_unset_differ() -> None:
    neutral = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0)
    message = sampling_to_proto(neutral)
    assert [field.name for field, _ in message.ListFields()] == [
        "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
    ]  # fmt: skip
    assert sampling_from_proto(message) == neutral


def test_zero_and_unset_differ() -> None:
    message = sampling_to_proto(SamplingParams(temperature=0, logprobs=0, seed=0))
    assert message.HasField("temperature")
    assert message.HasField("logprobs")
    assert message.HasField("seed")
    assert not message.HasField("top_k")
    assert sampling_from_proto(message) == SamplingParams(temperature=0, logprobs=0, seed=0)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.SamplingParams(stop=[b"ok", b"\xff\xfe"]), "sampling.stop[1]"),
        (pb.SamplingParams(stop=[b""]), "sampling.stop"),
        (pb.SamplingParams(temperature=-1), "sampling.temperature"),
        (pb.SamplingParams(temperature=math.nan), "sampling.temperature"),
        (pb.SamplingParams(top_p=0), "sampling.top_p"),
        (pb.SamplingParams(top_k=-1), "sampling.top_k"),
        (pb.SamplingParams(max_tokens=0), "sampling.max_tokens"),
        (pb.SamplingParams(presence_penalty=math.inf), "sampling.presence_penalty"),
        (pb.SamplingParams(logprobs=21), "sampling.logprobs"),
        (pb.SamplingParams(n=0), "sampling.n"),
        (pb.SamplingParams(min_tokens=-1), "sampling.min_tokens"),
        (pb.SamplingParams(stop_token_ids=[-1]), "sampling.stop_token_ids"),
    ],
)
def test_a_wrong_value_is_refused_by_name(message: pb.SamplingParams, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        sampling_from_proto(message)
    assert caught.value.field == field


def test_a_stop_text_that_is_not_unicode_is_not_sent() -> None:
    with pytest.raises(InvalidArgument, match="UTF-8") as caught:
        sampling_to_proto(SamplingParams(stop=("ok", "\ud800")))
    assert caught.value.field == "sampling.stop[1]"
