"""The one entry point: `python -m dsmath_jax.main --config=configs/tiny.py --workdir=runs/tiny`.

Any field of the config may be set on the command line: `--config.rl.steps=20`.
"""

import difflib
import inspect
import logging
import os
import re
import runpy
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from dsmath_jax import runner
from dsmath_jax.report.report import summary_table
from dsmath_jax.stages import STAGES
from dsmath_jax.workdir import UserError, full_disk, read_json

HELP = {"--help", "-help", "-h", "--helpfull", "--helpshort"}
SEE_HELP = "see python -m dsmath_jax.main --help"
OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")


def main(argv: Sequence[str]) -> None:
    """Runs the stages that the command line asks for and prints the table of results.

    Raises:
      UserError: something the user can mend.
    """
    if HELP & set(argv):
        print(f"{__doc__}\nflags:\n{define_flags(ConfigDict(), []).get_help()}")
        return
    values = parse(argv)
    known = [stage.name for stage in STAGES]
    names = values.stages or known
    for name in [*names, *values.overwrite]:
        if name not in known:
            raise UserError(f"Unknown stage '{name}'{nearest(name, known)}; the stages are {', '.join(known)}.")
    if values.distributed:
        jax.distributed.initialize()
    workdir = Path(values.workdir)
    runner.run(STAGES, values.config, workdir, names, values.overwrite)
    if jax.process_index() == 0 and (workdir / "report" / "report.json").is_file():
        print(summary_table(read_json(workdir / "report" / "report.json")))
        print(f"report: {workdir / 'report' / 'index.html'}")


def define_flags(config: ConfigDict, argv: Sequence[str]) -> flags.FlagValues:
    """The flags of a run, with one for each field of `config` that `argv` sets."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Where the run keeps its files: a local or shared folder.", values)
    flags.DEFINE_list("stages", None, "Stages to run; all by default.", values)
    flags.DEFINE_list("overwrite", [], "Stages to redo, with those of --stages that read them.", values)
    flags.DEFINE_bool("distributed", False, "Several hosts: call jax.distributed.initialize().", values)
    about = "The recipe: configs/NAME.py or configs/NAME.py:VARIANT; --config.FIELD=VALUE changes a field."
    config_flags.DEFINE_config_dict("config", config, about, values, sys_argv=list(argv))
    return values


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """Reads the command line and the config file that it names.

    Raises:
      UserError: a flag, the file, a field or a value is wrong.
    """
    recipe = flags.FlagValues()
    recipe.set_gnu_getopt()  # the values of fields, unknown so far, may stand between the flags
    flags.DEFINE_string("config", None, "", recipe)
    fields: dict[str, Any] = {}
    try:
        argv = recipe(argv, known_only=True)
        if recipe.config is None:
            raise UserError(f"--config is missing; {SEE_HELP}.")
        config = load_config(recipe.config)
        fields = runner.flat(config)
        for name in (match[1] for match in map(OVERRIDE.match, argv) if match):
            if name not in fields:
                raise UserError(f"The config has no field '{name}'{nearest(name, fields)}; see {recipe.config}.")
            if not name.replace(".", "_").isidentifier():
                raise UserError(f"The field '{name}' cannot be set on the command line; set it in {recipe.config}.")
        values = define_flags(config, argv)
        rest = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"Unknown flag --{error.flagname}{nearest(error.flagname, values)}; {SEE_HELP}.") from error
    except flags.IllegalFlagValueError as error:
        given = str(error).removeprefix("flag ").split(": ")[0]
        name = given.partition("=")[0].removeprefix("--config.")
        wrong = f"is no {type(fields[name]).__name__} like {fields[name]!r}" if name in fields else "is of a wrong type"
        raise UserError(f"{given} {wrong}; {SEE_HELP}.") from error
    except flags.Error as error:
        raise UserError(f"{error}; {SEE_HELP}.") from error
    if rest:
        raise UserError(f"Unknown argument '{rest[0]}': flags begin with --; {SEE_HELP}.")
    if values.workdir is None:
        raise UserError(f"--workdir is missing; {SEE_HELP}.")
    for name, value in runner.flat(values.config).items():
        # ml_collections holds a field to its type, but not the items of a tuple.
        if isinstance(value, list) and fields[name] and {*map(type, value)} - {*map(type, fields[name])}:
            raise UserError(f"--config.{name}={value} is wrong: the items must be of the types in {fields[name]}.")
    return values


def load_config(argument: str) -> ConfigDict:
    """What `get_config()` of `FILE`, or `get_config(VARIANT)` of `FILE:VARIANT`, returns.

    Raises:
      UserError: there is no such file, it takes no variant, or it fails.
    """
    path, *variant = argument.split(":", 1)
    if not Path(path).is_file():
        raise UserError(f"There is no config file {path}; give one as --config=configs/tiny.py.")
    try:
        get_config = runpy.run_path(path)["get_config"]
        parameters = inspect.signature(get_config).parameters
        if variant and not parameters:
            raise UserError(f"The config file {path} has no variants; leave ':{variant[0]}' out.")
        config = get_config(*variant)
        if not isinstance(config, ConfigDict):
            raise UserError(f"The config {argument}: get_config() returns {type(config).__name__}, no ConfigDict.")
        return config
    except UserError:
        raise
    except Exception as error:  # the file is anybody's code
        raise UserError(f"The config {argument} fails with {type(error).__name__}: {error}; mend the file.") from error


def nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (the nearest is '{near[0]}')" if near else ""


def run() -> int:
    """Runs `main` and returns the exit code: 2, with one sentence, for the user's errors and a full disk."""
    try:
        main(sys.argv)
        return 0
    except UserError as error:
        sentence = str(error)
    except Exception as error:
        reason = full_disk(error)
        if reason is None:
            raise
        sentence = f"A file cannot be written ({reason}); free space and run the same command again, it goes on."
    print(f"error: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s", force=True)
    for name in ("absl", "daft_local_execution"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # Orbax and Daft log what they raise as well
    if code := run():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # the threads of libraries, cut off in their work, may hang or abort an orderly end
