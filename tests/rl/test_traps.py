"""What implementations of the paper get wrong, a test for each; the rest of the suite tests the same things at length.

Every check here is also given what it is there to catch, and has to fail on it.
"""

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import pytest

from dsmath_jax.corpus.decontaminate import Benchmarks
from dsmath_jax.corpus.normalize import normalize
from dsmath_jax.data.datasets import Record
from dsmath_jax.models.decoder import Decoder
from dsmath_jax.rl.advantages import PerToken, Scores, group_relative, outcome_scores
from dsmath_jax.rl.algorithms import DPO, GRPO, Algorithm
from dsmath_jax.rl.losses import Tokens, clip
from dsmath_jax.rl.rewards import RewardFunctions, RewardInput
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import Layout
from dsmath_jax.training.objectives import batch_logprobs
from dsmath_jax.training.optimizer import SCHEDULES

from .free_policy import GROUP, LENGTHS, GivenLogprobs, free_batch, given, mean_loss
from .unpacked import batch_of

EPS, BETA = 0.2, 0.04
STOP_IDS, LIMIT = (2, 5, 9, 11), 6


@pytest.fixture(scope="module")
def sampler(model: Decoder, layout: Layout) -> Sampler:
    return Sampler(model, layout, STOP_IDS, LIMIT)


def fails(check: Callable[..., None], *wrong: Any) -> None:
    """The check sees that this is wrong."""
    with pytest.raises(AssertionError):
        check(*wrong)


def logprobs_of(seed: int = 3) -> np.ndarray:
    return -np.random.default_rng(seed).exponential(1.5, free_batch()["loss_weights"].shape)


def sums_of(algorithm: Algorithm, logprobs: np.ndarray, batch: dict, rows: Sequence[int]) -> tuple[float, float]:
    params, rest = given(logprobs, batch["loss_weights"])
    part = {n: x[list(rows)] for n, x in (batch | rest).items()}
    (loss, weight), _ = algorithm.objective(GivenLogprobs(), params, part)
    return float(loss), float(weight)


@pytest.mark.usefixtures("float64")
def test_1_each_completion_is_divided_by_its_own_length_under_any_micro_batches() -> None:
    batch, logprobs = free_batch(), logprobs_of()
    ratio, mask = np.exp(logprobs - batch["old_logprobs"]), batch["loss_weights"]
    gain = np.minimum(ratio * batch["advantages"], np.clip(ratio, 1 - EPS, 1 + EPS) * batch["advantages"])
    expected = -np.mean((gain * mask).sum(axis=1) / LENGTHS)

    def check(algorithm: Algorithm) -> None:
        for parts in ([range(GROUP)], [[0, 1, 2], [3]], [[3], [1], [0, 2]]):
            losses, weights = zip(*(sums_of(algorithm, logprobs, batch, part) for part in parts), strict=True)
            assert sum(losses) / sum(weights) == pytest.approx(expected, abs=1e-12)

    class MeanOfMicroBatch(GRPO):
        def objective(self, model: Any, params: Any, batch: dict) -> Any:
            (loss, weight), metrics = super().objective(model, params, batch)
            return (loss / weight, 1.0), metrics

    check(GRPO(clip_eps=EPS, kl_coef=0.0))
    fails(check, GRPO(clip_eps=EPS, kl_coef=0.0, normalize="token"))
    fails(check, GRPO(clip_eps=EPS, kl_coef=0.0, normalize="constant", max_new_tokens=7))
    fails(check, MeanOfMicroBatch(clip_eps=EPS, kl_coef=0.0))


