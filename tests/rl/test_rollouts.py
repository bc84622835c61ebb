"""Rollouts: which prompts a step takes, and their files."""

import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.data import tokenizer as tokenizers
from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import Record
from dsmath_jax.rl.batches import sequences_of, token_fields
from dsmath_jax.rl.rollout_files import TrainingData, read_rollout, write_rollout
from dsmath_jax.rl.rollouts import (
    Prompts,
    describe_lengths,
    generate_rollout,
    prompt_key_ids,
    step_indices,
)
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.sampler import SamplingParams
from dsmath_jax.workdir import write_json

EOS = 2
PROMPTS = [[1, 7, 3], [1, 9]]
COMPLETIONS = [
    Completion(0, 0, [4, 5, EOS], [-0.1, -0.2, -0.3], [], "eos"),
    Completion(0, 1, [6], [-0.4], [], "length"),
    Completion(1, 0, [EOS], [-0.5], [], "eos"),
]


@given(st.integers(0, 100), st.integers(1, 9), st.integers(1, 20))
def test_every_epoch_goes_through_all_prompts_once(seed: int, prompts: int, count: int) -> None:
    steps = -(-3 * count // prompts)
    taken = [i for step in range(steps) for i in step_indices(seed, step, prompts, count)]
    for epoch in range(3):
        assert sorted(taken[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_orders_differ_by_epoch_and_seed() -> None:
    orders = [tuple(step_indices(seed, epoch, 30, 30)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert orders[0] == tuple(step_indices(0, 0, 30, 30))


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 30), st.integers(1, 12))
def test_prompt_key_ids_are_their_indices_and_never_repeat(seed: int, step: int, prompts: int, count: int) -> None:
    chosen = step_indices(seed, step, prompts, count)
    keys = prompt_key_ids(chosen, count)
    assert len(set(keys)) == prompts
    assert [key % count for key in keys] == chosen
    if len(set(chosen)) == prompts:
        assert keys == chosen


def test_lengths_of_prompts_are_described() -> None:
    prompts = Prompts([], [], [[1] * n for n in range(1, 101)], max_length=1124)
    assert describe_lengths(prompts, 4096) == (
        "100 prompts of 1 to 100 tokens (median 50, 95 % at most 95); with a completion at most 1,124 of the 4,096 of "
        "the model's context"
    )


def test_reward_functions_and_samples_get_no_text_of_a_stop_token(tmp_path: Path) -> None:
    """generation_config.json may name an ordinary piece, which `decode` does not skip."""
    tokenizers.train_sentencepiece(20 * ["It is 3 or 4."], tmp_path / "tokenizer.model", 275, ("###",))
    [stop] = tokenizers.load(tmp_path).encode("###")
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [EOS, stop]})
    chat, record = Chat(tokenizers.load(tmp_path)), Record("toy/0", "How many?")
    text = chat.tokenizer.encode("It is 3.")
    group = [
        Completion(0, 0, [*text, stop], [], [], "eos"), Completion(0, 1, [*text, EOS], [], [], "eos"),
        Completion(0, 2, text, [], [], "length"),
    ]  # fmt: skip
    sampler: Any = types.SimpleNamespace(generate=lambda *_, **__: iter([group]))
    prompts = Prompts([[record]], [record], [[1, 7]], 9)
    rollout = generate_rollout((sampler, {}), prompts, [0], chat, SamplingParams(samples=3), 0)
    assert rollout.texts_PG == 3 * ["It is 3."]
    assert rollout.lengths == [len(text) + 1, len(text) + 1, len(text)]  # with EOS, which has loss


def test_a_rollout_is_read_as_it_was_written(tmp_path: Path) -> None:
    data = TrainingData(sequences_of(PROMPTS, COMPLETIONS), token_fields(COMPLETIONS))
    facts = {"metrics": {"reward": 0.1}, "samples": [{"completion": "½ 的"}]}
    for name in ("one", "other"):
        write_rollout(tmp_path / name, data, facts)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    stored, read_facts = read_rollout(tmp_path / "one")
    assert read_facts == facts
    assert stored.fields.keys() == data.fields.keys()
    for found, values in zip(jax.tree.leaves(stored), jax.tree.leaves(data), strict=True):
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)
