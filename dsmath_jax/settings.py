"""Settings as typed, frozen dataclasses, built from a recipe's nested fields.

Each section of a recipe is a dataclass, a subclass of `Settings`, whose fields are declared with their limits by
`setting(default, help, ge=1)`. `Settings` converts values to the types of their fields and checks the limits; a
class's own `__post_init__` checks how its fields relate. Errors begin with the field's name, so that `build` can prefix
the section's name: `rl.` + `group_size is 1; it must be at least 2.`
"""

import contextlib
import dataclasses
import difflib
import functools
import itertools
import json
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypedDict, TypeVar, Unpack

from dsmath_jax.workdir import UserError, local_path

T = TypeVar("T")
_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)  # the types of a class's fields
INTS = INT32, INT64 = 2**31 - 1, 2**63 - 1  # the largest numbers that libraries accept
MAX_TEMPERATURE = 1000  # of sampling; far lower ones already make tokens uniformly likely
RANGE: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": ("at least", operator.ge), "gt": ("above", operator.gt), "le": ("at most", operator.le)
}  # fmt: skip


class Limits(TypedDict, total=False):
    """Limits of a field's value, or of each value in a tuple or dict. Numbers must always be finite.

    Attributes:
      ge: inclusive lower bound of a number.
      gt: exclusive lower bound of a number.
      le: inclusive upper bound of a number.
      choices: the allowed strings.
      nonempty: whether a string, tuple or dict must not be empty.
      local: whether a string must be a local path, not an address such as gs://bucket/run.
    """

    ge: float
    gt: float
    le: float
    choices: Collection[str]
    nonempty: bool
    local: bool


def setting(
    default: Any = dataclasses.MISSING,
    help: str = "",  # noqa: A002 - as in argparse
    *,
    changes_result: bool = True,
    fields_of: Callable[[Mapping[str, Any]], type] | None = None,
    **limits: Unpack[Limits],
) -> Any:
    """Declares a field of a settings dataclass.

    Args:
      default: the default value; without one, the field is required.
      help: a line that says what the field is, with its unit.
      changes_result: False for a field that changes a stage's outputs not at all or only by rounding, so that a run may
        resume with another value.
      fields_of: for a field that is itself a settings dataclass, but whose fields are written directly in the recipe's
        section: maps that section to the class (`rl.method` selects the class of its algorithm).
      limits: see `Limits`.
    """
    metadata = {"help": help, "changes_result": changes_result, "fields_of": fields_of, "limits": limits}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(sorted(default.items())), hash=False, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Settings:
    """Base class of settings dataclasses; converts values to the types of their fields and checks them.

    None is always accepted, since a stage gets a recipe without the sections of other stages.

    Raises:
      UserError: a value has the wrong type or is not within its field's limits.
    """

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for field in _fields(type(self)):
            value = getattr(self, field.name)
            if value is not None:
                value = _typed(hints[field.name], value, field.name)
                _check(field.name, value, field.metadata["limits"])
                object.__setattr__(self, field.name, value)


class FieldValue(NamedTuple):
    """A field of nested settings, with its value."""

    name: str  # with its sections: rl.kl_coef
    value: Any
    help: str
    changes_result: bool


class FieldSpec(NamedTuple):
    """A field of a settings class or of one of its sections; sections are fields, too."""

    name: str  # with its sections: rl.kl_coef
    hint: Any  # the annotation
    field: dataclasses.Field[Any]

    @property
    def is_section(self) -> bool:
        return section_class(self.hint) is not None

    @property
    def required(self) -> bool:
        return self.field.default is dataclasses.MISSING and self.field.default_factory is dataclasses.MISSING

    @property
    def default(self) -> Any:
        """The default value, a new one at each access; None for a required field."""
        if self.required:
            return None
        return self.field.default if self.field.default_factory is dataclasses.MISSING else self.field.default_factory()


