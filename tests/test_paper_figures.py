"""The recipes of the paper's figures, and the driver that runs them all."""

import importlib.util
import os
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ml_collections import ConfigDict

from dsmath_jax import runner
from dsmath_jax.command_line import load_config, load_recipe, parse
from dsmath_jax.recipe import Recipe
from dsmath_jax.rl.methods import METHODS, REWARD_STAGES
from dsmath_jax.stages import STAGES
from dsmath_jax.workdir import UserError

ROOT = Path(__file__).parents[1]
FIG5 = f"{ROOT}/configs/paper/fig5_rl_methods.py"


def load_driver() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paper_figures", ROOT / "launch" / "paper_figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


driver = load_driver()


def read(name: str) -> Recipe:
    return load_recipe(f"{ROOT}/configs/paper/{name}")


def fields_of(name: str) -> dict[str, Any]:
    """What the file of a recipe sets, by the fields' full names."""
    return flat(load_config(f"{ROOT}/configs/paper/{name}"))


def flat(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """A config as `a.b.c -> value`."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        fields |= flat(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return fields


def stages_of(recipe: Recipe) -> list[runner.Stage]:
    """What the command runs: the stages that the recipe has a section for, but for the report."""
    return [stage for stage in STAGES if getattr(recipe, stage.name, None) is not None]


def test_a_method_finds_what_it_reads_in_the_shared_start() -> None:
    made = {stage.name for stage in stages_of(read("fig5_rl_methods.py:start"))}
    assert {"corpus", "tokenizer", "pretrain", "sft", *REWARD_STAGES.values()} <= made
    for name in driver.METHODS:
        recipe = read(f"fig5_rl_methods.py:{name}")
        ran = [stage.name for stage in stages_of(recipe)]
        assert ran == ["rl", "evaluate"]
        assert {needed for stage in stages_of(recipe) for needed in stage.depends_on(recipe)} <= made | {"rl"}


def test_methods_differ_in_the_method_alone() -> None:
    recipes = {name: fields_of(f"fig5_rl_methods.py:{name}") for name in driver.METHODS}
    for name, fields in recipes.items():
        changed = {field for field in fields if fields[field] != recipes["grpo_os"].get(field)}
        assert changed <= {"rl.method"}
        # The coefficient of the KL is a field of GRPO alone.
        assert recipes["grpo_os"].keys() - fields.keys() == (set() if name.startswith("grpo") else {"rl.kl_coef"})
        assert fields["rl.method"] in METHODS
    rft = read("fig5_rl_methods.py:rft").rl
    assert rft.offline_prompts == rft.prompts_per_step * rft.steps


def test_iterations_differ_from_one_round_in_the_rounds_alone() -> None:
    once, iterative = (fields_of(name) for name in ("fig5_rl_methods.py:grpo_os", "fig6_iterative.py"))
    changed = {k for k in iterative if iterative.get(k) != once.get(k) and not k.startswith("rl.retrain.")}
    assert changed == {"rl.method", "rl.rounds"}
    assert once.keys() <= iterative.keys()
    settings = read("fig6_iterative.py").rl
    assert METHODS[settings.method].iterative
    assert settings.reward_source == "outcome"
    assert settings.steps % settings.rounds == 0


def test_votes_are_counted_at_the_papers_temperature_on_the_same_problems() -> None:
    votes, trained = read("fig7_maj_pass_at_k.py"), read("fig5_rl_methods.py:grpo_ps")
    assert [stage.name for stage in stages_of(votes)] == ["evaluate"]
    assert (votes.evaluate.temperature, votes.evaluate.samples, votes.evaluate.models) == (0.7, 32, ("sft", "rl"))
    assert votes.evaluate.tasks == trained.evaluate.tasks
    assert votes.evaluate.problems <= trained.evaluate.problems


def test_what_is_measured_is_not_learnt_from() -> None:
    start = read("fig5_rl_methods.py:start")
    assert {"toy/rl", "toy/test"} <= set(start.corpus.benchmarks)
    learnt = {*start.sft.data, *start.reward_model.data, *start.process_model.data}
    for name in driver.METHODS:
        one = read(f"fig5_rl_methods.py:{name}")
        assert not {*one.evaluate.tasks, *one.rl.eval_data} & {*learnt, *one.rl.data}


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(
        UserError, match="has no variant 'ppo'; it has grpo_ps, grpo_os, grpo_rule, rft, online_rft, start"
    ):
        load_config(f"{FIG5}:ppo")


def test_every_command_of_the_driver_is_one_that_main_takes(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert driver.main(["--dry-run", "--seeds=0,3", str(tmp_path)]) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    runs = [command[2:] for command in commands if command[2] == "dsmath_jax.main"]
    assert len(runs) == 1 + 2 * (len(driver.METHODS) + 2)
    made: set[Path] = set()
    seeds: set[int] = set()
    for arguments in runs:
        values, recipe = parse(arguments)
        assert not recipe.start or Path(recipe.start) in made
        made.add(Path(values.workdir))
        seeds.add(recipe.seed)
    assert seeds == {0, 3}
    tables = [command for command in commands if command[2] == "dsmath_jax.report.comparison"]
    assert [Path(command[3].removeprefix("--out=")).name for command in tables] == ["fig5", "fig6", "fig7"]
    assert {Path(name) for command in tables for name in command[5:]} <= made


def stand_in(folder: Path, fails: str) -> str:
    """A program in Python's place that writes down its arguments, and fails for one workdir."""
    path = folder / "python"
    path.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/calls\ncase "$*" in *{fails}*) exit 2;; esac\n', encoding="utf-8"
    )
    path.chmod(0o755)
    return str(path)


def test_a_run_that_fails_keeps_back_what_builds_on_it(monkeypatch, tmp_path: Path, capsys) -> None:
    arguments = [f"--cores={min(os.sched_getaffinity(0))}", "--seeds=0", str(tmp_path / "figures")]
    monkeypatch.setattr(sys, "executable", stand_in(tmp_path, "grpo_ps-0"))
    assert driver.main(arguments) == 1
    assert "error: grpo_ps-0 failed" in capsys.readouterr().err
    first = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert len(first) == 1 + len(driver.METHODS) + 1  # the others of its wave were run, no votes and no tables
    (tmp_path / "calls").unlink()
    monkeypatch.setattr(sys, "executable", stand_in(tmp_path, "nothing"))
    assert driver.main(arguments) == 0
    again = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert again[: len(first)] == first
    assert len(again) == len(first) + 1 + 3
