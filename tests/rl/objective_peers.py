"""Computes losses, their gradients and advantages with TRL, Tunix and verl from the same log-probabilities.

`python objective_peers.py OUT.npz`, in the environment of `make peers`, writes the inputs and every peer's results;
`tests/rl/golden/objectives.npz` is such a file. TRL and verl compute in float64, Tunix in float32.

- TRL: `GRPOTrainer._compute_loss` and `DPOTrainer._compute_loss` on trainers that were never initialized, with the
  model's log-probabilities (GRPO) or its logits (DPO) put in.
- Tunix: `grpo_loss_fn` with the log-probabilities put in.
- verl: its package wants ray and more when it is imported, so only the loss functions' own modules are loaded, with
  empty classes in the place of its configs and of tensordict, which they name in annotations alone.
"""

import sys
import types
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from tunix.rl import algo_core, common

GROUP, ROWS, LENGTH, VOCABULARY, LIMIT = 3, 6, 9, 7, 12
EPS, HIGH, BETA, GAMMA, LAM, VALUE_CLIP = 0.2, 0.28, 0.04, 0.97, 0.9, 0.3
IS_HIGH, RATIO_LIMIT, ENTROPY_COEF = 0.5, 1.3, 0.05  # of CISPO, of the correction for the sampler, of the bonus
CORRECTED = {"use_vllm": True, "vllm_importance_sampling_correction": True}
Arrays = dict[str, np.ndarray]


def make_inputs() -> Arrays:
    """Six completions of up to nine tokens, in two groups; ratios and KLs on both sides of every bound."""
    noise = np.random.default_rng(0)
    shape = (ROWS, LENGTH)
    lengths = np.array([9, 4, 1, 6, 9, 2])
    logprobs = -noise.exponential(1.5, shape)
    return {
        "mask": (np.arange(LENGTH) < lengths[:, None]).astype(np.float64),
        "logprobs": logprobs,
        "old_logprobs": logprobs + noise.normal(0, 0.4, shape),
        "ref_logprobs": logprobs + noise.normal(0, 0.7, shape),
        "advantages": noise.normal(size=shape),
        "rewards": np.array([1.0, 0.0, 0.25, 2.0, -1.0, 0.5]),
        "token_rewards": noise.normal(size=shape),
        "values": noise.normal(size=shape),
        "old_values": noise.normal(size=shape),
        "returns": noise.normal(size=shape),
        # DPO: the first half are chosen, the second half rejected; the first two tokens are the prompt.
        "pair_logits": noise.normal(size=(ROWS, LENGTH + 2, VOCABULARY)),
        "pair_ref_logits": noise.normal(size=(ROWS, LENGTH + 2, VOCABULARY)),
        "pair_tokens": noise.integers(0, VOCABULARY, (ROWS, LENGTH + 2)),
        "completion_advantages": np.repeat(noise.normal(size=(ROWS, 1)), LENGTH, axis=1),
        "sampler_logprobs": logprobs + noise.normal(0, 0.5, shape),
        "far_ref_logprobs": logprobs + noise.normal(0, 3.0, shape),  # beyond the bound of verl's k3
    }


def differentiated(function: Any, x: np.ndarray) -> Arrays:
    """Value and gradient by torch."""
    leaf = torch.tensor(x, requires_grad=True)
    value = function(leaf)
    value.backward()
    return {"loss": value.detach().numpy(), "gradient": leaf.grad.numpy()}


