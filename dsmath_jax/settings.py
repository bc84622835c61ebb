"""Settings as typed, frozen dataclasses: how their fields are declared, and how a recipe's `ConfigDict` becomes them.

Each part of a recipe is one dataclass whose fields are made by `setting(default, help)`. `build` checks types; what
values mean is checked by the dataclass's `__post_init__`, whose errors begin with the field's name, so that `build` can
put the part's name in front: `rl.` + `group_size is 1; a group needs at least 2`.
"""

import contextlib
import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from dsmath_jax.workdir import UserError

T = TypeVar("T")


def setting(
    default: Any = dataclasses.MISSING,
    help: str = "",  # noqa: A002 - argparse's word
    *,
    changes_result: bool = True,
    fields_of: Callable[[Mapping[str, Any]], type] | None = None,
) -> Any:
    """A field of a settings dataclass.

    Args:
      default: the value where a recipe gives none; without one, a recipe has to give it.
      help: one line: what the field is, with its unit.
      changes_result: False for a field that changes nothing that a stage leaves to others, or nothing but its rounding:
        a run may resume with another value.
      fields_of: for a field that is itself a settings dataclass whose fields stand flat in the recipe's part: from that
        part to the class (RL's method names the class of its algorithm).
    """
    metadata = {"help": help, "changes_result": changes_result, "fields_of": fields_of}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(sorted(default.items())), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Described(NamedTuple):
    """One field of a tree of settings."""

    name: str  # with the parts that it is in: rl.kl_coef
    value: Any
    help: str
    changes_result: bool


def build(cls: type[T], given: Mapping[str, Any], path: str = "") -> T:
    """The settings `cls` from a mapping that may lack fields which have defaults.

    Args:
      cls: a dataclass of `setting` fields; those that are dataclasses themselves are built from nested mappings.
      given: values by field name; an int is taken for a float, a list for a tuple.
      path: what stands before the names in errors: "rl.".

    Raises:
      UserError: a field is unknown, missing or of a wrong type, or its value is refused by the dataclass.
    """
    values = _given_values(cls, given, path, build)
    for name, inner in _flat_classes(cls, given).items():
        values[name] = build(inner, _part_of(inner, given), path)
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{path}{error}") from None


def complete(cls: type, given: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The mapping with the defaults of all fields that it lacks, parts that are None left out.

    Names and types are checked, what values mean is not: the command line may still change them.

    Raises:
      UserError: a field is unknown, missing or of a wrong type.
    """
    values, flat = _given_values(cls, given, path, complete), _flat_classes(cls, given)
    tree: dict[str, Any] = {}
    for inner in flat.values():
        tree |= complete(inner, _part_of(inner, given), path)
    for field in _fields(cls):
        if field.name not in flat:
            value = values[field.name] if field.name in values else _default(field)
            value = to_dict(value) if dataclasses.is_dataclass(value) else value
            tree |= {} if value is None else {field.name: value}
    return tree


def _given_values(
    cls: type, given: Mapping[str, Any], path: str, nested: Callable[[type, Mapping[str, Any], str], Any]
) -> dict[str, Any]:
    """The given values of the class's own fields as their types; `nested` makes those of parts."""
    hints, flat = typing.get_type_hints(cls), _flat_classes(cls, given)
    fields = [field for field in _fields(cls) if field.name not in flat]
    known = {field.name for field in (*fields, *(each for inner in flat.values() for each in _fields(inner)))}
    for name in given:
        if name not in known:
            raise UserError(f"{path}{name} is no setting{nearest(name, known)}; remove it or correct its name.")
    values: dict[str, Any] = {}
    for field in fields:
        if field.name in given:
            values[field.name] = _typed(hints[field.name], given[field.name], path + field.name, nested)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{path}{field.name} is missing; give it a value.")
    return values


def _fields(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _part_of(inner: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of fields of a class that stand flat in a part."""
    names = {field.name for field in _fields(inner)}
    return {name: value for name, value in given.items() if name in names}


def _flat_classes(cls: type, given: Mapping[str, Any]) -> dict[str, type]:
    """The classes of the fields whose own fields stand flat in the part, by field name."""
    return {f.name: f.metadata["fields_of"](given) for f in _fields(cls) if f.metadata.get("fields_of")}


def _typed(hint: Any, value: Any, name: str, nested: Callable[[type, Mapping[str, Any], str], Any]) -> Any:
    """The value as the type that the annotation asks for.

    Raises:
      UserError: it is of another type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        choices = [argument for argument in arguments if argument is not types.NoneType]
        if len(choices) == 1:
            return _typed(choices[0], value, name, nested)
        for choice in choices:
            with contextlib.suppress(UserError):
                return _typed(choice, value, name, nested)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return nested(typing.cast(type, hint), value, f"{name}.")
    if origin is dict and isinstance(value, Mapping):
        # Sorted, as in a ConfigDict: results may depend on the order, and fingerprints do not show it.
        return {key: _typed(arguments[1], item, f"{name}.{key}", nested) for key, item in sorted(value.items())}
    if origin is tuple and isinstance(value, list | tuple):
        items = (arguments[0],) * len(value) if arguments[-1] is ... else arguments
        if len(items) == len(value):
            return tuple(_typed(item, one, f"{name}[{i}]", nested) for i, (item, one) in enumerate(zip(items, value)))  # noqa: B905
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise UserError(f"{name} is {value!r}; it must be of the type {getattr(hint, '__name__', None) or hint}.")


def to_dict(settings: Any) -> dict[str, Any]:
    """The settings as nested dicts, parts that are None left out: what a recipe's `ConfigDict` holds."""
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


def describe(settings: Any, path: str = "", changes_result: bool = True) -> Iterator[Described]:
    """Every field of a tree of settings by its full name; what a part does not change, none of its fields does."""
    own = {field.name for field in dataclasses.fields(settings)}
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), path + field.name
        changes = changes_result and field.metadata["changes_result"]
        if field.metadata["fields_of"]:
            yield from (one for one in describe(value, path, changes) if one.name.removeprefix(path) not in own)
        elif dataclasses.is_dataclass(value):
            yield from describe(value, f"{name}.", changes)
        else:
            yield Described(name, value, field.metadata["help"], changes)


def fingerprint(settings: Any, path: str = "", changes_result: bool = True) -> dict[str, Any]:
    """The fields that change a result, by full name, as JSON gives them back (tuples as lists)."""
    found = describe(settings, path, changes_result)
    return {one.name: json.loads(json.dumps(one.value)) for one in found if one.changes_result}


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises a `UserError` where the value is not one of the choices."""
    known = list(choices)
    if value not in known:
        raise UserError(f"{name} must be one of {', '.join(map(repr, known))}; got {value!r}.")


def check_least(name: str, value: float, least: float) -> None:
    """Raises a `UserError` where the value is below the least that works."""
    if not value >= least:
        raise UserError(f"{name} is {value}; it must be at least {least}.")


def nearest(name: str, known: Iterable[str]) -> str:
    """The words for the nearest known name in brackets, or nothing."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (the nearest is '{near[0]}')" if near else ""
