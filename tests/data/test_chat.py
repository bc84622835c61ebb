"""The chat template, to the character."""

from collections.abc import Sequence

from dsmath_jax.data import chat
from dsmath_jax.data.benchmarks import Record


class Characters:
    """A tokenizer of code points, so that ids can be read."""

    vocab_size, bos_id, eos_id, stop_ids = 0x110000, -1, -2, (-2,)

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join({-1: "<BOS>", -2: "<EOS>"}.get(i) or chr(i) for i in ids)


TOKENIZER = Characters()
EXAMPLES = [Record(f"x/{i}", f"Question {i}?", f"Steps {i}\nThe answer is {i}.", str(i)) for i in (1, 2)]


def test_a_prompt_ends_where_the_assistant_speaks() -> None:
    assert TOKENIZER.decode(chat.prompt_ids(TOKENIZER, "What is 1 + 1?")) == "<BOS>User: What is 1 + 1?\n\nAssistant:"


def test_a_completion_ends_with_its_eos() -> None:
    assert TOKENIZER.decode(chat.completion_ids(TOKENIZER, "The answer is 2.")) == " The answer is 2.<EOS>"


def test_worked_examples_stand_before_the_question_in_the_same_words() -> None:
    assert chat.few_shot(EXAMPLES, "Mine?") == (
        "User: Question 1?\n\nAssistant: Steps 1\nThe answer is 1.\n\n"
        "User: Question 2?\n\nAssistant: Steps 2\nThe answer is 2.\n\n"
        "User: Mine?\n\nAssistant:"
    )
    alone = [TOKENIZER.bos_id, *TOKENIZER.encode(chat.few_shot([], "Mine?"))]
    assert alone == chat.prompt_ids(TOKENIZER, "Mine?")