def trl_grpo(inputs: Arrays, loss_type: str, **changes: Any) -> Arrays:
    on_policy, correction = changes.pop("on_policy", False), changes.pop("correction", None)
    advantages = inputs["completion_advantages" if "importance_sampling_level" in changes else "advantages"]
    trainer = object.__new__(GRPOTrainer)
    settings = {
        "loss_type": loss_type, "beta": BETA, "epsilon_low": EPS, "epsilon_high": EPS, "max_completion_length": LIMIT,
        "args": types.SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        "importance_sampling_level": "token", "off_policy_mask_threshold": None, "top_entropy_quantile": 1.0,
        "use_vllm": False, "aux_loss_enabled": False, "_entropy_bonus_enabled": False,
        "current_gradient_accumulation_steps": 1, "model": types.SimpleNamespace(training=True),
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "accelerator": types.SimpleNamespace(
            num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x,
            sync_gradients=False,
        ),
    }  # fmt: skip
    vars(trainer).update(settings | changes)
    tensors = {name: torch.tensor(x) for name, x in inputs.items()}
    batch = {
        "prompt_ids": torch.ones((ROWS, 1), dtype=torch.int64), "prompt_mask": torch.ones((ROWS, 1)),
        "completion_ids": torch.ones((ROWS, LENGTH), dtype=torch.int64), "completion_mask": tensors["mask"],
        "advantages": torch.tensor(advantages), "ref_per_token_logps": tensors["ref_logprobs"],
        "num_items_in_batch": tensors["mask"].sum(),
    } | ({} if on_policy else {"old_per_token_logps": tensors["old_logprobs"]})  # fmt: skip
    if correction:  # what `_generate_and_score_completions` adds
        ratio = torch.exp(tensors["old_logprobs"] - tensors["sampler_logprobs"])
        cut = {
            "truncate": ratio.clamp(max=RATIO_LIMIT),
            "mask": ratio.masked_fill((ratio < 1 / RATIO_LIMIT) | (ratio > RATIO_LIMIT), 0.0),
        }
        batch["importance_sampling_ratio"] = cut[correction]

    def loss(logprobs: torch.Tensor) -> torch.Tensor:
        trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logprobs, logprobs**2, None)
        return trainer._compute_loss(None, batch)

    return differentiated(loss, inputs["logprobs"])


def trl_dpo(inputs: Arrays, loss_type: str) -> Arrays:
    trainer = object.__new__(DPOTrainer)
    plain = {"loss_types": [loss_type], "loss_weights": [1.0], "beta": BETA, "f_divergence_type": "reverse_kl"}
    off = {"ld_alpha": None, "use_weighting": False, "precompute_ref_logps": False, "aux_loss_enabled": False}
    vars(trainer).update(
        plain | off,
        model=types.SimpleNamespace(training=True),
        accelerator=types.SimpleNamespace(
            device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x, unwrap_model=lambda x: x
        ),
        args=types.SimpleNamespace(gradient_checkpointing_kwargs=None),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        label_smoothing=0.0,
    )
    trainer.model.is_gradient_checkpointing = False
    trainer.ref_model = lambda **_: types.SimpleNamespace(logits=torch.tensor(inputs["pair_ref_logits"]))
    mask = np.pad(inputs["mask"], ((0, 0), (2, 0)))
    batch = {
        "input_ids": torch.tensor(inputs["pair_tokens"]),
        "attention_mask": torch.ones(mask.shape),
        "completion_mask": torch.tensor(mask),
    }

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return trainer._compute_loss(lambda **_: types.SimpleNamespace(logits=logits), batch, return_outputs=False)

    return differentiated(loss, inputs["pair_logits"])


def tunix_grpo(inputs: Arrays, aggregation: str) -> Arrays:
    narrow = {name: jnp.asarray(x, jnp.float32) for name, x in inputs.items()}
    example = types.SimpleNamespace(
        prompt_ids=None, completion_ids=jnp.ones((ROWS, LENGTH), jnp.int32), completion_mask=narrow["mask"],
        advantages=narrow["advantages"], old_per_token_logps=narrow["old_logprobs"],
        ref_per_token_logps=narrow["ref_logprobs"],
    )  # fmt: skip
    config = types.SimpleNamespace(
        beta=BETA, epsilon=EPS, epsilon_high=HIGH, loss_algo="grpo", loss_agg_mode=aggregation, temperature=1.0,
        kl_loss_mode="low_var_kl", kl_clamp_value=None,
    )  # fmt: skip

    def loss(logprobs: jax.Array) -> jax.Array:
        common.compute_per_token_logps = lambda *_, **__: (logprobs, jnp.zeros((ROWS, LENGTH, 2)))
        return algo_core.grpo_loss_fn(nnx.Module(), example, config, 0, 1)[0]

    value, gradient = jax.value_and_grad(loss)(narrow["logprobs"])
    return {"loss": np.asarray(value), "gradient": np.asarray(gradient)}


