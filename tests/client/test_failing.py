import gc
import threading
import types

import pytest

import triptych.client
from triptych.client import (
    Cancelled,
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    GenerateOptions,
    Generation,
    InvalidArgument,
    NotFound,
    PromptTooLong,
    ResourceExhausted,
    TextStream,
    TriptychError,
    Unavailable,
)
from triptych.client.testing import Fail, FakeServer, Say


def test_leaving_the_block_cancels(held_server: FakeServer, held_client: Client) -> None:
    with held_client.stream("Hi") as stream:
        assert next(stream).text == "Hel"
    assert held_server.wait_until_abandoned()


def test_cancel_ends_the_stream_with_an_error(held_server: FakeServer, held_client: Client) -> None:
    stream = held_client.stream("Hi", request_id="r1")
    next(stream)
    stream.cancel()
    assert held_server.wait_until_abandoned()
    with pytest.raises(Cancelled) as caught:
        next(stream)
    assert caught.value.request_id == "r1"
    with pytest.raises(Cancelled):
        stream.result()


def test_dropping_a_stream_cancels(held_server: FakeServer, held_client: Client) -> None:
    for chunk in held_client.stream("Hi"):
        assert chunk.text == "Hel"
        break
    gc.collect()
    assert held_server.wait_until_abandoned()


def test_closing_the_client_cancels(held_server: FakeServer) -> None:
    with Client(held_server.address) as client:
        stream = client.stream("Hi")
        next(stream)
    assert held_server.wait_until_abandoned()
    with pytest.raises(Cancelled):
        next(stream)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_keyboard_interrupt_cancels(
    held_server: FakeServer, held_client: Client, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        assert held_server.wait_until_asked()
        raise KeyboardInterrupt

    monkeypatch.setattr("grpc._common.wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _ = next(held_client.stream("Hi")) if streaming else held_client.generate("Hi")
    monkeypatch.undo()
    assert held_server.wait_until_abandoned()


def test_an_operator_can_cancel(held_server: FakeServer, held_client: Client) -> None:
    with held_client.stream("Hi", request_id="r1") as stream:
        next(stream)
        held_client.cancel("r1")
        with pytest.raises(Cancelled) as caught:
            next(stream)
    assert caught.value.request_id == "r1"
    with pytest.raises(NotFound) as missing:
        held_client.cancel("r1")
    assert missing.value.field == "request_id"


def test_a_deadline_ends_the_request_on_both_sides(held_server: FakeServer, held_client: Client) -> None:
    """A deadline may be over before the server hears of the request; then a longer one is tried."""

    def generate(timeout: float, request_id: str) -> object:
        return held_client.generate("Hi", timeout=timeout, request_id=request_id)

    def stream(timeout: float, request_id: str) -> object:
        return held_client.stream("Hi", timeout=timeout, request_id=request_id).result()

    for ask in (generate, stream):
        for timeout in (0.05, 0.5, 5.0):
            request_id = f"{ask.__name__} {timeout}"
            with pytest.raises(DeadlineExceeded) as caught:
                ask(timeout, request_id)
            assert caught.value.request_id == request_id
            if held_server.wait_until_asked(1.0):
                break
        assert held_server.wait_until_abandoned()


def test_the_clients_own_timeout_counts_for_every_call(held_server: FakeServer) -> None:
    with Client(held_server.address, timeout=0.05) as client, pytest.raises(DeadlineExceeded):
        client.generate("Hi")


@pytest.mark.parametrize(
    "error",
    [
        ResourceExhausted("the queue holds 8 requests; its limit is 8", retry_after=1.5, request_id="r1"),
        PromptTooLong("prompt 3000 + answer 1 > context 2048", field="prompt", request_id="r1"),
        InvalidArgument("sampling.top_p must be in (0, 1], got 2", field="sampling.top_p", request_id="r1"),
        FailedPrecondition("this model takes no images", field="chat.messages[0].parts[0]", request_id="r1"),
    ],
)
@pytest.mark.parametrize("streaming", [True, False])
def test_an_error_arrives_as_it_was_raised(error: TriptychError, streaming: bool) -> None:
    with (
        FakeServer(Say("Hel"), Fail(error)) as server,
        Client(server.address, reconnect=0) as client,
        pytest.raises(TriptychError) as caught,
    ):
        _ = client.stream("Hi").result() if streaming else client.generate("Hi")
    raised = caught.value
    assert type(raised) is type(error)
    assert (raised.message, raised.field, raised.request_id, raised.retry_after) == (
        error.message,
        error.field,
        error.request_id,
        error.retry_after,
    )


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_tokens": 1.5}, "sampling.max_tokens"),
        ({"seed": 2**64}, "sampling.seed"),
        ({"top_k": True}, "sampling.top_k"),
        ({"temperature": float("nan")}, "sampling.temperature"),
        ({"stop": ["ok", "\ud800"]}, "sampling.stop[1]"),
        ({"stop_token_ids": [-1]}, "sampling.stop_token_ids"),
        ({"ignore_eos": "no"}, "sampling.ignore_eos"),
        ({"model": 3}, "model"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"linger": -1}, "linger"),
        ({"linger": float("inf")}, "linger"),
        ({"reconnect": -1}, "reconnect"),
        ({"reconnect": "soon"}, "reconnect"),
    ],
)
def test_a_wrong_option_is_refused_by_name(client: Client, options: GenerateOptions, field: str) -> None:
    for call in (client.generate, client.stream, client.chat):
        with pytest.raises(InvalidArgument) as caught:
            result(call("Hi", **options))
        assert caught.value.field == field


