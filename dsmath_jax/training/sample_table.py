"""Samples of a step as a table for TensorBoard and Weights & Biases."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MAX_ROWS = 16  # of a step; a run logs thousands of steps
MAX_CHARS = 2_000  # of a cell
MARKDOWN = re.compile(r"[\\`*_\[\]<>|&]")  # with what HTML reads as markup


class SampleTable(NamedTuple):
    """The first `MAX_ROWS` samples of a step; the cells are text, numbers or None."""

    columns: list[str]
    rows: list[list[Any]]


def sample_table(samples: Sequence[Mapping[str, Any]]) -> SampleTable:
    """Returns the table of samples, which have the same fields; fields that are lists or dicts have no column."""
    columns = [name for name, value in samples[0].items() if not isinstance(value, list | dict)]
    return SampleTable(columns, [[_cell(sample[name]) for name in columns] for sample in samples[:MAX_ROWS]])


def markdown(table: SampleTable) -> str:
    """Returns the table in Markdown, in which every cell is shown as it is: no character of it is markup."""
    lines = [table.columns, ["---"] * len(table.columns), *([_escaped(cell) for cell in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_CHARS:
        return f"{value[:MAX_CHARS]} … ({len(value) - MAX_CHARS:,} more characters)"
    return value


def _escaped(value: Any) -> str:
    """Returns a cell with markup as character references, and `<br>` for line breaks, which would end the table."""
    if value is None:
        return ""
    text = MARKDOWN.sub(lambda match: f"&#{ord(match[0])};", str(value))
    return "<br>".join(text.splitlines())