def tunix_gae(inputs: Arrays) -> Arrays:
    names = ("token_rewards", "values", "mask")
    _, returns = algo_core.compute_gae_advantages(*(inputs[name] for name in names), GAMMA, LAM)
    return {"returns": np.asarray(returns)}


def load_verl() -> Any:
    """`verl.trainer.ppo.core_algos` without verl's packages' own imports."""
    root = Path(find_spec("verl").submodule_search_locations[0])

    def package(name: str, **contents: Any) -> types.ModuleType:
        module = types.ModuleType(name)
        module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        vars(module).update(contents)
        sys.modules[name] = module
        return module

    package("tensordict", TensorDict=object)
    utils = [package(name) for name in ("verl", "verl.trainer", "verl.trainer.ppo", "verl.workers", "verl.utils")][-1]
    package("verl.trainer.config", AlgoConfig=type("AlgoConfig", (), {}))
    package("verl.workers.config", ActorConfig=type("ActorConfig", (), {}))
    from verl.utils import groupwise

    utils.as_torch_index, utils.group_mean_std = groupwise.as_torch_index, groupwise.group_mean_std
    from verl.trainer.ppo import core_algos

    return core_algos


def verl_results(inputs: Arrays) -> dict[str, Arrays]:
    algos = load_verl()
    tensors = {name: torch.tensor(x) for name, x in inputs.items()}
    mask = tensors["mask"]
    found = {}
    modes = {"seq-mean-token-mean": {}, "token-mean": {}, "seq-mean-token-sum-norm": {"loss_scale_factor": LIMIT}}
    for mode, scale in modes.items():
        config = types.SimpleNamespace(
            clip_ratio=EPS, clip_ratio_low=EPS, clip_ratio_high=HIGH, global_batch_info=scale,
            get=lambda name, default: 1e9 if name == "clip_ratio_c" else default,
        )  # fmt: skip
        for kl in ("k1", "k2", "k3"):

            def loss(logprobs: torch.Tensor, mode: str = mode, kl: str = kl, config: Any = config) -> torch.Tensor:
                gain, _ = algos.compute_policy_loss_vanilla(
                    tensors["old_logprobs"], logprobs, tensors["advantages"], mask, mode, config
                )
                divergence = algos.kl_penalty(logprobs, tensors["ref_logprobs"], kl)
                return gain + BETA * algos.agg_loss(divergence, mask, mode, **config.global_batch_info)

            found[f"verl grpo {mode} {kl}"] = differentiated(loss, inputs["logprobs"])

    actor = sys.modules["verl.workers.config"].ActorConfig()
    vars(actor).update(clip_ratio_low=EPS, clip_ratio_high=IS_HIGH, global_batch_info={})
    for name, mode in (("gspo", "seq-mean-token-mean"), ("cispo", "token-mean")):
        surrogate = algos.get_policy_loss_fn(name)
        fields = tensors["advantages"], mask, mode, actor
        function = lambda logprobs, s=surrogate, f=fields: s(tensors["old_logprobs"], logprobs, *f)[0]  # noqa: E731
        found[f"verl {name}"] = differentiated(function, inputs["logprobs"])

    def far(logprobs: torch.Tensor) -> torch.Tensor:
        divergence = algos.kl_penalty(logprobs, tensors["far_ref_logprobs"], "k3")
        return algos.agg_loss(divergence, mask, "token-mean")

    found["verl bounded k3"] = differentiated(far, inputs["logprobs"])

    def value_loss(values: torch.Tensor) -> torch.Tensor:
        return algos.compute_value_loss(
            values, tensors["returns"], tensors["old_values"], mask, VALUE_CLIP, "seq-mean-token-mean"
        )[0]

    found["verl value"] = differentiated(value_loss, inputs["values"])
    _, returns = algos.compute_gae_advantage_return(tensors["token_rewards"], tensors["values"], mask, GAMMA, LAM)
    found["verl gae"] = {"returns": returns.numpy()}
    outcome = np.zeros((ROWS, LENGTH))
    outcome[:, 0] = inputs["rewards"]
    index = np.repeat(np.arange(ROWS // GROUP), GROUP)
    for name, divide in (("verl outcome advantages", True), ("verl outcome advantages without std", False)):
        advantages, _ = algos.compute_grpo_outcome_advantage(
            torch.tensor(outcome), mask, index, epsilon=1e-6, norm_adv_by_std_in_grpo=divide
        )
        found[name] = {"advantages": advantages.numpy()}
    at_the_end = torch.tensor(outcome.sum(axis=1, keepdims=True) * last_token(inputs["mask"]))
    advantages, _ = algos.compute_rloo_outcome_advantage(torch.tensor(outcome), mask, index)
    found["verl rloo"] = {"advantages": advantages.numpy()}
    gamma = types.SimpleNamespace(gamma=1.0)
    rewards = at_the_end + 0.1 * tensors["token_rewards"] * mask  # such as a KL in the reward
    advantages, _ = algos.compute_reinforce_plus_plus_outcome_advantage(rewards, mask, gamma)
    found["verl reinforce_pp"] = {"advantages": advantages.numpy()}
    advantages, _ = algos.compute_reinforce_plus_plus_baseline_outcome_advantage(torch.tensor(outcome), mask, index)
    found["verl reinforce_pp_baseline"] = {"advantages": advantages.numpy()}
    return found


def last_token(mask: np.ndarray) -> np.ndarray:
    return mask * (np.cumsum(mask, axis=1) == mask.sum(axis=1, keepdims=True))


def main(out: Path) -> None:
    inputs = make_inputs()
    found = {
        "trl grpo": trl_grpo(inputs, "grpo"),
        "trl grpo on-policy": trl_grpo(inputs, "grpo", on_policy=True),
        "trl grpo without kl": trl_grpo(inputs, "grpo", beta=0.0),
        "trl grpo upper clip": trl_grpo(inputs, "grpo", epsilon_high=HIGH),
        "trl bnpo": trl_grpo(inputs, "bnpo"),
        "trl dapo": trl_grpo(inputs, "dapo"),
        "trl dr_grpo": trl_grpo(inputs, "dr_grpo"),
        "trl gspo": trl_grpo(inputs, "grpo", importance_sampling_level="sequence"),
        "trl cispo": trl_grpo(inputs, "cispo", epsilon_high=1 + IS_HIGH, beta=0.0),
        "trl truncated": trl_grpo(inputs, "dapo", correction="truncate", **CORRECTED),
        "trl masked": trl_grpo(inputs, "dapo", correction="mask", **CORRECTED),
        "trl entropy bonus": trl_grpo(
            inputs, "dapo", _entropy_bonus_enabled=True, entropy_coef=ENTROPY_COEF, use_adaptive_entropy=False
        ),
        "trl dpo sigmoid": trl_dpo(inputs, "sigmoid"),
        "trl dpo sigmoid_norm": trl_dpo(inputs, "sigmoid_norm"),
        "tunix grpo": tunix_grpo(inputs, "sequence-mean-token-mean"),
        "tunix grpo token mean": tunix_grpo(inputs, "token-mean"),
        "tunix gae": tunix_gae(inputs),
        "tunix outcome advantages": {"advantages": algo_core.compute_advantages(inputs["rewards"], GROUP)},
        **verl_results(inputs),
    }
    flat = {f"{case}/{name}": np.asarray(x) for case, arrays in found.items() for name, x in arrays.items()}
    np.savez_compressed(out, **{f"inputs/{name}": x for name, x in inputs.items()}, **flat)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
