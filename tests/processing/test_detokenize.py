import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders

from tests.support.seeds import drawn_seed
from triptych.core.errors import Unimplemented
from triptych.core.sampling import SamplingParams
from triptych.models.detokenize import IncrementalDetokenizer
from triptych.models.token_bytes import TokenBytes
from triptych.models.token_stream import TokenStream, stream_factory

many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def ids_of(tokenizer: Tokenizer, tokens: Iterable[str]) -> list[int]:
    ids = [tokenizer.token_to_id(token) for token in tokens]
    assert None not in ids
    return [token_id for token_id in ids if token_id is not None]


@dataclass
class Opener:
    tokenizer: Tokenizer

    def open_stream(self, hidden: frozenset[int] | None = None) -> TokenStream:
        return stream_factory(self.tokenizer)(hidden)


def run(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...], data: st.DataObject) -> tuple[str, bool]:
    """The text in pieces of random sizes."""
    detokenizer = IncrementalDetokenizer(Opener(tokenizer), stop)
    pieces, rest = [], ids
    while rest:
        size = data.draw(st.integers(1, 4))
        pieces.append(detokenizer.push(rest[:size]))
        rest = rest[size:]
    return "".join(pieces) + detokenizer.finish(), detokenizer.stopped


def cut(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """The same character by character: the stop text that is complete first ends the text, the longest of a tie."""
    for end in range(len(text) + 1):
        found = [word for word in stop if text[:end].endswith(word)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


@many
@given(data=st.data())
def test_any_token_ids_give_the_text_that_decoding_them_at_once_gives(
    any_tokenizer: Tokenizer, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, any_tokenizer.get_vocab_size() + 3), max_size=40))
    whole = any_tokenizer.decode(ids, skip_special_tokens=True)
    assert run(any_tokenizer, ids, (), data) == (whole, False)


@many
@given(data=st.data())
def test_any_text_comes_back_as_decoding_it_at_once_gives_it(any_tokenizer: Tokenizer, data: st.DataObject) -> None:
    words = st.sampled_from(["你好", "🙂", "👩‍👩‍👧", " the", "  ", "\n", "é", "dog", "<|im_end|>", "�"])
    text = "".join(data.draw(st.lists(words | st.text(max_size=5), max_size=12)))
    ids = any_tokenizer.encode(text).ids
    assert run(any_tokenizer, ids, (), data) == (any_tokenizer.decode(ids, skip_special_tokens=True), False)


@many
@given(data=st.data())
def test_the_text_ends_before_the_stop_text_that_is_complete_first(
    any_tokenizer: Tokenizer, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, any_tokenizer.get_vocab_size() - 1), min_size=1, max_size=40))
    whole = any_tokenizer.decode(ids, skip_special_tokens=True)
    places = st.tuples(st.integers(0, max(0, len(whole) - 1)), st.integers(1, 6))
    inside = places.map(lambda place: whole[place[0] : place[0] + place[1]]).filter(bool)
    words = st.text("theo dg�", min_size=1, max_size=3)
    stop = tuple(data.draw(st.lists(inside | words if whole else words, max_size=4)))
    assert run(any_tokenizer, ids, stop, data) == cut(whole, stop)


