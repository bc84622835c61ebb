"""RL methods as data (paper §5.2, Eq. 5, Table 10): whose completions, which reward, which objective.

A method's gradient is E[(1/|o|) sum_t GC(q, o, t) grad log pi(o_t)]; the coefficients GC are in the rows' comments.
"""

import dataclasses
import math
from collections.abc import Callable

from ml_collections import ConfigDict

from dsmath_jax.models.llama import Params
from dsmath_jax.rl.advantages import PerToken, Scores, group_relative, reward_itself
from dsmath_jax.rl.objectives import DPO, GRPO, PPO, Likelihood
from dsmath_jax.rl.reward_model import with_head
from dsmath_jax.training.objectives import Objective
from dsmath_jax.workdir import UserError

# From the rewards of P x G completions, their lengths and the settings to each token's advantage.
Advantage = Callable[[Scores, list[int], ConfigDict], PerToken]


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of the paper's Table 10.

    Attributes:
      data: which completions: "solutions" (those that come with the questions), "right" or "pairs" (of the samples of
        the model that the policy starts from, drawn once: the right ones, or each with a wrong one) or "policy"
        (samples of the policy as it is).
      reward: "" for none, "rule", "outcome" (a reward model's score of the whole) or "process" (of each step).
      objective: from the settings (`rl.settings`) to the loss.
      reference: whether a KL or a log-ratio to the model that the policy starts from takes part.
      advantage: of completions that the policy draws; None where it comes from a value model, trained beside (PPO).
      iterative: rounds, each of which begins with the policy as reference and a reward model trained further
        (Algorithm 1).
    """

    data: str
    reward: str
    objective: Callable[[ConfigDict], Objective]
    reference: bool
    advantage: Advantage | None = None
    iterative: bool = False

    @property
    def has_values(self) -> bool:
        """Whether a value model is trained beside the policy."""
        return self.data == "policy" and self.advantage is None

    def has_reference(self, ours: ConfigDict) -> bool:
        """Whether the reference has to be there: for the KL of a method that explores, unless its coefficient is 0."""
        return self.reference and (self.data != "policy" or ours.kl_coef != 0)

    def initial_params(self, read: Callable[[], Params], width: int) -> Params:
        """What is trained: the policy or, with a value model, both, each from what `read` gives; D is `width`."""
        return {"policy": read(), "value": with_head(read(), width)} if self.has_values else read()

    def policy(self, params: Params) -> Params:
        """The policy's part of what is trained."""
        return params["policy"] if self.has_values else params


def _likelihood(ours: ConfigDict) -> Objective:
    return Likelihood(ours.temperature, ours.kept)


def _dpo(ours: ConfigDict) -> Objective:
    return DPO(ours.beta, ours.length_normalised, ours.temperature)


def _grpo(ours: ConfigDict) -> Objective:
    return GRPO(
        clip_eps=ours.clip_eps, clip_eps_high=ours.clip_eps_high or None, kl_coef=ours.kl_coef,
        temperature=ours.temperature, kl=ours.kl, normalise=ours.normalise, limit=ours.max_new_tokens,
    )  # fmt: skip


def _ppo(ours: ConfigDict) -> Objective:
    return PPO(
        clip_eps=ours.clip_eps, clip_eps_high=ours.clip_eps_high or None, value_clip=ours.value_clip or math.inf,
        value_coef=ours.value_coef, temperature=ours.temperature,
    )  # fmt: skip


def _group(scores: Scores, lengths: list[int], ours: ConfigDict) -> PerToken:
    return group_relative(
        scores, ours.group_size, lengths, ddof=ours.ddof, epsilon=ours.epsilon, divide_by_std=ours.divide_by_std
    )


def _itself(scores: Scores, lengths: list[int], ours: ConfigDict) -> PerToken:
    return reward_itself(scores, ours.group_size, lengths)


METHODS = {
    "sft": Method("solutions", "", _likelihood, False),  # GC = 1
    "rft": Method("right", "rule", _likelihood, False),  # 1 where the completion is right, else 0
    "online_rft": Method("policy", "rule", _likelihood, False, _itself),  # the same
    "dpo": Method("pairs", "rule", _dpo, True),  # +- beta sigma(beta Delta- - beta Delta+)
    "ppo": Method("policy", "outcome", _ppo, True),  # A_t by GAE
    "grpo_rule": Method("policy", "rule", _grpo, True, _group),  # A_it + beta (pi_ref / pi - 1), and so below
    "grpo_os": Method("policy", "outcome", _grpo, True, _group),
    "grpo_ps": Method("policy", "process", _grpo, True, _group),
    "grpo_iterative": Method("policy", "outcome", _grpo, True, _group, iterative=True),
}
REWARD_STAGES = {"outcome": "reward_model", "process": "process_model"}  # the stage whose model gives a reward
REWARDS = ("rule", *REWARD_STAGES)


def method_of(ours: ConfigDict) -> Method:
    """The method that `rl.method` names, with the reward that `rl.reward` names in place of its own.

    Raises:
      UserError: there is no such method or reward, or it cannot be rewarded or iterated as the settings say.
    """
    if ours.method not in METHODS:
        raise UserError(f"Unknown rl.method '{ours.method}'; known ones are {', '.join(METHODS)}.")
    method = METHODS[ours.method]
    if ours.reward and ours.reward not in REWARDS:
        raise UserError(f"Unknown rl.reward '{ours.reward}'; known ones are {', '.join(REWARDS)}.")
    if ours.reward and method.data != "policy" and ours.reward != method.reward:
        raise UserError(f"rl.method={ours.method} cannot take rl.reward={ours.reward}; leave rl.reward empty.")
    method = dataclasses.replace(method, reward=ours.reward or method.reward)
    if method.iterative != (ours.rounds > 1):
        wanted = "at least 2" if method.iterative else "1"
        raise UserError(f"rl.rounds is {ours.rounds}; rl.method={ours.method} takes {wanted}.")
    if method.iterative and method.reward == "rule":
        raise UserError("rl.method=grpo_iterative trains a reward model; set rl.reward to outcome or process.")
    return method
