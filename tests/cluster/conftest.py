"""Clusters of real workers on tiny random models, and the offline engine that says what they must answer."""

import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    CLIPVisionConfig,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tests.support.brakes import Brake
from tests.support.doubt import doubtful_rows
from triptych.client import Client
from triptych.config.load import make_spec
from triptych.controller.local import LocalCluster
from triptych.controller.testing import InProcessRuntime
from triptych.core.prompt import ChatMessage, ImagePart, TextPart
from triptych.core.request.record import Away
from triptych.engine import Engine, SamplingParams
from triptych.stages.host import StageHost
from triptych.transfer import KvReceiver

SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<image>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PIXELS = 20
GREEDY = {"temperature": 0.0, "ignore_eos": True}
LOOK_SECONDS = 0.005
CLEAR = 2e-3
"""By how much the likeliest token must lead for its choice not to depend on the order of float32 sums."""

Prompt = str | list[ChatMessage]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 KiB of KV per token, with a tokenizer."""
    return _save(LlamaForCausalLM(_llama_config()), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a random eye: 20×20 pixels in patches of 5 make 16 tokens."""
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=PIXELS,
        patch_size=5, initializer_range=0.3,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=_llama_config().to_dict(),
        image_token_index=SPECIAL.index("<image>"),
    )
    folder = _save(LlavaForConditionalGeneration(config), tmp_path_factory.mktemp("llava"))
    size = {"height": PIXELS, "width": PIXELS}
    processor = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": PIXELS}, "crop_size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="session")
def tiny_mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Mixtral of the same sizes."""
    config = MixtralConfig(**_SIZES, num_key_value_heads=2, head_dim=64, num_local_experts=6)
    return _save(MixtralForCausalLM(config), tmp_path_factory.mktemp("mixtral"))


@pytest.fixture(scope="session")
def tiny_deepseek(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random DeepSeek V3, whose cache keeps one vector of 48 numbers per token and layer."""
    config = DeepseekV3Config(
        **_SIZES, n_routed_experts=8, n_group=4, topk_group=2, num_experts_per_tok=3, moe_intermediate_size=32,
        first_k_dense_replace=1, kv_lora_rank=32, q_lora_rank=40, qk_rope_head_dim=16, qk_nope_head_dim=16,
        v_head_dim=16,
    )  # fmt: skip
    return _save(DeepseekV3ForCausalLM(config), tmp_path_factory.mktemp("deepseek"))


def asking(rng: np.random.Generator) -> Callable[..., Prompt]:
    """Makes prompts: `ask(words, images=n)`, a plain text without images, else a chat."""

    def make(words: int = 4, *, images: int = 0) -> Prompt:
        text = " ".join("".join(rng.choice(list("abcdefgh"), 4)) for _ in range(words))
        if not images:
            return text
        pictures = [ImagePart(picture(rng)) for _ in range(images)]
        return [ChatMessage("user", (TextPart("Look: "), *pictures, TextPart(text)))]

    return make


@pytest.fixture(name="asking", scope="session")
def _asking() -> Callable[[np.random.Generator], Callable[..., Prompt]]:
    return asking


@pytest.fixture
def ask(rng: np.random.Generator) -> Callable[..., Prompt]:
    """See `asking`; the test's own prompts."""
    return asking(rng)


