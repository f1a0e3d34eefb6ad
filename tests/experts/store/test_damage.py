"""Whatever happens to a file, it is noticed: on opening, or when the blob is read."""

import random
from pathlib import Path

import pytest

from tests.support.random_experts import Made, draw, make, same
from triptych.core.errors import DataLoss
from triptych.experts.blob import PAGE, BlobLayout
from triptych.experts.store import faults, header, mend_blob, open_store, read_blob, write_pack


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path / "pack", ("bfloat16", 3), ("Q8_0", 2), ("int8", 2), bias=True)


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def test_a_flipped_bit_outside_the_blobs_keeps_a_file_from_opening(made: Made) -> None:
    content = made.path.read_bytes()
    end = PAGE + made.store.nbytes
    fields, padding = range(48), range(48, PAGE)
    index = range(end, len(content))
    for place in [*fields, *random.sample(padding, 40), *random.sample(index, 80), len(content) - 1]:
        _flip(made.path, place)
        with pytest.raises(DataLoss):
            open_store(made.path)
        made.path.write_bytes(content)
    assert open_store(made.path) == made.store


def test_a_flipped_bit_of_a_blob_shows_when_it_is_read_and_in_no_other(made: Made) -> None:
    content = made.path.read_bytes()
    for layer, number in made.experts:
        start, layout = made.store.offset(layer, number), made.store.layers[layer].layout
        last = start + layout.nbytes - 1  # padding
        for place in (start, last, random.randrange(start, last)):
            _flip(made.path, place)
            store = open_store(made.path)
            assert list(faults(store)) == [(layer, number)]
            with pytest.raises(DataLoss, match=f"expert {number} of mixture {layer} is damaged"):
                read_blob(store, layer, number)
            made.path.write_bytes(content)


def test_a_file_torn_anywhere_does_not_open(made: Made) -> None:
    content = made.path.read_bytes()
    for length in [0, 1, PAGE - 1, PAGE, len(content) - 1, *random.sample(range(len(content)), 30)]:
        made.path.write_bytes(content[:length])
        with pytest.raises(DataLoss):
            open_store(made.path)


def test_a_file_with_something_behind_it_does_not_open(made: Made) -> None:
    with made.path.open("ab") as file:
        file.write(bytes(random.randrange(1, 3 * PAGE)))

    with pytest.raises(DataLoss, match="torn"):
        open_store(made.path)


def test_a_blob_cut_off_while_it_is_open_is_missed(made: Made) -> None:
    with made.path.open("r+b") as file:
        file.truncate(made.store.offset(1, 1) + PAGE)

    read_blob(made.store, 1, 0)
    with pytest.raises(DataLoss, match="cut short"):
        read_blob(made.store, 1, 1)
    assert list(faults(made.store)) == [(1, 1), (2, 0), (2, 1)]


def test_a_file_that_is_gone_is_said_to_be(made: Made) -> None:
    made.path.unlink()

    with pytest.raises(DataLoss, match="No such file"):
        open_store(made.path)
    with pytest.raises(DataLoss, match="No such file"):
        read_blob(made.store, 0, 0)


def test_a_file_of_another_version_does_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "VERSION", 2**31)
    made = make(tmp_path / "pack", ("bfloat16", 1))
    monkeypatch.undo()

    with pytest.raises(DataLoss, match=f"version {2**31}"):
        open_store(made.path)


def test_a_mended_blob_is_as_it_was(made: Made) -> None:
    whole = made.path.read_bytes()
    damaged = [(layer, number) for layer, number in made.experts if random.random() < 0.6] or [(0, 0)]
    for layer, number in damaged:
        _flip(made.path, made.store.offset(layer, number) + random.randrange(made.store.layers[layer].layout.nbytes))
    store = open_store(made.path)

    mended = {who: mend_blob(store, *who, made.read) for who in made.experts}

    assert mended == {who: who in damaged for who in made.experts}
    assert made.path.read_bytes() == whole


def test_a_blob_is_mended_under_whoever_has_the_file_open(made: Made) -> None:
    with made.path.open("rb") as file:
        _flip(made.path, made.store.offset(0, 1))
        mend_blob(made.store, 0, 1, made.read)
        file.seek(made.store.offset(0, 1))
        raw = file.read(made.store.layers[0].layout.nbytes)

    assert raw == bytes(read_blob(made.store, 0, 1).numpy())
    assert same(made.store.layers[0].layout.view(read_blob(made.store, 0, 1)), made.experts[0, 1])


def test_a_checkpoint_that_has_changed_mends_nothing(made: Made) -> None:
    _flip(made.path, made.store.offset(0, 1))
    before = made.path.read_bytes()

    with pytest.raises(DataLoss, match="checkpoint has changed"):
        mend_blob(made.store, 0, 1, lambda *_: draw("bfloat16", bias=True))
    assert made.path.read_bytes() == before


def test_layouts_without_scales_or_bias_come_back(tmp_path: Path) -> None:
    layouts = [(BlobLayout.of(draw(form, bias=bias)), 0) for form in ("float32", "int8") for bias in (False, True)]

    store = write_pack(tmp_path / "pack", layouts, lambda *_: draw("float32"))

    assert [(layer.layout, layer.experts) for layer in open_store(store.path).layers] == layouts
