"""Losses and gradients equal those of TRL, Tunix and verl from the same log-probabilities, frozen in `golden/`.

`objective_peers.py` generates that file; the oracle test regenerates it.
"""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsmath_jax.rl.advantages import (
    Scores,
    gae,
    group_relative,
    leave_one_out,
    outcome_scores,
    whitened_group_centered,
    whitened_returns,
)
from dsmath_jax.rl.algorithms import DPO, GRPO, PPO

from .free_policy import FreePolicy, GivenLogprobs, given, mean_loss

GOLDEN = Path(__file__).with_name("golden") / "objectives.npz"
SCRIPT = Path(__file__).with_name("objective_peers.py")
PEER = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"
HAS_PEERS = """
import sys
from importlib.util import find_spec
sys.exit(not all(map(find_spec, ("torch", "transformers", "trl", "tunix", "verl", "omegaconf"))))
"""
LIMIT, EPS, HIGH, BETA, GAMMA, LAM, VALUE_CLIP = 12, 0.2, 0.28, 0.04, 0.97, 0.9, 0.3
IS_HIGH, RATIO_LIMIT, ENTROPY_COEF = 0.5, 1.3, 0.05
CONSTANT = {"normalize": "constant", "max_new_tokens": LIMIT}
GRPO_CASES = {
    "trl grpo": GRPO(clip_eps=EPS, kl_coef=BETA),
    "trl grpo on-policy": GRPO(clip_eps=EPS, kl_coef=BETA),
    "trl grpo without kl": GRPO(clip_eps=EPS, kl_coef=0.0),
    "trl grpo upper clip": GRPO(clip_eps=EPS, clip_eps_high=HIGH, kl_coef=BETA),
    "trl bnpo": GRPO(clip_eps=EPS, kl_coef=BETA, normalize="token"),
    "trl dapo": GRPO(clip_eps=EPS, kl_coef=BETA, normalize="token"),
    "trl dr_grpo": GRPO(clip_eps=EPS, kl_coef=BETA, **CONSTANT),
    "trl gspo": GRPO(loss="sequence_clip", clip_eps=EPS, kl_coef=BETA),
    "trl cispo": GRPO(loss="cispo", clip_eps=1.0, clip_eps_high=IS_HIGH, kl_coef=0.0, normalize="token"),
    "trl truncated": GRPO(normalize="token", sampler_correction="truncate", sampler_ratio_limit=RATIO_LIMIT),
    "trl masked": GRPO(normalize="token", sampler_correction="mask", sampler_ratio_limit=RATIO_LIMIT),
    "trl entropy bonus": GRPO(normalize="token", entropy_coef=ENTROPY_COEF),
    "verl gspo": GRPO(loss="sequence_clip", clip_eps=EPS, clip_eps_high=IS_HIGH, kl_coef=0.0),
    "verl cispo": GRPO(loss="cispo", clip_eps=EPS, clip_eps_high=IS_HIGH, kl_coef=0.0, normalize="token"),
    "tunix grpo": GRPO(clip_eps=EPS, clip_eps_high=HIGH, kl_coef=BETA),
    "tunix grpo token mean": GRPO(clip_eps=EPS, clip_eps_high=HIGH, kl_coef=BETA, normalize="token"),
} | {
    f"verl grpo {mode} {kl}": GRPO(clip_eps=EPS, clip_eps_high=HIGH, kl_coef=BETA, kl=kl, **normalize)
    for kl in ("k1", "k2", "k3")
    for mode, normalize in (
        ("seq-mean-token-mean", {"normalize": "completion"}),
        ("token-mean", {"normalize": "token"}),
        ("seq-mean-token-sum-norm", CONSTANT),
    )
}
pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture
def inputs(golden: dict) -> dict[str, np.ndarray]:
    return {name.removeprefix("inputs/"): x for name, x in golden.items() if name.startswith("inputs/")}


