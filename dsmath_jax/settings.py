"""Settings as typed, frozen dataclasses: how their fields are declared, and how a recipe's `ConfigDict` becomes them.

Each part of a recipe is one dataclass whose fields are made by `setting(default, help)`. Values are checked where the
object is built: the types here, what they mean in the dataclass's `__post_init__`, whose errors begin with the name of
the field, so that `build` can put the part's name in front: `rl.` + `group_size is 1; a group needs at least 2`.
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
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Described(NamedTuple):
    """One field of a tree of settings."""

    name: str  # with the parts that it lies in: rl.kl_coef
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
    hints, flat = typing.get_type_hints(cls), _flat_classes(cls, given)
    own = [field for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    known = {field.name for field in own if field.name not in flat}
    known |= {field.name for inner in flat.values() for field in dataclasses.fields(inner)}
    for name in given:
        if name not in known:
            raise UserError(f"{path}{name} is no setting{nearest(name, known)}; remove it or correct its name.")
    values: dict[str, Any] = {}
    for field in own:
        if field.name in flat:
            names = {inner.name for inner in dataclasses.fields(flat[field.name])}
            part = {name: value for name, value in given.items() if name in names}
            values[field.name] = build(flat[field.name], part, path)
        elif field.name in given:
            values[field.name] = _typed(hints[field.name], given[field.name], path + field.name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{path}{field.name} is missing; give it a value.")
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{path}{error}") from None


def _flat_classes(cls: type, given: Mapping[str, Any]) -> dict[str, type]:
    """The classes of the fields whose own fields stand flat in the part, by field name."""
    fields = dataclasses.fields(cls)
    return {f.name: f.metadata["fields_of"](given) for f in fields if f.metadata.get("fields_of")}


def _typed(hint: Any, value: Any, name: str) -> Any:
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
            return _typed(choices[0], value, name)
        for choice in choices:
            with contextlib.suppress(UserError):
                return _typed(choice, value, name)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(typing.cast(type, hint), value, f"{name}.")
    if origin is dict and isinstance(value, Mapping):
        return {key: _typed(arguments[1], item, f"{name}.{key}") for key, item in value.items()}
    if origin is tuple and isinstance(value, list | tuple):
        items = (arguments[0],) * len(value) if arguments[-1] is ... else arguments
        if len(items) == len(value):
            return tuple(_typed(item, one, f"{name}[{i}]") for i, (item, one) in enumerate(zip(items, value)))  # noqa: B905
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
            tree |= to_dict(value)
        elif dataclasses.is_dataclass(value):
            tree[field.name] = to_dict(value)
        elif value is not None:
            tree[field.name] = value
    return tree


def describe(settings: Any, path: str = "", changes_result: bool = True) -> Iterator[Described]:
    """Every field of a tree of settings by its full name; what a part does not change, none of its fields does."""
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), path + field.name
        changes = changes_result and field.metadata["changes_result"]
        if field.metadata["fields_of"]:
            yield from describe(value, path, changes)
        elif dataclasses.is_dataclass(value):
            yield from describe(value, f"{name}.", changes)
        else:
            yield Described(name, value, field.metadata["help"], changes)


def fingerprint(settings: Any, path: str = "", changes_result: bool = True) -> dict[str, Any]:
    """The fields that change a result, by full name, as JSON gives them back (tuples as lists)."""
    found = describe(settings, path, changes_result)
    return {one.name: json.loads(json.dumps(one.value)) for one in found if one.changes_result}


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises a `UserError` where the value is none of the choices."""
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
