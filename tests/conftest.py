"""What transformers makes of the built-in model, and a network that can be cut: for tests of more than one folder."""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, which transformers does

import numpy as np
import torch
from hypothesis import settings
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from tests.support.seeds import BASE, drawn_seed, header, seed_generators, seed_hypothesis, shared
from triptych.models.resolve import resolve
from triptych.models.spec import read_spec

# Tests judge results, never how long they take.
settings.register_profile("triptych", deadline=None, derandomize=not BASE)
settings.load_profile("triptych")

REFERENCE_LENGTH = 64

_CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
_LONG = " ".join(f"Item {n} of the list costs {n * 7 % 31} coins and weighs {n * 5 % 13} kilos." for n in range(24))


@pytest.hookimpl(tryfirst=True)  # before hypothesis reads it
def pytest_configure(config: pytest.Config) -> None:
    seed_hypothesis(config)


def pytest_report_header() -> list[str]:
    return header()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    seed_generators(item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    if fixturedef.scope == "function":
        return (yield)
    with shared(f"{fixturedef.baseid}::{fixturedef.argname}[{request.param_index}]"):  # type: ignore[attr-defined]
        return (yield)


@pytest.fixture
def seed() -> int:
    return drawn_seed()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(drawn_seed())


@pytest.fixture
def found_by_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts find the tests' own modules, also where the current folder is not searched."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


@pytest.fixture(scope="session")
def reference_length() -> int:
    """Upper bound of tokens in each reference answer."""
    return REFERENCE_LENGTH


@pytest.fixture(scope="session")
def reference_prompts() -> list[str]:
    """20 texts: prose, chats, code, numbers, other scripts, one token and several hundred."""
    return [
        "The capital of France is",
        "Once upon a time, in a village by the sea,",
        "The three laws of thermodynamics are:\n1.",
        "def fibonacci(n):\n    ",
        '{"name": "Ada", "languages": ["',
        "1, 1, 2, 3, 5, 8, 13,",
        "Q: What is 12 times 12?\nA:",
        "Liebe Grüße aus München,",
        "今天天气",
        "Ein Ring, sie zu knechten, 🙂🙃 und",
        "A",
        "   \n\n\t",
        "SELECT name, COUNT(*) FROM users",
        "<html>\n<head>\n<title>",
        _LONG + " The heaviest item is",
        _CHAT.format("What is the capital of Japan? Answer in one word."),
        _CHAT.format("Write a haiku about the moon."),
        _CHAT.format("Repeat after me: alpha, beta, gamma."),
        _CHAT.format(f"Summarise in one sentence: {_LONG}"),
        "<|im_start|>system\nYou are a pirate.<|im_end|>\n" + _CHAT.format("Hello, who are you?"),
    ]


@pytest.fixture(scope="session")
def reference_tokens(reference_prompts: list[str]) -> list[tuple[int, ...]]:
    """Greedy answers of transformers in float32 to the GGUF file that Triptych reads, end-of-sequence included.

    Prompts of similar length share a batch, padded on the left: a quarter of the time of one by one.
    """
    files = resolve("builtin:smollm2")
    folder, name = files.path.parent, files.path.name
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, padding_side="left")
    stops = read_spec(files).eos_token_ids
    answers: dict[str, tuple[int, ...]] = {}
    by_length = sorted(reference_prompts, key=len)
    for group in (by_length[i : i + 5] for i in range(0, len(by_length), 5)):
        inputs = tokenizer(group, return_tensors="pt", padding=True)
        rows = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=REFERENCE_LENGTH,
            eos_token_id=list(stops),
            pad_token_id=tokenizer.pad_token_id,
        )
        for prompt, row in zip(group, rows[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            answers[prompt] = _up_to(row, stops)
    return [answers[prompt] for prompt in reference_prompts]


def _up_to(tokens: list[int], stops: tuple[int, ...]) -> tuple[int, ...]:
    length = next((i + 1 for i, token in enumerate(tokens) if token in stops), len(tokens))
    return tuple(tokens[:length])


class Proxy:
    """Forwards connections to an address until they are cut.

    Args:
        target: "host:port".
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """Resets every connection; how many sockets that were."""
        with self._lock:
            cut, self._open = self._open, []
        for peer in cut:
            with contextlib.suppress(OSError):
                # Without a goodbye: what lies in the buffers is lost.
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.shutdown(socket.SHUT_RDWR)
            peer.close()
        return len(cut)

    def close(self) -> None:
        """Cuts all, and takes no more."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                host, _, port = self._target.rpartition(":")
                far = socket.create_connection((host, int(port)))
                with self._lock:
                    self._open += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def proxy_to(address: str) -> Iterator[Proxy]:
    """A proxy while the context is open."""
    proxy = Proxy(address)
    try:
        yield proxy
    finally:
        proxy.close()


@pytest.fixture(name="proxy_to", scope="session")
def _proxy_to() -> Callable[[str], AbstractContextManager[Proxy]]:
    return proxy_to
