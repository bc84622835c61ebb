"""The recipes of the paper's training: its numbers, and that they are what training takes."""

from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from dsmath_jax.command_line import load_recipe
from dsmath_jax.data import hub, instructions, sources
from dsmath_jax.data.datasets import SOURCES
from dsmath_jax.data.overlap import TRAINING_FIELDS
from dsmath_jax.evaluation.registry import task
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.recipe import Recipe
from dsmath_jax.rl.algorithms import GRPO, PPO, Likelihood
from dsmath_jax.rl.methods import METHODS, REWARD_STAGES
from dsmath_jax.runner import Stage
from dsmath_jax.settings import fingerprint
from dsmath_jax.sharding import AXES, Layout
from dsmath_jax.stages import STAGES
from dsmath_jax.training.optimizer import make_schedule
from dsmath_jax.training.settings import TrainingSettings
from dsmath_jax.workdir import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
# Stage, and the chips of the recipe's docstring.
RECIPES = {"pretrain_1b3": ("pretrain", 16), "pretrain_7b": ("pretrain", 128), "sft_7b": ("sft", 16)}
RL_CHIPS = 16
RL_VARIANTS = ("grpo_ps", "grpo_os", "grpo_iterative", "grpo_rule", "ppo", "online_rft")


def read(name: str, variant: str = "") -> Recipe:
    return load_recipe(f"{CONFIGS / name}.py{variant}")


def lacks(recipe: Recipe, stage: Stage) -> set[str]:
    """The parts that the stage sees and the recipe does not have."""
    return {part for part in stage.sections if getattr(recipe, part) is None}