@dataclass
class Oracle:
    """Offline engines; what they answer is what every cluster must answer."""

    engines: dict[Path, Engine] = field(default_factory=dict)
    margin: float = CLEAR

    def tokens(self, model: Path, prompt: Prompt, max_tokens: int) -> tuple[int, ...] | None:
        """The greedy answer; None when a rounding error could have changed one of its tokens."""
        engine = self.engines.setdefault(model, Engine(str(model), dtype="float32", kv_cache_memory=1 << 22))
        params = SamplingParams(**GREEDY, max_tokens=max_tokens, logprobs=2)
        [completion] = engine.generate([prompt], params)
        tops = [position.top for position in completion.logprobs or ()]
        clear = all(first.logprob - second.logprob > self.margin for first, second in tops)
        return completion.token_ids if clear else None

    def sampled(self, model: Path, prompt: Prompt, **params: Any) -> list[tuple[int, ...]] | None:
        """All answers, drawn with a seed; None when one of their tokens is a matter of rounding."""
        engine = self.engines.setdefault(model, Engine(str(model), dtype="float32", kv_cache_memory=1 << 22))
        with doubtful_rows() as doubtful:
            [first] = engine.generate([prompt], SamplingParams(**{"logprobs": 0} | params))
        return None if doubtful else [answer.token_ids for answer in (first, *first.others)]

    def questions(
        self, model: Path, make: Callable[[], Prompt], count: int, max_tokens: int
    ) -> list[tuple[Prompt, tuple[int, ...]]]:
        """Fresh prompts with their answers."""
        found: list[tuple[Prompt, tuple[int, ...]]] = []
        while len(found) < count:
            prompt = make()
            if answer := self.tokens(model, prompt, max_tokens):
                found.append((prompt, answer))
        return found


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    return Oracle()


@dataclass(frozen=True)
class Cluster:
    """A running cluster whose workers live in this process; `restart_router` ends its router as a crash would."""

    address: str
    client: Client
    runtime: InProcessRuntime
    restart_router: Callable[[], None]
    local: LocalCluster

    def brake(self, worker_id: str) -> Brake:
        """Holds a worker up from its next step on."""
        return Brake(self.host(worker_id).panel.decoding.stage.core)

    def at_step(self, worker_id: str, request_id: str = "") -> int:
        """Requests that the next step of a worker takes on, if it has room: all of them, or those of one id."""
        roster = self.host(worker_id).panel.decoding.stage.core.scheduler._roster
        sequences = [*roster.waiting, *roster.ready, *roster.running]
        return sum(request_id in ("", sequence.key.request_id) for sequence in sequences)

    def away(self) -> int:
        """Requests whose client has lost its connection and may come back."""
        entries = list(self.local._running.result()._router.dispatcher._works)
        return sum(isinstance(entry.record.client, Away) for entry in entries)

    def host(self, worker_id: str) -> StageHost:
        host = self.runtime.actors[worker_id].host
        assert host is not None, f"{worker_id} has ended"
        return host

    def receivers(self, worker_id: str) -> list[KvReceiver]:
        """Of every rank of a worker that decodes."""
        decoding = getattr(self.host(worker_id).panel, "decoding", None)
        others = [other.kv.receiver for other in self.runtime.actors[worker_id].others]
        return [decoding.movers.receiver, *others] if decoding else []

    def recorded(self, worker_id: str) -> int:
        """Steps of a worker that were recorded as kernel calls."""
        recorded: int = self.host(worker_id).panel.decoding.stage.core.runner._recorder.recorded
        return recorded

    def held(self) -> dict[str, int]:
        """Everything that somebody holds anywhere, by name, zeros left out; what the workers hold is not hearsay."""
        status = self.client.status()
        router = status.router
        counts = {"router running": router.running_requests, "router awaiting free": router.awaiting_free}
        for worker_id in (worker.worker_id for worker in status.workers):
            report = self.host(worker_id).panel.report()
            for name in ("running_requests", "queued_requests", "queued_images", "held_blocks", "held_embeddings"):
                counts[f"{worker_id} {name}"] = getattr(report, name)
        return {name: count for name, count in counts.items() if count}

    def require_idle(self) -> None:
        """Every worker and the router let go of everything within two seconds of a calm machine; no block is lost."""
        eventually(lambda: not self.held(), 2.0, self.held)
        for worker_id in (worker.worker_id for worker in self.client.status().workers):
            if decoding := getattr(self.host(worker_id).panel, "decoding", None):
                decoding.stage.core.scheduler.check_integrity()
                assert decoding.stage.jobs.audit().operations == {}
            for receiver in self.receivers(worker_id):
                assert receiver._gate._ledger.audit(time.monotonic()).held == ()


