"""The whole recipe: every file in `configs/` makes one, every field is described, and which fields change no result."""

import dataclasses
import itertools
import math
import re
import runpy
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from dsmath_jax import runner
from dsmath_jax.command_line import load_recipe, parse
from dsmath_jax.environments.settings import EnvironmentSettings
from dsmath_jax.recipe import Recipe
from dsmath_jax.rl.algorithms import PPO
from dsmath_jax.rl.methods import METHODS
from dsmath_jax.rl.reward_model.settings import ProcessModelSettings, RetrainSettings
from dsmath_jax.settings import Limits, build, field_specs, field_values, fingerprint, to_dict
from dsmath_jax.stages import STAGES
from dsmath_jax.training.settings import LoraSettings
from dsmath_jax.workdir import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
TINY = str(CONFIGS / "tiny.py")


# --- every file of a recipe ---


def variants_of(path: Path) -> list[str]:
    """What `FILE:VARIANT` may name, as the file's own error for an unknown variant lists them; "" is the default."""
    try:
        load_recipe(f"{path}:no such variant")
    except UserError as error:
        _, _, listed = str(error).rstrip(".").partition("; it has ")
        return ["", *(f":{name}" for name in listed.replace(" and ", ", ").split(", ") if name)]
    raise AssertionError(f"{path} takes any variant")


FILES = sorted(CONFIGS.rglob("*.py"))
RECIPES = [f"{path}{variant}" for path in FILES for variant in variants_of(path)]


def test_every_variant_is_found() -> None:
    names = {name.removeprefix(f"{CONFIGS}/") for name in RECIPES}
    assert {"tiny.py", "tiny.py:full", "tiny.py:sft_continued", "sft_7b.py", "paper/fig6_iterative.py"} <= names
    grpo, fig5 = (runpy.run_path(str(CONFIGS / name)) for name in ("grpo_7b.py", "paper/fig5_rl_methods.py"))
    pretrain = runpy.run_path(str(CONFIGS / "pretrain_1b3.py"))
    assert {f"grpo_7b.py:{name}" for name in grpo["VARIANTS"]} <= names
    assert {f"paper/fig5_rl_methods.py:{name}" for name in ("start", *fig5["METHODS"])} <= names
    assert {f"pretrain_1b3.py:{name}" for name in (*pretrain["MIXTURES"], *pretrain["ACCELERATORS"])} <= names


@pytest.mark.parametrize("name", RECIPES, ids=lambda name: name.removeprefix(f"{CONFIGS}/"))
def test_every_file_makes_a_recipe(name: str) -> None:
    recipe = load_recipe(name)
    assert build(Recipe, to_dict(recipe)) == recipe
    _, parsed = parse(["main.py", f"--config={name}"])
    assert parsed == recipe  # the command line adds the defaults and nothing else


# --- every field ---


def classes_in(hint: Any) -> Iterator[type]:
    """The settings classes that a field's type names."""
    for one in typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
        if dataclasses.is_dataclass(one):
            yield typing.cast(type, one)


def all_classes() -> dict[type, str]:
    """Every settings class of the recipe's tree, those of all algorithms among them, with where it is."""
    found: dict[type, str] = {}
    open_ = [(Recipe, "")]
    while open_:
        cls, path = open_.pop()
        if cls in found:
            continue
        found[cls] = path
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            open_ += [(inner, f"{path}{field.name}.") for inner in classes_in(hints[field.name])]
            if field.metadata.get("fields_of"):
                open_ += [(method.algorithm, path) for method in METHODS.values()]
    return found


CLASSES = all_classes()


def test_the_tree_is_walked_to_its_leaves() -> None:
    assert {"MinHashSettings", "PPO", "GRPO", "DPO", "RewardModelSettings", "MeshSettings"} <= {
        cls.__name__ for cls in CLASSES
    }


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_field_has_one_line_of_help(cls: type) -> None:
    assert typing.get_type_hints(cls).keys() >= {field.name for field in dataclasses.fields(cls)}
    for field in dataclasses.fields(cls):
        text = field.metadata.get("help", "")
        assert text.strip() == text != "", f"{CLASSES[cls]}{field.name}"
        assert "\n" not in text, f"{CLASSES[cls]}{field.name}"
        assert len(text) <= 120, f"{CLASSES[cls]}{field.name}"


