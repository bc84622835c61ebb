"""The file of a task's graded samples: lines that are appended group by group, in an order known beforehand."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from dsmath_jax.workdir import UserError, json_object, write_json

NAME = "samples.jsonl"
Key = tuple[str, int]  # a record's id and the number of a sample; -1 is the greedy one


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Makes a folder of samples, or resumes in it; settings that no sample was made with give way.

    Raises:
      UserError: it holds samples made with other settings, or its settings are damaged.
    """
    path = folder / "settings.json"
    made = [*folder.glob(NAME), *folder.glob(f"*/{NAME}")]
    if not path.exists() or not any(file.stat().st_size for file in made):
        write_json(path, settings)
        return
    before, now = json_object(path.read_bytes(), str(path), f"the folder {folder}"), json.loads(json.dumps(settings))
    if changed := [name for name in now.keys() | before.keys() if before.get(name) != now.get(name)]:
        raise UserError(
            f"{folder} holds samples made with other settings ({', '.join(sorted(changed))}); give another --out, or "
            "remove it."
        )


def resume(path: Path, groups: Sequence[Sequence[Key]]) -> int:
    """How many groups the file holds; what a killed run left of the next one is cut off.

    Args:
      path: the file, which need not be there.
      groups: the keys of the lines that are to be in it.

    Raises:
      UserError: a line is damaged, or its key is not the one that belongs there.
    """
    if not path.exists():
        return 0
    expected = [(number, key) for number, group in enumerate(groups) for key in group]
    whole = end = done = 0
    with _opened(path) as file:
        for place, line in enumerate(file):
            if not line.endswith(b"\n"):
                break
            where = f"{path}, line {place + 1}"
            row = json_object(line, where, f"the folder {path.parent}")
            if place >= len(expected) or (row.get("id"), row.get("sample")) != expected[place][1]:
                raise UserError(f"{where}: not the sample that belongs there; remove the folder {path.parent}.")
            end += len(line)
            if place + 1 == len(expected) or expected[place + 1][0] != expected[place][0]:
                done, whole = expected[place][0] + 1, end
        file.truncate(whole)
    return done


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "r+b")
    except OSError as error:
        raise UserError(f"{path} cannot be gone on with ({error.strerror}); give another --out.") from None


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Adds whole groups; they are on the disk when this returns."""
    with open(path, "ab") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace"))
        file.flush()
        os.fsync(file.fileno())