def eventually(condition: Callable[[], object], within: float = 30.0, explain: Callable[[], object] = str) -> None:
    """Looks for something that another thread or process is about to do.

    Seconds are counted in looks, of which each takes 5 ms or more: they pass more slowly where many want the machine.
    """
    for _ in range(round(within / LOOK_SECONDS)):
        if condition():
            return
        time.sleep(LOOK_SECONDS)
    raise AssertionError(f"it did not happen within {within:g} s: {explain()}")


@pytest.fixture(name="eventually", scope="session")
def _eventually() -> Callable[..., None]:
    return eventually


@contextmanager
def running(model: Path, layout: str, **settings: Any) -> Iterator[Cluster]:
    """A cluster with settings whose dots are written as "__"; at the end it must be idle and hold nothing."""
    runtime = InProcessRuntime()
    local = LocalCluster(_spec(model, layout, settings), make_runtime=lambda *_: runtime)
    with local as serving, Client(serving.address, timeout=240) as client:
        cluster = Cluster(serving.address, client, runtime, local.restart_router, local)
        yield cluster
        cluster.require_idle()


@pytest.fixture(name="running", scope="session")
def _running() -> Callable[..., AbstractContextManager[Cluster]]:
    return running


@pytest.fixture
def block_size() -> int:
    """Tokens per block. 4 make many blocks of short texts; 16 let the compiled attention and replays take part."""
    return 4


@pytest.fixture
def start(block_size: int) -> Iterator[Callable[..., Cluster]]:
    """Starts clusters that live until the end of the test: `start(model, "1E1P1D", **settings)`."""
    with ExitStack() as stack:

        def start(model: Path, layout: str, **settings: Any) -> Cluster:
            return stack.enter_context(running(model, layout, **{"kv_cache__block_size": block_size} | settings))

        yield start


def picture(rng: np.random.Generator, side: int = PIXELS) -> bytes:
    """Random pixels as a PNG."""
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def _spec(model: Path, layout: str, settings: dict[str, Any]) -> Any:
    given = {
        "model": str(model),
        "served_name": "tiny",
        "layout": layout,
        "dtype": "float32",
        "router.grpc": "127.0.0.1:0",
        "kv_cache.memory": "4MiB",
        "kv_cache.block_size": 4,
    }
    return make_spec(given | {name.replace("__", "."): value for name, value in settings.items()})


_SIZES: dict[str, Any] = {
    "vocab_size": 256 + len(SPECIAL), "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 4096, "initializer_range": 0.2, "bos_token_id": None,
    "eos_token_id": SPECIAL.index("<|end|>"),
}  # fmt: skip


def _llama_config() -> LlamaConfig:
    return LlamaConfig(**_SIZES, num_key_value_heads=2, head_dim=64)


def _save(model: PreTrainedModel, folder: Path) -> Path:
    model.train(False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(BPE({token: place for place, token in enumerate([*SPECIAL, *letters])}, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    bytewise.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token=SPECIAL[0])  # type: ignore[no-untyped-call]
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def answers(cluster: Cluster, prompts: Sequence[Prompt], max_tokens: int, **options: Any) -> list[tuple[int, ...]]:
    """All answers, asked for at once."""
    from concurrent.futures import ThreadPoolExecutor

    def one(prompt: Prompt) -> tuple[int, ...]:
        return cluster.client.generate(prompt, max_tokens=max_tokens, **GREEDY, **options).token_ids

    with ThreadPoolExecutor(len(prompts)) as threads:
        return list(threads.map(one, prompts))


@pytest.fixture(name="answers", scope="session")
def _answers() -> Callable[..., list[tuple[int, ...]]]:
    return answers
