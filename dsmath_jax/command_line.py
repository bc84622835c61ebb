"""The command line: flags, the config file, and the fields set by `--config.SECTION.FIELD=VALUE`.

These are not absl flags. The fields are those of the settings classes, whether or not a config file sets them, so that
a dict can get a new key and a section can be switched on or off.
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
from dsmath_jax.settings import FieldSpec, build, field_specs, field_values, nearest, range_text
from dsmath_jax.workdir import UserError

HELP = {"--help", "-help", "-h", "--helpfull", "--helpshort"}
CHANGE = re.compile(r"--?(no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)
HERE = Path(__file__).parent
RECIPES = HERE / "configs" if (HERE / "configs").is_dir() else HERE.parent / "configs"  # installed; in a checkout
METHOD = "rl.method"  # decides which other fields rl has
BOOLS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


class Change(NamedTuple):
    """A field set on the command line; `text` is True or False for `--config.FIELD` and `--noconfig.FIELD`."""

    name: str
    text: str | bool


def define_flags() -> flags.FlagValues:
    """Returns the flags of `dsmath_jax.main`."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "The folder of the run's files, local or shared.", values)
    flags.DEFINE_list("stages", None, "Stages to run; by default all that the config has a section for.", values)
    flags.DEFINE_list("overwrite", [], "Stages to redo, with those of --stages that read them.", values)
    flags.DEFINE_bool("distributed", False, "Run as one of several processes, which JAX detects (TPU, SLURM).", values)
    flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, if JAX cannot detect it.", values)
    flags.DEFINE_integer("processes", 0, "Number of processes, with --coordinator.", flag_values=values)
    flags.DEFINE_integer("process", -1, "Index of this process from 0, with --coordinator.", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Print the planned actions and the corpus's cost, then exit.", values)
    flags.DEFINE_bool("print_config", False, "Print the config in effect as a config file, then exit.", values)
    define_config(values)
    return values


def define_config(values: flags.FlagValues) -> None:
    """Adds the flag --config."""
    about = (
        "The recipe: a name (tiny, tiny:sft_continued, paper/fig6_iterative) or a file; --config.FIELD=VALUE sets a "
        "field, and --help with --config lists all fields."
    )
    flags.DEFINE_string("config", None, about, values)


def parse(
    argv: Sequence[str], define: Callable[[], flags.FlagValues] = define_flags, tool: str = "dsmath run"
) -> tuple[flags.FlagValues, Recipe]:
    """Parses the command line and its config file; returns the flags and the recipe.

    Args:
      argv: the tool's name and its arguments.
      define: returns the tool's flags.
      tool: the command that errors refer to for --help.

    Raises:
      UserError: a flag, the config file, a field or a value is invalid.
    """
    values, changes = _parse_flags(argv, define(), f"see {tool} --help")
    if values.config is None:
        raise UserError(f"--config is missing; see {tool} --help.")
    return values, build(Recipe, _changed(values.config, changes))


def _parse_flags(argv: Sequence[str], values: flags.FlagValues, see: str) -> tuple[flags.FlagValues, list[Change]]:
    """Returns the flags, and the fields set between them."""
    others, changes = _split(argv)
    try:
        rest = values(others)[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"Unknown flag --{error.flagname}{nearest(error.flagname, values)}; {see}.") from error
    except flags.IllegalFlagValueError as error:
        flag = str(error).removeprefix("flag ").split(": ")[0]
        raise UserError(f"{flag} has the wrong type; {see}.") from error
    except flags.Error as error:
        raise UserError(f"{error}; {see}.") from error
    if rest:
        raise UserError(f"Unknown argument '{rest[0]}': flags begin with --; {see}.")
    return values, changes


def load_recipe(argument: str) -> Recipe:
    """Loads the recipe of `FILE` or `FILE:VARIANT`.

    Raises:
      UserError: there is no such file or variant, or the recipe is invalid.
    """
    return build(Recipe, load_config(argument).to_dict())


# --- --config.FIELD=VALUE ---


def _split(argv: Sequence[str]) -> tuple[list[str], list[Change]]:
    """Splits off the arguments that set fields: `--config.a=b`, `--config.a b`, `--config.a` and `--noconfig.a`."""
    others, changes, rest = list[str](), list[Change](), list(argv)
    while rest:
        match = CHANGE.fullmatch(rest[0])
        if match is None:
            others.append(rest.pop(0))
            continue
        argument, (no, name, text) = rest.pop(0), match.groups()
        if no and text is not None:
            raise UserError(f"{argument} takes no value; give --noconfig.{name} or --config.{name}={text}.")
        if text is None and not no and rest and not re.match(r"-[^\d.]", rest[0]):
            text = rest.pop(0)
        changes.append(Change(name, not no if text is None else text))
    return others, changes


def _changed(argument: str, changes: Sequence[Change]) -> dict[str, Any]:
    """Returns the fields of the config file with the changes of the command line, in their order."""
    tree = load_config(argument).to_dict()
    for change in [change for change in changes if change.name == METHOD][-1:]:  # first: decides which fields exist
        before = tree.get("rl")
        if isinstance(before, dict) and isinstance(change.text, str):
            tree["rl"] = with_method(before, change.text)
            for name in before.keys() - tree["rl"].keys():
                logging.warning("rl.%s of %s is not a setting of %s=%s and is ignored.", name, argument, *change)
        _set(tree, change, argument)
    for change in changes:
        _set(tree, change, argument)
    return tree


def _set(tree: dict[str, Any], change: Change, argument: str) -> None:
    """Sets one field, section or key of a dict in the nested fields of a recipe.

    Raises:
      UserError: the field is unknown, or its value is missing.
    """
    fields = {field.name: field for field in field_specs(Recipe, tree)}
    field = fields.get(change.name) or _dict_of(change.name, fields)
    if field is None:
        raise UserError(f"The config has no field '{change.name}'{nearest(change.name, fields)}; see {argument}.")
    *sections, last = field.name.split(".")
    for depth, section in enumerate(sections, 1):
        if tree.get(section) is None:
            name = ".".join(sections[:depth])
            if fields[name].default is None:
                logging.warning("%s has no section %s; --config.%s switches it on.", argument, name, change.name)
            tree[section] = {}
        if not isinstance(tree[section], dict):
            name = ".".join(sections[:depth])
            raise UserError(f"{name} is {tree[section]!r}, so {change.name} cannot be set; give {name} as a dict.")
        tree = tree[section]
    hint = field.hint
    if change.name != field.name:  # a key of a dict, by default of the field's default
        tree, last = tree.setdefault(last, field.default), change.name.removeprefix(f"{field.name}.")
        hint = typing.get_args(hint)[1]
    if isinstance(change.text, bool) and hint is not bool:
        raise UserError(f"--config.{change.name} has no value; give it as --config.{change.name}=VALUE.")
    tree[last] = from_text(hint, change.text) if isinstance(change.text, str) else change.text


def _dict_of(name: str, fields: Mapping[str, FieldSpec]) -> FieldSpec | None:
    """Returns the dict field of a key: pretrain.mixture for pretrain.mixture.corpus/en."""
    dicts = (field for field in fields.values() if typing.get_origin(field.hint) is dict)
    return next((field for field in dicts if name.startswith(f"{field.name}.") and name != f"{field.name}."), None)


def from_text(hint: Any, text: str) -> Any:
    """Parses a field's value on the command line by the field's annotation.

    Tuples, dicts and numbers are Python literals. Other text stays a string, for a tuple field its only item.
    """
    arguments = typing.get_args(hint)
    if hint is bool or (bool in arguments and text.lower() in ("true", "false")):
        return BOOLS.get(text.lower(), text)
    is_text = isinstance(hint, types.UnionType) and str in arguments and float not in arguments
    if hint is str or (is_text and not text.startswith(("(", "["))):
        return text
    if typing.get_origin(hint) is tuple and arguments[-1] is ... and not text.startswith(("(", "[")):
        return (from_text(arguments[0], text),) if text else ()
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


# --- --help and --print_config ---


def help_text(about: str, argv: Sequence[str], values: flags.FlagValues) -> str:
    """Returns the text of --help: `about`, the flags and, if `argv` has a config, its fields with their values.

    Raises:
      UserError: the config or a field on the command line is invalid.
    """
    text = f"{about}\nflags:\n{values.get_help()}"
    values, changes = _parse_flags([arg for arg in argv if arg not in HELP], values, "remove --help")
    if values.config is None:
        return text
    tree = _changed(values.config, changes)
    return "\n".join([text, f"fields of {values.config}:", *field_lines(build(Recipe, tree), tree)])


def field_lines(recipe: Recipe, config: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line for each field, with its value, help and range; fields of sections that are off come last.

    Args:
      recipe: the recipe built from `config`.
      config: the nested fields that a config sets.
    """
    fields = [field for field in field_specs(Recipe, config) if not field.is_section]
    values = {field.name: field.value for field in field_values(recipe)}
    for field in fields:
        if field.name in values:
            yield _field_line(field, repr(values[field.name]), "")
    for field in fields:
        if field.name not in values:
            section = field.name.rpartition(".")[0]
            yield _field_line(field, "REQUIRED" if field.required else repr(field.default), f"{section} is off: ")


def _field_line(declaration: FieldSpec, value: str, prefix: str) -> str:
    metadata = declaration.field.metadata
    words = range_text(metadata["limits"])
    return f"config.{declaration.name} = {value}  # {prefix}{metadata['help']}" + (f" ({words})" if words else "")


def config_file(recipe: Recipe) -> str:
    """Returns the recipe as the text of a config file that sets every field."""
    lines, sections = list[str](), set[str]()
    for field in field_values(recipe):
        if field.value is None:
            continue
        path = field.name.split(".")
        for section in (".".join(path[:depth]) for depth in range(1, len(path))):
            if section not in sections:
                sections.add(section)
                lines.append(f"config.{section} = ConfigDict()")
        lines.append(f"config.{field.name} = {field.value!r}")
    body = "\n".join(f"    {line}" for line in ("config = ConfigDict()", *lines, "return config"))
    return f"from ml_collections import ConfigDict\n\n\ndef get_config() -> ConfigDict:\n{body}"


# --- the config file ---


def config_path(name: str) -> Path:
    """Returns the path of a config file, given by its path or as the name of a recipe of this package (`tiny`).

    Raises:
      UserError: there is no such file or recipe.
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
    """Returns `get_config()` of `FILE`, or `get_config(VARIANT)` of `FILE:VARIANT`; see `config_path` for FILE.

    Raises:
      UserError: there is no such file or variant, or the file fails.
    """
    name, *variant = argument.split(":", 1)
    path = str(config_path(name))
    try:
        get_config = runpy.run_path(path)["get_config"]
        parameters = inspect.signature(get_config).parameters
        if variant and not parameters:
            raise UserError(f"The config file {path} has no variants; remove ':{variant[0]}'.")
        config = get_config(*variant)
        if not isinstance(config, ConfigDict):
            raise UserError(
                f"The config {argument}: get_config() must return a ConfigDict; got {type(config).__name__}."
            )
        return config
    except UserError:
        raise
    except Exception as error:  # user code may raise anything
        raise UserError(f"The config {argument} fails with {type(error).__name__}: {error}; fix the file.") from error
