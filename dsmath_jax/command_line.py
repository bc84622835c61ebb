"""The command line: flags, the config file that it names, the fields it sets. An error is one sentence.

`--config.PART.FIELD=VALUE` is not a flag of absl's: the fields are those of the settings' classes, not of what a config
file states, so that a dict may get a new key, and a part may be switched on or off.
"""

import ast
import inspect
import logging
import re
import runpy
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from dsmath_jax.recipe import Recipe
from dsmath_jax.rl.settings import with_method
from dsmath_jax.settings import Declared, build, declared, describe, nearest, range_words
from dsmath_jax.workdir import UserError

HELP = {"--help", "-help", "-h", "--helpfull", "--helpshort"}
CHANGE = re.compile(r"--?(no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)
HERE = Path(__file__).parent
RECIPES = HERE / "configs" if (HERE / "configs").is_dir() else HERE.parent / "configs"  # installed; in a checkout
METHOD = "rl.method"  # the field on which other fields depend
BOOLS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


class Change(NamedTuple):
    """A field that the command line sets: `text` is True or False for `--config.FIELD` and `--noconfig.FIELD`."""

    name: str
    text: str | bool


def define_flags() -> flags.FlagValues:
    """The flags of a run."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Where the run keeps its files: a local or shared folder.", values)
    flags.DEFINE_list("stages", None, "Stages to run; by default all that the config has a part for.", values)
    flags.DEFINE_list("overwrite", [], "Stages to redo, with those of --stages that read them.", values)
    flags.DEFINE_bool("distributed", False, "This is one process of several, which JAX finds (TPU, SLURM).", values)
    flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, where JAX cannot find it by itself.", values)
    flags.DEFINE_integer("processes", 0, "How many processes there are, with --coordinator.", flag_values=values)
    flags.DEFINE_integer("process", -1, "The number of this one, from 0, with --coordinator.", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Print what the run would do and end; for the corpus with its cost.", values)
    flags.DEFINE_bool("print_config", False, "Print the config in effect, as a config file, and end.", values)
    define_config(values)
    return values


def define_config(values: flags.FlagValues) -> None:
    """Adds --config."""
    about = (
        "The recipe: a name (tiny, tiny:sft_continued, paper/fig6_iterative) or a file; --config.FIELD=VALUE changes "
        "a field, and --help with a --config lists all fields."
    )
    flags.DEFINE_string("config", None, about, values)


def parse(
    argv: Sequence[str], define: Callable[[], flags.FlagValues] = define_flags, tool: str = "dsmath run"
) -> tuple[flags.FlagValues, Recipe]:
    """Reads the command line and the config file that it names; returns the flags and the recipe.

    Args:
      argv: the tool's name and its arguments.
      define: makes the tool's flags.
      tool: the command to ask for --help.

    Raises:
      UserError: a flag, the file, a field or a value is wrong.
    """
    values, changes = _parse_flags(argv, define(), f"see {tool} --help")
    if values.config is None:
        raise UserError(f"--config is missing; see {tool} --help.")
    return values, build(Recipe, _changed(values.config, changes))


def _parse_flags(argv: Sequence[str], values: flags.FlagValues, see: str) -> tuple[flags.FlagValues, list[Change]]:
    """The flags, and the fields that are set between them."""
    others, changes = _split(argv)
    try:
        rest = values(others)[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"Unknown flag --{error.flagname}{nearest(error.flagname, values)}; {see}.") from error
    except flags.IllegalFlagValueError as error:
        given = str(error).removeprefix("flag ").split(": ")[0]
        raise UserError(f"{given} is of a wrong type; {see}.") from error
    except flags.Error as error:
        raise UserError(f"{error}; {see}.") from error
    if rest:
        raise UserError(f"Unknown argument '{rest[0]}': flags begin with --; {see}.")
    return values, changes


def load_recipe(argument: str) -> Recipe:
    """The recipe of `FILE` or `FILE:VARIANT`, without a command line.

    Raises:
      UserError: there is none, or it cannot work.
    """
    return build(Recipe, load_config(argument).to_dict())


# --- --config.FIELD=VALUE ---


def _split(argv: Sequence[str]) -> tuple[list[str], list[Change]]:
    """The arguments without those that set fields, `--config.a=b`, `--config.a b`, `--config.a` and `--noconfig.a`."""
    others, changes, rest = list[str](), list[Change](), list(argv)
    while rest:
        match = CHANGE.fullmatch(rest[0])
        if match is None:
            others.append(rest.pop(0))
            continue
        argument, (no, name, text) = rest.pop(0), match.groups()
        if no and text is not None:
            raise UserError(f"{argument} takes no value; give --noconfig.{name} alone, or --config.{name}={text}.")
        if text is None and not no and rest and not re.match(r"-[^\d.]", rest[0]):
            text = rest.pop(0)
        changes.append(Change(name, not no if text is None else text))
    return others, changes


def _changed(argument: str, changes: Sequence[Change]) -> dict[str, Any]:
    """What the config file states, with the changes of the command line in their order."""
    tree = load_config(argument).to_dict()
    for change in [one for one in changes if one.name == METHOD][-1:]:  # first: it decides which fields there are
        own = tree.get("rl")
        if isinstance(own, dict) and isinstance(change.text, str):
            tree["rl"] = with_method(own, change.text)
            for name in own.keys() - tree["rl"].keys():
                logging.warning("rl.%s of %s is no setting of %s=%s and is left out.", name, argument, *change)
        _set(tree, change, argument)
    for change in changes:
        _set(tree, change, argument)
    return tree


def _set(tree: dict[str, Any], change: Change, argument: str) -> None:
    """Sets one field, part or key of a dict in the nested fields of a recipe.

    Raises:
      UserError: there is no such field, or it takes a value and got none.
    """
    fields = {one.name: one for one in declared(Recipe, tree)}
    field = fields.get(change.name) or _dict_of(change.name, fields)
    if field is None:
        raise UserError(f"The config has no field '{change.name}'{nearest(change.name, fields)}; see {argument}.")
    *parts, last = field.name.split(".")
    for depth, part in enumerate(parts, 1):
        if tree.get(part) is None:
            name = ".".join(parts[:depth])
            if fields[name].default is None:
                logging.warning("%s has no part %s; --config.%s switches it on.", argument, name, change.name)
            tree[part] = {}
        if not isinstance(tree[part], dict):
            name = ".".join(parts[:depth])
            raise UserError(f"{name} is {tree[part]!r}, so that {change.name} cannot be set; give {name} as a dict.")
        tree = tree[part]
    hint = field.hint
    if change.name != field.name:  # a key of a dict, which has the default's keys unless the config has a dict
        tree, last = tree.setdefault(last, field.default), change.name.removeprefix(f"{field.name}.")
        hint = typing.get_args(hint)[1]
    if isinstance(change.text, bool) and hint is not bool:
        raise UserError(f"--config.{change.name} has no value; give it as --config.{change.name}=VALUE.")
    tree[last] = from_text(hint, change.text) if isinstance(change.text, str) else change.text


def _dict_of(name: str, fields: Mapping[str, Declared]) -> Declared | None:
    """The field that is a dict and may have the key `name`: pretrain.mixture of pretrain.mixture.corpus/en."""
    dicts = (one for one in fields.values() if typing.get_origin(one.hint) is dict)
    return next((one for one in dicts if name.startswith(f"{one.name}.") and name != f"{one.name}."), None)


def from_text(hint: Any, text: str) -> Any:
    """The value that a text on the command line stands for, where it is one of the field's annotation.

    Tuples, dicts and numbers are Python literals; a text that is none is itself, and alone in a tuple of values.
    """
    arguments = typing.get_args(hint)
    if hint is bool:
        return BOOLS.get(text.lower(), text)
    if hint is str or (isinstance(hint, types.UnionType) and str in arguments and not text.startswith(("(", "["))):
        return text
    if typing.get_origin(hint) is tuple and arguments[-1] is ... and not text.startswith(("(", "[")):
        return (from_text(arguments[0], text),) if text else ()
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


# --- what --help and --print_config print ---


def help_text(about: str, argv: Sequence[str], values: flags.FlagValues) -> str:
    """What a tool is, its flags and, where `argv` has a config, its fields with their values.

    Raises:
      UserError: the config or a field of the command line is wrong.
    """
    text = f"{about}\nflags:\n{values.get_help()}"
    asked, changes = _parse_flags([one for one in argv if one not in HELP], values, "leave --help out")
    if asked.config is None:
        return text
    tree = _changed(asked.config, changes)
    return "\n".join([text, f"fields of {asked.config}:", *field_lines(build(Recipe, tree), tree)])


def field_lines(recipe: Recipe, given: Mapping[str, Any]) -> Iterator[str]:
    """One line for each field, with its value, its help and its range; last those of parts that are off.

    Args:
      recipe: built from `given`.
      given: the nested fields that a config states.
    """
    fields = [one for one in declared(Recipe, given) if not one.is_part]
    values = {one.name: one.value for one in describe(recipe)}
    for one in fields:
        if one.name in values:
            yield _field_line(one, repr(values[one.name]), "")
    for one in fields:
        if one.name not in values:
            yield _field_line(one, "REQUIRED" if one.required else repr(one.default), f"{_part_of(one.name)} is off: ")


def _part_of(name: str) -> str:
    return name.rpartition(".")[0]


def _field_line(one: Declared, value: str, before: str) -> str:
    words = range_words(one.field.metadata["limits"])
    return f"config.{one.name} = {value}  # {before}{one.field.metadata['help']}" + (f" ({words})" if words else "")


def config_file(recipe: Recipe) -> str:
    """The recipe as a config file that states every field."""
    lines, parts = list[str](), set[str]()
    for one in describe(recipe):
        if one.value is None:
            continue
        above = one.name.split(".")[:-1]
        for part in (".".join(above[:depth]) for depth in range(1, len(above) + 1)):
            if part not in parts:
                parts.add(part)
                lines.append(f"config.{part} = ConfigDict()")
        lines.append(f"config.{one.name} = {one.value!r}")
    body = "\n".join(f"    {line}" for line in ("config = ConfigDict()", *lines, "return config"))
    return f"from ml_collections import ConfigDict\n\n\ndef get_config() -> ConfigDict:\n{body}"


# --- the config file ---


def config_path(name: str) -> Path:
    """The config file of a path, or of a recipe of this package by its name without `.py`.

    Raises:
      UserError: there is none.
    """
    if Path(name).is_file():
        return Path(name)
    recipes = {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in sorted(RECIPES.rglob("*.py"))}
    if name not in recipes:
        near = nearest(name.removeprefix("configs/").removesuffix(".py"), recipes)
        raise UserError(
            f"There is no config file {name} and no recipe of that name{near}; give a file or one of "
            f"{', '.join(recipes)}."
        )
    return recipes[name]


def load_config(argument: str) -> ConfigDict:
    """What `get_config()` of `FILE`, or `get_config(VARIANT)` of `FILE:VARIANT`, returns; see `config_path` for FILE.

    Raises:
      UserError: there is no such file, it takes no variant, or it fails.
    """
    name, *variant = argument.split(":", 1)
    path = str(config_path(name))
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
