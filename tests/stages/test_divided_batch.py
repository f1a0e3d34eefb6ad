"""A worker's pictures on two ranks: every one passes one tower, and a bad one fails who sent it."""

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from triptych.core.encoding.job import Batch
from triptych.core.errors import Internal, InvalidArgument
from triptych.core.prompt import ImagePart
from triptych.engine.eyes import Shown
from triptych.engine.ranks.seeing import DividedEyes, FollowerEyes
from triptych.parallel import RankLost
from triptych.parallel.channel import Hub, Member
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.divided_batch import DividedBatchEncoder
from triptych.stages.encode_batch import EncodeJob, Shape
from triptych.stages.messages import Command

COLUMNS = 5


@dataclass
class Tower:
    """In the place of `Eyes`: an embedding repeats the sum of a picture's bytes."""

    seen: list[bytes] = field(default_factory=list)

    def look(self, shown: Shown) -> Tensor:
        assert isinstance(shown.part, ImagePart)
        data = shown.part.data
        if data.startswith(b"bad"):
            raise InvalidArgument("not a picture", field=shown.field)
        if data.startswith(b"odd"):
            raise RuntimeError("out of memory")
        self.seen.append(data)
        return torch.full((1, shown.rows, COLUMNS), float(sum(data)))


@pytest.fixture
def towers() -> tuple[Tower, Tower]:
    return Tower(), Tower()


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub(2)
    yield made
    made.close()


@pytest.fixture
def encoder(hub: Hub, towers: tuple[Tower, Tower]) -> Iterator[DividedBatchEncoder]:
    member = Member(hub.address, hub.key, 1)
    hub.gather(60)
    eyes = FollowerEyes(lambda: cast(Any, towers[1]), 1, member.send)

    def follow() -> None:
        try:
            while True:
                message = member.receive()
                eyes.handlers[type(message)](message)
        except RankLost:
            pass

    thread = threading.Thread(target=follow)
    thread.start()
    yield DividedBatchEncoder(Shape(COLUMNS, 0, torch.float32), cast(Any, towers[0]), DividedEyes(hub, 2), 1)
    hub.close()
    thread.join()
    eyes.close()


def batch_of(*requests: list[bytes]) -> Batch[EncodeJob]:
    jobs = []
    for number, pictures in enumerate(requests):
        images = [
            pb.EncodeImage(
                index=i,
                content_hash=hashlib.sha256(data).hexdigest(),
                data=data,
                rows=len(data),
                field=f"request {number} image {i}",
            )
            for i, data in enumerate(pictures)
        ]
        key = pb.OperationKey(request_id=f"request {number}", epoch=1)
        request = pb.ConnectRequest(encode=pb.Encode(key=key, images=images))
        jobs.append(EncodeJob.of(Command(cast(Any, object()), request, time.monotonic()), 4 * COLUMNS))
    return Batch(tuple(jobs), tuple({picture: None for job in jobs for picture in job.pictures}), time.monotonic())


def test_every_picture_passes_one_tower(encoder: DividedBatchEncoder, towers: tuple[Tower, Tower]) -> None:
    first, second = [b"a" * 9, b"b" * 4, b"c" * 5], [b"b" * 4, b"d" * 7]
    encoded = encoder.encode(batch_of(first, second))
    assert encoded.failed == {}
    for data in {*first, *second}:
        values = np.frombuffer(encoded.data[hashlib.sha256(data).hexdigest()], np.float32)
        assert values.tolist() == [float(sum(data))] * len(data) * COLUMNS
    assert [sorted(tower.seen) for tower in towers] == [[b"a" * 9, b"b" * 4], [b"c" * 5, b"d" * 7]]
    assert encoder.passes == 4


@pytest.mark.parametrize("largest", [True, False], ids=["here", "elsewhere"])
def test_a_bad_picture_fails_the_requests_that_sent_it(encoder: DividedBatchEncoder, largest: bool) -> None:
    bad = b"bad" + b"x" * (20 if largest else 1)
    encoded = encoder.encode(batch_of([b"good" * 4, bad], [bad], [b"fine" * 5]))
    assert {key.request_id for key in encoded.failed} == {"request 0", "request 1"}
    assert {error.field for error in encoded.failed.values()} == {"request 0 image 1"}
    assert len(encoded.data) == 2


def test_a_defect_elsewhere_fails_the_request_and_not_the_rank(encoder: DividedBatchEncoder) -> None:
    encoded = encoder.encode(batch_of([b"good" * 4, b"odd"]))
    (error,) = encoded.failed.values()
    assert isinstance(error, Internal)
    assert "out of memory" in error.message
    assert len(encoder.encode(batch_of([b"good" * 4, b"next"])).data) == 2


def test_a_lost_rank_ends_it(encoder: DividedBatchEncoder, hub: Hub) -> None:
    hub.blame(RankLost("rank 1 is gone"))
    with pytest.raises(RankLost):
        encoder.encode(batch_of([b"one", b"two"]))


def test_a_rank_that_lives_and_does_not_see_is_lost(
    encoder: DividedBatchEncoder, towers: tuple[Tower, Tower], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    hub.on_lost(lambda lost: over.set())
    monkeypatch.setattr(towers[1], "look", lambda shown: over.wait())
    monkeypatch.setattr("triptych.engine.ranks.seeing._PATIENCE", 0.5)
    with pytest.raises(RankLost, match="no rank has sent an embedding for"):
        encoder.encode(batch_of([b"first", b"two"]))
    assert over.is_set()
