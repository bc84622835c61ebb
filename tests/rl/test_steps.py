"""Where steps end, held against decoding the text: by any tokenizer and any delimiter."""

from collections.abc import Sequence

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.data import tokenizer as project_tokenizers
from dsmath_jax.rl.steps import step_ends, step_offsets

WORDS = "we have 3 + 4 = 7\nThen 7 * 2 = 14.\n\nThe answer is 14\n天气 很好。 \r\n" * 20


class Pieces:
    """A tokenizer whose token i stands for the i-th of these texts; EOS, the last one, for none."""

    bos_id = 0

    def __init__(self, *texts: str):
        self._texts = [*texts, ""]
        self.vocab_size, self.eos_id = len(self._texts), len(texts)
        self.stop_ids: tuple[int, ...] = (self.eos_id,)

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._texts[i] for i in ids)


@pytest.fixture(scope="module", params=["sentencepiece", "bytes"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> project_tokenizers.Tokenizer:
    """SentencePiece with byte fallback, and a byte-level BPE whose characters may lie across tokens."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sentencepiece":
        project_tokenizers.train_sentencepiece([WORDS], folder / "tokenizer.model", 320)
    else:
        bpe = tokenizers.ByteLevelBPETokenizer()
        bpe.train_from_iterator([WORDS], vocab_size=300, special_tokens=["<s>", "</s>"])
        bpe.save(str(folder / "tokenizer.json"))
    return project_tokenizers.load(folder)


def ends_of(texts: Sequence[str], delimiter: str = "\n", eos: bool = True) -> list[int]:
    tokens = list(range(len(texts) + eos))
    return step_ends(tokens, Pieces(*texts), delimiter).tolist()


@pytest.mark.parametrize(
    ("texts", "ends"),
    [
        (["a", "\n", "b"], [1, 3]),
        (["a", ".\n", "b", "\n\n", "c"], [1, 3, 5]),  # inside a token, also twice
        (["a", "\nb", "c"], [1, 3]),  # with the beginning of the step after it
        (["a\nb\nc", "d"], [0, 2]),  # two steps that end in one token
        (["a", "\n", "\n", "b"], [1, 4]),  # the blank line is the next step's
        (["\n", "a", "\n", "b"], [2, 4]),
        (["a", "\n"], [2]),  # nothing follows but EOS: it is the last step's
        (["a", "\n", " ", "\n"], [4]),
        (["a", "b"], [2]),
        (["\n", "\n"], [2]),
        ([], [0]),
    ],
)
def test_steps_end_at_the_token_that_completes_the_delimiter(texts: list[str], ends: list[int]) -> None:
    assert ends_of(texts) == ends


def test_a_delimiter_may_be_made_of_several_tokens() -> None:
    assert ends_of(["a", "\n", "\n", "b", "\n", "c"], "\n\n") == [2, 6]
    assert ends_of(["one S", "te", "p 2", "two"], "Step ") == [2, 4]


def test_a_completion_cut_at_the_limit_ends_at_its_last_token() -> None:
    assert ends_of(["a", "\n", "b"], eos=False) == [1, 2]
    assert ends_of(["a", "\n"], eos=False) == [1]


def test_an_eos_that_is_an_ordinary_piece_is_no_step() -> None:
    pieces = Pieces("a", "\n", "b", "###")
    pieces.stop_ids = (pieces.eos_id, 3)
    assert step_ends([0, 1, 2, 1, 3], pieces).tolist() == [1, 4]
    assert step_ends([0, 3, 1, 2], pieces).tolist() == [2, 3]  # not at the end


def test_without_tokens_there_is_no_step() -> None:
    assert step_ends([], Pieces()).tolist() == []


@given(st.text(st.sampled_from("ab =7\n。"), max_size=30), st.sampled_from(["\n", "\n\n", "。", "= ", " "]))
def test_steps_hold_the_text_between_the_cuts(
    tokenizer: project_tokenizers.Tokenizer, text: str, delimiter: str
) -> None:
    tokens = [*tokenizer.encode(text), tokenizer.eos_id]
    ends = step_ends(tokens, tokenizer, delimiter).tolist()
    text = tokenizer.decode(tokens)
    expected = []
    for cut in step_offsets(text, delimiter):
        holds = [tokenizer.decode(tokens[: i + 1])[:cut] == text[:cut] for i in range(len(tokens))]
        expected.append(holds.index(True))
    assert ends == sorted({*expected, len(tokens) - 1})


@given(st.text(st.sampled_from("ab \n."), max_size=30), st.sampled_from(["\n", "\n\n", ".", " "]))
def test_every_step_is_one_part_that_is_not_blank(text: str, delimiter: str) -> None:
    found = step_offsets(text, delimiter)
    steps = [text[start:end] for start, end in zip([0, *found], [*found, len(text)], strict=True)]
    assert "".join(steps) == text
    assert all(step.endswith(delimiter) for step in steps[:-1])
    whole = [part for part in text.split(delimiter) if part.strip()]
    assert [part for step in steps for part in step.split(delimiter) if part.strip()] == whole
    assert len(steps) == max(1, len(whole))


@given(st.lists(st.integers(3, 299), min_size=1, max_size=12))
def test_any_tokens_have_ends_in_order(tokenizer: project_tokenizers.Tokenizer, tokens: list[int]) -> None:
    """Tokens that are no text, half characters among them."""
    ends = step_ends(tokens, tokenizer).tolist()
    assert ends == sorted(set(ends))
    assert ends[-1] == len(tokens) - 1
    assert ends[0] >= 0
