"""The replies of environments on disk, written before they are used, so that a resumed run gets the same."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple, Self

from dsmath_jax.environments.protocol import Step, TextTurn
from dsmath_jax.workdir import UserError


class TurnKey(NamedTuple):
    """A turn of a dialogue: the prompt, the sample and the turn's number."""

    prompt: int
    sample: int
    number: int


class Replied(NamedTuple):
    """A turn and the step that followed."""

    turn: TextTurn
    step: Step


class ReplyLog:
    """The replies of one batch of dialogues in a JSONL file; as a context manager."""

    def __init__(self, path: Path):
        """Reads the file, if there is one; a last line that is not complete is left out, and written again.

        Raises:
          UserError: another line is damaged.
        """
        self._path = path
        self._file: IO[bytes] | None = None
        self._found: dict[TurnKey, Replied] = {}
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        for number, line in enumerate(lines, start=1):
            try:
                key, turn, step = json.loads(line)
                self._found[TurnKey(*key)] = Replied(TextTurn(*turn), Step(*step))
            except (TypeError, ValueError):
                raise UserError(f"{path}, line {number} is damaged; remove the file to ask again.") from None
        self._size = sum(len(line) + 1 for line in lines)

    def find(self, key: TurnKey, turn: TextTurn) -> Step | None:
        """Returns what followed this turn in an earlier run; None if it is not known, or had another text."""
        found = self._found.get(key)
        return found.step if found and found.turn == turn else None

    def write(self, replied: Sequence[tuple[TurnKey, TextTurn, Step]]) -> None:
        """Appends replies; they are on disk when this returns."""
        if not replied:
            return
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "ab")  # noqa: SIM115 - closed by __exit__
            self._file.truncate(self._size)
        self._file.write(b"".join(json.dumps(each).encode() + b"\n" for each in replied))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