def build(cls: type[T], config: Mapping[str, Any], path: str = "") -> T:
    """Builds the settings `cls` from a mapping; fields that are missing get their defaults.

    Args:
      cls: a dataclass of `setting` fields; fields that are dataclasses themselves are built from nested mappings.
      config: values by field name; an int may stand for a float, a list for a tuple, a string for a tuple of one.
      path: prefix of the names in errors, such as "rl.".

    Raises:
      UserError: a field is unknown, missing or of the wrong type, or the dataclass refuses its value.
    """
    flat, hints = _flat_classes(cls, config), _hints(cls)
    direct = [field for field in _fields(cls) if field.name not in flat]
    known = {field.name for field in (*direct, *(each for inner in flat.values() for each in _fields(inner)))}
    for name in map(str, config):
        if name not in known:
            raise UserError(f"{path}{name} is not a setting{nearest(name, known)}; remove it or correct its name.")
    values: dict[str, Any] = {}
    for field in direct:
        if field.name not in config:
            if FieldSpec(field.name, None, field).required:
                raise UserError(f"{path}{field.name} is missing; give it a value.")
            continue
        values[field.name] = config[field.name]
        if config[field.name] is None:
            _typed(hints[field.name], None, path + field.name)
    for name, inner in flat.items():
        names = {field.name for field in _fields(inner)}
        values[name] = build(inner, {each: value for each, value in config.items() if each in names}, path)
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{path}{error}") from None


def _fields(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _flat_classes(cls: type, config: Mapping[str, Any]) -> dict[str, type]:
    """Returns the classes of the fields declared with `fields_of`, by field name."""
    return {f.name: f.metadata["fields_of"](config) for f in _fields(cls) if f.metadata.get("fields_of")}


def section_class(hint: Any) -> type | None:
    """Returns the settings dataclass in a section's annotation, such as `RLSettings | None`; None for other fields."""
    for candidate in (hint, *typing.get_args(hint)):
        if dataclasses.is_dataclass(candidate):
            return typing.cast(type, candidate)
    return None


def _typed(hint: Any, value: Any, name: str) -> Any:
    """Converts a value to the type of the annotation.

    Raises:
      UserError: the value has another type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        choices = [argument for argument in arguments if argument is not types.NoneType]
        if len(choices) == 1 and (isinstance(value, Mapping) or not dataclasses.is_dataclass(choices[0])):
            return _typed(choices[0], value, name)
        for choice in choices:
            with contextlib.suppress(UserError):
                return _typed(choice, value, name)
    if origin is typing.Literal:
        check_choice(name, value, arguments)
        return value
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(typing.cast(type, hint), value, f"{name}.")
    if origin is dict and isinstance(value, Mapping):
        # Sorted, as in a ConfigDict: results may depend on the order, which fingerprints ignore.
        texts = {str(key): item for key, item in value.items()}
        return {key: _typed(arguments[1], item, f"{name}.{key}") for key, item in sorted(texts.items())}
    if origin is tuple and arguments[-1] is ... and isinstance(value, str):
        value = (value,)
    if origin is tuple and isinstance(value, list | tuple):
        items = (arguments[0],) * len(value) if arguments[-1] is ... else arguments
        if len(items) == len(value):
            return tuple(_typed(item, part, f"{name}[{i}]") for i, (item, part) in enumerate(zip(items, value)))  # noqa: B905
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    wanted = hint.__name__ if isinstance(hint, type) else re.sub(r"[\w.]+\.(?=\w)", "", str(hint))
    raise UserError(f"{name} is {value!r}; it must be of the type {wanted}.")


def _check(name: str, value: Any, limits: Limits) -> None:
    """Raises a `UserError` if a value, or one in a tuple or dict, is not within the limits."""
    if limits.get("nonempty") and value in ("", (), {}):
        raise UserError(f"{name} is empty; give it {'a string' if value == '' else 'at least one value'}.")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check(f"{name}.{key}", item, limits)
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            _check(f"{name}[{number}]", item, limits)
    elif isinstance(value, str):
        if "choices" in limits:
            check_choice(name, value, limits["choices"])
        if limits.get("local"):
            local_path(value, name)
    elif isinstance(value, int | float):
        _check_number(name, value, limits)


def _check_number(name: str, value: float, limits: Limits) -> None:
    """Raises a `UserError` if a number is not finite or not within the limits."""
    if not (isinstance(value, int) or math.isfinite(value)):
        raise UserError(f"{name} is {value}; it must be a finite number.")
    for limit, bound in limits.items():
        if limit in RANGE and not RANGE[limit][1](value, bound):
            raise UserError(f"{name} is {value}; it must be {RANGE[limit][0]} {bound:,}.")


def range_text(limits: Limits) -> str:
    """Describes the limits of a number, "above 0 and at most 1"; "" if there are none but the largest integer."""
    words = [f"{RANGE[limit][0]} {bound:,}" for limit, bound in limits.items() if limit in RANGE and bound not in INTS]
    return " and ".join(words)


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises a `UserError` if the value is not one of the choices."""
    known = list(choices)
    if value not in known:
        raise UserError(f"{name} must be one of {', '.join(map(repr, known))}; got {value!r}.")


def find_same(names: Iterable[str], key: Callable[[str], str]) -> tuple[str, str] | None:
    """Returns the first two names with equal keys, such as the folders of their results; None if all keys differ."""
    return next((pair for pair in itertools.combinations(names, 2) if key(pair[0]) == key(pair[1])), None)


def to_dict(settings: Any) -> dict[str, Any]:
    """Returns the settings as nested dicts, as in a recipe's `ConfigDict`; fields that are None are left out."""
    tree: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.metadata["fields_of"]:
            tree = to_dict(value) | tree
        elif dataclasses.is_dataclass(value):
            tree[field.name] = to_dict(value)
        elif value is not None:
            tree[field.name] = value
    return tree


def field_values(settings: Any, path: str = "", changes_result: bool = True) -> Iterator[FieldValue]:
    """Yields every field of nested settings; a section with `changes_result=False` applies it to all its fields."""
    names = {field.name for field in dataclasses.fields(settings)}
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), path + field.name
        changes = changes_result and field.metadata["changes_result"]
        if field.metadata["fields_of"]:
            yield from (
                inner for inner in field_values(value, path, changes) if inner.name.removeprefix(path) not in names
            )
        elif dataclasses.is_dataclass(value):
            yield from field_values(value, f"{name}.", changes)
        else:
            yield FieldValue(name, value, field.metadata["help"], changes)


