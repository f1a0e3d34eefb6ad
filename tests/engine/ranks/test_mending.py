"""A rank that packs a model anew inside a step: the others wait for as long as it says that it does."""

import threading
from typing import Any, cast

import pytest
import torch

from triptych.core.errors import DataLoss
from triptych.engine.ranks.reading import CommonReading
from triptych.experts.store import PackedStore
from triptych.models import rank_mend
from triptych.models.rank_mend import RankMend
from triptych.parallel import Mesh, Parallelism
from triptych.parallel.patience import PATIENCE
from triptych.parallel.testing import run_threads
from triptych.parallel.words import Word, told

CPU = torch.device("cpu")
WORDS = 25
"""Until the work is done. A rank has its whole patience for each of them."""
EVERY = 0.01


class Residency:
    """Of a rank whose experts cannot be read so many times; each time all are packed, or that fails as well."""

    def __init__(self, mend: RankMend, failures: int) -> None:
        self.mend = mend
        self.failures = failures

    def check(self) -> None:
        if self.failures:
            self.failures -= 1
            self.mend(0, 0)
            raise DataLoss("the step is to be repeated")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Has a permit for every word of a rank that mends."""
    words = threading.Semaphore(0)

    def tell(mesh: Mesh, word: Word, device: torch.device) -> list[Word]:
        found = told(mesh, word, device)
        words.release()
        return found

    monkeypatch.setattr(rank_mend, "told", tell)
    return words


@pytest.mark.parametrize("fails", [False, True])
def test_the_others_wait_for_one_word_after_the_other(said: threading.Semaphore, fails: bool) -> None:
    runs, calls = [0, 0], [0, 0]

    def pack(layer: int, expert: int) -> PackedStore:
        for _ in range(WORDS):
            assert said.acquire(timeout=60)
        if fails:
            raise DataLoss("the checkpoint is gone")
        return cast(PackedStore, None)

    def one(mesh: Mesh) -> str:
        def again() -> None:
            runs[mesh.rank] += 1

        residency: Any = Residency(RankMend(pack, mesh, CPU, EVERY), failures=mesh.rank)
        reason = CommonReading(residency, mesh, CPU).all_read(again)
        calls[mesh.rank] = mesh.expert.traffic.calls.total()
        return reason

    assert run_threads(Parallelism(1, 2), one) == ("", "")
    assert runs == [1, 1]
    assert calls[0] == calls[1] >= WORDS + 2  # and how each run has gone


def test_words_come_sooner_than_a_patience_ends() -> None:
    assert RankMend(cast(Any, None), Mesh(), CPU).every <= PATIENCE / 2


def test_all_ranks_mend_at_once(said: threading.Semaphore) -> None:
    turns = threading.Barrier(2, timeout=60)

    def one(mesh: Mesh) -> str:
        def pack(layer: int, expert: int) -> PackedStore:
            for _ in range(3 + 4 * mesh.rank):
                assert said.acquire(timeout=60)
            return cast(PackedStore, None)

        residency: Any = Residency(RankMend(pack, mesh, CPU, 0.01), failures=1)
        return CommonReading(residency, mesh, CPU).all_read(lambda: cast(None, turns.wait()))

    assert run_threads(Parallelism(1, 2), one) == ("", "")
