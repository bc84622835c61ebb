"""The paper's RL methods as data (§5.2, Eq. 5, Table 10), and the algorithms behind them.

A method is a row of `METHODS`: whose completions, which reward, which algorithm. An algorithm is a frozen dataclass of
its own settings with two functions: `advantages(rollout)`, on the host in float64, and `loss(model, params, batch)`,
which is minimized: `(loss_sum, weight_sum), metric_sums` over rows, so that micro-batches and meshes never change the
mathematics. Batches are those of `rl.batches.batch_of`, all fields `[B,T]`: `loss_weights` is 1 on the targets that are
completion tokens, EOS among them; a row without any counts for nothing, and whatever its other fields hold, NaN
included, reaches neither the loss nor a gradient.

Metrics, as far as they apply: `entropy`, `kl` to the reference, `clip_low` and `clip_high` (shares of the tokens whose
gradient the clip takes), `sampler_logprob_diff` (|log-probability - what the sampler said|).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from dsmath_jax.models.llama import Llama, Params
from dsmath_jax.rl.advantages import PerToken, ScoredRollout, gae, group_relative, ppo_token_rewards, to_go
from dsmath_jax.rl.losses import (
    BT,
    KL_ESTIMATORS,
    NORMALIZERS,
    completion_mean,
    log_ratio,
    masked_sum,
    metric_sums,
    surrogate,
    value_error,
)
from dsmath_jax.rl.reward_model.model import token_scores, with_head
from dsmath_jax.settings import MOST_TEMPERATURE, Settings, setting
from dsmath_jax.training.objectives import Batch, Sums, batch_logprobs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm(Settings):
    """An RL algorithm: its settings, what it trains (by default the policy alone), its advantages and its loss."""

    has_values: ClassVar[bool] = False  # whether a value model is trained with the policy

    temperature: float = setting(
        1.0, "of the sampling; log-probabilities are those of softmax(logits / temperature)",
        above=0, most=MOST_TEMPERATURE,
    )  # fmt: skip

    @property
    def needs_reference(self) -> bool:
        """Whether log-probabilities of the reference take part."""
        return False

    def initial_params(self, read: Callable[[], Params], hidden_size: int) -> Params:
        """What is trained, from what `read` gives at each call."""
        del hidden_size
        return read()

    def policy(self, params: Params) -> Params:
        """The policy's part of what is trained."""
        return params

    def advantages(self, rollout: ScoredRollout) -> PerToken:
        """The advantage of every token: the rewards to go as they are (Eq. 8, 11), unless an algorithm says otherwise.

        A completion that cannot be used, for it has no reward, is NaN everywhere.
        """
        return to_go(rollout.scores, rollout.lengths)

    def loss(self, model: Llama, params: Params, batch: Batch) -> Sums:
        """The loss of a batch, an `Objective` of `make_train_step`: `(loss_sum, weight_sum), metric_sums`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likelihood(Algorithm):
    """SFT, RFT and Online RFT: (1/|o|) sum_t A_t log pi(o_t) with A = 1, or 1 if correct, else 0 (Eq. 6 to 11).

    The batch has `advantages` too, and `sampler_logprobs` for the metric alone.
    """

    normalize_by_correct: bool = setting(
        False, "divide by the number of correct completions (those whose reward is not 0), not of all (Eq. 8, 11)"
    )

    def loss(self, model: Llama, params: Params, batch: Batch) -> Sums:
        logprobs, entropy, mask = _scored(model, params, batch, self.temperature)
        advantages = jnp.where(mask, batch["advantages"], 0.0)
        counted = mask & jnp.any(advantages != 0, axis=1, keepdims=True) if self.normalize_by_correct else mask
        shares, weight = completion_mean(counted, 0)
        loss = -jnp.sum(jnp.where(mask, logprobs, 0.0) * advantages * shares)
        metrics = {"entropy": entropy} | _sampler_difference(logprobs, batch)
        return (loss, weight.astype(loss.dtype)), metric_sums(metrics, counted, "completion")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPO(Algorithm):
    """DPO: log sigma(beta Delta+ - beta Delta-), Delta the log-ratio of policy and reference (Eq. 12).

    A row is a pair of completions of one prompt: the fields `tokens`, `targets`, `segment_ids`, `positions`,
    `loss_weights` and `ref_logprobs`, once as `chosen_*` and once as `rejected_*`. A pair with an empty side counts for
    nothing.
    """

    beta: float = setting(0.1, "strength of the reference", above=0)
    length_normalized: bool = setting(
        True, "Delta is a mean over the completion's tokens (Eq. 12); False: the sum of arXiv 2305.18290"
    )

    @property
    def needs_reference(self) -> bool:
        return True

    def loss(self, model: Llama, params: Params, batch: Batch) -> Sums:
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

    def _side(self, model: Llama, params: Params, batch: Batch, prefix: str) -> tuple[Array, Array, Array]:
        """Of each row: its log-ratio, whether there is any token, the mean entropy."""
        fields = {n.removeprefix(prefix): x for n, x in batch.items() if n.startswith(prefix)}
        logprobs, entropy, mask = _scored(model, params, fields, self.temperature)
        lengths = jnp.maximum(jnp.sum(mask, axis=1), 1)
        delta = masked_sum(logprobs - fields["ref_logprobs"], mask, axis=1) / (lengths if self.length_normalized else 1)
        return delta, jnp.any(mask, axis=1), masked_sum(entropy, mask, axis=1) / lengths


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clipped(Algorithm):
    """What PPO and GRPO share: the clipped ratio to the policy that drew the completions, and a KL to the reference."""

    clip_eps: float = setting(0.2, "the ratio is clipped to 1 - clip_eps and 1 + clip_eps", above=0)
    clip_eps_high: float = setting(0.0, "epsilon of the upper bound (DAPO, arXiv 2503.14476); 0: clip_eps", least=0)
    kl_coef: float = setting(0.04, "coefficient beta of the KL to the reference; with 0 no reference is kept", least=0)

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef != 0

    def clipped_gain(self, logprobs: BT, mask: Bool[Array, "B T"], batch: Batch) -> tuple[BT, dict[str, BT]]:
        """The clipped surrogate of each token, 0 outside completions, and the metrics that come with it.

        Without `old_logprobs` (one update per rollout) the ratio is 1 and has the gradient of the log-probability.
        """
        old = batch.get("old_logprobs", jax.lax.stop_gradient(logprobs))
        advantages = jnp.where(mask, batch["advantages"], 0.0)
        above = self.clip_eps_high or self.clip_eps
        gain, low, high = surrogate(log_ratio(logprobs, old, mask), advantages, self.clip_eps, above)
        return gain, {"clip_low": low, "clip_high": high} | _sampler_difference(logprobs, batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPO(Clipped):
    """PPO's clipped objective (Eq. 1) with the KL in the reward (Eq. 2), and the loss of the value model.

    The parameters are `{"policy": ..., "value": {"model": ..., "reward": {"kernel" [D,1], "bias" [1]}}}`: two decoders
    of one shape, the second with a linear head. The batch has `advantages`, `returns`, `old_logprobs`, `old_values`,
    and `ref_logprobs` for the metric alone.
    """

    has_values: ClassVar[bool] = True

    gamma: float = setting(1.0, "discount of generalized advantage estimation", least=0, most=1)
    lam: float = setting(0.95, "trace decay of generalized advantage estimation", least=0, most=1)
    value_clip: float = setting(
        0.2, "how far from its old value a new one still counts as better; 0: no bound", least=0
    )
    value_coef: float = setting(0.5, "coefficient of the value loss", least=0)

    def initial_params(self, read: Callable[[], Params], hidden_size: int) -> Params:
        return {"policy": read(), "value": with_head(read(), hidden_size)}

    def policy(self, params: Params) -> Params:
        return params["policy"]

    def advantages(self, rollout: ScoredRollout) -> PerToken:
        """Generalized advantage estimates over rewards that hold the KL (Eq. 2)."""
        reference = rollout.ref_logprobs or rollout.old_logprobs
        rewards = ppo_token_rewards(rollout.scores, rollout.old_logprobs, reference, self.kl_coef)
        return [gae(r, v, self.gamma, self.lam) for r, v in zip(rewards, rollout.old_values, strict=True)]

    def loss(self, model: Llama, params: Params, batch: Batch) -> Sums:
        logprobs, entropy, mask = _scored(model, params["policy"], batch, self.temperature)
        gain, metrics = self.clipped_gain(logprobs, mask, batch)
        if "ref_logprobs" in batch:
            metrics["kl"] = KL_ESTIMATORS["k3"](-log_ratio(logprobs, batch["ref_logprobs"], mask))
        values = token_scores(model, params["value"], batch)
        returns, old = (jnp.where(mask, batch[name], 0.0) for name in ("returns", "old_values"))
        error = value_error(jnp.where(mask, values, 0.0), old, returns, self.value_clip or math.inf)
        metrics |= {"entropy": entropy, "value_loss": error, "value": values}
        shares, weight = completion_mean(mask, 0)
        loss = jnp.sum((self.value_coef * error - gain) * shares)
        return (loss, weight.astype(loss.dtype)), metric_sums(metrics, mask, "completion")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPO(Clipped):
    """GRPO (Eq. 3) with the KL of Eq. 4 inside the sum; outcome or process supervision (§4.1.2, §4.1.3) by the scores.

    The batch has `advantages`, `ref_logprobs` unless kl_coef is 0, `old_logprobs` where the policy has moved since it
    drew the completions (mu > 1), and `sampler_logprobs` for the metric alone.
    """

    kl: str = setting("k3", "estimator of the KL: k1, k2 or k3 (Eq. 4)", choices=KL_ESTIMATORS)
    normalize: str = setting(
        "completion", "tokens weigh by completion (Eq. 3), token (DAPO) or constant (Dr. GRPO)", choices=NORMALIZERS
    )
    max_new_tokens: int = setting(1024, "length limit of a completion, which normalize=constant divides by", least=1)
    divide_by_std: bool = setting(True, "divide by the group's standard deviation; False: Dr. GRPO, arXiv 2503.20783")
    ddof: int = setting(1, "delta degrees of freedom of the standard deviation: 1 or 0", least=0, most=1)
    epsilon: float = setting(1e-6, "added to the standard deviation", least=0)

    def advantages(self, rollout: ScoredRollout) -> PerToken:
        """The rewards to go, each normalized within the pool of its group."""
        return group_relative(
            rollout.scores, rollout.group_size, rollout.lengths,
            ddof=self.ddof, epsilon=self.epsilon, divide_by_std=self.divide_by_std,
        )  # fmt: skip

    def loss(self, model: Llama, params: Params, batch: Batch) -> Sums:
        logprobs, entropy, mask = _scored(model, params, batch, self.temperature)
        gain, metrics = self.clipped_gain(logprobs, mask, batch)
        metrics |= {"entropy": entropy}
        if self.kl_coef:
            kl = KL_ESTIMATORS[self.kl](-log_ratio(logprobs, batch["ref_logprobs"], mask))
            gain, metrics = gain - self.kl_coef * kl, metrics | {"kl": kl}
        shares, weight = NORMALIZERS[self.normalize](mask, self.max_new_tokens)
        return (-jnp.sum(gain * shares), weight.astype(gain.dtype)), metric_sums(metrics, mask, self.normalize)


def _scored(model: Llama, params: Params, batch: Batch, temperature: float) -> tuple[BT, BT, Bool[Array, "B T"]]:
    """Log-probabilities, entropies, and where completions are."""
    logprobs, entropy = batch_logprobs(model, params, batch, temperature)
    return logprobs, entropy, batch["loss_weights"] > 0


def _sampler_difference(logprobs: BT, batch: Batch) -> dict[str, BT]:
    if "sampler_logprobs" not in batch:
        return {}
    return {"sampler_logprob_diff": jnp.abs(logprobs - batch["sampler_logprobs"])}


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of the paper's Table 10.

    Attributes:
      data: which completions: "solutions" (those that come with the questions), "correct" or "pairs" (of the samples of
        the model that the policy starts from, drawn once: the correct ones, or each with an incorrect one) or "policy"
        (samples of the policy as it is).
      reward: "" for none, "rule", "outcome" (a reward model's score of the whole) or "process" (of each step).
      algorithm: the class of its settings, advantages and loss.
      coefficient: GC(q, o, t) of its gradient E[(1/|o|) sum_t GC(q, o, t) grad log pi(o_t | q, o_<t)] (Eq. 5).
      iterative: rounds, each of which begins with the policy as the reference and a reward model trained further
        (Algorithm 1).
    """

    data: str
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