# --- which fields change no result ---

LOOP = ("grad_accum_steps", "keep_checkpoints", "profile", "wandb")
TRAINING = ("pretrain", "sft", "reward_model", "process_model", "rl", "rl.retrain")
CHANGE_NO_RESULT = {
    "start", "compilation_cache",
    "mesh.replica", "mesh.fsdp", "mesh.context", "mesh.tensor",
    "model.remat", "model.attention",
    "corpus.workers", "corpus.ray_address", "rl.allow_overlap", "rl.log_samples",
    "evaluate.allow_overlap",
    *(f"{part}.{field}" for part in TRAINING for field in LOOP),
}  # fmt: skip


def full_recipe() -> Recipe:
    """A recipe that has every part."""
    tiny = load_recipe(TINY)
    assert tiny.sft is not None
    assert tiny.reward_model is not None
    assert tiny.rl is not None
    models = ("init", "policy")  # a retrained model starts from the one before, and samples from the policy
    settings = {name: value for name, value in to_dict(tiny.reward_model).items() if name not in models}
    lora = LoraSettings()
    retrain = build(RetrainSettings, settings | {"steps": 10, "lora": to_dict(lora)})
    rl = dataclasses.replace(tiny.rl, retrain=retrain, lora=lora, environment=EnvironmentSettings())
    reward_model = dataclasses.replace(tiny.reward_model, lora=lora)
    process_model = build(ProcessModelSettings, to_dict(reward_model) | {"kind": "process"})
    sft = dataclasses.replace(tiny.sft, lora=lora)
    return dataclasses.replace(tiny, sft=sft, reward_model=reward_model, process_model=process_model, rl=rl)


FULL = full_recipe()


def test_the_fields_that_change_no_result_are_these_and_no_others() -> None:
    assert all(getattr(FULL, field.name) is not None for field in dataclasses.fields(Recipe))
    assert {one.name for one in field_values(FULL) if not one.changes_result} == CHANGE_NO_RESULT
    for method in METHODS.values():  # nor is one of an algorithm
        assert all(field.metadata["changes_result"] for field in dataclasses.fields(method.algorithm))