def field_specs(cls: type, config: Mapping[str, Any], path: str = "") -> Iterator[FieldSpec]:
    """Yields every field that settings of this class can have, including those of sections that are off.

    Args:
      cls: the settings class.
      config: as for `build`; it decides the classes of fields declared with `fields_of`.
      path: prefix of the names.
    """
    flat, names = _flat_classes(cls, config), {field.name for field in _fields(cls)}
    for field in _fields(cls):
        if field.name in flat:
            yield from (inner for inner in field_specs(flat[field.name], {}, path) if inner.field.name not in names)
            continue
        declaration = FieldSpec(path + field.name, _hints(cls)[field.name], field)
        yield declaration
        if section := section_class(declaration.hint):
            nested = config.get(field.name)
            yield from field_specs(section, nested if isinstance(nested, Mapping) else {}, f"{declaration.name}.")


def fingerprint(settings: Any, path: str = "", changes_result: bool = True) -> dict[str, Any]:
    """Returns the fields that change results, by full name, as JSON values (tuples become lists)."""
    fields = field_values(settings, path, changes_result)
    return {field.name: json.loads(json.dumps(field.value)) for field in fields if field.changes_result}


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns " (the nearest is 'NAME')" with the closest known name, or "" if none is close."""
    matches = difflib.get_close_matches(name, list(known), 1)
    return f" (the nearest is '{matches[0]}')" if matches else ""