def tolerance(case: str) -> dict[str, float]:
    """Tunix computes in float32; verl adds 1e-8 to lengths."""
    return {"tunix": {"rtol": 2e-5, "atol": 1e-6}, "verl ": {"rtol": 1e-7, "atol": 1e-14}}.get(
        case[:5], {"rtol": 1e-11, "atol": 1e-14}
    )


def close(found: Any, golden: dict, case: str, name: str) -> None:
    np.testing.assert_allclose(found, golden[f"{case}/{name}"], **tolerance(case))


@pytest.mark.parametrize("case", GRPO_CASES)
def test_grpo(golden: dict, inputs: dict, case: str) -> None:
    fields = {name: inputs[name] for name in ("advantages", "old_logprobs", "ref_logprobs", "sampler_logprobs")}
    fields["entropy_coef"] = np.full(fields["advantages"].shape, ENTROPY_COEF)
    if case == "trl gspo":  # which has no advantages of tokens
        fields["advantages"] = inputs["completion_advantages"]
    if not GRPO_CASES[case].kl_coef:
        del fields["ref_logprobs"]
    if "on-policy" in case:
        del fields["old_logprobs"]
    params, batch = given(inputs["logprobs"], inputs["mask"], **fields)
    loss, gradient, metrics = mean_loss(GRPO_CASES[case], params, batch, GivenLogprobs())
    close(loss, golden, case, "loss")
    close(gradient["hidden"], golden, case, "gradient")
    if "on-policy" not in case:
        assert max(metrics["clip_low"], metrics["clip_high"]) > 0.05


def test_a_bounded_kl(golden: dict, inputs: dict) -> None:
    fields = {"advantages": 0 * inputs["mask"], "ref_logprobs": inputs["far_ref_logprobs"]}
    params, batch = given(inputs["logprobs"], inputs["mask"], **fields)
    bounded = GRPO(kl_coef=1.0, kl_clip=10.0, normalize="token")
    loss, gradient, metrics = mean_loss(bounded, params, batch, GivenLogprobs())
    close(loss, golden, "verl bounded k3", "loss")
    close(gradient["hidden"], golden, "verl bounded k3", "gradient")
    assert metrics["kl"] > 2 * loss  # the metric is not bounded


def test_advantages_of_other_baselines(golden: dict, inputs: dict) -> None:
    mask, rewards = inputs["mask"], inputs["rewards"]
    lengths = mask.sum(axis=1).astype(int)
    scores = outcome_scores(rewards, lengths)
    per_token = [0.1 * row[:n] for row, n in zip(inputs["token_rewards"], lengths, strict=True)]
    for tokens, reward in zip(per_token, rewards, strict=True):
        tokens[-1] += reward
    found = {
        "verl rloo": leave_one_out(scores, 3, lengths),
        "verl reinforce_pp": whitened_returns(Scores([np.arange(n) for n in lengths], per_token), lengths, 1e-9),
        "verl reinforce_pp_baseline": whitened_group_centered(scores, 3, lengths, 1e-9),
    }
    for case, advantages in found.items():
        close(np.concatenate(advantages), {f"{case}/": golden[f"{case}/advantages"][mask > 0]}, case, "")


@pytest.mark.parametrize(("case", "length_normalized"), [("trl dpo sigmoid_norm", True), ("trl dpo sigmoid", False)])
def test_dpo(golden: dict, inputs: dict, case: str, length_normalized: bool) -> None:
    """With logits as hidden states and the identity as the output matrix."""
    vocabulary = inputs["pair_logits"].shape[-1]
    reference = inputs["pair_ref_logits"][:, 1:-1]
    reference = reference - np.log(np.exp(reference).sum(axis=-1, keepdims=True))
    targets = inputs["pair_tokens"][:, 2:]
    fields = {
        "hidden": inputs["pair_logits"][:, 1:-1], "targets": targets, "loss_weights": inputs["mask"],
        "ref_logprobs": np.take_along_axis(reference, targets[..., None], axis=-1)[..., 0],
    }  # fmt: skip
    # The first half are chosen, the second half rejected: a pair is a row of two segments.
    batch = {name: np.concatenate([x[:3], x[3:]], axis=1) for name, x in fields.items()}
    rows = np.arange(3)[:, None].repeat(18, axis=1)
    batch |= {"tokens": rows, "positions": rows, "segment_ids": np.ones_like(rows) + (np.arange(18) >= 9)}
    params = {"hidden": batch.pop("hidden"), "head": np.eye(vocabulary)}
    loss, gradient, _ = mean_loss(DPO(beta=BETA, length_normalized=length_normalized), params, batch, FreePolicy())
    close(loss, golden, case, "loss")
    found = np.concatenate(np.split(gradient["hidden"], 2, axis=1))
    close(found, {f"{case}/": golden[f"{case}/gradient"][:, 1:-1]}, case, "")