def changed(tree: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The nested fields with another value of one of them."""
    first, _, rest = name.partition(".")
    return tree | {first: changed(tree[first], rest, value) if rest else value}


def with_value(recipe: Recipe, name: str, value: Any) -> Recipe:
    return build(Recipe, changed(to_dict(recipe), name, value))


class Cut(BaseException):
    """Stands for a kill."""


class Pretend:
    """A run of the real stages, none of which checks or computes anything; `cut_in` is killed in its work."""

    def __init__(self, workdir: Path):
        self.workdir, self.ran = workdir, list[str]()

    def run(self, recipe: Recipe, cut_in: str = "") -> list[str]:
        self.ran.clear()
        unchecked = [dataclasses.replace(stage, check=lambda recipe, workdir: None) for stage in STAGES]
        stages = [dataclasses.replace(stage, run=self.work(stage.name, cut_in)) for stage in unchecked]
        names = [stage.name for stage in stages if not stage.always_rerun]
        runner.run(stages, recipe, self.workdir, names, [])
        return list(self.ran)

    def work(self, name: str, cut_in: str) -> Callable[[Any, Path], dict]:
        def work(recipe: Any, workdir: Path) -> dict:
            self.ran.append(name)
            if name == cut_in:
                raise Cut
            return {}

        return work


OTHER_VALUES = {
    "mesh.replica": 2, "mesh.fsdp": 2, "mesh.context": 2, "mesh.tensor": 2, "model.remat": "none",
    "model.attention": "xla", "corpus.workers": 3, "corpus.ray_address": "auto", "grad_accum_steps": 2,
    "keep_checkpoints": 5, "profile": (1, 2), "wandb": "project", "allow_overlap": True, "log_samples": "all",
    "compilation_cache": "off",
}  # fmt: skip


def test_a_run_resumes_with_another_value_of_a_field_that_changes_no_result(tmp_path: Path) -> None:
    run = Pretend(tmp_path)
    with pytest.raises(Cut):
        run.run(FULL, cut_in="evaluate")
    for name in sorted(CHANGE_NO_RESULT - {"start"}):
        value = OTHER_VALUES.get(name, OTHER_VALUES.get(name.split(".")[-1]))
        other = with_value(FULL, name, value)
        assert other != FULL, name
        with pytest.raises(Cut):
            run.run(other, cut_in="evaluate")
        assert run.ran == ["evaluate"], name
    assert run.run(with_value(FULL, "rl.keep_checkpoints", 5)) == ["evaluate"]
    assert run.run(FULL) == []


@pytest.mark.parametrize(
    ("name", "value", "stage"),
    [
        ("seed", 1, "corpus"), ("data_dir", "elsewhere", "corpus"), ("toy.pages", 801, "corpus"),
        ("corpus.min_score", 0.6, "corpus"), ("corpus.fasttext.threads", 2, "corpus"),
        ("tokenizer.vocab_size", 1537, "tokenizer"), ("model.rope_theta", 2e4, "pretrain"),
        ("model.compute_dtype", "bfloat16", "pretrain"), ("pretrain.checkpoint_every", 100, "pretrain"),
        ("pretrain.peak_lr", 1e-3, "pretrain"), ("sft.batch_size", 16, "sft"), ("sft.state_dtype", "bfloat16", "sft"),
        ("reward_model.decode_slots", 128, "reward_model"), ("process_model.samples", 2, "process_model"),
        ("rl.kl_coef", 0.1, "rl"), ("rl.decode_slots", 8, "rl"), ("rl.retrain.steps", 20, "rl"),
        ("evaluate.decode_slots", 50, "evaluate"), ("evaluate.samples", 4, "evaluate"),
    ],
)  # fmt: skip
def test_a_run_is_refused_with_another_value_of_any_other_field(
    tmp_path: Path, name: str, value: Any, stage: str
) -> None:
    run = Pretend(tmp_path)
    run.run(FULL)
    with pytest.raises(UserError) as caught:
        run.run(with_value(FULL, name, value))
    assert str(caught.value).startswith(f"Stage {stage} in {tmp_path} was made with other settings ({name} was ")
    assert run.ran == []


def test_the_fingerprint_of_a_stage_has_all_its_other_fields() -> None:
    seen = {one.name for one in field_values(FULL) if one.value is not None}
    assert fingerprint(FULL).keys() == seen - CHANGE_NO_RESULT


# --- what numbers may be ---

RANGE = {"ge", "gt", "le"}
# A reward function may count against a completion; a variable of a template may be any number.
ANY_FINITE = {"rl.reward_fns", "chat.template_kwargs"}


def number_types(hint: Any) -> set[type]:
    """int or float, where a value of the annotation is one or has some in a tuple or a dict."""
    if hint in (int, float):
        return {hint}
    return {one for argument in typing.get_args(hint) if argument is not hint for one in number_types(argument)}


def tree_of(method: str) -> dict[str, Any]:
    """The nested fields of a recipe with every part, and with the method."""
    tree = to_dict(FULL)
    if method != WHOLE:
        parts = {name: tree["rl"][name] for name in ("retrain", "lora")}
        rounds = 2 if METHODS[method].iterative else 1
        tree["rl"] = {"method": method, "rounds": rounds} | parts
    return tree


WHOLE = "grpo_rule"  # may have every part
TREES = {method: tree_of(method) for method in sorted(METHODS, key=WHOLE.__eq__)}  # it comes last
NUMBERS = {  # every number of every method's recipe, with a method that has it
    one.name: (method, one)
    for method, tree in TREES.items()
    for one in field_specs(Recipe, tree)
    if not one.is_section and number_types(one.hint) and one.name not in ANY_FINITE
}


def test_every_number_declares_what_it_may_be() -> None:
    assert {"seed", "rl.lam", "rl.beta", "rl.ddof", "rl.retrain.replay", "corpus.minhash.rows", "mesh.fsdp"} <= {
        *NUMBERS
    }
    assert len(NUMBERS) > 150
    assert [name for name, (_, one) in NUMBERS.items() if not RANGE & one.field.metadata["limits"].keys()] == []


@pytest.mark.parametrize("method", METHODS)
def test_every_default_is_one_that_its_field_may_have(method: str) -> None:
    assert build(Recipe, TREES[method]).rl is not None


def outside(kind: type, limits: Limits) -> st.SearchStrategy[float]:
    """Numbers that a field may not be."""
    numbers = st.integers if kind is int else st.floats
    beyond = [numbers(max_value=limits["ge"]).filter(lambda x: x < limits["ge"])] if "ge" in limits else []
    beyond += [numbers(max_value=limits["gt"])] if "gt" in limits else []
    beyond += [numbers(min_value=limits["le"]).filter(lambda x: x > limits["le"])] if "le" in limits else []
    return st.one_of(*beyond, *([st.sampled_from([math.nan, math.inf, -math.inf])] if kind is float else []))


@hypothesis.given(st.sampled_from(sorted(NUMBERS)), st.data())
@hypothesis.settings(max_examples=400)
def test_a_number_that_cannot_work_is_refused_in_a_sentence(name: str, data: st.DataObject) -> None:
    method, one = NUMBERS[name]
    (kind,) = number_types(one.hint)
    value: Any = data.draw(outside(kind, one.field.metadata["limits"]))
    full = name
    if typing.get_origin(one.hint) is tuple:
        value, full = (value,), f"{name}[0]"
    elif typing.get_origin(one.hint) is dict:
        value, full = {"a": value}, f"{name}.a"
    with pytest.raises(UserError) as caught:
        build(Recipe, changed(TREES[method], name, value))
    wanted = r"(at least|above|at most) -?[\d,.]+|a finite number"
    assert re.fullmatch(rf"{re.escape(full)} is \S+; it must be ({wanted})\.", str(caught.value))


def test_numbers_are_checked_where_settings_are_made_in_code() -> None:
    assert FULL.rl is not None
    for make in (lambda: PPO(lam=1.5), lambda: dataclasses.replace(FULL.rl.algorithm, temperature=-1.0)):
        with pytest.raises(
            UserError, match=r"^(lam is 1\.5; it must be at most 1|temperature is -1\.0; .* above 0)\.$"
        ):
            make()
    with pytest.raises(UserError, match=r"^steps is 0; it must be at least 1\.$"):
        dataclasses.replace(FULL.rl, steps=0)
    with pytest.raises(UserError, match=r"^rl\.steps is 0; it must be at least 1\.$"):
        dataclasses.replace(FULL, rl={"steps": 0})


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("pretrain.profile", (0, 2000), "pretrain.profile is (0, 2000), but the run's steps are 0 to 1999"),
        ("pretrain.profile", (3,), "pretrain.profile is (3,); give () or the first and the last step"),
        ("pretrain.profile", (3, 2), "pretrain.profile is (3, 2); give () or the first and the last step"),
        ("pretrain.grad_accum_steps", 3, "pretrain.batch_size is 8; it must be a multiple of grad_accum_steps=3."),
        ("rl.retrain.batch_size", 0, "rl.retrain.batch_size is 0; it must be at least 1."),
        (
            "reward_model.grad_accum_steps",
            5,
            "reward_model.batch_size is 32; it must be a multiple of grad_accum_steps",
        ),
        ("pretrain.mixture", {}, "pretrain.mixture is empty; give it at least one value."),
        ("pretrain.state_dtype", "bf16", "pretrain.state_dtype must be one of 'bfloat16', 'float32', 'float64'; got"),
        (
            "rl.cache_dtype",
            "int4",
            "rl.cache_dtype must be one of '', 'bfloat16', 'float32', 'float64', 'int8'; got 'int4'.",
        ),
        ("rl.decode_weight_dtype", "bfloat16", "rl.decode_weight_dtype must be one of '', 'int8'; got 'bfloat16'."),
        ("evaluate.cache_dtype", "fp8", "evaluate.cache_dtype must be one of '', 'bfloat16', 'float32', 'float64',"),
        ("rl.step_delimiter", "", "rl.step_delimiter is empty; give it a string."),
        ("mesh.fsdp", 0, "mesh.fsdp is 0; give -1 for the remaining devices, or at least 1."),
        ("corpus.fasttext.bucket", 0, "corpus.fasttext.bucket is 0; word_ngrams=3 needs hash buckets for its n-grams."),
        ("tokenizer.vocab_size", 0, "tokenizer.vocab_size is 0; it must be at least 1, or path name a tokenizer."),
    ],
)
def test_fields_that_do_not_go_together_are_refused_in_a_sentence(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        with_value(FULL, name, value)
    assert str(caught.value).startswith(sentence)


# --- the algorithm of a method ---


def given(*arguments: str) -> Recipe:
    return parse(["main.py", f"--config={TINY}", *arguments])[1]


@pytest.mark.parametrize("method", [("--config.rl.method=ppo",), ("--config.rl.method", "ppo")], ids=["=", "apart"])
def test_the_method_on_the_command_line_gives_its_algorithms_fields(method: tuple[str, ...]) -> None:
    rl = given(*method).rl
    assert rl is not None
    assert isinstance(rl.algorithm, PPO)
    assert (rl.algorithm.lam, rl.algorithm.gamma, rl.algorithm.value_coef) == (0.95, 1.0, 0.5)
    for arguments in ((*method, "--config.rl.lam=0.9"), ("--config.rl.lam=0.9", *method)):
        changed = given(*arguments).rl
        assert changed is not None
        assert isinstance(changed.algorithm, PPO)
        assert dataclasses.replace(changed.algorithm, lam=0.95) == rl.algorithm
        assert changed.algorithm.lam == 0.9
    assert fingerprint(given(*method, "--config.rl.lam=0.9"))["rl.lam"] == 0.9
    assert "rl.normalize" not in fingerprint(given(*method))


FIELDS = {
    "ppo": "rl.lam=0.9", "dpo": "rl.beta=0.2", "grpo_os": "rl.normalize=token", "rft": "rl.normalize_by_correct=True"
}  # fmt: skip


@pytest.mark.parametrize(("method", "other"), list(itertools.permutations(FIELDS, 2)))
def test_a_field_of_another_algorithm_is_refused_in_one_sentence(method: str, other: str) -> None:
    with pytest.raises(UserError) as caught:
        given(f"--config.rl.method={method}", f"--config.{FIELDS[other]}")
    name, nearest = FIELDS[other].partition("=")[0], r"( \(the nearest is 'rl\.\w+'\))?"
    assert re.fullmatch(rf"The config has no field '{re.escape(name)}'{nearest}; see \S+tiny\.py\.", str(caught.value))
    given(f"--config.rl.method={method}", f"--config.{FIELDS[method]}")


def test_a_method_without_rollouts_on_the_command_line_leaves_their_fields_out(tmp_path: Path) -> None:
    path = tmp_path / "recipe.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'rl': {'reward_fns': (('format', 1.0),), 'num_updates': 2, 'group_size': 4}})\n"
    )
    _, recipe = parse(["main.py", f"--config={path}", "--config.rl.method=rft"])
    assert recipe.rl is not None
    assert (recipe.rl.reward_fns, recipe.rl.num_updates, recipe.rl.group_size) == ((("correct", 1.0),), 1, 4)
    with pytest.raises(UserError, match=r"^rl\.num_updates is 3, but method=rft has no rollouts of the policy"):
        parse(["main.py", f"--config={path}", "--config.rl.method=rft", "--config.rl.num_updates=3"])


def test_a_field_of_grpo_is_refused_by_ppo() -> None:
    with pytest.raises(UserError, match=r"^The config has no field 'rl\.kl' \(the nearest is 'rl\.[a-z_]+'\); see "):
        given("--config.rl.method=ppo", "--config.rl.kl=k2")


def test_a_field_of_another_algorithm_in_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'rl': {'method': 'grpo_rule', 'kl': 'k2'}})\n"
    )
    assert load_recipe(str(path)).rl.algorithm.kl == "k2"
    # Another method on the command line leaves out what only the file's own method has, and nothing else.
    _, recipe = parse(["main.py", f"--config={path}", "--config.rl.method=ppo"])
    assert recipe.rl is not None
    assert isinstance(recipe.rl.algorithm, PPO)
    for field in ("kl", "normalise"):
        path.write_text(path.read_text().replace("grpo_rule", "ppo").replace("'kl'", f"'{field}'"))
        with pytest.raises(UserError, match=rf"^rl\.{field} is not a setting; remove it or correct its name\.$"):
            load_recipe(str(path))
        with pytest.raises(UserError, match=r"^rl\.normalise is not a setting|^rl\.kl is not a setting"):
            parse(["main.py", f"--config={path}", "--config.rl.method=dpo"])


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UserError, match=r"^rl\.method must be one of 'sft', .*; got 'pppo' \(the nearest is 'ppo'\)"):
        given("--config.rl.method=pppo")
