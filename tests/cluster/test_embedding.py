"""Embeddings on clusters: the vectors of the offline embedder, whatever happens to the workers."""

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from triptych.client import AsyncClient, Client, PromptTooLong, ResourceExhausted
from triptych.core.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from triptych.engine import Embedder
from triptych.models.embedding.embedder import TextEmbedder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of vectors of 32 numbers that reads 64 tokens, each a letter."""
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": place} for kind, place in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


@pytest.fixture
def words(rng: np.random.Generator) -> Callable[[int], list[str]]:
    """Fresh texts of 0 to 60 letters."""
    return lambda count: [" ".join(rng.choice(list("abcdefgh"), rng.integers(0, 61))) for _ in range(count)]


@pytest.fixture(scope="module")
def offline(tiny_bert: Path) -> Embedder:
    return Embedder(str(tiny_bert), dtype="float32", threads=1)


class Held:
    """Holds batches of texts before they are computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.begun = threading.Event(), threading.Event()
        self.sizes: list[int] = []
        compute = TextEmbedder.embed

        def embed(model: TextEmbedder, texts: Any) -> torch.Tensor:
            self.sizes.append(len(texts))
            self.begun.set()
            assert self.go.wait(240)
            return compute(model, texts)

        monkeypatch.setattr(TextEmbedder, "embed", embed)


def test_vectors_are_those_of_the_offline_embedder(
    start: Any, tiny_bert: Path, words: Any, offline: Embedder
) -> None:
    cluster = start(tiny_bert, "2E")
    texts = words(40)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(cluster.client.embed, [texts[i : i + 5] for i in range(0, 40, 5)]))
    np.testing.assert_allclose(np.concatenate([f.vectors for f in found]), offline.embed(texts), **CLOSE)
    counts = [len(offline.text.encode(text, "text")) for text in texts]
    assert [count for f in found for count in f.token_counts] == counts
    assert sum(f.usage.prompt_tokens for f in found) == sum(counts)
    status = cluster.client.status()
    assert status.layout == "2E"
    assert sum(cluster.host(w.worker_id).panel.report().prefilled_tokens for w in status.workers) == sum(counts)
    assert status.router.finished_requests == 8
    [info] = cluster.client.models()
    assert (info.embedding_size, info.context_length, info.accepts_images) == (32, 64, False)
    assert cluster.client.tokenize("a b") == (2, 4, 5, 3)


def test_one_text_token_ids_and_the_async_client(start: Any, tiny_bert: Path, words: Any, offline: Embedder) -> None:
    cluster = start(tiny_bert, "auto")
    text = words(1)[0]
    expected = offline.embed([text])
    np.testing.assert_allclose(cluster.client.embed(text).vectors, expected, **CLOSE)
    ids = [list(offline.text.encode(text, "text"))]

    async def both() -> Any:
        async with AsyncClient(cluster.address) as client:
            return await asyncio.gather(client.embed(text), client.embed(ids, model="tiny", request_id="mine"))

    first, second = asyncio.run(both())
    np.testing.assert_allclose(first.vectors, expected, **CLOSE)
    np.testing.assert_allclose(second.vectors, expected, **CLOSE)
    assert (second.model, second.request_id, [span.name for span in second.timeline]) == (
        "tiny", "mine", ["queue", "embed"]
    )  # fmt: skip


