import random

import pytest

from tests.support.seeds import drawn_seed
from triptych.core.errors import InvalidArgument
from triptych.core.generation import FinishReason
from triptych.core.prompt import ImageSpan, Prompt
from triptych.core.resuming import ending, input_digest, require_received
from triptych.core.sampling import SamplingParams

EOS = frozenset({2})


@pytest.mark.parametrize(
    ("received", "stopped", "expected"),
    [
        ((), False, None),
        ((5, 6), False, None),
        ((5, 2), False, FinishReason.STOP),
        ((2, 5), False, None),
        ((5, 9), False, FinishReason.STOP),
        ((5,), True, FinishReason.STOP),
        ((5, 6, 7), False, FinishReason.LENGTH),
        ((5, 6, 7, 8), False, FinishReason.LENGTH),
        ((5, 6, 2), False, FinishReason.STOP),
        ((5, 6, 7), True, FinishReason.STOP),
    ],
)
def test_a_whole_answer_is_known_by_its_last_token(
    received: tuple[int, ...], stopped: bool, expected: FinishReason | None
) -> None:
    sampling = SamplingParams(max_tokens=3, stop_token_ids=(9,))
    assert ending(received, sampling, EOS, stopped=stopped) is expected


def test_an_ignored_end_of_sequence_ends_nothing() -> None:
    assert ending((2,), SamplingParams(max_tokens=3, ignore_eos=True), EOS, stopped=False) is None


@pytest.mark.parametrize(
    ("received", "field", "message"),
    [
        ((0, 1, 2, 3), "resume.received_token_ids", "at most 3 ids, which is sampling.max_tokens; got 4"),
        ((0, 10), "resume.received_token_ids[1]", r"must be in \[0, 9\], got 10"),
        ((-1,), "resume.received_token_ids[0]", r"must be in \[0, 9\], got -1"),
    ],
)
def test_what_no_answer_begins_with_is_refused(received: tuple[int, ...], field: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        require_received(received, vocabulary=10, max_tokens=3)
    assert caught.value.field == field


def test_every_beginning_of_an_answer_passes() -> None:
    for length in range(4):
        require_received((9,) * length, vocabulary=10, max_tokens=3)
    require_received((0,) * 1000, vocabulary=10, max_tokens=None)


def test_the_same_question_has_the_same_digest_and_no_other_has() -> None:
    seed = drawn_seed()
    ids = tuple(random.Random(seed).choices(range(1000), k=50))
    base = (Prompt(ids, (ImageSpan(3, 4),)), ["a"], SamplingParams(stop=("x",), seed=1))
    others = [
        (Prompt(ids[:-1], (ImageSpan(3, 4),)), ["a"], base[2]),
        (Prompt((*ids[:-1], ids[-1] + 1), (ImageSpan(3, 4),)), ["a"], base[2]),
        (Prompt(ids, (ImageSpan(3, 5),)), ["a"], base[2]),
        (base[0], ["b"], base[2]),
        (base[0], ["a", "a"], base[2]),
        (base[0], ["a"], SamplingParams(stop=("x",), seed=2)),
        (base[0], ["a"], SamplingParams(stop=("x", "x"), seed=1)),
        (base[0], ["a"], SamplingParams(stop=("x",), seed=1, max_tokens=5)),
        (*base, "adapter"),
    ]
    assert input_digest(*base) == input_digest(Prompt(tuple(ids), (ImageSpan(3, 4),)), ("a",), base[2])
    assert len({input_digest(*question) for question in (base, *others)}) == len(others) + 1