@pytest.mark.usefixtures("float64")
def test_2_the_kl_is_k3_within_the_sum_not_clipped_and_not_in_the_reward() -> None:
    batch, logprobs = free_batch(), logprobs_of()
    mask = batch["loss_weights"]
    ratio, d = np.exp(logprobs - batch["old_logprobs"]), batch["ref_logprobs"] - logprobs
    better, worse = batch["advantages"] > 0, batch["advantages"] < 0
    kept = ~((better & (ratio > 1 + EPS)) | (worse & (ratio < 1 - EPS)))
    slope = np.where(kept, ratio * batch["advantages"], 0.0) - BETA * (1 - np.exp(d))
    expected = -slope * mask / np.array(LENGTHS)[:, None] / GROUP
    assert ((mask > 0) & ~kept).any()

    def check(algorithm: Algorithm) -> None:
        params, rest = given(logprobs, mask)
        _, gradient, _ = mean_loss(algorithm, params, batch | rest, GivenLogprobs())
        np.testing.assert_allclose(gradient["hidden"], expected, atol=1e-12)

    class InTheReward(GRPO):
        def objective(self, model: Any, params: Any, batch: dict) -> Any:
            advantages = batch["advantages"] - BETA * (batch["old_logprobs"] - batch["ref_logprobs"])
            return super().objective(model, params, batch | {"advantages": advantages})

    class ClippedWithTheGain(GRPO):
        def objective(self, model: Any, params: Any, batch: dict) -> Any:
            log_ratios = params["hidden"][batch["tokens"][:, 0]] - batch["old_logprobs"]
            d = batch["ref_logprobs"] - params["hidden"][batch["tokens"][:, 0]]
            gains = batch["advantages"] - BETA * (jax.numpy.exp(d) - d - 1)
            gain, _ = clip(Tokens(log_ratios, log_ratios, gains, mask > 0, batch["segment_ids"]), 1 - EPS, 1 + EPS)
            return (-(gain * mask / np.array(LENGTHS)[:, None]).sum(), float(GROUP)), {}

    check(GRPO(clip_eps=EPS, kl_coef=BETA))
    for options in ({"kl": "k1"}, {"kl": "k2"}, {"kl_coef": 0.0}):
        fails(check, GRPO(**{"clip_eps": EPS, "kl_coef": BETA} | options))
    fails(check, InTheReward(clip_eps=EPS, kl_coef=0.0))
    fails(check, ClippedWithTheGain())


def test_3_eos_is_part_of_the_completion_and_masks_come_from_lengths() -> None:
    prompts = [[1, 7], [1]]  # 0 fills up; it is a token like any other too
    completions = [
        Completion(prompt, 0, tokens, [-1.0] * len(tokens), [-1.0] * len(tokens), finish)
        for prompt, tokens, finish in ((0, [4, 0, 2], "eos"), (1, [2], "eos"), (1, [6, 0], "length"))
    ]

    def check(weights_of: Callable[[dict], np.ndarray]) -> None:
        weights = weights_of(batch_of(prompts, completions, 5))
        assert weights.tolist() == [[0, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0]]

    check(lambda batch: batch["loss_weights"])
    fails(check, lambda batch: batch["loss_weights"] * (batch["targets"] != 0))
    fails(check, lambda batch: batch["loss_weights"] * (batch["targets"] != 2))


def test_3_a_completion_ends_at_the_first_of_several_stop_ids_and_says_how(sampler: Sampler, params: Any) -> None:
    def check(group: Sequence[Completion]) -> None:
        for completion in group:
            stops = [place for place, token in enumerate(completion.tokens) if token in STOP_IDS]
            assert stops == ([len(completion.tokens) - 1] if completion.finish_reason == "eos" else [])
            assert completion.finish_reason == "eos" or len(completion.tokens) == LIMIT

    (group,) = sampler.generate(params, [[1, 7, 3]], SamplingParams(samples=16))
    check(group)
    assert {completion.finish_reason for completion in group} == {"eos", "length"}
    ended = next(completion for completion in group if completion.finish_reason == "eos")
    fails(check, [dataclasses.replace(ended, tokens=[*ended.tokens, 4])])
    fails(check, [dataclasses.replace(ended, tokens=ended.tokens[:-1])])
    fails(check, [dataclasses.replace(ended, finish_reason="length")])


