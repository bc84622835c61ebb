"""The rows of samples.jsonl: which completions, their rewards, and their tokens' advantages as runs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.data import tokenizer as tokenizers
from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.rl.batches import split
from dsmath_jax.rl.rollout_files import read_rollout
from dsmath_jax.rl.sample_log import extremes, runs, token_lengths
from dsmath_jax.workdir import read_jsonl
from tests.data import tokenizer_folders
from tests.rl.trainer_runs import RLRun

Recipe = Callable[..., RLRun]
MakeWorkdir = Callable[[str], Path]
FIELDS = set("step prompt sample id question answer completion reward rule_reward rewards finish num_tokens".split())


@pytest.fixture(scope="module")
def tokenizer(start: Path) -> Tokenizer:
    return tokenizers.load(start / "tokenizer")


def test_runs_are_counted() -> None:
    assert runs([0.5, 0.5, None, -1.0]) == [(2, 0.5), (1, None), (1, -1.0)]
    assert runs([]) == []


def test_extremes_are_the_best_and_the_worst_with_a_reward() -> None:
    assert extremes([0.1, float("nan"), 0.7, -2.0]) == [2, 3]
    assert extremes([float("nan"), 0.3]) == [1]
    assert extremes([float("nan")] * 2) == [0]


@given(st.text(max_size=40))
def test_token_lengths_add_up_to_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    lengths = token_lengths([*ids, tokenizer.eos_id], tokenizer)
    assert sum(lengths) == len(tokenizer.decode(ids))
    assert len(lengths) == len(ids) + 1
    assert lengths[-1] == 0


@given(st.lists(st.integers(3, 299), max_size=30))
def test_token_lengths_of_sampled_bytes(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Sampled bytes need not be UTF-8."""
    lengths = token_lengths(ids, tokenizer)
    assert lengths == [] or sum(lengths) == len(tokenizer.decode(ids))
    assert len(lengths) in (0, len(ids))


def test_a_character_of_several_tokens_counts_for_the_last(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("7\U0001f600")  # four byte tokens
    assert token_lengths(ids, tokenizer)[-4:] == [0, 0, 0, 1]


@pytest.mark.parametrize("kind", ["qwen", "llama2", "gemma"])
def test_token_lengths_of_other_tokenizers(kind: str, tmp_path: Path) -> None:
    getattr(tokenizer_folders, kind)(tmp_path)
    tokenizer = tokenizers.load(tmp_path)
    text = "  Der Preis: 3 \u00bd Äpfel, 的 \U0001f600\n\n= 7  "
    ids = tokenizer.encode(text)
    lengths = token_lengths(ids, tokenizer)
    assert sum(lengths) == len(tokenizer.decode(ids))
    assert [sum(lengths[:n]) for n in range(len(ids))] == [
        len(tokenizer.decode(ids[:n]).rstrip("\ufffd")) for n in range(len(ids))
    ]


@pytest.mark.parametrize(
    ("method", "function"), [("grpo_ps", "digits"), pytest.param("grpo_rule", "nan_for_some", marks=pytest.mark.slow)]
)
def test_all_samples_have_the_advantages_that_are_trained_on(
    method: str, function: str, recipe: Recipe, workdir: MakeWorkdir, tokenizer: Tokenizer
) -> None:
    folder = workdir("run")
    recipe(method, steps=1, log_samples="all", reward_fns=((f"trainer_rewards:{function}", 1.0),)).run(folder)
    rows = list(read_jsonl(folder / "rl" / "samples.jsonl"))
    assert [(row["prompt"], row["sample"]) for row in rows] == [(p, s) for p in range(2) for s in range(4)]
    fields = FIELDS | {"advantages", "token_lengths"} | ({"step_rewards"} if method == "grpo_ps" else set())
    assert all(row.keys() == fields for row in rows)
    assert sum(row["reward"] is None for row in rows) in ([0] if method == "grpo_ps" else range(1, 8))
    (sequences, data), _ = read_rollout(folder / "rl" / "rollouts" / "00000000.npz")
    tokens = split(sequences.tokens, sequences.lengths)
    per_token = (split(data[name], sequences.completion_lengths) for name in ("advantages", "loss_weights"))
    for row, ids, advantages, weights in zip(rows, tokens, *per_token, strict=True):
        assert tokenizer.decode(ids[-row["num_tokens"] :].tolist()) == row["completion"]
        counts, values = zip(*row["advantages"], strict=True)
        found = np.repeat(np.array(values, float), counts)  # None becomes NaN
        np.testing.assert_allclose(found, np.where(weights > 0, advantages, np.nan), rtol=1e-5)
        assert np.isnan(found).all() == (row["reward"] is None)
        if method == "grpo_ps":
            assert np.mean(row["step_rewards"]) == pytest.approx(row["reward"], rel=1e-5)
        assert sum(row["token_lengths"]) == len(row["completion"])


@pytest.mark.parametrize(("choice", "count"), [("extremes", 2), ("group", 4)])
def test_fewer_samples(choice: str, count: int, recipe: Recipe, workdir: MakeWorkdir) -> None:
    folder = workdir("run")
    recipe("grpo_rule", steps=1, log_samples=choice).run(folder)
    rows = list(read_jsonl(folder / "rl" / "samples.jsonl"))
    assert [row["prompt"] for row in rows] == [0] * count
    assert rows[0].keys() == FIELDS | (set() if choice == "extremes" else {"advantages", "token_lengths"})
    assert all(row["reward"] == row["rule_reward"] for row in rows)
