import gc
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.transfer import SegmentRef, SharedSegment, host_id
from triptych.transfer.segment import HEADER_BYTES

pytestmark = pytest.mark.skipif(not SharedSegment.available(), reason="no memfd here")


def _mapped(name: str) -> int:
    return len(re.findall(rf"/memfd:{name} ", Path("/proc/self/maps").read_text()))


def test_another_process_reads_what_the_owner_wrote(rng: np.random.Generator, start_peer: Callable[..., Any]) -> None:
    with SharedSegment.create(100_000) as segment:
        segment.array[:] = rng.integers(0, 256, 100_000, dtype=np.uint8)
        ref = {name: getattr(segment.ref, name) for name in SegmentRef.__slots__}
        seen = start_peer("attach", ref=ref).hear()
        assert seen == {
            "sum": int(segment.array.sum(dtype=np.int64)),
            "writable": False,
            "mapped_for_writing": False,
        }


def test_a_segment_of_another_process_is_mapped_not_copied(start_peer: Callable[..., Any]) -> None:
    owner = start_peer("own", size=5000, seed=3)
    segment = SharedSegment.attach(SegmentRef(**owner.hear()))
    assert segment.ref.host_id == host_id()
    assert segment.ref.pid == owner.pid
    assert (segment.array == np.random.default_rng(3).integers(0, 256, 5000, dtype=np.uint8)).all()
    with pytest.raises(ValueError, match="read-only"):
        segment.array[0] = 1
    # The memory outlives its owner for those who have it mapped, and is not found by anyone else.
    owner.kill()
    assert segment.array[1] == np.random.default_rng(3).integers(0, 256, 5000, dtype=np.uint8)[1]
    with pytest.raises(FailedPrecondition, match="cannot attach"):
        SharedSegment.attach(segment.ref)
    segment.close()


def test_data_is_page_aligned_zeroed_and_writable() -> None:
    with SharedSegment.create(10) as segment:
        assert segment.size == len(segment.buffer) == 10
        assert segment.array.ctypes.data % os.sysconf("SC_PAGE_SIZE") == 0
        assert not segment.array.any()
        segment.buffer[3] = 7
        with SharedSegment.attach(segment.ref) as twin:
            assert twin.array[3] == 7


def test_size_cannot_change_under_a_reader() -> None:
    with SharedSegment.create(10_000) as segment:
        for size in (1, 100_000):
            with pytest.raises(PermissionError):
                os.ftruncate(segment.ref.descriptor, size)


def test_a_recycled_descriptor_is_not_mistaken() -> None:
    first = SharedSegment.create(100)
    first.close()
    second = SharedSegment.create(100)
    assert second.ref.descriptor == first.ref.descriptor
    with pytest.raises(FailedPrecondition, match="not the one that was announced"):
        SharedSegment.attach(first.ref)
    second.close()


@pytest.mark.parametrize("kind", ["pipe", "file", "memfd"])
def test_other_descriptors_are_refused(kind: str, tmp_path: Path) -> None:
    if kind == "pipe":
        descriptor = os.pipe()[0]
    elif kind == "file":
        (tmp_path / "x").write_bytes(bytes(HEADER_BYTES + 100))
        descriptor = os.open(tmp_path / "x", os.O_RDONLY)
    else:
        descriptor = os.memfd_create("other")
        os.ftruncate(descriptor, HEADER_BYTES + 100)
    with pytest.raises(FailedPrecondition, match="cannot attach"):
        SharedSegment.attach(SegmentRef(host_id(), os.getpid(), descriptor, "00" * 16, 100))
    os.close(descriptor)


def test_a_wrong_size_or_host_is_refused() -> None:
    with SharedSegment.create(100) as segment:
        with pytest.raises(FailedPrecondition, match="does not have"):
            SharedSegment.attach(replace(segment.ref, size=101))
        with pytest.raises(FailedPrecondition, match="another host"):
            SharedSegment.attach(replace(segment.ref, host_id="elsewhere"))


def test_closing_with_a_view_alive_ends_sharing_and_keeps_the_view() -> None:
    segment = SharedSegment.create(100, name="kept-alive")
    view = segment.array[10:20]
    view[:] = 5
    segment.close()
    segment.close()
    assert (view == 5).all()
    with pytest.raises(FailedPrecondition, match="closed"):
        _ = segment.array
    with pytest.raises(FailedPrecondition, match="cannot attach"):
        SharedSegment.attach(segment.ref)
    assert _mapped("kept-alive") == 1
    del view, segment
    gc.collect()
    assert _mapped("kept-alive") == 0


def test_a_segment_has_at_least_a_byte() -> None:
    with pytest.raises(InvalidArgument, match="got 0"):
        SharedSegment.create(0)