def test_shorter_vectors_have_length_one_again(start: Any, tiny_bert: Path, words: Any, offline: Embedder) -> None:
    client = start(tiny_bert, "1E").client
    texts = words(3)
    cut = offline.embed(texts)[:, :8]
    expected = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    np.testing.assert_allclose(client.embed(texts, dimensions=8).vectors, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(offline.embed(texts, dimensions=8), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidArgument, match=r"dimensions must be in \[1, 32\], got 33"):
        client.embed(texts, dimensions=33)


def test_what_cannot_be_embedded_is_refused(start: Any, tiny_bert: Path, offline: Embedder) -> None:
    client: Client = start(tiny_bert, "1E").client
    long = "a " * 80
    with pytest.raises(PromptTooLong, match=r"inputs\[1\] has 82 tokens; the model reads 64") as caught:
        client.embed(["a", long])
    assert caught.value.field == "inputs[1]"
    cut = client.embed(long, truncate=True)
    assert cut.token_counts == (64,)
    np.testing.assert_allclose(cut.vectors[0], offline.embed(long, truncate=True), **CLOSE)
    with pytest.raises(InvalidArgument, match="inputs must hold 1 to 2048 texts, got 0"):
        client.embed([])
    with pytest.raises(InvalidArgument, match=r"inputs\[0\]\[1\] must be in \[0, 11\], got 12"):
        client.embed([[2, 12]])
    with pytest.raises(NotFound, match="'other' is not served here"):
        client.embed("a", model="other")
    for refused in (
        lambda: client.generate("a"),
        lambda: client.stream("a").result(),
        lambda: client.detokenize([4]),
    ):
        with pytest.raises(FailedPrecondition, match="tiny gives embeddings"):
            refused()


def test_a_model_that_generates_gives_no_embeddings(start: Any, tiny_llama: Path) -> None:
    with pytest.raises(FailedPrecondition, match="tiny generates and gives no embeddings"):
        start(tiny_llama, "1D").client.embed("a")


def test_layouts_are_those_of_the_model(start: Any, tiny_llama: Path, tiny_bert: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"layout 1E1D has encode and decode workers.*use 1E"):
        start(tiny_bert, "1E1D")
    with pytest.raises(FailedPrecondition, match=r"layout 1E has encode workers.*use 1D"):
        start(tiny_llama, "1E")


def test_texts_of_several_requests_are_computed_together(
    start: Any, tiny_bert: Path, words: Any, offline: Embedder, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    cluster = start(tiny_bert, "1E")
    texts = words(13)
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(cluster.client.embed, texts[:1])]
        assert held.begun.wait(60)
        calls += [threads.submit(cluster.client.embed, texts[i : i + 4]) for i in (1, 5, 9)]
        eventually(lambda: cluster.host("encode-0").panel.report().running_requests == 4)
        held.go.set()
        found = np.concatenate([call.result(60).vectors for call in calls])
    np.testing.assert_allclose(found, offline.embed(texts), **CLOSE)
    assert held.sizes[:2] == [1, 12]


def test_requests_of_a_lost_worker_are_computed_by_another(
    start: Any, tiny_bert: Path, words: Any, offline: Embedder, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    cluster = start(tiny_bert, "2E")
    texts = words(6)
    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(cluster.client.embed, texts[i : i + 3]) for i in (0, 3)]
        hosts = {name: cluster.host(name) for name in ("encode-0", "encode-1")}
        eventually(lambda: all(host.panel.report().running_requests == 1 for host in hosts.values()))
        killing = threads.submit(cluster.runtime.actors["encode-0"].crash)
        eventually(lambda: cluster.client.status().router.replays == 1)
        held.go.set()
        killing.result()
        found = [call.result(60) for call in calls]
    np.testing.assert_allclose(np.concatenate([f.vectors for f in found]), offline.embed(texts), **CLOSE)
    assert sorted(f.usage.replays for f in found) == [0, 1]
    eventually(lambda: [worker.restarts for worker in cluster.client.status().workers] == [1, 0])
    eventually(lambda: cluster.client.status().ready)


def test_deadlines_and_clients_that_leave_end_the_work(
    start: Any, tiny_bert: Path, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    cluster = start(tiny_bert, "1E")
    with ThreadPoolExecutor(1) as threads, Client(cluster.address) as other:
        first = threads.submit(cluster.client.embed, "a")
        assert held.begun.wait(60)
        with pytest.raises(DeadlineExceeded):
            other.embed(["b"] * 7, timeout=0.1)

        async def leave() -> None:
            async with AsyncClient(cluster.address) as client:
                call = asyncio.create_task(client.embed(["c"] * 5))
                panel = cluster.host("encode-0").panel
                await asyncio.to_thread(eventually, lambda: panel.report().running_requests == 2)
                call.cancel()

        eventually(lambda: cluster.host("encode-0").panel.report().running_requests == 1)
        asyncio.run(leave())
        eventually(lambda: cluster.host("encode-0").panel.report().running_requests == 1)
        held.go.set()
        first.result(60)
    assert held.sizes == [1]


def test_a_full_queue_refuses_with_when_to_come_back(
    start: Any, tiny_bert: Path, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    cluster = start(tiny_bert, "1E", router__max_requests_per_worker=2)
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(cluster.client.embed, "a") for _ in range(2)]
        eventually(lambda: cluster.host("encode-0").panel.report().running_requests == 2)
        with pytest.raises(ResourceExhausted, match="every encode worker has 2 requests queued") as caught:
            cluster.client.embed("a")
        assert caught.value.retry_after == 1.0
        held.go.set()
        for call in calls:
            call.result(60)
