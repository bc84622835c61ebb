"""Writes a page of a run's rollouts: `dsmath rollouts --workdir=runs/tiny`.

The page shows the rows of `rl/samples.jsonl`, prompt by prompt, with filters. With `rl.log_samples=all` (or `group`)
the completions of a prompt are next to each other, and the advantages of their tokens are colors. It is one file
without external parts. The run may be in progress.
"""

import argparse
import base64
import functools
import gzip
import hashlib
import importlib.resources
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dsmath_jax.extras import required_by
from dsmath_jax.progress import track
from dsmath_jax.workdir import UserError, atomic_write, exit_code, json_lines, local_path

BLOCK_ROWS = 500  # rows that are compressed together
CACHED_FORMULAS = 20_000
TEXTS = ("question", "completion")  # the fields in which formulas are rendered
Row = dict[str, Any]
SplitText = Callable[[str], Sequence[str | dict]]  # see `mathml.parts`


class Rows:
    """Iterates over `samples.jsonl` once, line by line, and counts what it has yielded.

    Attributes:
      completions: the number of rows.
      prompts: the number of prompts, each once per rollout.
      first_step, last_step: of the rows, None without rows.
      damaged: whether the last line is incomplete, as after a kill.
    """

    def __init__(self, path: Path):
        self._path = path
        self.completions = self.prompts = 0
        self.first_step: int | None = None
        self.last_step: int | None = None
        self.damaged = False

    def __iter__(self) -> Iterator[Row]:
        """Yields rows with the fields that the page needs.

        Raises:
          UserError: the file cannot be read, or a line other than the last is damaged or lacks a field.
        """
        last: tuple[int, int] | None = None
        with open(self._path, "rb") as file:
            for number, line in json_lines(self._path, self._whole_lines(file)):
                row = _checked(line, f"{self._path}, line {number}")
                self.completions += 1
                self.prompts += last != (last := (row["step"], row["prompt"]))
                self.first_step = row["step"] if self.first_step is None else self.first_step
                self.last_step = row["step"]
                yield row

    def _whole_lines(self, file: Iterable[bytes]) -> Iterator[bytes]:
        """Yields the lines of a file except for a damaged last one."""
        for line in file:
            if line.endswith(b"\n"):
                yield line
            else:
                self.damaged = not _is_json(line)
                if not self.damaged:
                    yield line


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _checked(row: Row, where: str) -> Row:
    """Returns the fields that the page needs; those that an older run did not log have defaults.

    Raises:
      UserError: a field is missing or of another type.
    """
    for name, kind, what in (
        ("step", int, "a whole number"), ("question", str, "text"), ("completion", str, "text"),
        ("reward", int | float | None, "a number"),
    ):  # fmt: skip
        if name not in row or not isinstance(row[name], kind):
            raise UserError(f"{where}: '{name}' must be {what}; got {row.get(name)!r}. Remove that line.")
    return {
        "step": row["step"], "prompt": row.get("prompt", 0), "sample": row.get("sample"), "id": str(row.get("id", "")),
        "question": row["question"], "answer": str(row.get("answer", "")), "completion": row["completion"],
        "reward": _finite(row["reward"]), "rule_reward": _finite(row.get("rule_reward")),
        "rewards": row.get("rewards", {}), "step_rewards": [_finite(reward) for reward in row.get("step_rewards", ())],
        "finish": str(row.get("finish", "")), "num_tokens": row.get("num_tokens"),
        "advantages": row.get("advantages", []), "token_lengths": row.get("token_lengths", []),
    }  # fmt: skip


