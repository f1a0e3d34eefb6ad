"""Offline embeddings against transformers' BertModel, with sentence-transformers' modules written out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoTokenizer, BertModel

from triptych.core.errors import DataLoss, FailedPrecondition, InvalidArgument, PromptTooLong, Unimplemented
from triptych.engine import Engine
from triptych.engine.embedder import Embedder
from triptych.models.files import ModelFiles
from triptych.models.resolve import resolve

Build = Callable[..., ModelFiles]
TEXTS = ["a b c", "z", "", "q w e r t y u i o p", "A B C", "d e f g"]
POOLINGS: dict[str, tuple[dict[str, Any], Callable[[torch.Tensor], torch.Tensor]]] = {
    "cls": ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda rows: rows[0]),
    "mean": ({"pooling_mode": "mean", "embedding_dimension": 32}, lambda rows: rows.mean(0)),
    "max": ({"pooling_mode_max_tokens": True}, lambda rows: rows.amax(0)),
    "last": ({"pooling_mode": "lasttoken"}, lambda rows: rows[-1]),
}


def states(files: ModelFiles, texts: list[str]) -> list[torch.Tensor]:
    """transformers' last hidden states of each text alone, cut at the model's 24 tokens."""
    model = BertModel.from_pretrained(files.path)
    tokenizer = AutoTokenizer.from_pretrained(files.path)
    with torch.no_grad():
        inputs = [tokenizer(t, return_tensors="pt", truncation=True, max_length=24, padding=False) for t in texts]
        return [model(**each).last_hidden_state[0] for each in inputs]


@pytest.mark.parametrize("name", POOLINGS)
def test_every_pooling_is_that_of_sentence_transformers(name: str, build: Build) -> None:
    pooling, definition = POOLINGS[name]
    files = build(pooling=pooling, normalise=False)
    expected = torch.stack([definition(rows) for rows in states(files, TEXTS)])
    found = Embedder(str(files.path), threads=1).embed(TEXTS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_linears_and_a_norm_behind_the_pooling(build: Build) -> None:
    files = build(dense=(20, 12))
    vectors = torch.stack([rows.mean(0) for rows in states(files, TEXTS)])
    for place in ("2_Dense", "3_Dense"):
        tensors = load_file(files.path / place / "model.safetensors")
        vectors = functional.linear(vectors, tensors["linear.weight"], tensors["linear.bias"]).tanh()
    embedder = Embedder(str(files.path), threads=1)
    assert embedder.spec.size == 12
    np.testing.assert_allclose(embedder.embed(TEXTS), functional.normalize(vectors), rtol=1e-4, atol=1e-5)


def test_batches_change_nothing_and_order_is_kept(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Embedder(str(build().path), threads=1)
    alone = np.stack([embedder.embed(text) for text in TEXTS])
    np.testing.assert_allclose(embedder.embed(TEXTS), alone, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr("triptych.engine.embedder.BATCH_TOKENS", 9)
    np.testing.assert_allclose(embedder.embed(TEXTS), alone, rtol=1e-4, atol=1e-6)
    ids = [embedder.text.encode(text, "text") for text in TEXTS]
    np.testing.assert_allclose(embedder.embed(ids), alone, rtol=1e-4, atol=1e-6)
    assert embedder.embed([]).shape == (0, 32)


def test_bfloat16_is_near(build: Build) -> None:
    files = build()
    exact, rough = (Embedder(str(files.path), dtype=dtype, threads=1).embed(TEXTS) for dtype in ("auto", "bfloat16"))
    assert exact.dtype == rough.dtype == np.float32
    assert (exact * rough).sum(-1).min() > 0.99


def test_a_text_that_is_too_long_is_cut_only_if_its_caller_says_so(build: Build) -> None:
    files = build()
    embedder = Embedder(str(files.path), threads=1)
    long = "k " * 30
    with pytest.raises(PromptTooLong, match=r"texts\[1\] has 32 tokens; the model reads 24") as caught:
        embedder.embed(["a", long])
    assert caught.value.field == "texts[1]"
    with pytest.raises(PromptTooLong, match="has 25 tokens"):
        embedder.embed([[5] * 25])
    with pytest.raises(PromptTooLong, match="characters"):
        embedder.embed("k" * 1000)
    expected = functional.normalize(states(files, [long])[0].mean(0), dim=0)
    np.testing.assert_allclose(embedder.embed(long, truncate=True), expected, rtol=1e-4, atol=1e-5)
    ids = embedder.text.encode(long, "text", truncate=True)
    assert len(ids) == 24
    assert (ids[0], ids[-1]) == (2, 3)


def test_what_is_no_text_is_refused(build: Build) -> None:
    embedder = Embedder(str(build().path), threads=1)
    with pytest.raises(InvalidArgument, match=r"texts\[0\] is not Unicode text"):
        embedder.embed(["\ud800"])
    with pytest.raises(InvalidArgument, match=r"texts\[1\]\[2\] must be in \[0, 29\], got 30"):
        embedder.embed([[2, 3], [2, 3, 30]])
    with pytest.raises(InvalidArgument, match="holds no token ids"):
        embedder.embed([[]])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pooling": {"pooling_mode_weightedmean_tokens": True}}, "weightedmean"),
        ({"pooling": {"pooling_mode": ["mean", "max"]}}, "mean.*max"),
    ],
)
def test_a_pipeline_that_is_not_known_is_refused(changes: dict[str, Any], said: str, build: Build) -> None:
    with pytest.raises(Unimplemented, match=said):
        Embedder(str(build(**changes).path), threads=1)


def test_other_modules_and_default_prompts_are_refused(build: Build) -> None:
    files = build()
    modules = files.path / "modules.json"
    text = modules.read_text()
    modules.write_text(text.replace("models.Normalize", "models.LayerNorm"))
    with pytest.raises(Unimplemented, match=r"module sentence_transformers.models.LayerNorm is not supported"):
        Embedder(str(files.path), threads=1)
    modules.write_text(text)
    (files.path / "config_sentence_transformers.json").write_text('{"default_prompt_name": "query"}')
    with pytest.raises(Unimplemented, match="default_prompt_name"):
        Embedder(str(files.path), threads=1)


def test_missing_and_unused_tensors_are_refused(build: Build) -> None:
    files = build()
    weights = files.path / "model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "encoder.layer.9.output.dense.weight": torch.ones(2)}, weights)
    with pytest.raises(DataLoss, match=r"encoder\.layer\.9\.output\.dense\.weight.*unused"):
        Embedder(str(files.path), threads=1)
    del tensors["embeddings.LayerNorm.bias"]
    save_file(tensors, weights)
    with pytest.raises(DataLoss, match=r"no tensor embeddings\.LayerNorm\.bias"):
        Embedder(str(files.path), threads=1)


def test_the_two_kinds_of_models_are_not_confused(build: Build) -> None:
    with pytest.raises(FailedPrecondition, match="gives embeddings of texts, and generates none"):
        Engine(str(build().path))
    with pytest.raises(Unimplemented, match="LlamaForCausalLM gives no embeddings"):
        Embedder("builtin:smollm2")


def test_minilm_is_that_of_transformers() -> None:
    texts = [
        "That is a happy person",
        "Das ist eine glückliche Person, 🙂 und 今天天气",
        "",
        " ".join(f"Item {n} of the list costs {n * 7 % 31} coins." for n in range(17)),
        "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)",
    ]
    folder = resolve("builtin:minilm").path
    model, tokenizer = BertModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    expected = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=256, padding=False)
        with torch.no_grad():
            expected.append(functional.normalize(model(**inputs).last_hidden_state[0].mean(0), dim=0))
    found = Embedder("builtin:minilm", threads=1).embed(texts)
    assert found.shape == (5, 384)
    cosines = (torch.from_numpy(found) * torch.stack(expected)).sum(-1)
    assert cosines.min() >= 0.9999, cosines
