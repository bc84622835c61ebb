"""RL with LoRA: what is trained and kept, the reference model, and a start that has adapters itself."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.models import lora
from dsmath_jax.rl.batches import RowShapes
from dsmath_jax.rl.context import FrozenModel
from dsmath_jax.rl.methods import METHODS
from dsmath_jax.rl.reward_model import model as reward_models
from dsmath_jax.rl.rollout_files import read_rollout
from dsmath_jax.rl.scoring import PackedForward, jitted_logprobs
from dsmath_jax.sharding import Layout
from dsmath_jax.training import checkpoint
from dsmath_jax.training.lora import Adapters, abstract_adapters, trainable, write_adapters
from dsmath_jax.training.model_files import read_model, read_params, write_config
from dsmath_jax.training.settings import LoraSettings
from dsmath_jax.workdir import UserError, read_json
from tests.rl.test_trainer import RETRAIN, grade_by_length, write_graded_samples
from tests.rl.trainer_runs import RLRun, assert_same_results, equal, metrics, weights
from tests.rl.unpacked import unpacked_batch

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


@pytest.mark.parametrize("sft", [pytest.param("full", marks=pytest.mark.slow), "with adapters"])
def test_the_reference_is_the_start(recipe: Recipe, workdir: MakeWorkdir, layout: Layout, sft: str) -> None:
    folder = workdir("run")
    if sft == "with adapters":
        with_adapters(folder, layout)
    recipe("grpo_rule", lora=LORA, peak_lr=5e-2, weight_decay=0.0).run(folder)
    rows = metrics(folder)
    assert rows[0]["kl"] < 1e-9 < 1e-5 < rows[1]["kl"]
    assert rows[0]["sampler_logprob_diff"] < 1e-5
    assert rows[1]["sampler_logprob_diff"] < 1e-4  # it decodes with the adapters
    model = read_model(folder / "sft", layout)
    before = read_params(folder / "sft", model.config, layout)
    logprobs = jitted_logprobs(model, 1.0)
    (sequences, fields), _ = read_rollout(folder / "rl" / "rollouts" / "00000001.npz")
    batch = unpacked_batch(sequences, fields, int(sequences.lengths.max()))
    expected = np.asarray(logprobs(before, batch)) * batch["loss_weights"]
    np.testing.assert_allclose(batch["ref_logprobs"], expected, atol=1e-5)
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


@pytest.mark.slow
def test_a_run_that_is_killed_resumes_bit_by_bit(
    recipe: Recipe, workdir: MakeWorkdir, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = workdir("whole"), workdir("killed")
    run = recipe("grpo_rule", lora=LORA, steps=4, num_updates=2, checkpoint_every=1, peak_lr=5e-2)
    run.run(whole)
    run.interrupt(killed, monkeypatch, 3)
    run.run(killed)
    assert_same_results(whole, killed, layout)


@pytest.mark.slow
def test_full_fine_tuning_begins_with_merged_adapters(recipe: Recipe, workdir: MakeWorkdir, layout: Layout) -> None:
    folder = workdir("run")
    with_adapters(folder, layout)
    recipe("grpo_rule").run(folder)
    assert metrics(folder)[0]["kl"] < 1e-9
    before = lora.merge(weights(folder, layout, "sft"))
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(weights(folder, layout)), strict=True):
        assert 0 < np.abs(one - other).max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ppo", "dpo", "rft", "sft", "online_rft", "grpo_os", "grpo_ps"])
def test_every_method_trains_adapters(recipe: Recipe, workdir: MakeWorkdir, layout: Layout, method: str) -> None:
    folder = workdir("run")
    with_adapters(folder, layout)
    if METHODS[method].completions in ("correct", "pairs"):
        write_graded_samples(folder)
    recipe(method, lora=LORA, max_new_tokens=40 if method == "sft" else 12).run(folder)
    rows = metrics(folder)
    assert all(np.isfinite(value) and row["grad_norm"] > 0 for row in rows for value in row.values())
    assert rows[0].get("kl", 0.0) < 1e-9
    before, after = weights(folder, layout, "sft"), weights(folder, layout)
    assert equal(lora.without_adapters(before), lora.without_adapters(after))
    assert after["layers"]["o_lora_a"].shape[-1] == before["layers"]["o_lora_a"].shape[-1] + LORA["rank"]


@pytest.mark.slow
@pytest.mark.parametrize("retrain_lora", [LORA, None], ids=["adapters", "full"])
def test_rounds_keep_adapters_alone(
    recipe: Recipe, workdir: MakeWorkdir, layout: Layout, monkeypatch: pytest.MonkeyPatch, retrain_lora: dict | None
) -> None:
    """The reference of the second round is the policy at the end of the first, and the reward model is trained on."""
    whole, cut = workdir("whole"), workdir("cut")
    with_adapters(whole, layout)
    with_adapters(cut, layout)
    rl = recipe(
        "grpo_iterative", rounds=2, steps=4, checkpoint_every=1, lora=LORA, peak_lr=5e-2,
        retrain=RETRAIN | {"lora": retrain_lora, "peak_lr": 5e-2},
    )  # fmt: skip
    grade_by_length(monkeypatch)
    rl.run(whole)
    rows = metrics(whole)
    assert rows[0]["kl"] < 1e-9 > rows[2]["kl"]
    assert rows[1]["kl"] > 1e-7
    before = reward_models.read(whole / "reward_model", layout).params
    after = reward_models.read(whole / "rl" / "rounds" / "1" / "reward_model", layout).params
    assert not np.array_equal(before["reward"]["kernel"], after["reward"]["kernel"])
    if retrain_lora:
        assert equal(before["model"], lora.without_adapters(after["model"]))
        assert max(np.abs(b).max() for _, b in lora.adapters_of(after["model"]).values()) > 0
    else:
        assert jax.tree.structure(before) == jax.tree.structure(after)
    rl.interrupt(cut, monkeypatch, 1)
    rl.interrupt(cut, monkeypatch, 2)
    rl.run(cut)
    assert_same_results(whole, cut, layout)


def test_the_reference_is_no_copy(workdir: MakeWorkdir, layout: Layout) -> None:
    folder = workdir("run") / "sft"
    model = read_model(folder, layout)
    read = functools.partial(read_params, folder, model.config, layout)
    trained = trainable(LoraSettings(**LORA), read, model, layout, seed=0)

    def addresses(params: object) -> list[int]:
        return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)]

    logprobs = PackedForward(jitted_logprobs(model, 1.0), RowShapes(16, 4, 1, layout))
    reference = FrozenModel(logprobs, trained.initial_model).load("device").params
    assert addresses(reference) == addresses(trained.frozen.params)
    assert addresses(lora.without_adapters(trained.frozen.combine(trained.read()))) == addresses(reference)


def test_a_host_reference_is_refused(recipe: Recipe) -> None:
    with pytest.raises(
        UserError, match=r"rl.reference_memory is host, but with lora the reference model is the base itself"
    ):
        recipe("grpo_rule", lora=LORA, reference_memory="host")


def test_a_base_that_is_missing_or_another_one_is_refused(workdir: MakeWorkdir, layout: Layout) -> None:
    folder = workdir("run")
    with_adapters(folder, layout)
    config = read_model(folder / "sft", layout).config
    (folder / "pretrain").unlink()
    with pytest.raises(UserError, match=r"The adapters in \S+/sft belong to the model in \S+/pretrain, which is"):
        read_params(folder / "sft", config, layout)
    (folder / "pretrain").symlink_to((folder / "reward_model").resolve())
    with pytest.raises(UserError, match="were trained on another model than"):
        read_params(folder / "sft", config, layout)
