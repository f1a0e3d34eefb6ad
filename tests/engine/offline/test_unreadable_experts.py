"""Experts that cannot be read while an engine answers: the same tokens after another try, or an error and no more."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from triptych.core.errors import ResourceExhausted, Unavailable
from triptych.engine import Engine, SamplingParams
from triptych.engine.ranks.replica import Replica
from triptych.engine.ranks.testing import RankThreads
from triptych.engine.reading import ATTEMPTS
from triptych.experts.opening import open_residency
from triptych.experts.settings import Fraction, OffloadSettings
from triptych.experts.steered import SteeredResidency
from triptych.experts.store import PackedStore, faults
from triptych.models.decoder import Decoder

Open = Callable[..., Engine]
GREEDY = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, logprobs=2)
TWO = {"expert_parallel": 2}


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("triptych.engine.engine.Replica", partial(Replica, start=RankThreads))
        yield


@pytest.fixture
def folder(mixture: Path, tmp_path: Path) -> Path:
    """A checkpoint of its own, so that its packed file is, too."""
    return shutil.copytree(mixture, tmp_path / "mixture")


@pytest.fixture(scope="module")
def asked() -> list[list[int]]:
    return [torch.randint(4, 300, (length,)).tolist() for length in (3, 17, 30)]


def answers(engine: Engine, asked: list[list[int]]) -> list[Any]:
    return [(answer.token_ids, answer.logprobs) for answer in engine.generate(asked, GREEDY)]


def pack_of(engine: Engine) -> PackedStore:
    assert engine.core.decoder._offload is not None
    return engine.core.decoder._offload.store


def failed_reads(engine: Engine) -> int:
    assert engine.core.decoder.residency is not None
    return engine.core.decoder.residency.counts.failed_reads


def cut_short(store: PackedStore) -> None:
    os.truncate(store.path, store.offset(0, 0) + 100)


def flip_a_bit_of_every_expert(store: PackedStore) -> None:
    with store.path.open("r+b") as file:
        for layer, packed in enumerate(store.layers):
            for expert in range(packed.experts):
                place = store.offset(layer, expert) + random.randrange(packed.layout.nbytes)
                file.seek(place)
                (byte,) = file.read(1)
                file.seek(place)
                file.write(bytes([byte ^ 1]))


def flip_a_bit_of_every_table(store: PackedStore) -> None:
    """Where bases and exceptions of twelve bits a weight lie."""
    with store.path.open("r+b") as file:
        for layer, packed in enumerate(store.layers):
            for expert in range(packed.experts):
                table = random.choice([packed.layout.gate, packed.layout.up, packed.layout.down]).scales
                assert table is not None
                place = store.offset(layer, expert) + table.offset + random.randrange(table.nbytes)
                file.seek(place)
                (byte,) = file.read(1)
                file.seek(place)
                file.write(bytes([byte ^ 1 << random.randrange(8)]))


def replace_by_noise(store: PackedStore) -> None:
    """Another file under its name; and of the old one nothing is left."""
    size = store.path.stat().st_size
    noise = store.path.with_suffix(".noise")
    noise.write_bytes(random.randbytes(size))
    os.truncate(store.path, 0)
    noise.rename(store.path)


def vanish(store: PackedStore) -> None:
    os.truncate(store.path, 0)
    store.path.unlink()


def fail_to_read(store: PackedStore) -> None:
    """Every descriptor of it becomes one that nothing can be read from."""
    found = [entry for entry in Path("/proc/self/fd").iterdir() if entry.exists() and entry.samefile(store.path)]
    assert found
    with Path(os.devnull).open("wb") as sink:
        for entry in found:
            os.dup2(sink.fileno(), int(entry.name))


Fault = Callable[[PackedStore], None]

FAULTS: dict[str, Fault] = {
    "cut short": cut_short,
    "bits flipped": flip_a_bit_of_every_expert,
    "replaced": replace_by_noise,
    "vanished": vanish,
    "cannot be read": fail_to_read,
}


@pytest.mark.parametrize(
    ("fault", "ranks"),
    [*((fault, {}) for fault in FAULTS.values()), (FAULTS["bits flipped"], TWO), (FAULTS["vanished"], TWO)],
    ids=[*FAULTS, "bits flipped, two ranks", "vanished, two ranks"],
)
def test_a_step_is_run_again_and_no_token_differs(
    fault: Fault, ranks: dict[str, int], folder: Path, open_engine: Open, asked: list[list[int]]
) -> None:
    require_equal(fault, folder, open_engine, asked, ranks)


@pytest.mark.parametrize("ranks", [{}, TWO], ids=["alone", "two ranks"])
@pytest.mark.parametrize(
    "fault", [*FAULTS.values(), flip_a_bit_of_every_table], ids=[*FAULTS, "bits of tables flipped"]
)
def test_nor_does_one_of_experts_in_twelve_bits(
    fault: Fault, ranks: dict[str, Any], folder: Path, open_engine: Open, asked: list[list[int]]
) -> None:
    def noted(store: PackedStore) -> None:
        assert {layer.layout.gate.form for layer in store.layers} == {"compact"}
        fault(store)

    require_equal(noted, folder, open_engine, asked, {"dtype": "bfloat16", **ranks})


def require_equal(
    fault: Fault, folder: Path, open_engine: Open, asked: list[list[int]], ranks: dict[str, Any]
) -> None:
    with open_engine(folder, prefix_caching=False, **ranks) as resident:
        expected = answers(resident, asked)
    offload = OffloadSettings(budget=Fraction(0.75), readers=2, warm=False)
    with open_engine(folder, prefix_caching=False, expert_offload=offload, **ranks) as engine:
        fault(pack_of(engine))
        assert answers(engine, asked) == expected
        before = failed_reads(engine)
        assert before > 0
        fault(pack_of(engine))  # also of those that have been read before
        assert answers(engine, asked) == expected
        assert failed_reads(engine) > before
        after, unseen = failed_reads(engine), len(list(faults(pack_of(engine))))
        assert answers(engine, asked) == expected
        assert failed_reads(engine) <= after + unseen  # of experts that have not been read since


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """While it is, nothing can be packed."""

    @contextmanager
    def fill() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr("triptych.models.cache.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
            yield

    return fill


@pytest.mark.parametrize("ranks", [{}, TWO], ids=["alone", "two ranks"])
def test_what_cannot_be_mended_fails_its_requests_and_nobody_elses(
    ranks: dict[str, int], folder: Path, open_engine: Open, asked: list[list[int]], full_disk: Any
) -> None:
    with open_engine(folder, prefix_caching=False, expert_offload="75%", **ranks) as engine:
        expected = answers(engine, asked)
        vanish(pack_of(engine))
        with full_disk():
            for _ in range(2):
                message = rf"experts could not be read, {ATTEMPTS} times in a row: .*( needs .* are free|rank [01])"
                with pytest.raises(Unavailable, match=message):
                    engine.generate(asked, GREEDY)
                assert not list(engine.core.scheduler.sequences())
        assert answers(engine, asked) == expected


@pytest.mark.parametrize("times", [ATTEMPTS - 1, ATTEMPTS])
def test_what_one_rank_cannot_read_all_ranks_hear_of(
    times: int, folder: Path, open_engine: Open, asked: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    residencies: dict[int, SteeredResidency] = {}

    def opened(*args: Any, rank: int, **options: Any) -> SteeredResidency:
        residencies[rank] = open_residency(*args, rank=rank, **options)
        return residencies[rank]

    monkeypatch.setattr("triptych.models.offload.open_residency", opened)
    with open_engine(folder, expert_offload="75%", prefix_caching=False, **TWO) as engine:
        expected = answers(engine, asked)
        check, left = residencies[1].check, iter(range(times))

        def fail() -> None:
            check()
            if next(left, None) is not None:
                raise Unavailable("the disk is gone")

        monkeypatch.setattr(residencies[1], "check", fail)
        if times == ATTEMPTS:
            with pytest.raises(Unavailable, match=r"experts could not be read, 3 times in a row: .*rank 1"):
                engine.generate(asked, GREEDY)
        assert answers(engine, asked) == expected
        assert next(left, None) is None


def test_an_engine_that_cannot_pack_says_so_and_leaves_nothing(
    folder: Path, open_engine: Open, asked: list[list[int]], full_disk: Any
) -> None:
    with full_disk(), pytest.raises(ResourceExhausted, match=r"Packing experts of .* needs .* are free"):
        open_engine(folder, expert_offload="75%")
    with open_engine(folder) as resident, open_engine(folder, expert_offload="75%") as engine:
        assert answers(engine, asked) == answers(resident, asked)


def test_a_step_without_a_recorded_program_is_run_again(
    folder: Path, open_engine: Open, asked: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    forward = Decoder.forward

    def counted(*args: Any) -> Any:
        runs.append(1)
        return forward(*args)

    monkeypatch.setattr(Decoder, "forward", counted)
    with open_engine(folder) as resident, open_engine(folder, expert_offload="75%") as engine:
        for one in (resident, engine):
            one.core.runner._recorder._usable = False  # type: ignore[attr-defined]
        expected = answers(resident, asked)
        runs.clear()
        vanish(pack_of(engine))
        assert answers(engine, asked) == expected
        assert engine.core.steps < len(runs) <= engine.core.steps * ATTEMPTS
