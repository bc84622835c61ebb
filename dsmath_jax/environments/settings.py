"""The settings of dialogues in a recipe, and the environments by name."""

import contextlib
import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator
from typing import Any

from dsmath_jax import user_code
from dsmath_jax.data.questions import Mode
from dsmath_jax.environments.calculator import Calculator
from dsmath_jax.environments.protocol import Environment
from dsmath_jax.environments.python_tool import OUTPUT_CHARS, Programs, PythonTool
from dsmath_jax.grading.sandbox import Sandbox
from dsmath_jax.sampling.turns import TurnLimits
from dsmath_jax.settings import Settings, setting
from dsmath_jax.workdir import UserError

MODES = typing.get_args(Mode)
PYTHON, CALCULATOR = "python", "calculator"
KNOWN: dict[str, Callable[[], Environment]] = {CALCULATOR: Calculator}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvironmentSettings(Settings):
    """The environment that replies to the model's turns."""

    name: str = setting(PYTHON, "python (programs in the sandbox), calculator, or your own package.module:NAME")
    max_turns: int = setting(5, "turns of the model in a dialogue", ge=1)
    max_turn_tokens: int = setting(0, "tokens of a turn at most; 0: only rl.max_new_tokens limits it", ge=0)
    output_chars: int = setting(OUTPUT_CHARS, "python: characters of a program's output that the model sees", ge=1)
    step_seconds: float = setting(
        60.0, "time limit of a reply, seconds; programs of python have limits of their own", gt=0, le=3600
    )

    def limits(self, max_tokens: int) -> TurnLimits:
        """Returns the limits of a dialogue of at most `max_tokens` tokens, replies included."""
        return TurnLimits(self.max_turns, self.max_turn_tokens or max_tokens, max_tokens)

    @property
    def time_limit(self) -> float | None:
        """Seconds of a step; None for programs, which the sandbox limits one by one."""
        return None if self.name == PYTHON else self.step_seconds

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[], Environment]]:
        """Yields a function that returns a new environment.

        Raises:
          UserError: the environment cannot be imported or lacks a part, or no sandbox works here.
        """
        if self.name != PYTHON:
            make = user_code.function("environment.name", self.name, KNOWN)
            check_environment(self.name, make)
            yield make
            return
        with Sandbox() as sandbox:
            yield functools.partial(PythonTool, Programs(sandbox), self.output_chars)


def open_environment(
    settings: EnvironmentSettings | None,
) -> contextlib.AbstractContextManager[Callable[[], Environment] | None]:
    """Returns `EnvironmentSettings.open`, or a context of None without settings."""
    return settings.open() if settings else contextlib.nullcontext()


def check_environment(name: str, make: Callable[[], Environment]) -> None:
    """Raises a `UserError` where `make` returns no environment."""
    try:
        made: Any = make()
    except Exception as error:  # user code may raise anything
        raise UserError(f"environment.name: '{name}()' raises {error!r}; it must take no arguments.") from None
    stops = getattr(made, "stop_strings", None)
    problems = {
        f"mode, one of {', '.join(MODES)}": getattr(made, "mode", None) in MODES,
        "stop_strings, a tuple of texts": isinstance(stops, tuple | list) and all(isinstance(x, str) for x in stops),
        "a method reset(record)": callable(getattr(made, "reset", None)),
        "a method step(turn)": callable(getattr(made, "step", None)),
    }
    if missing := [wanted for wanted, is_there in problems.items() if not is_there]:
        raise UserError(f"environment.name: '{name}' has no {missing[0]}; add it (docs/rl.md, Environments).")
