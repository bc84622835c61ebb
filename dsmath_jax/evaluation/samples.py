"""The file of a task's graded samples, to which groups of lines are appended in a fixed order."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from dsmath_jax.workdir import UserError, json_object, write_json

NAME = "samples.jsonl"
Key = tuple[str, int]  # a record's id and the number of a sample; -1 is the greedy one


def write_or_check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Writes the settings of a folder; if the folder has samples, checks that they were drawn with these settings.

    Raises:
      UserError: the folder has samples of other settings, or its settings are damaged.
    """
    path = folder / "settings.json"
    existing = [*folder.glob(NAME), *folder.glob(f"*/{NAME}")]
    if not path.exists() or not any(file.stat().st_size for file in existing):
        write_json(path, settings)
        return
    before, now = json_object(path.read_bytes(), str(path), f"the folder {folder}"), json.loads(json.dumps(settings))
    if changed := [name for name in now.keys() | before.keys() if before.get(name) != now.get(name)]:
        raise UserError(
            f"{folder} holds samples made with other settings ({', '.join(sorted(changed))}); give another --out, or "
            "remove it."
        )


def resume(path: Path, groups: Sequence[Sequence[Key]]) -> int:
    """Returns the number of complete groups in the file, and truncates the rest, which a killed run left.

    Args:
      path: the file, which need not exist.
      groups: the keys of its lines in order.

    Raises:
      UserError: a line is damaged, or its key is not the expected one.
    """
    if not path.exists():
        return 0
    expected = [(number, key) for number, group in enumerate(groups) for key in group]
    whole = end = done = 0
    with _opened(path) as file:
        for index, line in enumerate(file):
            if not line.endswith(b"\n"):
                break
            where = f"{path}, line {index + 1}"
            row = json_object(line, where, f"the folder {path.parent}")
            if index >= len(expected) or (row.get("id"), row.get("sample")) != expected[index][1]:
                raise UserError(f"{where}: not the sample that belongs there; remove the folder {path.parent}.")
            end += len(line)
            if index + 1 == len(expected) or expected[index + 1][0] != expected[index][0]:
                done, whole = expected[index][0] + 1, end
        file.truncate(whole)
    return done


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "r+b")
    except OSError as error:
        raise UserError(f"{path} cannot be opened for writing ({error.strerror}); give another --out.") from None


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Appends whole groups and syncs the file to disk."""
    with open(path, "ab") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace"))
        file.flush()
        os.fsync(file.fileno())