@many
@given(data=st.data())
def test_primed_with_any_beginning_it_goes_on_as_if_it_had_said_it(
    any_tokenizer: Tokenizer, data: st.DataObject
) -> None:
    """The text of the first n tokens as they came, and then of the rest, is the text: for every n."""
    words = st.sampled_from(["你好", "🙂", "👩‍👩‍👧", " the", "  ", "\n", "é", "dog", "<|im_end|>", "�"])
    text = "".join(data.draw(st.lists(words | st.text(max_size=3), max_size=8)))
    loose = data.draw(st.lists(st.integers(0, any_tokenizer.get_vocab_size() + 3), max_size=12))
    ids = any_tokenizer.encode(text).ids + loose
    whole = any_tokenizer.decode(ids, skip_special_tokens=True)
    places = st.tuples(st.integers(0, max(0, len(whole) - 1)), st.integers(2, 6))
    inside = places.map(lambda place: whole[place[0] : place[0] + place[1]]).filter(bool)
    stop = tuple(data.draw(st.lists(inside, max_size=2))) if whole else ()
    undisturbed = IncrementalDetokenizer(Opener(any_tokenizer), stop)
    pieces = [undisturbed.push([token_id]) for token_id in ids]
    rest = undisturbed.finish()
    for count in range(len(ids) + 1):
        resumed = IncrementalDetokenizer(Opener(any_tokenizer), stop)
        resumed.prime(ids[:count])
        assert [resumed.push([token_id]) for token_id in ids[count:]] == pieces[count:]
        assert (resumed.finish(), resumed.stopped, resumed.tokens) == (rest, undisturbed.stopped, undisturbed.tokens)


def test_a_character_waits_for_its_last_byte(byte_level: Tokenizer) -> None:
    ids = ids_of(byte_level, "ðŁĻĤ")  # the four bytes of 🙂 in the byte alphabet
    detokenizer = IncrementalDetokenizer(Opener(byte_level))
    assert [detokenizer.push([token_id]) for token_id in ids] == ["", "", "", "🙂"]
    assert detokenizer.push(ids[:3]) == ""
    assert detokenizer.finish() == "�"


def test_byte_tokens_wait_for_the_end_of_their_run(byte_fallback: Tokenizer) -> None:
    *ids, dog = ids_of(byte_fallback, [*(f"<0x{byte:02X}>" for byte in "好".encode()), "▁dog"])
    detokenizer = IncrementalDetokenizer(Opener(byte_fallback))
    assert [detokenizer.push([token_id]) for token_id in (dog, *ids, dog)] == ["dog", "", "", "", "好 dog"]
    assert detokenizer.push(ids[:2]) + detokenizer.finish() == "��"


@many
@given(data=st.data())
def test_special_tokens_are_shown_where_none_is_hidden(any_tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, any_tokenizer.get_vocab_size() + 3), max_size=30))
    detokenizer = IncrementalDetokenizer(Opener(any_tokenizer), hidden=frozenset())
    text = "".join(detokenizer.push([token_id]) for token_id in ids) + detokenizer.finish()
    assert text == any_tokenizer.decode(ids, skip_special_tokens=False)


def test_of_the_special_tokens_only_those_that_end_the_answer_are_hidden(byte_level: Tokenizer) -> None:
    end, start, d = ids_of(byte_level, ["<|im_end|>", "<|im_start|>", "d"])
    params = SamplingParams(skip_special_tokens=False, stop_token_ids=(d,))
    detokenizer = IncrementalDetokenizer.of(Opener(byte_level), params, (end,))
    assert detokenizer.push([start, d, end]) == "<|im_start|>d"
    detokenizer = IncrementalDetokenizer.of(Opener(byte_level), SamplingParams(), (end,))
    assert detokenizer.push([start, d, end]) == "d"