def test_values(golden: dict, inputs: dict) -> None:
    fields = {name: inputs[name] for name in ("advantages", "old_logprobs", "returns", "old_values")}
    policy, batch = given(inputs["logprobs"], inputs["mask"], **fields)
    head = {"kernel": np.ones((1, 1)), "bias": np.zeros(1)}
    params = {"policy": policy, "value": {"model": {"hidden": inputs["values"][..., None]}, "reward": head}}
    _, gradient, metrics = mean_loss(PPO(value_clip=VALUE_CLIP, value_coef=1.0), params, batch, GivenLogprobs())
    close(metrics["value_loss"], golden, "verl value", "loss")
    close(gradient["value"]["model"]["hidden"][..., 0], golden, "verl value", "gradient")


@pytest.mark.parametrize("case", ["verl gae", "tunix gae"])
def test_gae(golden: dict, inputs: dict, case: str) -> None:
    """By their returns: the advantages that both give are whitened over the batch, which the paper's are not."""
    mask = inputs["mask"]
    advantages = gae(inputs["token_rewards"] * mask, inputs["values"] * mask, GAMMA, LAM)
    close((advantages + inputs["values"])[mask > 0], {f"{case}/": golden[f"{case}/returns"][mask > 0]}, case, "")


@pytest.mark.parametrize(
    ("case", "divide_by_std"),
    [
        ("verl outcome advantages", True),
        ("verl outcome advantages without std", False),
        ("tunix outcome advantages", True),
    ],
)
def test_outcome_advantages(golden: dict, inputs: dict, case: str, divide_by_std: bool) -> None:
    lengths = inputs["mask"].sum(axis=1).astype(int)
    found = group_relative(outcome_scores(inputs["rewards"], lengths), 3, lengths, divide_by_std=divide_by_std)
    theirs = golden[f"{case}/advantages"]
    for ours, length, row in zip(found, lengths, theirs, strict=True):
        close(ours, {f"{case}/": np.broadcast_to(row, length) if row.ndim == 0 else row[:length]}, case, "")


def test_every_peers_result_is_compared(golden: dict) -> None:
    compared = {*GRPO_CASES, "trl dpo sigmoid", "trl dpo sigmoid_norm", "verl value", "verl gae", "tunix gae"}
    compared |= {"verl bounded k3", "verl rloo", "verl reinforce_pp", "verl reinforce_pp_baseline"}
    compared |= {"verl outcome advantages", "verl outcome advantages without std", "tunix outcome advantages", "inputs"}
    assert {name.split("/")[0] for name in golden} == compared


@pytest.mark.oracle
def test_the_peers_still_say_so(golden: dict, tmp_path: Path) -> None:
    if not PEER.is_file() or subprocess.run([PEER, "-c", HAS_PEERS]).returncode:
        pytest.skip("trl, google-tunix and verl are not installed: make peers")
    done = subprocess.run([PEER, SCRIPT, tmp_path / "made.npz"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "made.npz") as made:
        assert set(made) == set(golden)
        for name, x in golden.items():
            np.testing.assert_allclose(made[name], x, **tolerance(name), err_msg=name)
