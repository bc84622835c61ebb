"""Rewards of steps without a reward model: by a function of the user's, or by continuations of the policy."""

from collections.abc import Iterable, Sequence

import jax
import numpy as np

from dsmath_jax.models.decoder import Params
from dsmath_jax.rl.context import Context
from dsmath_jax.rl.reward_model.labels import ESTIMATES, estimate_steps
from dsmath_jax.rl.rewards import RewardFunctions, RewardInput
from dsmath_jax.rl.rollout_batch import ScoreEnds
from dsmath_jax.rl.rollouts import Rollout, sampling_of
from dsmath_jax.rl.steps import step_texts
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sharding import broadcast_json


def step_scorer(ctx: Context, policy: Params, number: int, reward_fns: RewardFunctions) -> ScoreEnds | None:
    """Returns the rewards of steps without a reward model, by `rl.step_rewards`; None where steps have none.

    "monte_carlo" is the share of correct ones among `rl.step_completions` continuations by the policy, which samples
    rollout `number`, as Math-Shepherd's soft labels (arXiv 2312.08935); that of the last step is whether the completion
    is correct.
    """
    settings = ctx.settings
    if settings.reward_source != "process":
        return None

    def by_function(rollout: Rollout, ends: Sequence[np.ndarray]) -> list[np.ndarray]:
        rewards: list[list[float]] = []
        if jax.process_index() == 0:
            steps = [step_texts(c.tokens, e, ctx.chat) for c, e in zip(rollout.completions_PG, ends, strict=True)]
            scored = reward_fns.score_steps(settings.step_rewards, steps, rollout.records_PG)
            rewards = [each.tolist() for each in scored]
        return [np.array(each) for each in broadcast_json(rewards)]

    def by_continuations(rollout: Rollout, ends: Sequence[np.ndarray]) -> list[np.ndarray]:
        def generate(
            prefixes: Sequence[Sequence[int]], samples: int, ids: Sequence[int], begun: Sequence[int]
        ) -> Iterable[list[Completion]]:
            sampling = sampling_of(settings, ctx.chat, ctx.seed, samples)
            return ctx.sampler.generate(policy, prefixes, sampling, step=number, prompt_ids=ids, begun=begun)

        def is_correct(completions: Sequence[tuple[int, Sequence[int]]]) -> list[bool]:
            inputs = [RewardInput(ctx.chat.completion(tokens), rollout.records_PG[i]) for i, tokens in completions]
            graded: list[bool] = broadcast_json(None if jax.process_index() else reward_fns.are_correct(inputs))
            return graded

        rows = [
            {"problem": i, "prompt": rollout.prompts_P[c.prompt], "completion": c.tokens, "ends": e.tolist()}
            for i, (c, e) in enumerate(zip(rollout.completions_PG, ends, strict=True))
        ]
        limit = settings.max_new_tokens
        before = estimate_steps(rows, settings.step_completions, ESTIMATES["soft"], limit, generate, is_correct)
        last = is_correct([(i, c.tokens) for i, c in enumerate(rollout.completions_PG)])
        return [np.array([*values, float(value)]) for values, value in zip(before, last, strict=True)]

    return by_continuations if settings.step_rewards == "monte_carlo" else by_function
