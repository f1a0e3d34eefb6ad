"""What is written is read back, of every form, and memory holds a few experts of it at a time."""

import weakref
from pathlib import Path

import pytest
import torch

from tests.support.random_experts import draw, make, same
from triptych.core.errors import DataLoss, Unimplemented
from triptych.experts.blob import PAGE, BlobLayout, Expert
from triptych.experts.store import faults, file_bytes, open_store, read_blob, write_pack, xxh3
from triptych.kernels.gguf_blocks import GGUF_BLOCKS

FORMS = ("bfloat16", "float16", "float32", "int8", *GGUF_BLOCKS)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_expert_comes_back_as_it_was(form: str, bias: bool, tmp_path: Path) -> None:
    made = make(tmp_path / "pack", (form, 3), bias=bias)

    store = open_store(made.path)

    assert store == made.store
    for (layer, number), expert in made.experts.items():
        assert same(store.layers[layer].layout.view(read_blob(store, layer, number)), expert)


def test_sections_are_made_once(tmp_path: Path) -> None:
    """Whoever starts copies asks for them at each, and a step waits for that."""
    layout = make(tmp_path / "pack", ("bfloat16", 1)).store.layers[0].layout

    assert layout.sections is layout.sections

    assert [(section.start, section.end) for section in layout.sections] == [
        (0, layout.first),
        (layout.first, layout.nbytes),
    ]


def test_layers_of_different_forms_lie_one_behind_the_other_on_pages(tmp_path: Path) -> None:
    made = make(tmp_path / "pack", ("bfloat16", 5), ("Q4_K", 2), ("int8", 1))

    store = open_store(made.path)

    places = [(store.offset(layer, expert), store.layers[layer].layout) for layer, expert in made.experts]
    assert places[0][0] == PAGE
    assert all(offset % PAGE == layout.first % PAGE == 0 for offset, layout in places)
    ends = [offset + layout.nbytes for offset, layout in places]
    assert [offset for offset, _ in places[1:]] == ends[:-1]
    assert store.nbytes == ends[-1] - PAGE
    assert store.blob_bytes == max(layout.nbytes for _, layout in places)
    shape = [(layer.layout, layer.experts) for layer in store.layers]
    assert made.path.stat().st_size == file_bytes(shape)


@pytest.mark.parametrize("piece", [PAGE, 2 * PAGE, 1 << 20])
def test_checksums_are_those_of_the_pieces_of_both_sections(tmp_path: Path, piece: int) -> None:
    made = make(tmp_path / "pack", ("float32", 2), piece=piece)
    raw = torch.frombuffer(bytearray(made.path.read_bytes()), dtype=torch.uint8)
    start, layout = made.store.offset(0, 1), made.store.layers[0].layout

    sections = raw[start : start + layout.first], raw[start + layout.first : start + layout.nbytes]

    pieces = [part for section in sections for part in torch.split(section, piece)]
    assert made.store.checksums(0, 1) == tuple(xxh3(part) for part in pieces)
    assert open_store(made.path) == made.store
    assert xxh3(torch.empty(0, dtype=torch.uint8)) == 0x2D06800538D394C2  # the specification's own example


def test_a_whole_file_has_no_faults(tmp_path: Path) -> None:
    made, seen = make(tmp_path / "pack", ("bfloat16", 4), ("float32", 2)), list[int]()

    assert list(faults(made.store, seen.append)) == []
    assert sum(seen) == made.store.nbytes


def test_many_small_experts_go_to_the_disk_together(tmp_path: Path) -> None:
    experts = [draw("bfloat16", 64, 16) for _ in range(600)]
    written: list[int] = []

    layout = BlobLayout.of(experts[0])
    write_pack(tmp_path / "pack", [(layout, 600)], lambda _, number: experts[number], advance=written.append)

    assert sum(written) == 600 * layout.nbytes
    assert len(written) == -(-600 // ((8 << 20) // layout.nbytes))
    assert list(faults(open_store(tmp_path / "pack"))) == []


def test_two_experts_are_held_at_a_time(tmp_path: Path) -> None:
    layout = BlobLayout.of(draw("float32"))
    alive: list[weakref.ref[torch.Tensor]] = []
    most, gone = 0, list[tuple[int, int]]()

    def read(layer: int, number: int) -> Expert:
        nonlocal most
        expert = draw("float32")
        alive.append(weakref.ref(expert[0].weight.values))
        most = max(most, sum(ref() is not None for ref in alive))
        return expert

    write_pack(tmp_path / "pack", [(layout, 20), (layout, 20)], read, lambda *who: gone.append(who))

    assert most <= 3  # the one that is packed, the next one, and what the caller still names
    assert gone == [(layer, number) for layer in range(2) for number in range(20)]


def test_an_expert_unlike_the_others_of_its_layer_is_refused(tmp_path: Path) -> None:
    experts = [draw("bfloat16"), draw("bfloat16"), draw("float32")]

    with pytest.raises(Unimplemented, match="expert 2 of mixture 0"):
        write_pack(tmp_path / "pack", [(BlobLayout.of(experts[0]), 3)], lambda _, number: experts[number])


def test_a_file_that_was_not_finished_is_none(tmp_path: Path) -> None:
    layout = BlobLayout.of(draw("bfloat16"))

    def read(layer: int, number: int) -> Expert:
        if number == 2:
            raise KeyboardInterrupt
        return draw("bfloat16")

    with pytest.raises(KeyboardInterrupt):
        write_pack(tmp_path / "pack", [(layout, 3)], read)
    with pytest.raises(DataLoss, match="not a pack"):
        open_store(tmp_path / "pack")
