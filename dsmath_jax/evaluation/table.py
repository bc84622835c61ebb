"""Renders the Markdown page of a finished evaluation: figures with intervals, next to the paper's."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dsmath_jax.data import questions
from dsmath_jax.data.chat_template import DEEPSEEK_MATH
from dsmath_jax.evaluation.paper import MODELS, RL_MAJ_AT_64, published
from dsmath_jax.evaluation.summary import NOT_CHECKED
from dsmath_jax.formatting import interval, points

Entry = Mapping[str, Any]
NONE = "–"
SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$])")
PAPER = (
    "Percent; in brackets 95 % intervals: Wilson's for greedy answers, bootstrap over problems for samples. maj@k: the "
    "vote of k samples, by equal answers; pass@k: one of k is correct; both are means over all choices of k. The right "
    "columns are DeepSeekMath 7B in the paper (arXiv 2402.03300, Tables 2 to 5): whole data sets, its own grader, "
    "Base with its own few-shot examples (HumanEval: none), Instruct and RL without any. "
    '"DeepSeek\'s grader" follows that grader, which is more lenient than this one.'
)


def escape(text: object) -> str:
    """Escapes text for a cell, or anywhere in Markdown."""
    return SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def code(text: object) -> str:
    """Formats text as code, outside of tables."""
    line = " ".join(str(text).split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"


def row(cells: Sequence[str]) -> str:
    """Returns a line of a table."""
    return f"| {' | '.join(cells)} |"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table."""
    return [row(head), row(["---"] * len(head)), *map(row, rows)]


def percent(fraction: float | None, ends: Sequence[float] | None = None) -> str:
    """A fraction in percent, with its interval after it; a dash where it was not measured."""
    if fraction is None:
        return NONE
    return points(fraction) + ("" if ends is None else f" ({interval(ends, '–')})")


def markdown(run: Mapping[str, Any], entries: Sequence[Entry], pooled: Mapping[str, Entry] | None = None) -> str:
    """Returns the page of an evaluation.

    Args:
      run: "checkpoint", "style", "max_new_tokens", "temperature", "top_p", "seed", "grader", "sandbox" ("" where no
        program was run) and other settings of all results.
      entries: for each task and mode the result of `summary.summarize` with "task", "mode", "shots", "total" (number of
        problems of the whole task) and "command".
      pooled: summaries of all problems by mode, with the names "tasks"; those of several tasks have a row.
    """
    sampled = [entry for entry in entries if entry["k"]]
    head = ["task", "mode", "shots", "problems", "greedy", "DeepSeek's grader"]
    head += ["k", "mean of k", "maj@k", "pass@k"] if sampled else []
    all_tasks = [
        {**each, "task": f"all {len(each['tasks'])} tasks", "mode": mode, "shots": NONE}
        for mode, each in (pooled or {}).items()
        if len(each["tasks"]) > 1
    ]
    rows = [_scores(entry, bool(sampled)) for entry in (*entries, *all_tasks)]
    lines = grid([*head, *(f"paper: {name}" for name in MODELS)], rows)
    lines += ["", PAPER, *_notes(entries), "", *_origin(run, entries), ""]
    if any(entry["checked"] for entry in sampled):
        lines += ["## By number of samples", "", *_curves(sampled), ""]
    if any(entry["groups"] for entry in entries):
        lines += ["## Greedy answers by subject, task or level", "", *_groups(entries), ""]
    return "\n".join(lines)


def _name(entry: Entry) -> str:
    return f"{entry['task']}, {entry['mode']}"


def _cell(entry: Entry, name: str) -> str:
    return percent(entry[name], entry[f"{name}_interval"])


def problems(entry: Entry) -> str:
    """Returns the number of problems: "1,319", or "50 of 1,319"."""
    n, total = entry["n"], entry["total"]
    return f"{n:,}" if n == total else f"{n:,} of {total:,}"


