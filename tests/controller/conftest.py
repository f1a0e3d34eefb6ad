"""A runtime whose workers are promises: they start, fail and die when the test says so."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from triptych.config.resources import offload_of, resolve_stages
from triptych.config.spec import ClusterSpec
from triptych.controller import controller as controller_module
from triptych.controller.actor import Running, Started, fingerprint
from triptych.controller.desired import Blueprint, DesiredWorker
from triptych.controller.runtime import FoundActor
from triptych.core.fleet import Health, Stage
from triptych.models.expert_sizes import WeightForm
from triptych.models.files import ModelFiles
from triptych.models.recipes.llama import LLAMA
from triptych.models.recipes.llava import LLAVA
from triptych.models.spec import ModelSpec
from triptych.router.fleet import WorkerAddress

FILES = ModelFiles("tiny", Path("/nowhere"), "safetensors")


class FakeActor:
    """Starts when `starts` is set, unless it was given an error."""

    def __init__(self, worker: DesiredWorker, number: int, attempt: int, error: Exception | None) -> None:
        self.worker_id = worker_id = worker.settings.worker_id
        self.fingerprint = fingerprint(worker.settings)
        self.attempt = attempt
        self.started = Started(f"{worker_id}:{number}", number)
        self.starts = asyncio.Event()
        self.stops = 0
        self.kills = 0
        self._error = error
        self._ended = asyncio.Event()
        self._reason = ""

    async def start(self) -> Started:
        await self.starts.wait()
        if self._error:
            raise self._error
        return self.started

    async def running(self) -> Running | None:
        return Running(self.started, self.fingerprint) if self.alive and self.starts.is_set() else None

    async def wait(self) -> str:
        await self._ended.wait()
        return self._reason

    async def stop(self) -> None:
        self.stops += 1
        self._ended.set()

    async def kill(self) -> None:
        self.kills += 1
        self._ended.set()

    def die(self, reason: str = "") -> None:
        self._reason = reason
        self._ended.set()

    @property
    def alive(self) -> bool:
        return not self._ended.is_set()


@dataclass
class FakeRuntime:
    """Remembers what was placed; `errors` are what the next starts of a worker raise."""

    at_once: bool = True
    placed: list[FakeActor] = field(default_factory=list)
    errors: dict[str, list[Exception]] = field(default_factory=dict)
    place_errors: list[Exception] = field(default_factory=list)
    cluster: str = ""
    _arrivals: "asyncio.Queue[None]" = field(default_factory=asyncio.Queue)

    async def wait_for_placements(self, count: int) -> None:
        """Returns when `count` more workers have been placed."""
        for _ in range(count):
            await asyncio.wait_for(self._arrivals.get(), 60)

    async def take_over(self, cluster: str) -> tuple[FoundActor, ...]:
        self.cluster = cluster
        return tuple(FoundActor(f"{a.started}", a.worker_id, a.attempt, a) for a in self.placed if a.alive)

    async def place(self, worker: DesiredWorker, attempt: int) -> FakeActor:
        if self.place_errors:
            raise self.place_errors.pop(0)
        errors = self.errors.get(worker.settings.worker_id)
        self._arrivals.put_nowait(None)
        self.placed.append(FakeActor(worker, len(self.placed) + 1, attempt, errors.pop(0) if errors else None))
        if self.at_once:
            self.placed[-1].starts.set()
        return self.placed[-1]

    def close(self) -> None:
        pass


class FakeFront:
    """A router that remembers every publication and every drain, and says of its workers what the test wants."""

    def __init__(self) -> None:
        self.drained: list[tuple[str, float]] = []
        self.running: dict[str, int] = {}
        self.dead: set[str] = set()
        self.asked = 0
        self.error: Exception | None = None
        self.published: list[dict[str, WorkerAddress]] = []
        self.calls: list[str] = []
        self._changed = asyncio.Condition()

    def take_over(self) -> None:
        self.calls.append("take over")

    async def place(self, addresses: tuple[WorkerAddress, ...]) -> None:
        self.calls.append("place")
        async with self._changed:
            self.published.append({address.worker_id: address for address in addresses})
            self._changed.notify_all()

    def drain(self, worker_id: str, timeout: float) -> None:
        self.calls.append("drain")
        self.drained.append((worker_id, timeout))

    def requests(self) -> dict[str, int]:
        if self.error:
            raise self.error
        self.asked += 1
        return dict(self.running)

    def health(self) -> dict[str, Health]:
        known = self.published[-1] if self.published else {}
        return {w: Health.DEAD if w in self.dead else Health.HEALTHY for w, a in known.items() if a.address}

    async def wait_until(self, condition: Callable[[], object]) -> None:
        """Returns when something is so that nobody tells of."""
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.001)

    async def wait_for(self, condition: Callable[[dict[str, WorkerAddress]], object]) -> dict[str, WorkerAddress]:
        """The latest publication, once it is as wanted."""
        async with self._changed:
            await asyncio.wait_for(
                self._changed.wait_for(lambda: self.published and condition(self.published[-1])), 60
            )
        return self.published[-1]


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
def make_front() -> Callable[[], FakeFront]:
    return FakeFront


@pytest.fixture
def front(make_front: Callable[[], FakeFront]) -> FakeFront:
    return make_front()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_module, "LISTEN_SECONDS", 0.005)


@pytest.fixture
def make_blueprint() -> Callable[..., Blueprint]:
    """What a layout asks for: `make_blueprint("1E1P1D", vision=True, dtype="float32")`."""

    def make(layout: str, *, vision: bool = False, **settings: Any) -> Blueprint:
        spec = ClusterSpec(model="tiny", layout=layout, **settings)
        stages = resolve_stages(spec, "images" if vision else "texts", cpu_count=4)
        offloads = {stage: offload_of(spec, stage) for stage in Stage}
        form = WeightForm(4.0 if spec.dtype == "float32" else 2.0, compactable=False)
        return Blueprint(spec, FILES, model_spec(vision=vision), stages, 16 << 30, offloads, form)

    return make


@pytest.fixture
def make_workers(make_blueprint: Callable[..., Blueprint]) -> Callable[..., tuple[DesiredWorker, ...]]:
    """Its workers."""
    return lambda layout, **settings: make_blueprint(layout, **settings).workers()


def model_spec(*, vision: bool = False, **changes: Any) -> ModelSpec:
    sizes = {
        "model_type": "llama", "vocab_size": 100, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
        "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64, "eos_token_id": 2,
    }  # fmt: skip
    if not vision:
        return LLAMA.read(sizes | changes)
    tower = {"model_type": "clip_vision_model", "image_size": 20, "patch_size": 5, "hidden_size": 32}
    config = {"text_config": sizes, "vision_config": tower | {"num_attention_heads": 4}, "image_token_index": 3}
    return LLAVA.read(config)


@pytest.fixture(name="model_spec")
def _model_spec() -> Callable[..., ModelSpec]:
    return model_spec
