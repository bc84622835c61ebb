"""The RL algorithms (paper §4.1, §5.2): their settings, advantages and objectives.

An algorithm is a frozen dataclass of its settings with two functions: `advantages(rollout)`, on the host in float64,
and `objective(model, params, batch)`, for `make_train_step`: `(loss_sum, weight_sum), metric_sums` over rows, so that
micro-batches and meshes never change the loss. `rl.methods` names them in the rows of its table. Batches are those of
`rl.batches.pack_batch`, all fields `[B,T]`: a row has several completions, each with its prompt a segment of
`segment_ids`, and `loss_weights` is 1 on targets that have loss, the sampled tokens of completions with EOS. A
completion without any has no weight, and its other fields, even NaN, affect neither the loss nor a gradient.

Metrics, where they apply: `entropy`, `kl` to the reference model, `clip_low` and `clip_high` (shares of tokens whose
ratio is clipped), `sampler_logprob_diff` (absolute difference to the sampler's log-probability).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dsmath_jax import user_code
from dsmath_jax.models.decoder import Decoder, Params
from dsmath_jax.rl.advantages import (
    PROCESS_CREDITS,
    PerToken,
    ScoredRollout,
    Scores,
    distillation,
    gae,
    group_relative,
    leave_one_out,
    ppo_token_rewards,
    rewards_to_go,
    signed_rewards,
    whitened_group_centered,
    whitened_returns,
)
from dsmath_jax.rl.batches import TokenFields
from dsmath_jax.rl.filters import ROLLOUT_FILTERS
from dsmath_jax.rl.losses import (
    BT,
    KL_ESTIMATORS,
    NORMALIZERS,
    SAMPLER_CORRECTIONS,
    SURROGATES,
    Tokens,
    at_tokens,
    clip,
    completion_mean,
    lengths_of,
    log_ratio,
    masked_sum,
    metric_sums,
    pair_sides,
    segment_sums,
    value_loss,
)
from dsmath_jax.rl.reward_model.model import token_scores, with_reward_head
from dsmath_jax.settings import MAX_TEMPERATURE, Settings, setting
from dsmath_jax.training.objectives import Batch, Sums, batch_logprobs
from dsmath_jax.workdir import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm(Settings):
    """Base class of RL algorithms: settings, trained parameters (by default the policy's), advantages and loss."""

    has_values: ClassVar[bool] = False  # whether a value model is trained with the policy

    temperature: float = setting(
        1.0, "of the sampling; log-probabilities are those of softmax(logits / temperature)",
        gt=0, le=MAX_TEMPERATURE,
    )  # fmt: skip

    rollout_filter: tuple[str, ...] = setting(
        (), f"completions without loss: {', '.join(ROLLOUT_FILTERS)}, or package.module:function"
    )
    max_gen_batches: int = setting(
        1, "batches of P prompts that are sampled at most, until P groups have loss (DAPO's dynamic sampling)", ge=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.rollout_filter:
            user_code.function("rollout_filter", name, ROLLOUT_FILTERS)
        if self.max_gen_batches > 1 and not self.rollout_filter:
            raise UserError(
                f"max_gen_batches is {self.max_gen_batches}, but without rollout_filter every group has loss; set it."
            )

    @property
    def needs_reference(self) -> bool:
        """Whether the algorithm uses log-probabilities of the reference model."""
        return False

    @property
    def needs_teacher(self) -> bool:
        """Whether the algorithm uses log-probabilities of a teacher."""
        return False

    @property
    def needs_old_logprobs(self) -> bool:
        """Whether `advantages` uses the old policy's log-probabilities."""
        return self.has_values

    @property
    def entropy_has_gradient(self) -> bool:
        """Whether the objective differentiates the entropy."""
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

    def batch_fields(self, fields: TokenFields) -> TokenFields:
        """Returns further fields that the objective reads, from those of a whole rollout."""
        del fields
        return {}

    def objective(self, model: Decoder, params: Params, batch: Batch) -> Sums:
        """Computes the loss of a batch, as an `Objective`: `(loss_sum, weight_sum), metric_sums`."""
        logprobs, entropy = batch_logprobs(
            model, self.policy(params), batch, self.temperature, self.entropy_has_gradient
        )  # fmt: skip
        return self.policy_objective(logprobs, entropy, batch)

    def policy_objective(self, logprobs: BT, entropy: BT, batch: Batch) -> Sums:
        """Computes the policy's part of the loss, given log-probabilities and entropies of the batch's targets."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likelihood(Algorithm):
    """SFT, RFT and Online RFT: (1/|o|) sum_t A_t log pi(o_t) with A = 1, or 1 if correct, else 0 (Eq. 6 to 11).

    The batch also has `advantages`, and `sampler_logprobs` for the metric.
    """

    normalize_by_correct: bool = setting(
        False, "divide by the number of correct completions (those whose reward is not 0), not of all (Eq. 8, 11)"
    )

    def policy_objective(self, logprobs: BT, entropy: BT, batch: Batch) -> Sums:
        mask, segment_ids = batch["loss_weights"] > 0, batch["segment_ids"]
        advantages = jnp.where(mask, batch["advantages"], 0.0)
        counted = mask
        if self.normalize_by_correct:
            counted = mask & (at_tokens(lengths_of(advantages != 0, segment_ids), segment_ids) > 0)
        token_weights, weight = completion_mean(counted, segment_ids, 0)
        loss = -jnp.sum(jnp.where(mask, logprobs, 0.0) * advantages * token_weights)
        metrics = {"entropy": entropy} | _sampler_logprob_diff(logprobs, batch)
        return (loss, weight.astype(loss.dtype)), metric_sums(metrics, counted, segment_ids, "completion")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPO(Algorithm):
    """DPO: log sigma(beta Delta+ - beta Delta-), Delta the log-ratio of policy and reference (Eq. 12).

    The segments 1 and 2 of a row, 3 and 4, and so on, are pairs of completions of one prompt: the chosen one and the
    rejected one. The batch also has `ref_logprobs`. A pair with a side that has no loss has no weight.
    """

    beta: float = setting(0.1, "strength of the KL to the reference model", gt=0)
    length_normalized: bool = setting(
        True, "Delta is a mean over the completion's tokens (Eq. 12); False: the sum of arXiv 2305.18290"
    )

    @property
    def needs_reference(self) -> bool:
        return True

    def objective(self, model: Decoder, params: Params, batch: Batch) -> Sums:
        logprobs, entropy = batch_logprobs(model, params, batch, self.temperature)
        mask, segment_ids = batch["loss_weights"] > 0, batch["segment_ids"]
        lengths = lengths_of(mask, segment_ids)
        counts = jnp.maximum(lengths, 1)
        deltas = segment_sums(jnp.where(mask, logprobs - batch["ref_logprobs"], 0.0), segment_ids)
        chosen, rejected = pair_sides(deltas / counts if self.length_normalized else deltas)
        pairs = jnp.minimum(*pair_sides(lengths)) > 0
        margin = jnp.where(pairs, self.beta * (chosen - rejected), 0.0)
        entropies = pair_sides(segment_sums(jnp.where(mask, entropy, 0.0), segment_ids) / counts)
        metrics = {
            "margin": margin,
            "accuracy": (margin > 0).astype(margin.dtype),
            "chosen_reward": self.beta * chosen,
            "rejected_reward": self.beta * rejected,
            "entropy": 0.5 * (entropies[0] + entropies[1]),
        }
        sums = {name: jax.lax.stop_gradient(masked_sum(value, pairs)) for name, value in metrics.items()}
        return (-masked_sum(jax.nn.log_sigmoid(margin), pairs), jnp.sum(pairs).astype(margin.dtype)), sums


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClippedAlgorithm(Algorithm):
    """Base class of PPO and GRPO: the clipped ratio to the old policy, and a KL to the reference model."""

    clip_eps: float = setting(0.2, "the ratio is clipped to 1 - clip_eps and 1 + clip_eps", gt=0)
    clip_eps_high: float = setting(0.0, "epsilon of the upper bound (DAPO, arXiv 2503.14476); 0: clip_eps", ge=0)
    kl_coef: float = setting(0.04, "coefficient beta of the KL to the reference model; 0: no reference model", ge=0)

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef != 0

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        """The lower and the upper bound of the ratio."""
        return 1.0 - self.clip_eps, 1.0 + (self.clip_eps_high or self.clip_eps)

    def tokens(self, logprobs: BT, batch: Batch) -> Tokens:
        """Returns the input of a surrogate.

        Without `old_logprobs` (the policy that is updated sampled the rollout) the ratio is 1 and has the gradient of
        the log-probability.
        """
        mask = batch["loss_weights"] > 0
        old = batch.get("old_logprobs", jax.lax.stop_gradient(logprobs))
        advantages = jnp.where(mask, batch["advantages"], 0.0)
        log_ratios = log_ratio(logprobs, old, mask)
        return Tokens(jnp.where(mask, logprobs, 0.0), log_ratios, advantages, mask, batch["segment_ids"])


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

    def policy_objective(self, logprobs: BT, entropy: BT, batch: Batch) -> Sums:
        tokens = self.tokens(logprobs, batch)
        gain, metrics = clip(tokens, *self.ratio_bounds)
        metrics |= {"entropy": entropy} | _sampler_logprob_diff(logprobs, batch)
        if "ref_logprobs" in batch:
            metrics["kl"] = KL_ESTIMATORS["k3"](-log_ratio(logprobs, batch["ref_logprobs"], tokens.mask))
        token_weights, weight = completion_mean(tokens.mask, tokens.segment_ids, 0)
        loss = -jnp.sum(gain * token_weights)
        return (loss, weight.astype(loss.dtype)), metric_sums(metrics, tokens.mask, tokens.segment_ids, "completion")

    def objective(self, model: Decoder, params: Params, batch: Batch) -> Sums:
        (loss, weight), metrics = super().objective(model, params, batch)
        mask, values = batch["loss_weights"] > 0, token_scores(model, params["value"], batch)
        returns, old = (jnp.where(mask, batch[name], 0.0) for name in ("returns", "old_values"))
        error = value_loss(jnp.where(mask, values, 0.0), old, returns, self.value_clip or math.inf)
        segment_ids = batch["segment_ids"]
        token_weights, _ = completion_mean(mask, segment_ids, 0)
        loss += self.value_coef * jnp.sum(error * token_weights)
        own = metric_sums({"value_loss": error, "value": values}, mask, segment_ids, "completion")
        return (loss, weight), metrics | own


# By `rl.advantage`: (rollout, algorithm) -> the advantage of every token.
ADVANTAGES: dict[str, Callable[[ScoredRollout, Any], PerToken]] = {
    "group": lambda rollout, algorithm: group_relative(
        rollout.scores, rollout.group_size, rollout.lengths, ddof=algorithm.ddof, epsilon=algorithm.epsilon,
        divide_by_std=algorithm.divide_by_std, process_credit=algorithm.process_credit,
    ),
    "leave_one_out": lambda rollout, _: leave_one_out(rollout.scores, rollout.group_size, rollout.lengths),
    "reinforce_pp": lambda rollout, algorithm: whitened_returns(rollout.scores, rollout.lengths, algorithm.epsilon),
    "reinforce_pp_baseline": lambda rollout, algorithm: whitened_group_centered(
        rollout.scores, rollout.group_size, rollout.lengths, algorithm.epsilon
    ),
    "reward": lambda rollout, _: rewards_to_go(rollout.scores, rollout.lengths),
    "signed_reward": lambda rollout, _: signed_rewards(rollout.scores, rollout.lengths),
    "teacher": lambda rollout, algorithm: distillation(rollout, algorithm.teacher_scale),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPO(ClippedAlgorithm):
    """GRPO (Eq. 3) with the KL of Eq. 4 in the loss; outcome or process supervision (§4.1.2, §4.1.3) by the scores.

    Its variants are other values of the same fields (`rl.methods`). The batch has `advantages`, `ref_logprobs` unless
    kl_coef is 0, `old_logprobs` unless the policy that is updated sampled them, and `sampler_logprobs`.
    """

    loss: str = setting("clip", f"surrogate of a token: {', '.join(SURROGATES)}, or package.module:function")
    advantage: str = setting("group", "the advantage: group (§4.1.2), others of docs/rl.md, or package.module:function")
    kl: str = setting("k3", "estimator of the KL in the loss: k1, k2 or k3 (Eq. 4)", choices=KL_ESTIMATORS)
    kl_in: str = setting(
        "loss", "where the KL is: in the loss (Eq. 3), or k1 in the reward (Eq. 2)", choices=("loss", "reward")
    )
    kl_clip: float = setting(
        0.0, "a token's KL estimate is clipped to within this and has no gradient beyond (verl: 10); 0: no limit", ge=0
    )
    normalize: str = setting(
        "completion", "loss is averaged by completion (Eq. 3), token (DAPO), constant (Dr. GRPO) or sum (RLOO)",
        choices=NORMALIZERS,
    )  # fmt: skip
    max_new_tokens: int = setting(1024, "length limit of a completion, which normalize=constant divides by", ge=1)
    divide_by_std: bool = setting(True, "divide by the group's standard deviation; False: Dr. GRPO, arXiv 2503.20783")
    ddof: int = setting(1, "delta degrees of freedom of the standard deviation: 1 or 0", ge=0, le=1)
    epsilon: float = setting(1e-6, "added to the standard deviation", ge=0)
    process_credit: str = setting(
        "sum", "returns of steps: sum (§4.1.3), min (PURE), clip or delta (arXiv 2410.15115)",
        choices=("sum", *PROCESS_CREDITS),
    )  # fmt: skip
    teacher_scale: float = setting(
        1.0, "lambda of G-OPD, of advantage=teacher: lambda log(pi_T / pi_ref) - log(pi_S / pi_ref)", gt=0
    )
    entropy_coef: float = setting(0.0, "coefficient of the entropy bonus; 0: none", ge=0)
    entropy_target: float = setting(
        0.0, "the bonus is left out of rollouts with more entropy (nats per token); 0: never", ge=0
    )
    sampler_correction: str = setting(
        "none", "weights of tokens by pi_old / pi_sampler: none, truncate (TIS) or mask (MIS)",
        choices=SAMPLER_CORRECTIONS,
    )  # fmt: skip
    sampler_ratio_limit: float = setting(
        2.0, "weights are truncated at it, or masked above it and below its inverse", gt=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        user_code.function("loss", self.loss, SURROGATES)
        user_code.function("advantage", self.advantage, ADVANTAGES)
        if self.kl_in == "reward" and self.kl_coef and self.advantage in ("group", "teacher"):
            raise UserError(
                f"kl_in is reward, but advantage={self.advantage} is not made of rewards with a KL; choose another "
                "advantage, or kl_in=loss."
            )
        for name, used in (
            ("process_credit", self.advantage == "group" or ":" in self.advantage),
            ("teacher_scale", self.needs_teacher),
            ("kl_clip", self.kl_coef != 0 and self.kl_in == "loss"), ("entropy_target", self.entropy_coef != 0),
            ("sampler_ratio_limit", self.sampler_correction != "none"),
        ):  # fmt: skip
            if not used and getattr(self, name) != getattr(GRPO, name):
                raise UserError(
                    f"{name} is {getattr(self, name)}, which nothing uses with these settings; leave it out."
                )

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef != 0 or self.teacher_scale != 1

    @property
    def needs_teacher(self) -> bool:
        return self.advantage == "teacher"

    @property
    def needs_old_logprobs(self) -> bool:
        return self.needs_teacher or (self.kl_coef != 0 and self.kl_in == "reward")

    @property
    def entropy_has_gradient(self) -> bool:
        return self.entropy_coef != 0

    def advantages(self, rollout: ScoredRollout) -> PerToken:
        """Returns the advantages by `rl.advantage`, of rewards with the KL if `kl_in` is reward."""
        if self.kl_coef and self.kl_in == "reward":
            rewards = ppo_token_rewards(rollout.scores, rollout.old_logprobs, rollout.ref_logprobs, self.kl_coef)
            rollout = rollout._replace(scores=Scores([np.arange(length) for length in rollout.lengths], rewards))
        advantages = user_code.function("advantage", self.advantage, ADVANTAGES)(rollout, self)
        if [np.shape(each) for each in advantages] != [(length,) for length in rollout.lengths]:
            raise UserError(
                f"rl.advantage: '{self.advantage}' must return a list with one array per completion, of one number per "
                "token, NaN for none."
            )
        return advantages

    def batch_fields(self, fields: TokenFields) -> TokenFields:
        """Returns the coefficient of the entropy bonus, which depends on the entropy estimated by the samples."""
        if not self.entropy_coef:
            return {}
        mask = fields["loss_weights"] > 0
        entropy = -np.mean(fields["sampler_logprobs"][mask]) if mask.any() else 0.0
        applies = not self.entropy_target or entropy < self.entropy_target
        return {"entropy_coef": np.full(mask.shape, self.entropy_coef * applies, np.float32)}

    def policy_objective(self, logprobs: BT, entropy: BT, batch: Batch) -> Sums:
        tokens = self.tokens(logprobs, batch)
        found = user_code.function("loss", self.loss, SURROGATES)(tokens, *self.ratio_bounds)
        if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], dict)):
            raise UserError(f"rl.loss: '{self.loss}' must return (gain, metrics): an array [B,T] and a dict of such.")
        gain, metrics = found
        if self.sampler_correction != "none":
            old = batch.get("old_logprobs", jax.lax.stop_gradient(logprobs))
            ratio = jnp.exp(log_ratio(old, batch["sampler_logprobs"], tokens.mask))
            correction = SAMPLER_CORRECTIONS[self.sampler_correction](ratio, self.sampler_ratio_limit)
            gain, metrics = gain * correction, metrics | {"sampler_weight": correction}
        if "ref_logprobs" in batch:
            kl = KL_ESTIMATORS[self.kl](-log_ratio(logprobs, batch["ref_logprobs"], tokens.mask))
            metrics = metrics | {"kl": kl}
            if self.kl_coef and self.kl_in == "loss":
                gain -= self.kl_coef * (jnp.clip(kl, -self.kl_clip, self.kl_clip) if self.kl_clip else kl)
        if self.entropy_coef:
            gain += jnp.where(tokens.mask, batch["entropy_coef"], 0.0) * jnp.where(tokens.mask, entropy, 0.0)
        metrics = metrics | {"entropy": entropy} | _sampler_logprob_diff(logprobs, batch)
        token_weights, weight = NORMALIZERS[self.normalize](tokens.mask, tokens.segment_ids, self.max_new_tokens)
        sums = metric_sums(metrics, tokens.mask, tokens.segment_ids, self.normalize)
        return (-jnp.sum(gain * token_weights), weight.astype(gain.dtype)), sums


def gradient_coefficients(algorithm: Algorithm, logprobs: BT, batch: Batch) -> BT:
    """Returns each token's gradient coefficient, GC(q, o, t) times the weight of the token (Eq. 5).

    That is what autodiff of the objective, without a mean over the batch, multiplies grad log pi(o_t) with.
    """
    loss = lambda logprobs: algorithm.policy_objective(logprobs, jnp.zeros_like(logprobs), batch)[0][0]  # noqa: E731
    return -jax.grad(loss)(logprobs)


def _sampler_logprob_diff(logprobs: BT, batch: Batch) -> dict[str, BT]:
    if "sampler_logprobs" not in batch:
        return {}
    return {"sampler_logprob_diff": jnp.abs(logprobs - batch["sampler_logprobs"])}
