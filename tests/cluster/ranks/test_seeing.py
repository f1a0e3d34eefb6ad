"""A worker of several ranks that sees by itself: pictures are divided among them, and every one is encoded once."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from triptych.engine.eyes import Eyes
from triptych.models.pictures import PreparedImage

TOKENS = 12


@pytest.mark.parametrize("tensor", [2, 4])
def test_every_picture_is_encoded_by_one_rank(
    start: Any, tiny_llava: Path, oracle: Any, ask: Any, answers: Any, monkeypatch: pytest.MonkeyPatch, tensor: int
) -> None:
    questions = oracle.questions(tiny_llava, lambda: ask(3, images=3), 4, TOKENS)
    seen: list[tuple[int, bytes]] = []
    see = Eyes.see

    def watched(eyes: Eyes, prepared: PreparedImage) -> Tensor:
        seen.append((id(eyes), prepared.pixels.tobytes()))
        return see(eyes, prepared)

    monkeypatch.setattr(Eyes, "see", watched)
    cluster = start(tiny_llava, "1D", tensor_parallel=tensor)
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]
    pictures = Counter(pixels for _, pixels in seen)
    assert len(pictures) == 12
    assert set(pictures.values()) == {1}
    assert len({eyes for eyes, _ in seen}) > 1
    assert cluster.host("decode-0").panel.encoding.encoded_images == 12
