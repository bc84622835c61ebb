"""The one entry point: `python -m dsmath_jax.main --config=configs/tiny.py --workdir=runs/tiny`.

Any field of the config may be set on the command line: `--config.rl.steps=20`. With `--config`, `--help` lists all
fields, and `--print_config` prints the config in effect as a config file.
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
from dsmath_jax.processes import joined
from dsmath_jax.recipe import Recipe
from dsmath_jax.report.report import summary_table
from dsmath_jax.runner import Planned
from dsmath_jax.settings import describe
from dsmath_jax.sharding import from_first
from dsmath_jax.stages import STAGES
from dsmath_jax.workdir import UserError, data_folder, exit_code, exit_now, local_path, read_json


def main(argv: Sequence[str]) -> None:
    """Runs the stages that the command line asks for and prints the table of results.

    Raises:
      UserError: something that the user can fix.
    """
    if HELP & set(argv):
        print(help_text(__doc__ or "", argv, define_flags()))
        return
    values, recipe = parse(argv)
    if values.print_config:
        print(config_file(recipe))
        return
    if values.workdir is None:
        raise UserError("--workdir is missing; see python -m dsmath_jax.main --help.")
    workdir = local_path(values.workdir, "--workdir")
    several = values.distributed or values.coordinator
    with joined(values.coordinator, values.processes, values.process) if several else contextlib.nullcontext():
        if values.dry_run:
            planned = runner.plan(STAGES, recipe, workdir, values.stages or (), values.overwrite)
            if jax.process_index() == 0:
                print_plan(planned, recipe, workdir)
            return
        check_same_settings(recipe, values)
        use_compilation_cache(recipe.compilation_cache, workdir)
        runner.run(STAGES, recipe, workdir, values.stages or (), values.overwrite)
        if jax.process_index() == 0 and (workdir / "report" / "report.json").is_file():
            print(summary_table(read_json(workdir / "report" / "report.json")))
            print(f"report: {workdir / 'report' / 'index.html'}")


def check_same_settings(recipe: Recipe, values: flags.FlagValues) -> None:
    """Raises a `UserError` where this process of a run was started with other settings than process 0."""
    own = {one.name: repr(one.value) for one in describe(recipe)}
    own |= {f"--{name}": repr(values[name].value) for name in ("stages", "overwrite")}
    first = from_first(own)
    for name in sorted(own.keys() | first.keys()):
        if own.get(name) != first.get(name):
            raise UserError(
                f"{name} is {own.get(name)} in this process and {first.get(name)} in process 0; start all processes "
                "with the same command."
            )


def print_plan(planned: Sequence[Planned], recipe: Recipe, workdir: Path) -> None:
    """Prints what would be done with each stage in what order, and the plan of the corpus.

    Raises:
      UserError: a stage cannot be run; the first reason is the error, others are in their stages' lines.
    """
    unsettled = {one.stage.name for one in planned if one.action != "complete"}
    for one in planned:
        if one.error:
            print(f"{one.stage.name}: refused: {one.error}")
        else:
            reads = one.stage.depends_on(recipe)
            open_ = [name for name in reads if one.action == "complete" and name in unsettled]
            condition = f" if {' and '.join(open_)} end with the same files" if open_ else ""
            print(f"{one.stage.name}: {one.action}{condition}, reads {', '.join(reads) or 'no other stage'}")
    for error in (one.error for one in planned if one.error):
        raise error
    mines = any(one.stage.name == "corpus" and one.action != "complete" for one in planned)
    if mines and recipe.corpus is not None and recipe.data_dir != "toy":
        from dsmath_jax.corpus.plan import plan  # it needs the extra `corpus`

        print("\n".join(["", *plan(recipe.corpus, data_folder(recipe.data_dir, workdir))]))


def run() -> int:
    """Runs `main` and returns the exit code."""
    return exit_code(lambda: main(sys.argv))


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s", force=True)
    for name in ("absl", "daft_local_execution"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # Orbax and Daft log what they raise as well
    if code := run():
        exit_now(code)
