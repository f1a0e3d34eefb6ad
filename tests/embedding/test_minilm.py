"""all-MiniLM-L6-v2 against vectors that sentence-transformers 6.2.0 made of the same weights on a CPU in float32."""

from pathlib import Path

import numpy as np

from triptych.engine.embedder import Embedder

TEXTS = [
    "The capital of France is Paris.",
    "a",
    "Übergrößenträger, naïve café — 東京",
    "How do I reset a forgotten password on the support portal?",
    " ".join(["A cat sat on the mat while it rained."] * 40),  # longer than the 256 tokens that the model reads
]


def test_vectors_are_those_of_sentence_transformers() -> None:
    expected = np.load(Path(__file__).parent / "data/minilm.npz")["vectors"]
    found = Embedder("builtin:minilm", threads=1).embed(TEXTS, truncate=True)
    assert (found * expected).sum(-1).min() >= 0.9999
    np.testing.assert_allclose(found, expected, atol=1e-5)