def test_an_unknown_model_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound, match="gpt-9") as caught:
        client.generate("Hi", model="gpt-9")
    assert caught.value.field == "model"


@pytest.mark.parametrize("streaming", [True, False])
def test_a_message_of_65_megabytes_names_the_limit(client: Client, streaming: bool) -> None:
    huge = b"x" * (65 * 2**20)
    with pytest.raises(ResourceExhausted, match=r"68157\d\d\d bytes.* 67108864 bytes \(64 MiB\)"):
        _ = client.stream([_image(huge)]).result() if streaming else client.chat("?", images=[huge])


def test_an_answer_above_the_limit_names_it() -> None:
    with (
        FakeServer(Say("x" * (65 * 2**20))) as server,
        Client(server.address) as client,
        pytest.raises(ResourceExhausted, match=r"\(64 MiB\)"),
    ):
        client.generate("Hi")


def test_a_message_near_the_limit_passes(server: FakeServer, client: Client) -> None:
    client.chat("?", images=[b"x" * (63 * 2**20)])
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_named() -> None:
    with FakeServer() as server:
        address = server.address
    with Client(address) as client:
        with pytest.raises(Unavailable, match=address):
            client.generate("Hi")
        with pytest.raises(Unavailable, match=address):
            next(client.stream("Hi"))
        with pytest.raises(Unavailable, match=address):
            client.status()


def test_without_patience_a_server_that_dies_midway_is_unavailable(
    held_server: FakeServer, held_client: Client
) -> None:
    stream = held_client.stream("Hi", request_id="r1", reconnect=0)
    next(stream)
    stopping = threading.Thread(target=held_server.stop)
    stopping.start()
    with pytest.raises(Unavailable, match=held_server.address) as caught:
        next(stream)
    stopping.join()
    assert caught.value.request_id == "r1"


def test_a_closed_client_says_so(server: FakeServer) -> None:
    client = Client(server.address)
    client.close()
    for call in (lambda: client.generate("Hi"), lambda: client.stream("Hi"), client.models):
        with pytest.raises(FailedPrecondition, match="closed"):
            call()


def test_the_public_names_are_all_listed() -> None:
    public = {
        name
        for name, value in vars(triptych.client).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public == set(triptych.client.__all__)
    assert list(triptych.client.__all__) == sorted(triptych.client.__all__, key=_ruff_order)


def _ruff_order(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def _image(data: bytes) -> triptych.client.ChatMessage:
    return triptych.client.user_message("?", images=[data])


def result(answer: Generation | TextStream) -> Generation:
    return answer.result() if isinstance(answer, TextStream) else answer
