"""The names of KV blocks: equal for equal beginnings, and for nothing else."""

import itertools

import pytest
import torch

from triptych.core.generation import OperationKey
from triptych.core.positions import Grid
from triptych.engine.digests import full_block_digests
from triptych.engine.sampling import Sampling
from triptych.engine.sequence import Media, Sequence

SIZE = 4
PICTURE = torch.zeros(3, 2)


def digests(token_ids: list[int], *media: Media, root: bytes = b"") -> list[bytes]:
    sequence = Sequence(OperationKey("1"), token_ids, len(token_ids), Sampling(), 0, 99, media=media)
    return full_block_digests(sequence, SIZE, root)


def test_there_is_one_name_per_full_block() -> None:
    assert [len(digests([1] * length)) for length in (0, 3, 4, 7, 8, 11)] == [0, 0, 1, 1, 2, 2]
    assert len(set(digests([1] * 40))) == 10  # the same tokens elsewhere are something else


@pytest.mark.parametrize("place", range(12))
def test_a_token_changes_its_block_and_all_that_follow(seed: int, place: int) -> None:
    tokens: list[int] = torch.randint(0, 2**31 - 1, (12,)).tolist()
    other = list(tokens)
    other[place] ^= 1
    same = [a == b for a, b in zip(digests(tokens), digests(other), strict=True)]
    assert same == [index < place // SIZE for index in range(3)]


def test_an_adapter_changes_every_block() -> None:
    sequences = [
        Sequence(OperationKey("1"), [5] * 12, 12, Sampling(), 0, 99, adapter=adapter)
        for adapter in ("", "one", "other", "one")
    ]
    none, one, other, again = (full_block_digests(sequence, SIZE, b"root") for sequence in sequences)
    assert again == one
    assert len({*none, *one, *other}) == 9


def test_a_picture_changes_the_blocks_that_it_lies_in_and_all_that_follow() -> None:
    tokens = [7] * 16
    variants = {
        name: digests(tokens, *media)
        for name, media in {
            "none": (),
            "one": (Media(5, 3, PICTURE, "one"),),
            "not here": (Media(5, 3, None, "one"),),
            "two": (Media(5, 3, PICTURE, "two"),),
            "earlier": (Media(4, 3, PICTURE, "one"),),
            "shorter": (Media(5, 2, PICTURE, "one"),),
            "both": (Media(5, 1, PICTURE, "one"), Media(6, 2, PICTURE, "two")),
            "swapped": (Media(5, 1, PICTURE, "two"), Media(6, 2, PICTURE, "one")),
        }.items()
    }
    assert variants.pop("not here") == variants["one"]
    assert len({names[0] for names in variants.values()}) == 1
    for index in (1, 2, 3):
        assert len({names[index] for names in variants.values()}) == len(variants)


def test_other_rows_and_other_positions_of_a_picture_are_something_else() -> None:
    tokens = [7] * 16
    variants = {
        name: digests(tokens, *media)
        for name, media in {
            "line": (Media(4, 4, None, "one"),),
            "later rows": (Media(4, 4, None, "one", 4),),
            "square": (Media(4, 4, None, "one", 0, Grid(1, 2, 2)),),
            "column": (Media(4, 4, None, "one", 0, Grid(1, 4, 1)),),
            "slow": (Media(4, 4, None, "one", 0, Grid(2, 2, 1, 1.0)),),
            "fast": (Media(4, 4, None, "one", 0, Grid(2, 2, 1, 9.0)),),
        }.items()
    }
    for index in (1, 2, 3):
        assert len({names[index] for names in variants.values()}) == len(variants)
    assert len({names[0] for names in variants.values()} | {digests(tokens)[0]}) == 1  # text before any picture


def test_an_answer_has_the_names_that_it_has_in_the_next_prompt() -> None:
    video = Media(4, 4, None, "video", 0, Grid(4, 1, 1, 5.0))
    asked = Sequence(OperationKey("1"), [7] * 16, 12, Sampling(), 0, 99, media=(video,))
    told = Sequence(OperationKey("2"), [7] * 16, 16, Sampling(), 0, 99, media=(video,))
    answered, written = (full_block_digests(sequence, SIZE, b"") for sequence in (asked, told))
    assert answered == written


def test_a_picture_over_several_blocks_is_in_each_of_them() -> None:
    for first, second in itertools.combinations(["a", "b", "c"], 2):
        one, other = (digests([7] * 12, Media(0, 12, None, name)) for name in (first, second))
        assert all(a != b for a, b in zip(one, other, strict=True))


def test_names_are_extended_and_not_worked_out_again() -> None:
    sequence = Sequence(OperationKey("1"), [1] * 6, 6, Sampling(), 0, 99)
    assert full_block_digests(sequence, SIZE, b"") is sequence.digests
    (first,) = sequence.digests
    sequence.token_ids += [2] * 6
    assert full_block_digests(sequence, SIZE, b"") == digests(sequence.token_ids)
    assert sequence.digests[0] is first


def test_the_root_tells_apart_what_depends_on_more_than_tokens() -> None:
    assert digests([1] * 8, root=b"adapter")[0] != digests([1] * 8)[0]
    assert digests([1] * 8, root=b"adapter")[1] != digests([1] * 8)[1]
