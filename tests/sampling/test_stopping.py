"""Where a completion ends, however its text is split into tokens and chunks."""

from collections.abc import Sequence

import pytest
from hypothesis import given, strategies

from dsmath_jax.sampling.stopping import StoppingCriteria
from dsmath_jax.workdir import UserError

PIECES = ["<eos>", "a", "b", "ab", "ba", "aab", "", "bb"]
EOS, EMPTY = 0, 6


def text(tokens: Sequence[int]) -> str:
    return "".join(PIECES[token] for token in tokens)


def test_the_first_stop_id_ends_it() -> None:
    stopping = StoppingCriteria([EOS, 5], (), None)
    assert stopping.find_end([1, 2, 3], 0, 10) is None
    assert stopping.find_end([1, 2, EOS, 5, 1], 0, 10) == (3, "eos")
    assert stopping.find_end([1, 2, 3, 5, EOS], 3, 10) == (4, "eos")


def test_the_limit_ends_it_but_an_eos_at_the_limit_is_an_eos() -> None:
    stopping = StoppingCriteria([EOS], (), None)
    assert stopping.find_end([1, 1, 1, EOS], 0, 3) == (3, "length")
    assert stopping.find_end([1, 1, EOS, 1], 1, 3) == (3, "eos")
    assert stopping.find_end([1, 1], 0, 3) is None


def test_a_string_ends_it_across_the_borders_of_tokens() -> None:
    stopping = StoppingCriteria([EOS], ("bab",), text)
    assert stopping.find_end([1, 2, 1], 0, 20) is None
    assert stopping.find_end([1, 2, 1, 2, 1], 3, 20) == (4, "stop")
    assert stopping.find_end([7, 5, 7], 1, 20) is None
    assert stopping.find_end([7, 3, 3], 1, 20) == (2, "stop")  # bb, ab: begins in one chunk, ends in the next
    assert stopping.find_end([2, EOS, 1, 2], 0, 20) == (2, "eos")
    assert stopping.find_end([4, 2, EOS], 0, 20) == (2, "stop")


def test_a_string_beyond_the_limit_does_not_count() -> None:
    assert StoppingCriteria([], ("bab",), text).find_end([1, 2, 1, 2], 0, 3) == (3, "length")
    assert StoppingCriteria([], ("bab",), text).find_end([1, 2, 1, 2], 0, 4) == (4, "stop")


@given(
    strategies.lists(strategies.sampled_from([1, 2, 3, 4, 5, 7]), min_size=1, max_size=30),
    strategies.lists(strategies.text("ab", min_size=1, max_size=4), min_size=1, max_size=2),
    strategies.integers(1, 7),
)
def test_chunks_end_where_reading_token_by_token_ends(tokens: list[int], strings: list[str], chunk: int) -> None:
    stopping = StoppingCriteria([], strings, text)
    ends = [n for n in range(1, len(tokens) + 1) if any(string in text(tokens[:n]) for string in strings)]
    for start in range(0, len(tokens), chunk):
        if found := stopping.find_end(tokens[: start + chunk], start, 100):
            assert found == (ends[0], "stop")
            return
    assert not ends


def test_stop_strings_must_not_be_empty_and_need_a_tokenizer() -> None:
    for strings, decode in ((("a",), None), (("a", ""), text)):
        with pytest.raises(UserError, match="Stop strings must not be empty, and need"):
            StoppingCriteria([], strings, decode)
