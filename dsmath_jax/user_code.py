"""Objects of the user's modules, named in settings as "package.module:NAME"."""

import importlib
import typing
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, TypeVar

from dsmath_jax.workdir import UserError

T = TypeVar("T")


def resolve(name: str) -> Any:
    """Returns the object "package.module:NAME"; raises what its import raises, ValueError or AttributeError."""
    module, separator, attribute = name.partition(":")
    if not (module and separator and attribute):
        raise ValueError(f"'{name}' is not of the form package.module:NAME")
    return getattr(importlib.import_module(module), attribute)


def load(name: str, kind: type[T]) -> T:
    """Returns the object "package.module:NAME", imported in this process.

    Raises:
      UserError: it cannot be imported from where the run starts, or is of another type.
    """
    what = "an object" if kind is object else f"a {kind.__name__}"
    try:
        found = resolve(name)
    except Exception as error:  # user code may raise anything
        raise UserError(
            f"'{name}' cannot be used ({type(error).__name__}: {error}); name {what} that can be imported from where "
            "the run starts, as package.module:NAME."
        ) from None
    if not isinstance(found, kind):
        raise UserError(f"'{name}' is of the type {type(found).__name__}; it must be a {kind.__name__}.")
    return found


def function(field: str, name: str, known: Mapping[str, T]) -> T:
    """Returns the known function of that name, or the user's own, "package.module:NAME".

    Args:
      field: the setting that names it, for the error.
      name: a key of `known`, or where the user's function is.
      known: the functions of this package.

    Raises:
      UserError: it is neither.
    """
    if name in known:
        return known[name]
    if ":" not in name:
        raise UserError(f"{field} must be one of {', '.join(map(repr, known))}, or package.module:NAME; got {name!r}.")
    try:
        found = load(name, object)
    except UserError as error:
        raise UserError(f"{field}: {error}") from None
    if not callable(found):
        raise UserError(f"{field}: '{name}' is of the type {type(found).__name__}; it must be a function.")
    return typing.cast(T, found)


def source_files(names: Iterable[str]) -> list[Path]:
    """Returns the source files of the modules, without importing them; relative to the working directory."""
    files = [file.resolve() for file in (_source_file(name.partition(":")[0]) for name in names) if file]
    here = Path.cwd()
    return [file.relative_to(here) if file.is_relative_to(here) else file for file in files]


def _source_file(module: str) -> Path | None:
    """Returns the file that an import of the module would load, None if there is none."""
    path: Sequence[str] | None = None
    *packages, last = module.split(".")
    for package in packages:
        spec = PathFinder.find_spec(package, path)
        path = spec.submodule_search_locations if spec else None
        if path is None:
            return None
    spec = PathFinder.find_spec(last, path)
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None
