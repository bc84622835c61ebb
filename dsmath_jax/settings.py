"""Settings as typed, frozen dataclasses: how their fields are declared, and how a recipe's `ConfigDict` becomes them.

Each part of a recipe is one dataclass, a subclass of `Settings`, whose fields are made by
`setting(default, help, least=1)`: what a field may hold is declared where the field is. However one is made, `Settings`
gives values the types of their fields and holds them against what is declared; how fields relate to each other is
checked by the class's own `__post_init__`. Errors begin with the field's name, so that `build` can put the part's name
in front: `rl.` + `group_size is 1; it must be at least 2.`
"""

import contextlib
import dataclasses
import difflib
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
INTS = INT32, INT64 = 2**31 - 1, 2**63 - 1  # the largest numbers that libraries take
MOST_TEMPERATURE = 1000  # of sampling; all tokens are as likely long before
RANGE: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "least": ("at least", operator.ge), "above": ("above", operator.gt), "most": ("at most", operator.le)
}  # fmt: skip


class Limits(TypedDict, total=False):
    """What a field may hold; in a tuple or a dict, what each of its values may be. No number may be NaN or infinite.

    Attributes:
      least, above, most: of a number: `least` and `most` may be reached, `above` not.
      choices: of a text: it is one of these.
      filled: a text, tuple or dict is not empty.
      local: a text is a local path, no address such as gs://bucket/run.
    """

    least: float
    above: float
    most: float
    choices: Collection[str]
    filled: bool
    local: bool


