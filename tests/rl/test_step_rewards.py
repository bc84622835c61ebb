"""Rewards of steps by a function of the user's and by continuations, in a run and by themselves."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dsmath_jax.data import chat as chats
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.environments.dialogues import NO_DIALOGUE
from dsmath_jax.rl.rewards import RewardFunctions
from dsmath_jax.rl.rollouts import Rollout
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.rl.step_rewards import step_scorer
from dsmath_jax.rl.steps import step_ends, step_texts
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.settings import build
from dsmath_jax.toy.problems import check_steps
from tests.rl.trainer_runs import RLRun, assert_same_results, metrics

SOLUTION = "3 + 4 = 7\n7 * 2 = 14\nThe answer is 14."
Recipe = Callable[..., RLRun]
MakeWorkdir = Callable[[str], Path]


@pytest.fixture
def chat(start: Path) -> chats.Chat:
    return chats.read(chats.ChatSource(start / "tokenizer", ChatSettings()))


def test_the_toy_checker_knows_which_line_is_wrong() -> None:
    record = Record("toy/0", "q", solution=SOLUTION, answer="14")
    assert check_steps(record, ["3 + 4 = 7\n", "7 * 2 = 14\n", "The answer is 14."]) == [1, 1, 1]
    assert check_steps(record, [" 3 + 4 = 8\n", "7 * 2 = 14", "The answer is 14.", "The answer is 14."]) == [0, 1, 1, 0]


def test_texts_of_steps_add_up_to_the_completion(chat: chats.Chat) -> None:
    tokens = [*chat.tokenizer.encode(SOLUTION), chat.tokenizer.eos_id]
    texts = step_texts(tokens, step_ends(tokens, chat.tokenizer), chat)
    assert [text.strip() for text in texts] == SOLUTION.splitlines()
    assert "".join(texts) == chat.completion(tokens)


def rollout_of(texts: list[str], chat: chats.Chat) -> tuple[Rollout, list[np.ndarray]]:
    tokens = [[*chat.tokenizer.encode(text), chat.tokenizer.eos_id] for text in texts]
    completions = [Completion(0, i, ids, [0.0] * len(ids), [], "eos") for i, ids in enumerate(tokens)]
    record = Record("toy/0", "q", solution=SOLUTION, answer="14")
    rollout = Rollout([[1, 5]], completions, [record] * len(texts), texts, [NO_DIALOGUE] * len(texts))
    return rollout, [step_ends(ids, chat.tokenizer) for ids in tokens]


def context(chat: chats.Chat, step_rewards: str, sampler: Any = None) -> Any:
    fields = {"method": "grpo_ps", "temperature": 0.8, "max_new_tokens": 99, "step_rewards": step_rewards}
    settings = build(RLSettings, fields | ({"step_completions": 4} if step_rewards == "monte_carlo" else {}))
    return SimpleNamespace(settings=settings, chat=chat, sampler=sampler, seed=0)


def test_a_function_scores_each_step_and_a_failed_call_leaves_no_reward(chat: chats.Chat) -> None:
    rollout, ends = rollout_of([SOLUTION, "3 + 4 = 7\n7 * 2 = 13\nThe answer is 13."], chat)
    with RewardFunctions((("correct", 1.0),), 20.0, 1) as reward_fns:
        score = step_scorer(context(chat, "dsmath_jax.toy.problems:check_steps"), None, 0, reward_fns)
        assert score is not None
        assert [values.tolist() for values in score(rollout, ends)] == [[1, 1, 1], [1, 0, 0]]
        score = step_scorer(context(chat, "builtins:divmod"), None, 0, reward_fns)
        assert score is not None
        assert all(np.isnan(values).all() and len(values) == 3 for values in score(rollout, ends))


def test_continuations_estimate_the_value_of_each_step(chat: chats.Chat) -> None:
    """A stand-in for the sampler continues correctly from half of the correct prefixes, and never from others."""

    class Sampler:
        def generate(self, policy: Any, prefixes: Any, sampling: Any, step: int, prompt_ids: Any, begun: Any) -> Any:
            assert (policy, step, sampling.samples, sampling.temperature) == ("policy", 7, 4, 0.8)
            for prefix, length in zip(prefixes, begun, strict=True):
                done = chat.tokenizer.decode(prefix[-length:])
                rest = SOLUTION.removeprefix(done.strip()) if SOLUTION.startswith(done.strip()) else ""
                texts = [rest, "\nThe answer is 3.", rest, "\nThe answer is 3."]
                yield [Completion(0, i, chat.tokenizer.encode(text), [], [], "eos") for i, text in enumerate(texts)]

    rollout, ends = rollout_of([SOLUTION, "3 + 4 = 8\n8 * 2 = 16\nThe answer is 16."], chat)
    with RewardFunctions((("correct", 1.0),), 20.0, 1) as reward_fns:
        score = step_scorer(context(chat, "monte_carlo", Sampler()), "policy", 7, reward_fns)
        assert score is not None
        assert [values.tolist() for values in score(rollout, ends)] == [[0.5, 0.5, 1.0], [0.0, 0.0, 0.0]]


@pytest.mark.slow
@pytest.mark.parametrize("step_rewards", ["monte_carlo", "dsmath_jax.toy.problems:check_steps"])
def test_a_run_needs_no_process_model(
    step_rewards: str, recipe: Recipe, workdir: MakeWorkdir, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = workdir("whole"), workdir("cut")
    for folder in (whole, cut):
        (folder / "process_model").unlink()
    completions = {"step_completions": 2} if step_rewards == "monte_carlo" else {}
    rl = recipe(
        "grpo_ps", steps=2, checkpoint_every=1, step_rewards=step_rewards, process_credit="delta",
        reward_fns=(("trainer_rewards:nan", 1.0),), **completions,
    )  # fmt: skip
    rl.run(whole)
    rl.interrupt(cut, monkeypatch, 1)
    rl.run(cut)
    assert_same_results(whole, cut, layout)
    assert all(np.isfinite(row["reward"]) and row["num_masked"] == 0 for row in metrics(whole))  # nor rule rewards
