import pytest

from triptych.cli.bench.engine.workloads import Decode, FreshPrompts, Prefill, workloads
from triptych.cli.bench.numbers import integers
from triptych.cli.bench.words import WORDS, text
from triptych.core.errors import InvalidArgument


def test_every_batch_size_is_decoded_then_one_prompt_is_read() -> None:
    assert workloads((1, 8), 32, 128, 1500) == (Decode(1, 32, 128), Decode(8, 32, 128), Prefill(1500))


def test_the_rate_counts_output_tokens_of_a_batch_or_prompt_tokens() -> None:
    assert (Decode(8, 32, 128).counted, Prefill(1500).counted) == (1024, 1500)


@pytest.mark.parametrize("tokens", [4, 32, 1500])
def test_a_prompt_is_its_salt_and_a_word_for_each_further_token(tokens: int) -> None:
    salt, *words = text(tokens, 17).split()
    assert (salt, len(words)) == ("17", tokens - 3)
    assert set(words) <= set(WORDS)


def test_no_two_prompts_begin_alike() -> None:
    prompts = FreshPrompts()
    taken = [*prompts.take(1, 32), *prompts.take(40, 32), *prompts.take(3, 200)]
    assert len({prompt.split()[0] for prompt in taken}) == 44


@pytest.mark.parametrize(
    ("sizes", "field"),
    [(((0,), 32, 8, 64), "batches"), (((), 32, 8, 64), "batches"), (((1,), 3, 8, 64), "prompt"),
     (((1,), 32, 0, 64), "out"), (((1,), 32, 8, 3), "prefill")],
)  # fmt: skip
def test_a_workload_too_small_is_refused(sizes: tuple[tuple[int, ...], int, int, int], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        workloads(*sizes)
    assert refused.value.field == field


def test_lists_of_numbers_are_read_or_refused() -> None:
    assert integers("1,8,32", "batches") == (1, 8, 32)
    with pytest.raises(InvalidArgument, match="--batches"):
        integers("1,many", "batches")
