"""The RL methods: the paper's Table 10, and what came after it, as data.

A method is a row of `METHODS`: the source of completions, the reward, and the algorithm with its settings. A method of
your own is a `Method` in a module of yours, `rl.method=package.module:NAME` (docs/rl.md).
"""

import dataclasses
from typing import Any

from dsmath_jax import user_code
from dsmath_jax.rl.algorithms import DPO, GRPO, PPO, Algorithm, Likelihood
from dsmath_jax.settings import nearest
from dsmath_jax.workdir import UserError


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the paper's Table 10 with a source of rewards.

    Attributes:
      completions: their source: "solutions" (of the data set), "correct" or "pairs" (of samples of the initial
        policy, drawn once: the correct ones, or each with an incorrect one) or "policy" (of the current policy).
      reward: "" for none, "rule", "outcome" (a reward model's score of the whole) or "process" (of each step).
      algorithm: its settings, advantages and objective.
      coefficient: GC(q, o, t) of its gradient E[(1/|o|) sum_t GC(q, o, t) grad log pi(o_t | q, o_<t)] (Eq. 5), where r
        is pi / pi_old, A the advantage, and [clip] 0 where the ratio is clipped, else 1. The weight 1/|o| is that of
        `rl.normalize`.
      iterative: several rounds, each of which starts with the policy as the reference and a retrained reward model
        (Algorithm 1).
    """

    completions: str
    reward: str
    algorithm: type[Algorithm]
    coefficient: str
    iterative: bool = False


def variant(algorithm: type[Algorithm], **defaults: Any) -> type[Algorithm]:
    """Returns the algorithm with other default values of its settings."""
    fields = {field.name: field for field in dataclasses.fields(algorithm)}
    if unknown := defaults.keys() - fields:
        raise TypeError(f"{algorithm.__name__} has no setting {', '.join(sorted(unknown))}")
    return dataclasses.make_dataclass(
        algorithm.__name__,
        [(n, fields[n].type, dataclasses.field(default=v, metadata=fields[n].metadata)) for n, v in defaults.items()],
        bases=(algorithm,), frozen=True, kw_only=True, namespace={"__doc__": algorithm.__doc__},
    )  # fmt: skip


CLIPPED = "r A [clip]"
WITH_KL = f"{CLIPPED} + beta (pi_ref / pi - 1)"
NO_KL: dict[str, Any] = {"kl_coef": 0.0}
METHODS = {
    # The paper's.
    "sft": Method("solutions", "", Likelihood, "1"),
    "rft": Method("correct", "rule", Likelihood, "1 if correct, else 0"),
    "online_rft": Method("policy", "rule", Likelihood, "1 if correct, else 0"),
    "dpo": Method("pairs", "rule", DPO, "+- beta sigma(beta Delta- - beta Delta+)"),
    "ppo": Method("policy", "outcome", PPO, f"{CLIPPED}, A_t by GAE"),
    "grpo_rule": Method("policy", "rule", GRPO, WITH_KL),
    "grpo_os": Method("policy", "outcome", GRPO, WITH_KL),
    "grpo_ps": Method("policy", "process", GRPO, WITH_KL),
    "grpo_iterative": Method("policy", "outcome", GRPO, WITH_KL, iterative=True),
    # Later variants of GRPO, with the settings of their papers.
    "dr_grpo": Method(  # arXiv 2503.20783
        "policy", "rule", variant(GRPO, normalize="constant", divide_by_std=False, **NO_KL), CLIPPED
    ),
    "dapo": Method(  # arXiv 2503.14476; its overlong penalty is the reward function `soft_overlong`
        "policy", "rule",
        variant(GRPO, clip_eps_high=0.28, normalize="token", rollout_filter=("zero_std",), max_gen_batches=10, **NO_KL),
        CLIPPED,
    ),
    "gspo": Method(  # arXiv 2507.18071, section 5.1
        "policy", "rule", variant(GRPO, loss="sequence_clip", clip_eps=3e-4, clip_eps_high=4e-4, **NO_KL),
        "s A [clip], s = exp(mean_t log r_t)",
    ),
    "cispo": Method(  # arXiv 2506.13585: no lower bound; the upper one, 5, is ScaleRL's (arXiv 2510.13786)
        "policy", "rule", variant(GRPO, loss="cispo", clip_eps=1.0, clip_eps_high=4.0, normalize="token", **NO_KL),
        "clip(r) A",
    ),
    # Policy gradients with other baselines.
    "rloo": Method(  # arXiv 2402.14740; the coefficient of the KL is TRL's
        "policy", "rule", variant(GRPO, advantage="leave_one_out", normalize="sum", kl_in="reward", kl_coef=0.05),
        f"{CLIPPED}, A leave-one-out, with the KL in the reward",
    ),
    "reinforce_pp": Method(  # arXiv 2501.03262
        "policy", "rule", variant(GRPO, advantage="reinforce_pp", normalize="token", kl_in="reward", kl_coef=0.01),
        f"{CLIPPED}, A_t rewards to go normalized over the batch, with the KL in the reward",
    ),
    "reinforce_pp_baseline": Method(  # arXiv 2501.03262
        "policy", "rule", variant(GRPO, advantage="reinforce_pp_baseline", normalize="token", kl="k2", kl_coef=0.01),
        f"{CLIPPED} - beta log(pi / pi_ref)",
    ),
    "raft_pp": Method(  # arXiv 2504.11343
        "policy", "rule", variant(GRPO, advantage="reward", rollout_filter=("incorrect",), **NO_KL),
        "r [clip] if correct, else no loss",
    ),
    "reinforce_rej": Method(  # arXiv 2504.11343; rewards of 1 and -1
        "policy", "rule", variant(GRPO, advantage="signed_reward", rollout_filter=("zero_std",), **NO_KL),
        f"{CLIPPED}, A = 1 if correct, else -1; no loss if all or none of the group are",
    ),
    # From a teacher, rl.teacher (https://thinkingmachines.ai/blog/on-policy-distillation; G-OPD arXiv 2602.12125).
    "distill": Method(
        "policy", "rule", variant(GRPO, advantage="teacher", **NO_KL), f"{CLIPPED}, A_t = log pi_T - log pi_old"
    ),
}  # fmt: skip
REWARD_STAGES = {"outcome": "reward_model", "process": "process_model"}  # the stage whose model gives a reward
REWARDS = ("rule", *REWARD_STAGES)


def method_of(name: str) -> Method:
    """Returns the method of that name, or the user's own, "package.module:NAME": a `Method` or an algorithm's class.

    A class gets completions of the policy and rule rewards.

    Raises:
      UserError: there is none.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        known = ", ".join(map(repr, METHODS))
        raise UserError(
            f"rl.method must be one of {known}, or package.module:NAME; got {name!r}{nearest(name, METHODS)}."
        )
    try:
        found = user_code.load(name, object)
    except UserError as error:
        raise UserError(f"rl.method: {error}") from None
    if isinstance(found, type) and issubclass(found, Algorithm):
        return Method("policy", "rule", found, "")
    if not isinstance(found, Method):
        kind = type(found).__name__
        raise UserError(f"rl.method: '{name}' is of the type {kind}; it must be a Method or a class of Algorithm.")
    return found
