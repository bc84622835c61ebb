"""The training batch of a rollout: filters, refills, minibatches, mixed rewards, the largest token's share."""

from typing import Any

import numpy as np
import pytest

from dsmath_jax.data.datasets import Record
from dsmath_jax.environments.dialogues import NO_DIALOGUE
from dsmath_jax.rl.advantages import Scores, group_relative, outcome_scores
from dsmath_jax.rl.algorithms import GRPO
from dsmath_jax.rl.filters import ROLLOUT_FILTERS
from dsmath_jax.rl.rewards import RuleRewards
from dsmath_jax.rl.rollout_batch import (
    ScoredCompletions,
    apply_filters,
    choose_groups,
    completions_with_loss,
    compute_rewards,
    concatenate,
    largest_token_share,
    num_groups_with_loss,
    rollout_metrics,
    without_filtered,
)
from dsmath_jax.rl.rollout_files import minibatch_completions
from dsmath_jax.rl.rollouts import Rollout
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.settings import build

from .free_policy import free_batch

G = 2


def scored(rewards_PG: list[float], truncated: tuple[int, ...] = (), first: int = 0) -> ScoredCompletions:
    """Groups of two completions with these rewards; a completion's tokens say which it is."""
    finish: Any = ["length" if i in truncated else "eos" for i in range(len(rewards_PG))]
    completions = [
        Completion(i // G, i % G, [first + i] * (1 + i), [-1.0] * (1 + i), [], finish[i])
        for i in range(len(rewards_PG))
    ]
    records = [Record(f"{first + i // G}", "q", answer="1") for i in range(len(rewards_PG))]
    prompts = [[100 + first + p] for p in range(len(rewards_PG) // G)]
    rollout = Rollout(
        prompts,
        completions,
        records,
        [f"text {first + i}" for i in range(len(rewards_PG))],
        [NO_DIALOGUE] * len(rewards_PG),
    )
    scores = outcome_scores(rewards_PG, rollout.lengths)
    rule_rewards = RuleRewards(np.array(rewards_PG), {"correct": np.array(rewards_PG)}, {"raised": 1})
    return ScoredCompletions(rollout, rule_rewards, scores, np.ones(len(rewards_PG), bool))


def settings(method: str = "grpo_rule", **fields: Any) -> RLSettings:
    return build(RLSettings, {"method": method, "group_size": G, "prompts_per_step": 2} | fields)


@pytest.mark.parametrize(
    ("name", "keep"),
    [
        ("truncated", [True, False, True, True, True, True]),
        ("zero_std", [True, True, False, False, False, False]),
        ("incorrect", [True, False, False, False, True, True]),
    ],
)
def test_filters(name: str, keep: list[bool]) -> None:
    rollout, _, scores, _ = scored([1, 0, 0, 0, 1, 1], truncated=(1,))
    np.testing.assert_array_equal(ROLLOUT_FILTERS[name](rollout, scores, G), keep)
    np.testing.assert_array_equal(apply_filters(settings(rollout_filter=(name,)), rollout, scores), keep)


def test_a_completion_has_loss_where_all_filters_keep_it_and_it_has_an_advantage() -> None:
    rollout, _, scores, _ = scored([1, 0, 0, 0, 1, np.nan], truncated=(0,))
    keep = apply_filters(settings(rollout_filter=("truncated", "incorrect")), rollout, scores)
    assert keep.tolist() == [False, False, False, False, True, False]
    advantages = group_relative(scores, G, rollout.lengths)
    assert completions_with_loss(np.ones(6, bool), advantages).tolist() == [True] * 5 + [False]


def test_a_group_without_rewards_has_no_loss_and_later_filters_judge_what_is_left() -> None:
    nan = float("nan")
    rollout, _, scores, _ = scored([nan, nan, 1, 0], truncated=(2,))
    assert apply_filters(settings("raft_pp", rollout_filter=()), rollout, scores).tolist() == [False, False, True, True]
    both = settings(rollout_filter=("truncated", "zero_std"), filtered_in_baseline=False)
    assert not apply_filters(both, rollout, scores).any()  # what is left of the second group has one reward
    both = settings(rollout_filter=("truncated", "zero_std"))
    assert apply_filters(both, rollout, scores).tolist() == [False, False, False, True]


def test_filtered_completions_move_the_baseline_unless_they_are_left_out() -> None:
    _, _, scores, _ = scored([1, 0, 0.5, 0.0])
    lengths, keep = [1, 2, 3, 4], np.array([True, True, True, False])
    within = group_relative(scores, 4, lengths, divide_by_std=False)
    without = group_relative(without_filtered(scores, keep), 4, lengths, divide_by_std=False)
    assert [a[0] for a in within] == pytest.approx([0.625, -0.375, 0.125, -0.375])
    assert [a[0] for a in without[:3]] == pytest.approx([0.5, -0.5, 0.0])
    assert np.isnan(without[3]).all()


def test_refills_give_the_first_groups_with_loss_in_their_order() -> None:
    parts = [scored([0, 0, 1, 0]), scored([1, 1, 0, 1], first=10), scored([1, 0, 0, 0], first=20)]
    own = settings("dapo", prompts_per_step=3)
    parts = [part._replace(keep_PG=apply_filters(own, part.rollout, part.scores_PG)) for part in parts]
    assert num_groups_with_loss(parts, G) == 3
    chosen = choose_groups(concatenate(parts), 3, G)
    assert chosen.rollout.texts_PG == ["text 2", "text 3", "text 12", "text 13", "text 20", "text 21"]
    assert chosen.rollout.prompts_P == [[101], [111], [120]]
    assert [c.prompt for c in chosen.rollout.completions_PG] == [0, 0, 1, 1, 2, 2]
    assert [c.tokens[0] for c in chosen.rollout.completions_PG] == [2, 3, 12, 13, 20, 21]
    assert chosen.rule_rewards_PG.total.tolist() == [1, 0, 0, 1, 1, 0]
    assert chosen.rule_rewards_PG.by_function["correct"].tolist() == [1, 0, 0, 1, 1, 0]
    metrics = rollout_metrics(concatenate(parts), G)
    assert (metrics["reward"], metrics["reward/correct"], metrics["reward_errors"]) == (5 / 12, 5 / 12, 3)
    assert [float(r[0]) for r in chosen.scores_PG.rewards] == [1, 0, 0, 1, 1, 0]
    assert [int(e[0]) for e in chosen.scores_PG.ends] == [2, 3, 2, 3, 0, 1]
    assert chosen.keep_PG.all()


def test_where_refills_are_used_up_groups_without_loss_fill_the_rest() -> None:
    part = scored([0, 0, 1, 1, 1, 0, 0, 0])
    keep = apply_filters(settings("dapo"), part.rollout, part.scores_PG)
    chosen = choose_groups(part._replace(keep_PG=keep), 2, G)
    assert chosen.rollout.texts_PG == ["text 0", "text 1", "text 4", "text 5"]
    assert chosen.keep_PG.tolist() == [False, False, True, True]


def test_minibatches_are_whole_groups_each_once_in_a_pass() -> None:
    rows = [minibatch_completions((0, 5), update, num_prompts=6, group_size=3, minibatches=2) for update in range(4)]
    assert all(len(each) == 9 for each in rows)
    assert all((each.reshape(-1, 3) // 3 == each[::3, None] // 3).all() for each in rows)
    for one, other in ((0, 1), (2, 3)):
        assert sorted([*rows[one], *rows[other]]) == list(range(18))
    assert rows[0].tolist() != rows[2].tolist()
    np.testing.assert_array_equal(minibatch_completions((0, 5), 3, 6, 3, 1), np.arange(18))


def test_a_share_of_the_rule_reward_is_added_at_the_last_token() -> None:
    rollout, rule, _, _ = scored([1.0, 0.0])
    model = lambda rollout, ends: [np.array([2.0, 4.0])[-len(e) :] for e in ends]  # noqa: E731
    found = compute_rewards(rollout, rule.total, model, settings("grpo_os", reward_mix=0.25), None)  # type: ignore[arg-type]
    assert [r.tolist() for r in found.rewards] == [[0.75 * 4 + 0.25], [0.75 * 4]]


def test_the_share_of_a_token_far_from_the_reference() -> None:
    """k3 grows exponentially: one token 8 nats away owns the gradient, and a bound takes it away."""
    names = ("loss_weights", "advantages", "segment_ids")
    batch = {name: x for name, x in free_batch().items() if name in names}
    mask = batch["loss_weights"]
    batch |= {"advantages": 0.5 * mask, "sampler_logprobs": -1.0 * mask, "ref_logprobs": -1.0 * mask}
    even = largest_token_share(GRPO(normalize="token"), batch)
    assert even == pytest.approx(1 / mask.sum())
    far = batch["ref_logprobs"].copy()
    far[1, 1] += 8.0
    assert largest_token_share(GRPO(normalize="token"), batch | {"ref_logprobs": far}) > 0.99
    bounded = GRPO(normalize="token", kl_clip=10.0)
    assert largest_token_share(bounded, batch | {"ref_logprobs": far}) == pytest.approx(even)


def test_the_entropy_bonus_is_left_out_above_its_target() -> None:
    mask = np.array([[1.0, 1.0, 0.0]])
    batch = {"loss_weights": mask, "sampler_logprobs": np.array([[-1.0, -3.0, 0.0]])}
    coefficient = lambda **fields: GRPO(**fields).batch_fields(batch)  # noqa: E731
    assert coefficient() == {}
    assert (coefficient(entropy_coef=0.5)["entropy_coef"] == 0.5).all()
    assert (coefficient(entropy_coef=0.5, entropy_target=2.5)["entropy_coef"] == 0.5).all()
    assert (coefficient(entropy_coef=0.5, entropy_target=1.5)["entropy_coef"] == 0.0).all()


@pytest.mark.parametrize(
    ("credit", "returns"),
    [("min", [[0.1, 0.1, 0.5], [0.8]]), ("delta", [[0.9, 0.1, 0.5], [0.8]]), ("clip", [[-0.55, -0.55, -0.075], [0.0]])],
)
def test_process_credit(credit: str, returns: list[list[float]]) -> None:
    """PURE: the smallest reward from a step on; Delta: its own; Clip: what it and later ones miss of the mean."""
    ends, lengths = [np.array([1, 2, 4]), np.array([1])], [5, 3]
    scores = Scores(ends, [np.array([0.9, 0.1, 0.5]), np.array([0.8])])
    pool = np.concatenate(returns)
    normalized = [(np.array(each) - pool.mean()) / (pool.std(ddof=1) + 1e-6) for each in returns]
    found = group_relative(scores, 2, lengths, process_credit=credit)
    np.testing.assert_allclose(found[0], np.array(normalized[0])[[0, 0, 1, 2, 2]], rtol=1e-12)
    np.testing.assert_allclose(found[1], [normalized[1][0]] * 2 + [0.0], rtol=1e-12)


@pytest.mark.parametrize("credit", ["min", "delta", "clip"])
def test_repeated_good_steps_earn_nothing_with_other_credits(credit: str) -> None:
    """Sums of normalized rewards grow with the number of steps above the mean; these returns do not."""

    def first_advantage(steps: int, credit: str) -> float:
        """Of a completion with this many good steps, in a group with three others of one bad step."""
        scores = Scores([np.arange(steps), *[np.array([0])] * 3], [np.full(steps, 0.9), *[np.array([0.2])] * 3])
        lengths = [steps, 1, 1, 1]
        return float(group_relative(scores, 4, lengths, process_credit=credit, divide_by_std=False)[0][0])

    assert first_advantage(8, "sum") > 2.5 * first_advantage(1, "sum")
    assert first_advantage(8, credit) < 1.1 * first_advantage(1, credit)
