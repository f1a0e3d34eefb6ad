import pytest

from triptych.core.errors import ResourceExhausted
from triptych.core.pictures import PictureMemory


def test_pictures_share_a_limit() -> None:
    memory = PictureMemory(limit=100)
    memory.reserve(60, 1.0)
    memory.reserve(40, 1.0)
    with pytest.raises(ResourceExhausted, match=r"have 100 bytes and this request's 1; the limit is 100") as caught:
        memory.reserve(1, 1.0)
    assert caught.value.retry_after == 1.0
    memory.release(60)
    memory.reserve(60, 1.0)
    assert memory.held == 100


def test_what_never_fits_is_not_asked_to_come_back() -> None:
    memory = PictureMemory(limit=100)
    with pytest.raises(ResourceExhausted) as caught:
        memory.reserve(101, 1.0)
    assert caught.value.retry_after is None
    assert memory.held == 0


def test_an_accepted_request_keeps_its_pictures_when_its_reservation_ends() -> None:
    memory = PictureMemory(limit=100)
    memory.reserve(100, 1.0)
    memory.keep(100)
    memory.release(100)
    assert memory.held == 100
    memory.release(100)
    assert memory.held == 0