def setting(
    default: Any = dataclasses.MISSING,
    help: str = "",  # noqa: A002 - argparse's word
    *,
    changes_result: bool = True,
    fields_of: Callable[[Mapping[str, Any]], type] | None = None,
    **limits: Unpack[Limits],
) -> Any:
    """A field of a settings dataclass.

    Args:
      default: the value where a recipe gives none; without one, a recipe has to give it.
      help: one line: what the field is, with its unit.
      changes_result: False for a field that changes nothing that a stage leaves to others, or nothing but its rounding:
        a run may resume with another value.
      fields_of: for a field that is itself a settings dataclass whose fields stand flat in the recipe's part: from that
        part to the class (RL's method names the class of its algorithm).
      limits: what the field may hold, see `Limits`.
    """
    metadata = {"help": help, "changes_result": changes_result, "fields_of": fields_of, "limits": limits}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(sorted(default.items())), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Settings:
    """Base of all settings dataclasses: values get the types of their fields and are checked, however one is made.

    A value that is None is left: a stage sees a recipe without the parts of other stages.

    Raises:
      UserError: a value is of a wrong type or not within its field's limits.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in _fields(type(self)):
            value = getattr(self, field.name)
            if value is not None:
                value = _typed(hints[field.name], value, field.name)
                _check(field.name, value, field.metadata["limits"])
                object.__setattr__(self, field.name, value)


class Described(NamedTuple):
    """One field of a tree of settings."""

    name: str  # with the parts that it is in: rl.kl_coef
    value: Any
    help: str
    changes_result: bool


class Declared(NamedTuple):
    """One field of a class of settings or of the parts in it, which are fields, too."""

    name: str  # with the parts that it is in: rl.kl_coef
    hint: Any  # the annotation
    field: dataclasses.Field[Any]

    @property
    def is_part(self) -> bool:
        return part_class(self.hint) is not None

    @property
    def required(self) -> bool:
        return self.field.default is dataclasses.MISSING and self.field.default_factory is dataclasses.MISSING

    @property
    def default(self) -> Any:
        """The value where none is given, a new one at each call; None where it is required."""
        if self.required:
            return None
        return self.field.default if self.field.default_factory is dataclasses.MISSING else self.field.default_factory()


def build(cls: type[T], given: Mapping[str, Any], path: str = "") -> T:
    """The settings `cls` from a mapping that may lack fields which have defaults.

    Args:
      cls: a dataclass of `setting` fields; those that are dataclasses themselves are built from nested mappings.
      given: values by field name; an int is taken for a float, a list for a tuple, a text for a tuple of one.
      path: what stands before the names in errors: "rl.".

    Raises:
      UserError: a field is unknown, missing or of a wrong type, or its value is refused by the dataclass.
    """
    flat, hints = _flat_classes(cls, given), typing.get_type_hints(cls)
    own = [field for field in _fields(cls) if field.name not in flat]
    known = {field.name for field in (*own, *(each for inner in flat.values() for each in _fields(inner)))}
    for name in map(str, given):
        if name not in known:
            raise UserError(f"{path}{name} is no setting{nearest(name, known)}; remove it or correct its name.")
    values: dict[str, Any] = {}
    for field in own:
        if field.name not in given:
            if Declared(field.name, None, field).required:
                raise UserError(f"{path}{field.name} is missing; give it a value.")
            continue
        values[field.name] = given[field.name]
        if given[field.name] is None:
            _typed(hints[field.name], None, path + field.name)
    for name, inner in flat.items():
        names = {field.name for field in _fields(inner)}
        values[name] = build(inner, {each: value for each, value in given.items() if each in names}, path)
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{path}{error}") from None


def _fields(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _flat_classes(cls: type, given: Mapping[str, Any]) -> dict[str, type]:
    """The classes of the fields whose own fields stand flat in the part, by field name."""
    return {f.name: f.metadata["fields_of"](given) for f in _fields(cls) if f.metadata.get("fields_of")}


def part_class(hint: Any) -> type | None:
    """The settings dataclass in the annotation of a part, `RLSettings | None`; None where the field is no part."""
    for one in (hint, *typing.get_args(hint)):
        if dataclasses.is_dataclass(one):
            return typing.cast(type, one)
    return None


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
        # Sorted, as in a ConfigDict: results may depend on the order, and fingerprints do not show it.
        texts = {str(key): item for key, item in value.items()}
        return {key: _typed(arguments[1], item, f"{name}.{key}") for key, item in sorted(texts.items())}
    if origin is tuple and arguments[-1] is ... and isinstance(value, str):
        value = (value,)
    if origin is tuple and isinstance(value, list | tuple):
        items = (arguments[0],) * len(value) if arguments[-1] is ... else arguments
        if len(items) == len(value):
            return tuple(_typed(item, one, f"{name}[{i}]") for i, (item, one) in enumerate(zip(items, value)))  # noqa: B905
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    wanted = hint.__name__ if isinstance(hint, type) else re.sub(r"[\w.]+\.(?=\w)", "", str(hint))
    raise UserError(f"{name} is {value!r}; it must be of the type {wanted}.")


def _check(name: str, value: Any, limits: Limits) -> None:
    """Raises a `UserError` where a value, or one in a tuple or dict of values, is not within the limits."""
    if limits.get("filled") and value in ("", (), {}):
        raise UserError(f"{name} is empty; give it {'a text' if value == '' else 'at least one value'}.")
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
    """Raises a `UserError` where a number is not within the limits, NaN or infinite."""
    if not (isinstance(value, int) or math.isfinite(value)):
        raise UserError(f"{name} is {value}; it must be a finite number.")
    for limit, bound in limits.items():
        if limit in RANGE and not RANGE[limit][1](value, bound):
            raise UserError(f"{name} is {value}; it must be {RANGE[limit][0]} {bound:,}.")


def range_words(limits: Limits) -> str:
    """The numbers within the limits: "above 0 and at most 1"; "" without limits but those of a library's integers."""
    words = [f"{RANGE[limit][0]} {bound:,}" for limit, bound in limits.items() if limit in RANGE and bound not in INTS]
    return " and ".join(words)


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises a `UserError` where the value is not one of the choices."""
    known = list(choices)
    if value not in known:
        raise UserError(f"{name} must be one of {', '.join(map(repr, known))}; got {value!r}.")


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


def declared(cls: type, given: Mapping[str, Any], path: str = "") -> Iterator[Declared]:
    """Every field that settings of this class can have, by its full name, those of parts that are off among them.

    Args:
      cls: of the settings.
      given: as for `build`: which fields stand flat in a part depends on it.
      path: what stands before the names.
    """
    flat, own = _flat_classes(cls, given), {field.name for field in _fields(cls)}
    for field in _fields(cls):
        if field.name in flat:
            inner = declared(flat[field.name], {}, path)
            yield from (one for one in inner if one.field.name not in own)
            continue
        one = Declared(path + field.name, typing.get_type_hints(cls)[field.name], field)
        yield one
        if part := part_class(one.hint):
            inside = given.get(field.name)
            yield from declared(part, inside if isinstance(inside, Mapping) else {}, f"{one.name}.")


def fingerprint(settings: Any, path: str = "", changes_result: bool = True) -> dict[str, Any]:
    """The fields that change a result, by full name, as JSON gives them back (tuples as lists)."""
    found = describe(settings, path, changes_result)
    return {one.name: json.loads(json.dumps(one.value)) for one in found if one.changes_result}


def nearest(name: str, known: Iterable[str]) -> str:
    """The words for the nearest known name in brackets, or nothing."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (the nearest is '{near[0]}')" if near else ""