def test_a_stop_text_begins_behind_the_fewest_tokens(byte_level: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer.of(Opener(byte_level), SamplingParams(stop=("ab",), min_tokens=3), ())
    assert [detokenizer.push([token_id]) for token_id in ids_of(byte_level, "abab")] == ["a", "b", "a", "b"]
    assert [detokenizer.push([token_id]) for token_id in ids_of(byte_level, "ab")] == ["", ""]
    assert detokenizer.stopped
    resumed = IncrementalDetokenizer.of(Opener(byte_level), SamplingParams(stop=("ab",), min_tokens=3), ())
    resumed.prime(ids_of(byte_level, "ab"))
    assert resumed.push(ids_of(byte_level, "abab")) == "ab"
    assert resumed.stopped


def test_a_token_is_called_by_its_part_of_the_text(any_tokenizer: Tokenizer) -> None:
    names = TokenBytes(any_tokenizer)
    text = "a dog stop a"
    ids = any_tokenizer.encode(text).ids
    shown = any_tokenizer.decode(ids, skip_special_tokens=False)
    assert b"".join(map(names.of, ids)).decode().removeprefix(" ") == shown
    (image,) = ids_of(any_tokenizer, ["<image>"])
    assert names.of(image).strip() == b"<image>"
    assert names.of(9999) == b""


def test_bytes_of_a_character_are_named_one_by_one(byte_level: Tokenizer, byte_fallback: Tokenizer) -> None:
    assert b"".join(map(TokenBytes(byte_level).of, byte_level.encode("你🙂 é").ids)).decode() == "你🙂 é"
    assert TokenBytes(byte_fallback).of(*ids_of(byte_fallback, ["<0xE4>"])) == b"\xe4"
    assert TokenBytes(byte_fallback).of(*ids_of(byte_fallback, ["▁dog"])) == b" dog"


def test_special_and_unknown_tokens_have_no_text(byte_level: Tokenizer) -> None:
    (end,) = ids_of(byte_level, ["<|im_end|>"])
    detokenizer = IncrementalDetokenizer(Opener(byte_level))
    assert detokenizer.push([end, 9999, end]) + detokenizer.finish() == ""
    assert detokenizer.tokens == 3


def test_the_beginning_of_a_stop_text_waits_until_it_is_decided(byte_level: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(Opener(byte_level), ("aab", "xyz"))
    assert [detokenizer.push([token_id]) for token_id in ids_of(byte_level, "caaxa")] == ["c", "", "", "aa", "x"]
    assert detokenizer.push(ids_of(byte_level, "a")) == ""
    assert not detokenizer.stopped
    assert detokenizer.push(ids_of(byte_level, "abcc")) == "a"
    assert detokenizer.stopped
    assert detokenizer.tokens == 8, "the token that completed the stop text is the last that counts"
    assert detokenizer.push(ids_of(byte_level, "more")) + detokenizer.finish() == ""
    assert detokenizer.tokens == 8


def test_what_waited_for_a_stop_text_comes_with_the_end(byte_level: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(Opener(byte_level), ("aab",))
    assert detokenizer.push(ids_of(byte_level, "aa")) == ""
    assert detokenizer.finish() == "aa"
    assert not detokenizer.stopped


def test_the_work_is_linear_in_the_tokens(byte_fallback: Tokenizer) -> None:
    class Counting:
        decoder = byte_fallback.decoder
        decoded = 0

        def get_added_tokens_decoder(self) -> object:
            return byte_fallback.get_added_tokens_decoder()

        def id_to_token(self, token_id: int) -> str | None:
            token: str | None = byte_fallback.id_to_token(token_id)
            return token

        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            self.decoded += len(ids)
            text: str = byte_fallback.decode(ids, skip_special_tokens=skip_special_tokens)
            return text

    seed = drawn_seed()
    ids = random.Random(seed).choices(range(byte_fallback.get_vocab_size()), k=1500) + [70] * 1500
    counting = Counting()
    detokenizer = IncrementalDetokenizer(Opener(cast(Tokenizer, counting)), ("never there",))
    pieces = [detokenizer.push([token_id]) for token_id in ids]
    assert "".join(pieces) + detokenizer.finish() == byte_fallback.decode(ids)
    assert counting.decoded <= 3 * len(ids)


def test_a_decoder_that_no_stream_reproduces_is_refused(byte_level: Tokenizer) -> None:
    tokenizer = Tokenizer.from_str(byte_level.to_str())
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    with pytest.raises(Unimplemented, match="decodes with ByteLevel, Strip together"):
        stream_factory(tokenizer)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])
    detokenizer = IncrementalDetokenizer(Opener(tokenizer))
    ids = tokenizer.encode("你好 🙂").ids
    assert detokenizer.push(ids) + detokenizer.finish() == "你好 🙂"
