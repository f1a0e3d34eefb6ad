"""Models of the hub, against a small hub on this host."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

COMMIT = "a" * 40
ASK = """
import sys
from contextlib import contextmanager
from triptych.models.resolve import resolve

class Report:
    @contextmanager
    def task(self, title, total):
        done = []
        yield done.append
        print(title, total, sum(done))

try:
    files = resolve(sys.argv[1], progress=Report())
    print(files.format, *sorted(file.name for file in files.path.iterdir()))
except Exception as error:
    print(type(error).__name__, error)
"""


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: ClassVar[dict[str, dict[str, bytes]]] = {
        "org/good": {"config.json": b"{}", "model.safetensors": b"x" * 300_000, "notes.md": b"left out"},
        "org/gguf": {"model-q4.gguf": b"x"},
    }

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._describe("/".join(parts[2:4]), tree="tree" in parts)
        else:
            content = self.files["/".join(parts[:2])][parts[-1]]
            self._answer(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET  # noqa: N815

    def _describe(self, model: str, *, tree: bool) -> None:
        if model == "org/gated":
            self._answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif model not in self.files:
            self._answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif tree:
            listing = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.files[model].items()
            ]
            self._answer(200, json.dumps(listing).encode(), {})
        else:
            names = [{"rfilename": name} for name in self.files[model]]
            self._answer(200, json.dumps({"id": model, "sha": COMMIT, "siblings": names}).encode(), {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(model: str, hub: ThreadingHTTPServer, home: Path, **more: str) -> list[str]:
    """Resolves in a process of its own: the hub's client reads its environment when it is imported."""
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(home), **more}
    command = [sys.executable, "-c", ASK, model]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_hub_id_is_downloaded_with_progress_and_found_again_when_the_hub_is_gone(
    hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    found = "safetensors config.json model.safetensors"
    assert ask("org/good", hub, tmp_path) == ["Downloading org/good 300002 300002", found]
    assert ask("org/good", hub, tmp_path, HF_HUB_OFFLINE="1") == ["Downloading org/good None 0", found]


def test_what_the_hub_refuses_is_said_in_our_terms(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    (missing,) = ask("org/none", hub, tmp_path)
    assert missing == "NotFound the hub has no model org/none; if it is private, run `hf auth login` first"
    (gated,) = ask("org/gated", hub, tmp_path)
    assert gated.startswith("FailedPrecondition org/gated is gated: accept its licence")
    *_, unreadable = ask("org/gguf", hub, tmp_path)
    assert unreadable.startswith("NotFound org/gguf on the hub has no config.json; if it holds GGUF files, run")


def test_offline_says_what_to_do(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    *_, said = ask("org/good", hub, tmp_path, HF_HUB_OFFLINE="1")
    assert said.startswith("Unavailable org/good is no folder here and not in the hub's cache, and the hub cannot")
    assert said.endswith("check the network, or download the model elsewhere and give its folder")