def test_4_clipping_for_both_signs_of_the_advantage() -> None:
    ratios, advantages = np.array([[1.5, 0.5, 1.5, 0.5]]), np.array([[2.0, 2.0, -2.0, -2.0]])

    def check(gain: Callable[[Any, Any], Any]) -> None:
        np.testing.assert_allclose(gain(np.log(ratios), advantages), [[2.4, 1.0, -3.0, -1.6]], rtol=1e-6)

    check(lambda log_ratios, a: clip(Tokens(log_ratios, log_ratios, a, a != 0, 1 + 0 * a), 1 - EPS, 1 + EPS)[0])
    fails(check, lambda log_ratios, a: np.clip(np.exp(log_ratios), 1 - EPS, 1 + EPS) * a)
    fails(check, lambda log_ratios, a: np.minimum(np.exp(log_ratios), np.clip(np.exp(log_ratios), 0.8, 1.2)) * a)
    fails(check, lambda log_ratios, a: np.maximum(np.exp(log_ratios) * a, np.clip(np.exp(log_ratios), 0.8, 1.2) * a))


def test_5_logprobs_are_those_of_the_temperature_before_top_p(model: Decoder, sampler: Sampler, params: Any) -> None:
    """So that the first update on a rollout has a ratio of one."""
    prompts = [[1, 7, 3]]
    sampling = SamplingParams(samples=16, temperature=0.6, top_p=0.7, seed=3)
    (completions,) = sampler.generate(params, prompts, sampling)
    batch = batch_of(prompts, completions, 3 + LIMIT)
    mask = batch["loss_weights"] > 0
    logprobs = jax.jit(lambda temperature: batch_logprobs(model, params, batch, temperature)[0])

    def check(found: Sequence[Sequence[float]], temperature: float) -> None:
        trained = np.asarray(logprobs(temperature))[mask]
        np.testing.assert_allclose(np.concatenate(found), trained, atol=2e-5)

    check([c.logprobs for c in completions], 0.6)
    fails(check, [c.logprobs for c in completions], 1.0)
    fails(check, [c.sampled_logprobs for c in completions], 0.6)


def test_6_the_deviation_is_the_samples_and_equal_rewards_give_exactly_zero() -> None:
    def check(advantages: Callable[[list[float]], np.ndarray]) -> None:
        np.testing.assert_allclose(advantages([1.0, 0.0, 0.0, 1.0]), np.array([1, -1, -1, 1]) * 0.75**0.5, atol=2e-6)
        assert (advantages([0.1] * 7) == 0.0).all()

    def ours(rewards: list[float], ddof: int = 1) -> np.ndarray:
        lengths = [1] * len(rewards)
        return np.concatenate(group_relative(outcome_scores(rewards, lengths), len(rewards), lengths, ddof=ddof))

    check(ours)
    fails(check, lambda rewards: ours(rewards, ddof=0))
    fails(check, lambda rewards: (np.array(rewards) - np.mean(rewards)) / (np.std(rewards, ddof=1) + 1e-12))


def test_7_process_supervision_pools_the_steps_of_the_group_and_sums_those_to_come() -> None:
    scores = Scores([np.array([1, 3]), np.array([0])], [np.array([1.0, 0.0]), np.array([2.0])])
    lengths = [5, 1]

    def check(advantages: PerToken) -> None:
        np.testing.assert_allclose(advantages[0], [-1, -1, -1, -1, 0], atol=2e-6)
        np.testing.assert_allclose(advantages[1], [1], atol=2e-6)

    def alone(i: int) -> PerToken:
        one = Scores([scores.ends[i]], [scores.rewards[i]])
        return group_relative(one, 1, lengths[i : i + 1])

    ours = group_relative(scores, 2, lengths)
    check(ours)
    fails(check, [*alone(0), *alone(1)])  # normalized within a completion
    summed = outcome_scores([r.sum() for r in scores.rewards], lengths)
    fails(check, group_relative(summed, 2, lengths))  # summed before it is normalized
    fails(check, [np.array([0.0, 0, -1, -1, 0]), ours[1]])  # a step's reward for its own tokens alone