def _finite(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


# --- blocks of rows, as they are in the page ---


def blocks(rows: Iterable[Row], split: SplitText | None) -> Iterator[str]:
    """Yields the rows in blocks: Base64 of gzipped JSON.

    A block is {"rows": [row...], "formulas": [MathML tree or None...]}. The texts of its rows are [text, [[start, end,
    index of the formula]...]], in characters. Without `split`, formulas stay text.
    """
    block: list[Row] = []
    for row in rows:
        block.append(row)
        if len(block) == BLOCK_ROWS:
            yield _encoded(block, split)
            block = []
    if block:
        yield _encoded(block, split)


def _encoded(rows: list[Row], split: SplitText | None) -> str:
    formulas: dict[str, tuple[int, Any]] = {}  # by source: index and tree

    def with_formulas(text: str) -> list[Any]:
        places, end = [], 0
        for part in split(text) if split else ():
            source = part if isinstance(part, str) else part["latex"]
            start, end = end, end + len(source)
            if not isinstance(part, str):
                index, _ = formulas.setdefault(source, (len(formulas), part["math"]))
                places.append((start, end, index))
        return [text, places]

    rows = [row | {name: with_formulas(row[name]) for name in TEXTS} for row in rows]
    content = {"rows": rows, "formulas": [tree for _, tree in formulas.values()]}
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def formula_splitter() -> SplitText:
    """Returns `mathml.parts` with a cache of formulas: those of a prompt are in many of its completions.

    Raises:
      UserError: its package is not installed.
    """
    with required_by("The rendering of formulas"):
        from dsmath_jax.mathml import mathml, parts
    return functools.partial(parts, convert=functools.lru_cache(CACHED_FORMULAS)(mathml))


# --- the page ---


def write(workdir: Path, out: Path | None = None) -> str:
    """Writes the page of a workdir's rollouts; returns lines that say what it shows.

    Args:
      workdir: of a run whose stage `rl` has logged samples.
      out: the file; by default `rl/rollouts.html` in the workdir.

    Raises:
      UserError: there are no samples, or a line of them is invalid.
    """
    path, out = workdir / "rl" / "samples.jsonl", out or workdir / "rl" / "rollouts.html"
    if not path.is_file():
        raise UserError(
            f"{path} is missing; give the workdir of a run whose stage rl has begun, with a method that samples from "
            "the policy (GRPO, PPO, Online RFT)."
        )
    notes = []
    try:
        split: SplitText | None = formula_splitter()
    except UserError as error:
        split = None
        notes.append(f"Formulas stay text. {error}")
    rows = Rows(path)
    with atomic_write(out) as file:
        tracked = track(rows, "rollouts", _count_lines(path))
        for piece in _page(workdir.resolve().name, blocks(tracked, split)):
            file.write(piece)
        if not rows.completions:
            raise UserError(f"{path} has no complete row yet; wait for the first step of the run.")
    if rows.damaged:
        notes.insert(0, "The last line of the samples is incomplete, as after a kill, and is left out.")
    kilobytes = out.stat().st_size / 1e3
    size = f"{kilobytes:,.0f} kB" if kilobytes < 1000 else f"{kilobytes / 1e3:,.1f} MB"
    about = f"{out}: {_count(rows.completions, 'completion')} of {_count(rows.prompts, 'prompt')}"
    return "\n".join([f"{about}, steps {rows.first_step} to {rows.last_step}, {size}", *notes])


def _count(value: int, noun: str) -> str:
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def _count_lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)


def _page(name: str, data: Iterator[str]) -> Iterator[str]:
    """Yields the page in pieces. Its scripts and styles are in it, and its policy allows no other."""
    template, style, script = (
        importlib.resources.files(__package__).joinpath(f"rollouts.{kind}").read_text(encoding="utf-8")
        for kind in ("html.j2", "css", "js")
    )
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).generate(
        name=name, blocks=data, style=Markup(style), script=Markup(script),
        style_hash=_hash(style), script_hash=_hash(script),
    )  # fmt: skip


def _hash(text: str) -> str:
    """Returns a hash as content security policies have it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; `arguments` default to those of the process."""
    parser = argparse.ArgumentParser(
        "dsmath rollouts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=local_path, required=True, metavar="DIR", help="workdir of a run")
    parser.add_argument(
        "--out", type=local_path, metavar="FILE", help="the page (default: rl/rollouts.html in the workdir)"
    )
    values = parser.parse_args(arguments)
    print(write(values.workdir, values.out))


if __name__ == "__main__":
    sys.exit(exit_code(main))
