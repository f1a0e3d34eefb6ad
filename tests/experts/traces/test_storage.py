"""A recording as a file."""

import random
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from tests.support.recordings import MODEL, recording
from triptych.core.errors import DataLoss, FailedPrecondition, NotFound
from triptych.experts.traces import Foreseen, RouteLog, Routes, read_routes, write_routes


def same(one: object, other: object) -> bool:
    if isinstance(one, Routes | Foreseen):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else one == other


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    routes = recording(7, rows=3)
    write_routes(tmp_path / "routes.npz", routes)
    assert same(read_routes(tmp_path / "routes.npz"), routes)
    assert [file.name for file in tmp_path.iterdir()] == ["routes.npz"]


def test_steps_that_are_collected_are_the_recording() -> None:
    routes = recording(9, rows=2)
    log = RouteLog(MODEL)
    for rows in routes.rows():
        foreseen = Foreseen(routes.foreseen.experts[:, rows], routes.foreseen.chances[:, rows])
        log.add(routes.tokens[rows], routes.sequences[rows], routes.positions[rows], routes.ids[:, rows], foreseen)
    collected = log.routes(routes.embeddings[log.tokens])
    assert len(collected) == 9
    assert same(collected.ids, routes.ids)
    assert same(collected.steps, routes.steps)
    assert same(collected.embedded(), routes.embedded())


def test_a_torn_file_is_told_from_an_absent_one(tmp_path: Path) -> None:
    path = tmp_path / "routes.npz"
    with pytest.raises(NotFound, match="does not exist"):
        read_routes(path)
    write_routes(path, recording(7))
    whole = path.read_bytes()
    for cut in (0, 1, random.randrange(2, len(whole) - 1), len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataLoss, match="is torn, or no recording"):
            read_routes(path)
    with pytest.raises(FailedPrecondition, match="cannot be read"):
        read_routes(tmp_path)


def test_a_changed_byte_of_the_routes_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "routes.npz"
    write_routes(path, recording(50))
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"ids.npy") + 60] ^= 0x40
    path.write_bytes(damaged)
    with pytest.raises(DataLoss):
        read_routes(path)


def test_another_archive_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DataLoss, match="no recording of routes"):
        read_routes(tmp_path / "other.npz")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="cannot be written"):
        write_routes(tmp_path / "absent" / "routes.npz", recording(2))
    assert not list(tmp_path.iterdir())
