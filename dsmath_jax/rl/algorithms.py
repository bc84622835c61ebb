"""The RL methods of the paper (§5.2, Eq. 5, Table 10) and their algorithms.

A method is a row of `METHODS`: the source of completions, the reward, the algorithm. An algorithm is a frozen dataclass
of its settings with two functions: `advantages(rollout)`, on the host in float64, and `loss(model, params, batch)`,
an objective of `make_train_step`: `(loss_sum, weight_sum), metric_sums` over rows, so that micro-batches and meshes
never change the loss. Batches are those of `rl.batches.batch_of`, all fields `[B,T]`: `loss_weights` is 1 on targets
that have loss, the sampled tokens of completions with EOS. A row without any has no weight, and its other fields, even
NaN, affect neither the loss nor a gradient.

Metrics, where they apply: `entropy`, `kl` to the reference model, `clip_low` and `clip_high` (shares of tokens whose
gradient is clipped), `sampler_logprob_diff` (absolute difference to the sampler's log-probability).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from dsmath_jax.models.decoder import Decoder, Params
from dsmath_jax.rl.advantages import PerToken, ScoredRollout, gae, group_relative, ppo_token_rewards, rewards_to_go
from dsmath_jax.rl.losses import (
    BT,
    KL_ESTIMATORS,
    NORMALIZERS,
    clipped_surrogate,
    completion_mean,
    log_ratio,
    masked_sum,
    metric_sums,
    value_loss,
)
from dsmath_jax.rl.reward_model.model import token_scores, with_reward_head
from dsmath_jax.settings import MAX_TEMPERATURE, Settings, setting
from dsmath_jax.training.objectives import Batch, Sums, batch_logprobs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm(Settings):
    """Base class of RL algorithms: settings, trained parameters (by default the policy's), advantages and loss."""

    has_values: ClassVar[bool] = False  # whether a value model is trained with the policy

    temperature: float = setting(
        1.0, "of the sampling; log-probabilities are those of softmax(logits / temperature)",
        gt=0, le=MAX_TEMPERATURE,
    )  # fmt: skip

    @property
    def needs_reference(self) -> bool:
        """Whether the algorithm uses log-probabilities of the reference model."""
        return False

    def initial_params(self, read: Callable[[], Params], hidden_size: int) -> Params:
        """Returns the trained parameters; each call of `read` reads those of the initial model."""
        del hidden_size
        return read()

    def policy(self, params: Params) -> Params:
        """Returns the policy's part of the trained parameters."""
        return params

    def advantages(self, rollout: ScoredRollout) -> PerToken:
        """Returns the advantage of every token: by default the rewards to go (Eq. 8, 11).

        A completion without a reward is NaN everywhere.
        """
        return rewards_to_go(rollout.scores, rollout.lengths)

    def loss(self, model: Decoder, params: Params, batch: Batch) -> Sums:
        """Computes the loss of a batch, as an `Objective`: `(loss_sum, weight_sum), metric_sums`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likelihood(Algorithm):
    """SFT, RFT and Online RFT: (1/|o|) sum_t A_t log pi(o_t) with A = 1, or 1 if correct, else 0 (Eq. 6 to 11).

    The batch also has `advantages`, and `sampler_logprobs` for the metric.
    """

    normalize_by_correct: bool = setting(
        False, "divide by the number of correct completions (those whose reward is not 0), not of all (Eq. 8, 11)"
    )

    def loss(self, model: Decoder, params: Params, batch: Batch) -> Sums:
        logprobs, entropy, mask = _logprobs_and_mask(model, params, batch, self.temperature)
        advantages = jnp.where(mask, batch["advantages"], 0.0)
        counted = mask & jnp.any(advantages != 0, axis=1, keepdims=True) if self.normalize_by_correct else mask
        token_weights, weight = completion_mean(counted, 0)
        loss = -jnp.sum(jnp.where(mask, logprobs, 0.0) * advantages * token_weights)
        metrics = {"entropy": entropy} | _sampler_logprob_diff(logprobs, batch)
        return (loss, weight.astype(loss.dtype)), metric_sums(metrics, counted, "completion")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPO(Algorithm):
    """DPO: log sigma(beta Delta+ - beta Delta-), Delta the log-ratio of policy and reference (Eq. 12).

    A row is a pair of completions of one prompt: the fields `tokens`, `targets`, `segment_ids`, `positions`,
    `loss_weights` and `ref_logprobs`, once as `chosen_*` and once as `rejected_*`. A pair with an empty side has no
    weight.
    """

    beta: float = setting(0.1, "strength of the KL to the reference model", gt=0)
    length_normalized: bool = setting(
        True, "Delta is a mean over the completion's tokens (Eq. 12); False: the sum of arXiv 2305.18290"
    )

    @property
    def needs_reference(self) -> bool:
        return True

    def loss(self, model: Decoder, params: Params, batch: Batch) -> Sums:
        chosen, rejected = (self._side(model, params, batch, f"{side}_") for side in ("chosen", "rejected"))
        pairs = chosen[1] & rejected[1]
        margin = jnp.where(pairs, self.beta * (chosen[0] - rejected[0]), 0.0)
        metrics = {
            "margin": margin,
            "accuracy": (margin > 0).astype(margin.dtype),
            "chosen_reward": self.beta * chosen[0],
            "rejected_reward": self.beta * rejected[0],
            "entropy": 0.5 * (chosen[2] + rejected[2]),
        }
        sums = {name: jax.lax.stop_gradient(masked_sum(value, pairs)) for name, value in metrics.items()}
        return (-masked_sum(jax.nn.log_sigmoid(margin), pairs), jnp.sum(pairs).astype(margin.dtype)), sums

    def _side(self, model: Decoder, params: Params, batch: Batch, prefix: str) -> tuple[Array, Array, Array]:
        """Returns for each row its log-ratio, whether it has any token, and the mean entropy."""
        fields = {n.removeprefix(prefix): x for n, x in batch.items() if n.startswith(prefix)}
        logprobs, entropy, mask = _logprobs_and_mask(model, params, fields, self.temperature)
        lengths = jnp.maximum(jnp.sum(mask, axis=1), 1)
        delta = masked_sum(logprobs - fields["ref_logprobs"], mask, axis=1) / (lengths if self.length_normalized else 1)
        return delta, jnp.any(mask, axis=1), masked_sum(entropy, mask, axis=1) / lengths


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClippedAlgorithm(Algorithm):
    """Base class of PPO and GRPO: the clipped ratio to the old policy, and a KL to the reference model."""

    clip_eps: float = setting(0.2, "the ratio is clipped to 1 - clip_eps and 1 + clip_eps", gt=0)
    clip_eps_high: float = setting(0.0, "epsilon of the upper bound (DAPO, arXiv 2503.14476); 0: clip_eps", ge=0)
    kl_coef: float = setting(0.04, "coefficient beta of the KL to the reference model; 0: no reference model", ge=0)

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef != 0

    def clipped_objective(self, logprobs: BT, mask: Bool[Array, "B T"], batch: Batch) -> tuple[BT, dict[str, BT]]:
        """Returns the clipped surrogate of each token, 0 outside completions, and its metrics.

        Without `old_logprobs` (one update per rollout) the ratio is 1 and has the gradient of the log-probability.
        """
        old = batch.get("old_logprobs", jax.lax.stop_gradient(logprobs))
        advantages = jnp.where(mask, batch["advantages"], 0.0)
        above = self.clip_eps_high or self.clip_eps
        gain, low, high = clipped_surrogate(log_ratio(logprobs, old, mask), advantages, self.clip_eps, above)
        return gain, {"clip_low": low, "clip_high": high} | _sampler_logprob_diff(logprobs, batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPO(ClippedAlgorithm):
    """PPO: the clipped objective (Eq. 1) with the KL in the reward (Eq. 2), and the loss of the value model.

    The parameters are `{"policy": ..., "value": {"model": ..., "reward": {"kernel" [D,1], "bias" [1]}}}`: two decoders
    of one shape, the second with a linear head. The batch has `advantages`, `returns`, `old_logprobs`, `old_values`,
    and `ref_logprobs` for the metric.
    """

    has_values: ClassVar[bool] = True

    gamma: float = setting(1.0, "discount of generalized advantage estimation", ge=0, le=1)
    lam: float = setting(0.95, "lambda of generalized advantage estimation", ge=0, le=1)
    value_clip: float = setting(0.2, "values are clipped to within this of the old ones; 0: no clipping", ge=0)
    value_coef: float = setting(0.5, "coefficient of the value loss", ge=0)

    def initial_params(self, read: Callable[[], Params], hidden_size: int) -> Params:
        return {"policy": read(), "value": with_reward_head(read(), hidden_size)}

    def policy(self, params: Params) -> Params:
        return params["policy"]

    def advantages(self, rollout: ScoredRollout) -> PerToken:
        """Returns generalized advantage estimates over rewards with the KL (Eq. 2)."""
        reference = rollout.ref_logprobs or rollout.old_logprobs
        rewards = ppo_token_rewards(rollout.scores, rollout.old_logprobs, reference, self.kl_coef)
        return [gae(r, v, self.gamma, self.lam) for r, v in zip(rewards, rollout.old_values, strict=True)]

    def loss(self, model: Decoder, params: Params, batch: Batch) -> Sums:
        logprobs, entropy, mask = _logprobs_and_mask(model, params["policy"], batch, self.temperature)
        gain, metrics = self.clipped_objective(logprobs, mask, batch)
        if "ref_logprobs" in batch:
            metrics["kl"] = KL_ESTIMATORS["k3"](-log_ratio(logprobs, batch["ref_logprobs"], mask))
        values = token_scores(model, params["value"], batch)
        returns, old = (jnp.where(mask, batch[name], 0.0) for name in ("returns", "old_values"))
        error = value_loss(jnp.where(mask, values, 0.0), old, returns, self.value_clip or math.inf)
        metrics |= {"entropy": entropy, "value_loss": error, "value": values}
        token_weights, weight = completion_mean(mask, 0)
        loss = jnp.sum((self.value_coef * error - gain) * token_weights)
        return (loss, weight.astype(loss.dtype)), metric_sums(metrics, mask, "completion")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPO(ClippedAlgorithm):
    """GRPO (Eq. 3) with the KL of Eq. 4 in the loss; outcome or process supervision (§4.1.2, §4.1.3) by the scores.

    The batch has `advantages`, `ref_logprobs` unless kl_coef is 0, `old_logprobs` with several updates per rollout
    (mu > 1), and `sampler_logprobs` for the metric.
    """

    kl: str = setting("k3", "estimator of the KL: k1, k2 or k3 (Eq. 4)", choices=KL_ESTIMATORS)
    normalize: str = setting(
        "completion", "loss is averaged by completion (Eq. 3), token (DAPO) or constant (Dr. GRPO)", choices=NORMALIZERS
    )
    max_new_tokens: int = setting(1024, "length limit of a completion, which normalize=constant divides by", ge=1)
    divide_by_std: bool = setting(True, "divide by the group's standard deviation; False: Dr. GRPO, arXiv 2503.20783")
    ddof: int = setting(1, "delta degrees of freedom of the standard deviation: 1 or 0", ge=0, le=1)
    epsilon: float = setting(1e-6, "added to the standard deviation", ge=0)

    def advantages(self, rollout: ScoredRollout) -> PerToken:
        """Returns the rewards to go, normalized within each group."""
        return group_relative(
            rollout.scores, rollout.group_size, rollout.lengths,
            ddof=self.ddof, epsilon=self.epsilon, divide_by_std=self.divide_by_std,
        )  # fmt: skip

    def loss(self, model: Decoder, params: Params, batch: Batch) -> Sums:
        logprobs, entropy, mask = _logprobs_and_mask(model, params, batch, self.temperature)
        gain, metrics = self.clipped_objective(logprobs, mask, batch)
        metrics |= {"entropy": entropy}
        if self.kl_coef:
            kl = KL_ESTIMATORS[self.kl](-log_ratio(logprobs, batch["ref_logprobs"], mask))
            gain, metrics = gain - self.kl_coef * kl, metrics | {"kl": kl}
        token_weights, weight = NORMALIZERS[self.normalize](mask, self.max_new_tokens)
        return (-jnp.sum(gain * token_weights), weight.astype(gain.dtype)), metric_sums(metrics, mask, self.normalize)


def _logprobs_and_mask(
    model: Decoder, params: Params, batch: Batch, temperature: float
) -> tuple[BT, BT, Bool[Array, "B T"]]:
    """Returns log-probabilities, entropies, and the mask of completion tokens."""
    logprobs, entropy = batch_logprobs(model, params, batch, temperature)
    return logprobs, entropy, batch["loss_weights"] > 0


def _sampler_logprob_diff(logprobs: BT, batch: Batch) -> dict[str, BT]:
    if "sampler_logprobs" not in batch:
        return {}
    return {"sampler_logprob_diff": jnp.abs(logprobs - batch["sampler_logprobs"])}


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the paper's Table 10 with a source of rewards.

    Attributes:
      completions: their source: "solutions" (of the data set), "correct" or "pairs" (of samples of the initial
        policy, drawn once: the correct ones, or each with an incorrect one) or "policy" (of the current policy).
      reward: "" for none, "rule", "outcome" (a reward model's score of the whole) or "process" (of each step).
      algorithm: its settings, advantages and loss.
      coefficient: GC(q, o, t) of its gradient E[(1/|o|) sum_t GC(q, o, t) grad log pi(o_t | q, o_<t)] (Eq. 5).
      iterative: several rounds, each of which starts with the policy as the reference and a retrained reward model
        (Algorithm 1).
    """

    completions: str
    reward: str
    algorithm: type[Algorithm]
    coefficient: str
    iterative: bool = False


METHODS = {
    "sft": Method("solutions", "", Likelihood, "1"),
    "rft": Method("correct", "rule", Likelihood, "1 if correct, else 0"),
    "online_rft": Method("policy", "rule", Likelihood, "1 if correct, else 0"),
    "dpo": Method("pairs", "rule", DPO, "+- beta sigma(beta Delta- - beta Delta+)"),
    "ppo": Method("policy", "outcome", PPO, "A_t by GAE"),
    "grpo_rule": Method("policy", "rule", GRPO, "A_it + beta (pi_ref / pi - 1)"),
    "grpo_os": Method("policy", "outcome", GRPO, "A_it + beta (pi_ref / pi - 1)"),
    "grpo_ps": Method("policy", "process", GRPO, "A_it + beta (pi_ref / pi - 1)"),
    "grpo_iterative": Method("policy", "outcome", GRPO, "A_it + beta (pi_ref / pi - 1)", iterative=True),
}
REWARD_STAGES = {"outcome": "reward_model", "process": "process_model"}  # the stage whose model gives a reward
REWARDS = ("rule", *REWARD_STAGES)
