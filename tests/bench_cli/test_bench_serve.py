"""The whole command against a fake cluster."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from triptych.client.testing import Fail, FakeServer, Say
from triptych.core.errors import ResourceExhausted
from triptych.core.inputs import ChatInput, TextInput
from triptych.core.prompt import ImagePart

Run = Callable[..., tuple[int, str, str]]
LATENCIES = {"ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "late_ms"}
PNG = b"\x89PNG\r\n\x1a\n"


def test_each_rate_is_a_line(run: Run, seed: int) -> None:
    with FakeServer(Say("a"), Say("b"), Say("c")) as server:
        status, out, _ = run(
            *("bench", "serve", "--address", server.address, "--rate", "200,400", "--requests", 12),
            *("--prompt", "20-40", "--output", "3", "--seed", seed, "--json"),
        )
        asked = server.requests
    assert status == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["load"], line["rate"], line["seed"]) for line in lines] == [
        ("poisson", 200.0, seed),
        ("poisson", 400.0, seed),
    ]
    for line in lines:
        assert (line["peer"], line["what"], line["requests"], line["answered"]) == ("triptych", "serve", 12, 12)
        assert (line["errors"], line["good"]) == ({}, 12)
        assert 36 / line["tok_s"] == pytest.approx(line["seconds"], abs=2e-3)
        assert all(line[name].keys() == {"mean", "p50", "p95", "p99"} for name in LATENCIES)
    prompts = [request.prompt.text for request in asked if isinstance(request.prompt, TextInput)]
    assert len(prompts) == len({prompt.split()[0] for prompt in prompts}) == 25  # one of them warms up
    assert all(request.sampling.ignore_eos and request.sampling.temperature == 0 for request in asked)
    assert {request.sampling.max_tokens for request in asked[1:]} == {3}


def test_clients_take_turns(run: Run) -> None:
    with FakeServer(Say("a"), Say("b")) as server:
        options = ("--clients", 3, "--requests", 10, "--json")
        status, out, _ = run("bench", "serve", "--address", server.address, *options)
        assert len(server.requests) == 11
    assert status == 0
    line = json.loads(out)
    assert (line["load"], line["clients"], line["answered"]) == ("closed", 3, 10)


def test_a_cluster_that_fails_the_first_request_is_an_error(run: Run, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text('{"arrival": 0, "prompt_tokens": 9, "output_tokens": 1}\n' * 3)
    with FakeServer(Say("a"), Fail(ResourceExhausted("full"))) as server:
        status, _, err = run("bench", "serve", "--address", server.address, "--trace", trace)
        assert len(server.requests) == 1
    assert status == 1
    assert err.startswith("error: full")


def test_the_table_and_the_plot(run: Run, tmp_path: Path) -> None:
    plot = tmp_path / "out.png"
    with FakeServer(Say("a"), Say("b")) as server:
        options = ("--rate", "100,300", "--requests", 8, "--slo-ttft", 60_000, "--plot", plot)
        status, out, err = run("bench", "serve", "--address", server.address, *options)
    assert status == 0
    assert "8 of 8" in out
    assert all(name in out for name in ("100 a second", "300 a second", "TTFT", "TPOT", "ITL", "E2E", "seed"))
    assert "300 a second: 8 requests" in err
    assert plot.read_bytes().startswith(PNG)
    assert plot.stat().st_size > 10_000


def test_pictures_go_with_the_text(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(PNG)
    with FakeServer(Say("a")) as server:
        options = ("--clients", 1, "--requests", 2, "--json")
        assert run("bench", "serve", "--address", server.address, *options, "--image", picture)[0] == 0
        assert run("bench", "serve", "--address", server.address, *options, "--images", 3)[0] == 0
        found = [request.prompt for request in server.requests if isinstance(request.prompt, ChatInput)]
    images = [[part.data for part in p.messages[0].parts if isinstance(part, ImagePart)] for p in found]
    assert images[:2] == [[PNG], [PNG]]
    assert [len(set(pictures)) for pictures in images[2:]] == [3, 3]
    assert all(data.startswith(PNG) for pictures in images for data in pictures)


def test_without_matplotlib_nothing_is_sent(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with FakeServer(Say("a")) as server:
        status, _, err = run("bench", "serve", "--address", server.address, "--plot", tmp_path / "out.png")
        assert server.requests == []
    assert status == 1
    assert "matplotlib" in err
    assert "triptych[bench]" in err


def test_a_plot_that_cannot_be_written_is_an_error(run: Run, tmp_path: Path) -> None:
    with FakeServer(Say("a")) as server:
        for name in ("no/folder/out.png", "out.song"):
            options = ("--clients", 1, "--requests", 1, "--plot", tmp_path / name)
            status, _, err = run("bench", "serve", "--address", server.address, *options)
            assert status == 1
            assert name in err


def test_wrong_options_are_refused_before_anything_is_sent(run: Run) -> None:
    with FakeServer(Say("a")) as server:
        for options in (("--rate", "0"), ("--rate", "1", "--clients", "2"), ("--prompt", "long"), ("--trace", "/no")):
            status, _, err = run("bench", "serve", "--address", server.address, *options)
            assert status == 1
            assert err.startswith("error: ")
        assert server.requests == []


def test_help_names_both_commands(run: Run) -> None:
    status, out, _ = run("bench", "--help")
    assert status == 0
    assert "engine" in out
    assert "serve" in out
