"""Runs a recipe: `dsmath run --config=tiny --workdir=runs/tiny`, or `python -m dsmath_jax.main`.

`--config.rl.steps=20` sets a field of the config. With `--config`, `--help` lists all fields, and `--print_config`
prints the config in effect as a config file.
"""

import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags

from dsmath_jax import runner
from dsmath_jax.command_line import HELP, config_file, define_flags, help_text, parse
from dsmath_jax.compilation import use_compilation_cache
from dsmath_jax.processes import join_processes
from dsmath_jax.recipe import Recipe
from dsmath_jax.report.report import summary_table
from dsmath_jax.runner import Planned
from dsmath_jax.settings import field_values
from dsmath_jax.sharding import broadcast_json
from dsmath_jax.stages import STAGES, fetch_models
from dsmath_jax.workdir import UserError, data_folder, exit_code, exit_now, local_path, read_json


def main(argv: Sequence[str]) -> None:
    """Runs the stages that the command line selects and prints the table of results.

    Raises:
      UserError: the command line, the config, an input or the workdir cannot be used.
    """
    if HELP & set(argv):
        print(help_text(__doc__ or "", argv, define_flags()))
        return
    values, recipe = parse(argv)
    if values.print_config:
        print(config_file(recipe))
        return
    if values.workdir is None:
        raise UserError("--workdir is missing; see dsmath run --help.")
    workdir = local_path(values.workdir, "--workdir")
    is_distributed = values.distributed or values.coordinator
    address = values.coordinator, values.processes, values.process
    with join_processes(*address) if is_distributed else contextlib.nullcontext():
        if values.dry_run:
            planned = runner.plan(STAGES, recipe, workdir, values.stages or (), values.overwrite)
            if jax.process_index() == 0:
                print_plan(planned, recipe, workdir)
            return
        check_same_settings(recipe, values)
        use_compilation_cache(recipe.compilation_cache, workdir)
        fetch_models(recipe, workdir, values.stages or (), values.overwrite)
        runner.run(STAGES, recipe, workdir, values.stages or (), values.overwrite)
        if jax.process_index() == 0 and (workdir / "report" / "report.json").is_file():
            print(summary_table(read_json(workdir / "report" / "report.json")))
            print(f"report: {workdir / 'report' / 'index.html'}")


def check_same_settings(recipe: Recipe, values: flags.FlagValues) -> None:
    """Raises a `UserError` if this process was started with other settings than process 0."""
    own = {field.name: repr(field.value) for field in field_values(recipe)}
    own |= {f"--{name}": repr(values[name].value) for name in ("stages", "overwrite")}
    first = broadcast_json(own)
    for name in sorted(own.keys() | first.keys()):
        if own.get(name) != first.get(name):
            raise UserError(
                f"{name} is {own.get(name)} in this process and {first.get(name)} in process 0; start all "
                "processes with the same command."
            )


def print_plan(planned: Sequence[Planned], recipe: Recipe, workdir: Path) -> None:
    """Prints the action planned for each stage, in order, and the plan of the corpus.

    Raises:
      UserError: a stage cannot run; the first reason is raised, the others are printed with their stages.
    """
    incomplete = {step.stage.name for step in planned if step.action != "complete"}
    for step in planned:
        if step.error:
            print(f"{step.stage.name}: refused: {step.error}")
        else:
            reads = step.stage.depends_on(recipe)
            pending = [name for name in reads if step.action == "complete" and name in incomplete]
            condition = f" if the files of {' and '.join(pending)} do not change" if pending else ""
            print(f"{step.stage.name}: {step.action}{condition}, reads {', '.join(reads) or 'no other stage'}")
    for error in (step.error for step in planned if step.error):
        raise error
    if "corpus" in incomplete and recipe.corpus is not None and recipe.data_dir != "toy":
        from dsmath_jax.corpus.plan import plan  # it needs the extra `corpus`

        print("\n".join(["", *plan(recipe.corpus, data_folder(recipe.data_dir, workdir))]))


def run() -> int:
    """Runs `main` and returns the exit code."""
    return exit_code(lambda: main(sys.argv))


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s", force=True)
    for name in ("absl", "daft_local_execution"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # Orbax and Daft also log the errors they raise
    if code := run():
        exit_now(code)