def _scores(entry: Entry, sampled: bool) -> list[str]:
    cells = [escape(entry["task"]), escape(entry["mode"]), str(entry["shots"]), problems(entry)]
    cells += [_cell(entry, "greedy") if entry["checked"] else NOT_CHECKED, _cell(entry, "greedy_deepseek")]
    if sampled:
        cells += [str(entry["k"] or NONE), *(_cell(entry, name) for name in ("mean", "maj_at_k", "pass_at_k"))]
    figures = [NONE if figure is None else f"{figure:.1f}" for figure in published(entry["task"], entry["mode"])]
    if vote := RL_MAJ_AT_64.get((entry["task"], entry["mode"])):
        figures[-1] += f" (maj@64: {vote})"
    return cells + figures


def _notes(entries: Sequence[Entry]) -> list[str]:
    """Returns a line for each task with counts that are not in the table."""
    notes = []
    for entry in entries:
        counts, parts = entry["counts"], []
        for name, words in (
            ("no_answer", "without an answer"),
            ("cut", "truncated at a limit of length or rounds"),
            ("lost", "not graded in time, counted as incorrect"),
            ("not_checked", "not checked"),
        ):
            parts += [f"{counts[name]:,} {words}"] if counts[name] else []
        sentences = [f"of {counts['completions']:,} completions {', '.join(parts)}"] if parts else []
        if counts["programs"]:
            ended = ", ".join(f"{number:,} {status}" for status, number in counts["programs"].items())
            sentences.append(f"programs: {ended}")
        for kind, mean in entry["macro"].items():
            sentences.append(f"mean over the {mean['of']} {kind}s: {_cell(mean, 'greedy')}")
        if sentences:
            notes.append(f"- {escape(_name(entry))}: {escape('; '.join(sentences))}.")
    return ["", *notes] if notes else []


def _origin(run: Mapping[str, Any], entries: Sequence[Entry]) -> list[str]:
    """Returns the lines about the origin of the figures."""
    asked = f"style {run['style']}{_chat(run)}, at most {run['max_new_tokens']:,} new tokens"
    if budget := run["max_thinking_tokens"]:
        asked += f", {budget:,} of them in a thought"
    if any(entry["k"] for entry in entries):
        asked += f"; samples at temperature {run['temperature']}, top_p {run['top_p']}, seed {run['seed']}"
    if any(entry["n"] < entry["total"] for entry in entries):
        asked += "; problems of incomplete tasks drawn evenly over their parts"
    return [
        f"- Checkpoint: {code(run['checkpoint'])}",
        f"- Asked: {escape(asked)}",
        f"- Grader: {escape(run['grader'])}",
        f"- Sandbox: {escape(run['sandbox'] or 'no program was run')}",
        *(f"- Command: {code(command)}" for command in dict.fromkeys(entry["command"] for entry in entries)),
    ]


def _chat(run: Mapping[str, Any]) -> str:
    """Describes how a chat model is asked."""
    if run["style"] != "chat":
        return ""
    template = "the paper's template" if run["template"] == DEEPSEEK_MATH else "its own template (settings.json)"
    known = {questions.PAPER: "the paper's instruction", "": "no instruction"}
    own = f"the instruction {json.dumps(run['instruction'], ensure_ascii=False)}"
    system = f" and the system message {json.dumps(run['system'], ensure_ascii=False)}" if run["system"] else ""
    return f" in {template} with {known.get(run['instruction'], own)}{system}"


def _curves(entries: Sequence[Entry]) -> list[str]:
    ks = sorted({k for entry in entries for k in entry["curve"]["k"]})
    rows = []
    for entry in entries:
        curve = entry["curve"]
        for name in ("maj", "pass"):
            values = zip(curve["k"], curve[name], curve[f"{name}_interval"], strict=True)
            cells = {k: percent(value, ends) for k, value, ends in values}
            if cells:
                rows.append([escape(_name(entry)), f"{name}@k", *(cells.get(k, NONE) for k in ks)])
    return grid(["task", "", *(f"k = {k}" for k in ks)], rows)


def _groups(entries: Sequence[Entry]) -> list[str]:
    return grid(
        ["task", "by", "", "problems", "greedy"],
        [
            [escape(_name(entry)), escape(kind), escape(name), f"{group['n']:,}", _cell(group, "greedy")]
            for entry in entries
            for kind, names in entry["groups"].items()
            for name, group in names.items()
        ],
    )
