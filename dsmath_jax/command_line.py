"""The command line: flags, the config file that it names, the fields it sets. An error is one sentence."""

import inspect
import logging
import re
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from dsmath_jax.recipe import Recipe
from dsmath_jax.rl.settings import with_method
from dsmath_jax.settings import build, complete, nearest
from dsmath_jax.workdir import UserError

OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")
METHOD = re.compile(r"--?config\.rl\.method(?:=(.*))?")  # the field on which other fields depend


def define_flags(config: ConfigDict, argv: Sequence[str]) -> flags.FlagValues:
    """The flags of a run, with one for each field of `config` that `argv` sets."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Where the run keeps its files: a local or shared folder.", values)
    flags.DEFINE_list("stages", None, "Stages to run; by default all that the config has a part for.", values)
    flags.DEFINE_list("overwrite", [], "Stages to redo, with those of --stages that read them.", values)
    flags.DEFINE_bool("distributed", False, "This is one process of several, which JAX finds (TPU, SLURM).", values)
    flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, where JAX cannot find it by itself.", values)
    flags.DEFINE_integer("processes", 0, "How many processes there are, with --coordinator.", flag_values=values)
    flags.DEFINE_integer("process", -1, "The number of this one, from 0, with --coordinator.", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Print what the run would do and end; for the corpus with its cost.", values)
    define_config(config, argv, values)
    return values


def define_config(config: ConfigDict, argv: Sequence[str], values: flags.FlagValues) -> None:
    """Adds --config, and a flag for each field of `config` that `argv` sets."""
    about = "The recipe: configs/NAME.py or configs/NAME.py:VARIANT; --config.FIELD=VALUE changes a field."
    config_flags.DEFINE_config_dict("config", config, about, values, sys_argv=list(argv))


def parse(
    argv: Sequence[str],
    define: Callable[[ConfigDict, Sequence[str]], flags.FlagValues] = define_flags,
    tool: str = "dsmath_jax.main",
) -> tuple[flags.FlagValues, Recipe]:
    """Reads the command line and the config file that it names; returns the flags and the recipe.

    Args:
      argv: the tool's name and its arguments.
      define: makes the tool's flags for a config.
      tool: the module to ask for --help.

    Raises:
      UserError: a flag, the file, a field or a value is wrong.
    """
    see = f"see python -m {tool} --help"
    recipe = flags.FlagValues()
    recipe.set_gnu_getopt()  # the values of fields, unknown so far, may stand between the flags
    flags.DEFINE_string("config", None, "", recipe)
    fields: dict[str, Any] = {}
    try:
        argv = recipe(argv, known_only=True)
        if recipe.config is None:
            raise UserError(f"--config is missing; {see}.")
        config = load_config(recipe.config)
        stated = config.to_dict()
        if isinstance(stated.get("rl"), dict) and (method := _given_method(argv)):
            own, stated["rl"] = stated["rl"], with_method(stated["rl"], method)
            for name in own.keys() - stated["rl"].keys():
                logging.warning(
                    "rl.%s of %s is no setting of rl.method=%s and is left out.", name, recipe.config, method
                )
        config = ConfigDict(complete(Recipe, stated))
        fields = flat(config)
        for name in (match[1] for match in map(OVERRIDE.match, argv) if match):
            if name not in fields:
                raise UserError(f"The config has no field '{name}'{nearest(name, fields)}; see {recipe.config}.")
            if not name.replace(".", "_").isidentifier():
                raise UserError(f"The field '{name}' cannot be set on the command line; set it in {recipe.config}.")
        values = define(config, argv)
        rest = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"Unknown flag --{error.flagname}{nearest(error.flagname, values)}; {see}.") from error
    except flags.IllegalFlagValueError as error:
        given = str(error).removeprefix("flag ").split(": ")[0]
        name = given.partition("=")[0].removeprefix("--config.")
        wrong = f"is no {type(fields[name]).__name__} like {fields[name]!r}" if name in fields else "is of a wrong type"
        raise UserError(f"{given} {wrong}; {see}.") from error
    except flags.Error as error:
        raise UserError(f"{error}; {see}.") from error
    if rest:
        raise UserError(f"Unknown argument '{rest[0]}': flags begin with --; {see}.")
    return values, build(Recipe, values.config.to_dict())


def load_recipe(argument: str) -> Recipe:
    """The recipe of `FILE` or `FILE:VARIANT`, without a command line.

    Raises:
      UserError: there is none, or it cannot work.
    """
    return build(Recipe, load_config(argument).to_dict())


def _given_method(argv: Sequence[str]) -> str | None:
    """The method of RL that the arguments name, if they do: the algorithm's fields depend on it."""
    found = None
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if match := METHOD.fullmatch(argument):
            found = following if match[1] is None else match[1]
    return found


def flat(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """A config as `a.b.c -> value`."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        fields |= flat(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return fields


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
        raise UserError(f"The config {argument} fails with {type(error).__name__}: {error}; fix the file.") from error
