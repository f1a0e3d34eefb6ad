from collections.abc import Callable
from pathlib import Path

import pytest

from triptych.cli.answer import calm
from triptych.client import ChatMessage, InvalidArgument, ModelInfo, SamplingParams, TextPart
from triptych.client.testing import Break, Fail, FakeServer, Say
from triptych.core.inputs import ChatInput

Run = Callable[..., tuple[int, str, str]]


def asked(server: FakeServer) -> list[list[tuple[str, tuple[str | bytes, ...]]]]:
    """The conversations that reached the server: role and contents of each turn."""
    conversations = []
    for request in server.requests:
        assert isinstance(request.prompt, ChatInput)
        conversations.append([(message.role, contents(message)) for message in request.prompt.messages])
    return conversations


def contents(message: ChatMessage) -> tuple[str | bytes, ...]:
    return tuple(part.text if isinstance(part, TextPart) else part.data for part in message.parts)


def test_one_question_prints_the_answer_alone(server: FakeServer, run: Run) -> None:
    assert run("chat", "--address", server.address, "Hi") == (0, "Hello\n", "")
    assert asked(server) == [[("user", ("Hi",))]]


def test_options_reach_the_server(server: FakeServer, run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "b.png").write_bytes(b"b")
    images = ("--image", tmp_path / "a.png", "--image", tmp_path / "b.png")
    sampling = ("--max-tokens", "5", "--temperature", "0", "--top-p", "0.5", "--seed", "3")
    status, out, _ = run(
        "chat", "--address", server.address, "--model", "fake", "--system", "Be short.", *images, *sampling, "Hi"
    )
    assert (status, out) == (0, "Hello\n")
    assert asked(server) == [[("system", ("Be short.",)), ("user", (b"a", b"b", "Hi"))]]
    assert server.requests[0].sampling == SamplingParams(max_tokens=5, temperature=0, top_p=0.5, seed=3)
    assert server.requests[0].model == "fake"


def test_what_the_model_says_of_its_temperature_counts_before_a_calm_one(server: FakeServer, run: Run) -> None:
    run("chat", "--address", server.address, "Hi")
    assert server.requests[-1].sampling == SamplingParams(max_tokens=512, temperature=0.2)
    own = ModelInfo("own", 9, False, 9, SamplingParams(temperature=0.6))
    assert calm(SamplingParams(), [own]) == SamplingParams()


def test_variables_reach_the_chat_template(server: FakeServer, run: Run) -> None:
    run("chat", "--address", server.address, "--chat-template-kwargs", '{"enable_thinking": false}', "Hi")
    prompt = server.requests[-1].prompt
    assert isinstance(prompt, ChatInput)
    assert prompt.options.template_kwargs == '{"enable_thinking": false}'


def test_the_address_may_come_from_the_environment(
    server: FakeServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_ADDRESS", server.address)
    assert run("chat", "Hi")[:2] == (0, "Hello\n")


def test_the_timeline_follows_the_answer(server: FakeServer, run: Run) -> None:
    _, out, _ = run("chat", "--address", server.address, "--timeline", "Hi")
    answer, heading, *spans = out.splitlines()
    assert answer == "Hello"
    assert heading.split() == ["stage", "worker", "start", "ms", "ms"]
    assert [line.split()[:2] for line in spans] == [
        ["queue", "router"],
        ["encode", "encode-0"],
        ["prefill", "prefill-0"],
        ["decode", "decode-0"],
    ]


def test_a_conversation_remembers(server: FakeServer, run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "a picture.png"
    picture.write_bytes(b"p")
    typed = f"Hi\n\n/image {picture}\nWhat is it?\n/clear\nAgain\n/exit\nnever\n"
    status, out, err = run("chat", "--address", server.address, "--system", "S", typed=typed)
    assert (status, out, err) == (0, "Hello\nHello\nHello\n", "")
    system, first, answer = ("system", ("S",)), ("user", ("Hi",)), ("assistant", ("Hello",))
    assert asked(server) == [
        [system, first],
        [system, first, answer, ("user", (b"p", "What is it?"))],
        [system, ("user", ("Again",))],
    ]


def test_the_end_of_the_input_ends_the_conversation(server: FakeServer, run: Run) -> None:
    assert run("chat", "--address", server.address, typed="Hi") == (0, "Hello\n", "")


def test_an_error_costs_one_turn(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    picture.write_bytes(b"p")
    with FakeServer(Say("Hel"), Fail(InvalidArgument("not an image", field="image"))) as server:
        typed = f"/image {tmp_path / 'none.png'}\n/image {picture}\n/jump\nWhat?\nAnd now?\n"
        status, out, err = run("chat", "--address", server.address, typed=typed)
    assert (status, out) == (0, "Hel\nHel\n")
    assert asked(server) == [[("user", (b"p", "What?"))], [("user", ("And now?",))]]
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert lines[0] == f"error: there is no image file {tmp_path / 'none.png'}"
    assert lines[1] == "error: there is no command '/jump'; there are /image FILE, /clear, /exit"
    assert lines[2:] == ["error: not an image", "error: not an image"]


def test_an_image_that_is_not_there_is_named(server: FakeServer, run: Run) -> None:
    status, out, err = run("chat", "--address", server.address, "--image", "/no/such.png", "Hi")
    assert (status, out) == (1, "")
    assert err == "error: there is no image file /no/such.png\n  field: image\n"
    assert server.requests == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--temperature", "-1"), "error: sampling.temperature must be in [0, 100], got -1"),
        (("--temperature", "nan"), "error: sampling.temperature must be in [0, 100], got nan"),
        (("--max-tokens", "0"), "error: sampling.max_tokens must be a whole number in [1,"),
        (("--model", "gpt-9"), "error: no model 'gpt-9' is served here; fake is"),
        (("--chat-template-kwargs", "no"), "error: --chat-template-kwargs is not JSON: Expecting value"),
        (("--address", "nowhere"), "error: address must be HOST:PORT, got 'nowhere'"),
    ],
)
def test_a_wrong_option_is_one_line(server: FakeServer, run: Run, arguments: tuple[str, ...], error: str) -> None:
    status, out, err = run("chat", "--address", server.address, *arguments, "Hi")
    assert (status, out) == (1, "")
    assert err.startswith(error)
    assert "Traceback" not in err


def test_a_cluster_that_is_not_there_is_named_with_a_hint(run: Run) -> None:
    with FakeServer() as server:
        address = server.address
    status, _, err = run("chat", "--address", address, "Hi")
    assert status == 1
    first, hint = err.splitlines()
    assert first.startswith(f"error: {address} cannot be reached")
    assert "triptych serve" in hint


def test_a_lost_connection_is_a_note_and_the_answer_goes_on(run: Run) -> None:
    with FakeServer(Say("Hel"), Break(refusals=1), Say("lo")) as server:
        status, out, err = run("chat", "--address", server.address, "Hi")
    assert (status, out) == (0, "Hello\n")
    [note] = err.splitlines()
    assert note.startswith(f"note: {server.address} cannot be reached or went away")
    assert note.endswith("trying again for 60 s")