@pytest.mark.parametrize(
    ("name", "tokens", "steps", "peak"),  # of a step; of the optimizer; learning rate: sections 2.2, 2.3 and 3
    [
        ("pretrain_1b3", 1024 * 4096, 35_763, 5.3e-4),
        ("pretrain_7b", 2560 * 4096, 47_684, 4.2e-4),
        ("sft_7b", 256 * 4096, 500, 5e-5),
    ],
)
def test_the_papers_numbers(name: str, tokens: int, steps: int, peak: float) -> None:
    recipe, (stage, chips) = read(name), RECIPES[name]
    part = getattr(recipe, stage)
    assert part.batch_size * part.sequence_length == tokens
    assert (part.steps, part.peak_lr, part.sequence_length) == (steps, peak, 4096)
    assert (part.weight_decay, part.clip_norm) == (0.1, 1.0)
    others = recipe.mesh.replica * recipe.mesh.context * recipe.mesh.tensor
    assert chips % others == 0
    # Each micro-batch gives every chip the same number of whole rows.
    assert part.batch_size % (part.grad_accum_steps * chips // recipe.mesh.context // recipe.mesh.tensor) == 0
    assert 0 < part.checkpoint_every < part.steps


def lr_at(part: TrainingSettings, share: float) -> float:
    return float(make_schedule(part)(int(share * part.steps)))


@pytest.mark.parametrize("name", ["pretrain_1b3", "pretrain_7b"])
def test_pretraining_lowers_its_rate_in_steps(name: str) -> None:
    part = read(name).pretrain
    schedule = make_schedule(part)
    np.testing.assert_allclose(schedule(999), part.peak_lr / 2, rtol=1e-5)
    np.testing.assert_allclose(schedule(1999), part.peak_lr, rtol=1e-5)
    shares = [lr_at(part, share) / part.peak_lr for share in (0.79, 0.81, 0.89, 0.91)]
    np.testing.assert_allclose(shares, [1.0, 0.316, 0.316, 0.1], rtol=1e-5)


def test_sft_keeps_its_rate() -> None:
    part = read("sft_7b").sft
    np.testing.assert_allclose([lr_at(part, share) for share in (0.0, 0.5, 0.999)], 5e-5, rtol=1e-6)


def test_the_mixture_of_the_7b_model() -> None:
    mixture = read("pretrain_7b").pretrain.mixture.copy()
    natural = sum(mixture.pop(name) for name in ("fineweb", "skypile"))
    assert mixture == {"corpus": 0.56, "algebraic_stack": 0.04, "arxiv": 0.10, "github_code": 0.20}
    np.testing.assert_allclose(sum(mixture.values()) + natural, 1.0)
    assert {sources.PUBLIC["fineweb"].language, sources.PUBLIC["skypile"].language} == {"en", "zh"}


@pytest.mark.parametrize("variant", ["", ":corpus", ":openwebmath", ":proof_pile_2"])
def test_the_corpora_of_the_1b3_experiments(variant: str) -> None:
    mixture = read("pretrain_1b3", variant).pretrain.mixture
    assert all(name in sources.PUBLIC or sources.is_corpus(name) for name in mixture)
    np.testing.assert_allclose(sum(mixture.values()), 1.0)


def test_sources_of_instructions_are_known() -> None:
    for name in read("sft_7b").sft.data:
        assert name in hub.PUBLIC or (name in SOURCES and name in instructions.FETCHED), name


@pytest.mark.parametrize("variant", ["", *(f":{name}" for name in RL_VARIANTS)])
def test_the_papers_numbers_of_rl(variant: str) -> None:
    recipe = read("grpo_7b", variant)
    part, method = recipe.rl, METHODS[recipe.rl.method]
    assert part.method == (variant[1:] or "grpo_ps")
    assert (part.peak_lr, part.schedule, part.warmup_steps) == (1e-6, "constant", 0)
    assert (part.group_size, part.samples_per_step, part.num_updates) == (64, 1024, 1)
    assert (part.max_new_tokens, part.temperature, part.top_p) == (1024, 1.0, 1.0)
    assert part.data == ("gsm8k/train", "math/train")
    assert part.steps * part.prompts_per_step == 144_000
    assert part.samples_per_step % (part.grad_accum_steps * RL_CHIPS) == 0
    assert isinstance(part.algorithm, PPO if part.method == "ppo" else GRPO | Likelihood)
    assert isinstance(part.algorithm, Likelihood) or part.algorithm.kl_coef == 0.04
    stage = REWARD_STAGES.get(method.reward)
    models = {name for name in REWARD_STAGES.values() if getattr(recipe, name) is not None}
    assert models == ({stage} if stage else set())
    if stage:
        # A reward model is trained from Base 7B (§4.2), with its own learning rate.
        reward_model = getattr(recipe, stage)
        assert (reward_model.init, reward_model.peak_lr) == ("pretrain", 2e-5)
    assert part.eval_data == ("gsm8k/test", "math/test")
    assert recipe.evaluate.tasks == ("gsm8k", "math")
    assert recipe.evaluate.problems == 0  # both whole, as in the paper
    if method.iterative:
        assert part.rounds > 1
        assert part.retrain_data == part.data
        assert (part.retrain.kind, part.retrain.replay) == (reward_model.kind, 0.1)
    made = {"tokenizer", "pretrain", "sft"}  # by the recipes before
    for one in STAGES:
        if getattr(recipe, one.name, None) is not None and one.name not in made:
            assert not lacks(recipe, one)
            assert set(one.depends_on(recipe)) <= made
            made.add(one.name)
    assert {"rl", "evaluate"} <= made


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.py")), ids=lambda path: path.stem)
def test_no_recipe_is_measured_on_what_it_trains_on(path: Path) -> None:
    recipe = load_recipe(str(path))
    fields = fingerprint(recipe)
    trained = {name for field in TRAINING_FIELDS for name in fields.get(field, ())}
    asked = {task(name).source for name in fields.get("evaluate.tasks", ())}
    assert not trained & {*asked, *fields.get("rl.eval_data", ())}


def test_a_variant_that_learns_from_stored_samples_is_none_of_rl() -> None:
    with pytest.raises(UserError, match=r"has no variant 'dpo'; it has grpo_ps, online_rft, ppo, grpo_rule"):
        read("grpo_7b", ":dpo")


@pytest.mark.parametrize("name", [*RECIPES, "grpo_7b"])
def test_every_matrix_is_split_over_the_chips(name: str) -> None:
    recipe, chips = read(name), RECIPES[name][1] if name in RECIPES else RL_CHIPS
    sizes, mesh = recipe.model, recipe.mesh
    shapes = jax.eval_shape(lambda: initial_params(Decoder(sizes), jax.random.key(0)))
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert round(count / 1e9, 2) == {24: 1.63, 30: 6.91}[sizes.num_hidden_layers]
    others = [mesh.replica, mesh.context, mesh.tensor]
    fsdp = chips // int(np.prod(others))
    layout = Layout(AbstractMesh((others[0], fsdp, *others[1:]), AXES))
    for leaf, sharding in zip(jax.tree.leaves(shapes), jax.tree.leaves(layout.param_shardings(shapes)), strict=True):
        parts = np.prod(leaf.shape) // np.prod(sharding.shard_shape(leaf.shape))
        assert parts == (fsdp * mesh.tensor if leaf.ndim > 2 or leaf.size > 1e8 else 1)


@pytest.mark.parametrize("name", RECIPES)
def test_the_stages_find_all_that_they_read(name: str) -> None:
    recipe, (stage, _) = read(name), RECIPES[name]
    for one in STAGES:
        if one.name in (stage, "tokenizer"):
            assert not lacks(recipe, one)
            # What is not made in this run must be what the docstring says: our corpus, which another config mines.
            assert set(one.depends_on(recipe)) <= {"tokenizer", "corpus"}