def test_8_every_rollout_has_its_own_random_numbers(sampler: Sampler, params: Any) -> None:
    def draw(step: int, prompt_id: int = 0) -> list[list[int]]:
        sampling = SamplingParams(samples=16, seed=5)
        (group,) = sampler.generate(params, [[1, 7, 3]], sampling, step=step, prompt_ids=[prompt_id])
        return [completion.tokens for completion in group]

    def check(draw: Callable[[int], list[list[int]]]) -> None:
        first, second = draw(0), draw(1)
        assert first != second
        assert draw(0) == first
        assert len({tuple(tokens) for tokens in first}) > 1

    check(draw)
    assert draw(0, prompt_id=1) != draw(0)
    fails(check, lambda step: draw(0))
    fails(check, lambda step: draw(step)[:1] * 16)


@pytest.mark.usefixtures("float64")
def test_9_dpo_is_normalized_by_length_unless_asked_otherwise() -> None:
    rows = {"logprobs": [[-1.0] * 4 + [-2.0] * 4], "mask": [[1.0] * 5 + [0.0] * 3]}
    params, batch = given(*map(np.array, rows.values()), ref_logprobs=np.array([[-1.5] * 4 + [-1.0] * 4]))
    batch["segment_ids"] = np.array([[1] * 4 + [2] * 4])

    def check(algorithm: DPO, margin: float) -> None:
        loss, _, _ = mean_loss(algorithm, params, batch, GivenLogprobs())
        assert loss == pytest.approx(math.log1p(math.exp(-margin)), abs=1e-12)

    check(DPO(beta=0.5), 0.5 * (4 * 0.5 / 4 + 1.0))
    check(DPO(beta=0.5, length_normalized=False), 0.5 * (4 * 0.5 + 1.0))
    fails(check, DPO(beta=0.5, length_normalized=False), 0.5 * (4 * 0.5 / 4 + 1.0))


def test_10_a_reward_that_hangs_off_the_main_thread_is_stopped_and_not_zero() -> None:
    def by_alarm(text: str, record: Record) -> float:
        def stop(*_: Any) -> None:
            raise TimeoutError

        try:
            signal.signal(signal.SIGALRM, stop)
            signal.alarm(1)
            time.sleep(60)
        except (TimeoutError, ValueError):  # ValueError: signals only work in the main thread
            pass
        return 0.0

    def by_workers(text: str, record: Record) -> float:
        with RewardFunctions((("tests.rl.reward_functions:as_asked", 1.0),), 0.5, 1) as reward:
            rewards = reward.score([RewardInput(text, record)])
        assert rewards.errors["timed_out"] == 1
        return float(rewards.total[0])

    def check(grade: Callable[[str, Record], float]) -> None:
        found: list[float] = []
        thread = threading.Thread(target=lambda: found.append(grade("hang", Record("toy/0", "How many?", "", "7"))))
        thread.start()
        thread.join()
        assert math.isnan(found[0])

    check(by_workers)
    fails(check, by_alarm)


def test_11_the_schedule_has_the_papers_steps() -> None:
    def check(name: str) -> None:
        schedule = SCHEDULES[name](1.0, 2000, 50_000)
        shares = {999: 0.5, 1999: 1.0, 39_999: 1.0, 40_000: 0.316, 44_999: 0.316, 45_000: 0.1, 49_999: 0.1}
        assert {step: float(schedule(step)) for step in shares} == pytest.approx(shares, rel=1e-6)

    check("multi_step")
    fails(check, "constant")


def test_12_ten_words_of_a_benchmark_or_a_short_one_whole_are_contamination() -> None:
    long = "Anna has twelve red apples and gives a third of them to Ben before lunch; how many are left?"
    records = [Record("long", long, "", "8"), Record("short", "What is seven times eight?", "", "56")]
    cases = {
        "so anna has twelve red apples and gives a third of her time": True,  # ten words
        "so anna has twelve red apples and gives a third part": False,  # nine
        "she asked what is seven times eight, and left": True,
        "she asked what is seven times nine": False,
        "56": False,
    }

    def check(ngram: int, min_ngram: int) -> None:
        benchmarks = Benchmarks(records, ngram, min_ngram)
        assert {page: any(benchmarks.matches(normalize(page))) for page in cases} == cases

    check(10, 3)
    fails(check, 13, 3)
    fails(check, 10, 10)
    fails(check, 9, 3)
