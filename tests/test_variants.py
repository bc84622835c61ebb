"""Names of variants, and the tables of a recipe that they choose from."""

import pytest

from dsmath_jax.variants import choose
from dsmath_jax.workdir import UserError

METHODS, ACCELERATORS = ("grpo", "ppo"), {"v5p-32": 1, "h100-8": 2}


@pytest.mark.parametrize(
    ("variant", "chosen"),
    [
        ("", ("grpo", "v5p-32")),
        ("ppo", ("ppo", "v5p-32")),
        ("h100-8", ("grpo", "h100-8")),
        ("h100-8,ppo", ("ppo", "h100-8")),
    ],
)
def test_a_name_of_each_table(variant: str, chosen: tuple[str, str]) -> None:
    assert choose("mine.py", variant, METHODS, ACCELERATORS) == chosen


@pytest.mark.parametrize(
    ("variant", "sentence"),
    [
        ("h200-8", "mine.py has no variant 'h200-8'; it has grpo, ppo, v5p-32, h100-8."),
        ("ppo,", "mine.py has no variant ''; it has grpo, ppo, v5p-32, h100-8."),
        ("ppo,h100-8,grpo", "mine.py: 'ppo,h100-8,grpo' has both ppo and grpo; give one of them."),
    ],
)
def test_another_name_is_refused_with_those_there_are(variant: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        choose("mine.py", variant, METHODS, ACCELERATORS)
    assert str(error.value) == sentence
