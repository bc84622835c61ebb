"""RL with LoRA: what is trained and kept, the reference model, and a start that has adapters itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.models import lora
from dsmath_jax.rl.reward_model import model as reward_models
from dsmath_jax.rl.rollouts import read_rollout
from dsmath_jax.rl.scoring import jitted_logprobs
from dsmath_jax.sharding import Layout
from dsmath_jax.training import checkpoint
from dsmath_jax.training.lora import Adapters, abstract_adapters, write_adapters
from dsmath_jax.training.model_files import read_model, read_params, write_config
from dsmath_jax.training.settings import LoraSettings
from dsmath_jax.workdir import UserError, read_json
from tests.rl.test_trainer import RETRAIN, write_graded_samples
from tests.rl.trainer_runs import RLRun, assert_same_results, equal, metrics, weights

Recipe = Callable[..., RLRun]
MakeWorkdir = Callable[[str], Path]

LORA = {"rank": 2, "alpha": 4.0}


def with_adapters(folder: Path, layout: Layout) -> None:
    """Makes the stage `sft` of a workdir one that was trained with LoRA, from its former model."""
    (folder / "sft").rename(folder / "pretrain")
    config, settings = read_model(folder / "pretrain", layout).config, LoraSettings(rank=3, targets="layers/[qvo]")
    noise = np.random.default_rng(0)
    adapters = jax.tree.map(
        lambda x: jnp.asarray(noise.normal(0, 0.2, x.shape), jnp.float32), abstract_adapters(config, settings, layout)
    )
    write_config(folder / "sft", config)
    checkpoint.save(folder / "sft" / "params", adapters)
    write_adapters(folder / "sft", Adapters(settings, str(folder / "pretrain")))


@pytest.mark.parametrize("sft", ["full", "with adapters"])
def test_the_reference_is_the_start(recipe: Recipe, workdir: MakeWorkdir, layout: Layout, sft: str) -> None:
    folder = workdir("run")
    if sft == "with adapters":
        with_adapters(folder, layout)
    recipe("grpo_rule", lora=LORA, steps=3, peak_lr=5e-2, weight_decay=0.0).run(folder)
    rows = metrics(folder)
    assert rows[0]["kl"] < 1e-9 < 1e-5 < rows[2]["kl"]
    assert rows[0]["sampler_logprob_diff"] < 1e-5
    assert rows[2]["sampler_logprob_diff"] < 1e-4  # it decodes with the adapters
    model = read_model(folder / "sft", layout)
    before = read_params(folder / "sft", model.config, layout)
    logprobs = jitted_logprobs(model, 1.0)
    batch, _ = read_rollout(folder / "rl" / "rollouts" / "00000002.npz")
    for params, name, tolerance in ((before, "ref_logprobs", 1e-5), (lora.merge(before), "ref_logprobs", 1e-4)):
        expected = np.asarray(logprobs(params, batch)) * batch["loss_weights"]
        np.testing.assert_allclose(batch[name], expected, atol=tolerance)
    # What is kept are the adapters alone, and what they belong to.
    stored = checkpoint.restore(folder / "rl" / "params", abstract_adapters(model.config, LoraSettings(**LORA), layout))
    assert read_json(folder / "rl" / "lora.json")["base"] == "../sft"
    trained = weights(folder, layout)
    for name, (a, b) in lora.adapters_of(trained).items():
        own_a, own_b = (stored["layers"][f"{name}_lora_{side}"] for side in "ab")
        assert np.abs(own_b).max() > 0
        assert np.array_equal(a[..., -2:], own_a)
        assert np.array_equal(b[:, -2:], own_b * 2.0)
    assert equal(lora.without_adapters(trained), lora.without_adapters(before))


def test_a_run_that_is_killed_resumes_bit_by_bit(
    recipe: Recipe, workdir: MakeWorkdir, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = workdir("whole"), workdir("killed")
    run = recipe("grpo_rule", lora=LORA, steps=4, num_updates=2, checkpoint_every=1, peak_lr=5e-2)
    run.run(whole)
    run.interrupt(killed, monkeypatch, 3)
    run.run(killed)
    assert_same_results(whole, killed, layout)


def test_full_fine_tuning_begins_with_merged_adapters(recipe: Recipe, workdir: MakeWorkdir, layout: Layout) -> None:
    folder = workdir("run")
    with_adapters(folder, layout)
    recipe("grpo_rule").run(folder)
    assert metrics(folder)[0]["kl"] < 1e-9
    before = lora.merge(weights(folder, layout, "sft"))
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(weights(folder, layout)), strict=True):
        assert 0 < np.abs(one - other).max() < 0.1
