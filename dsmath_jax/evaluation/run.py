"""Runs an evaluation: asks a model the problems of tasks, grades its answers and writes a table.

    DIR/settings.json                  the settings of all results in DIR
    DIR/<task>-<mode>/problems.jsonl   the questions with their answers
    DIR/<task>-<mode>/samples.jsonl    a line for each graded completion, in a fixed order
    DIR/<task>-<mode>/summary.json     accuracies with intervals, maj@k, pass@k, by subject and level
    DIR/summary.json, DIR/table.md     all results in DIR, one by one and pooled, next to the paper's figures

Samples in `samples.jsonl` are not drawn again: a killed evaluation resumes and has the same result.
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from dsmath_jax.data import questions
from dsmath_jax.data.datasets import Record
from dsmath_jax.evaluation import grade_samples, registry, samples, table
from dsmath_jax.evaluation.answering import Group, Job, Settings, answers, make_job
from dsmath_jax.evaluation.policy import Policy
from dsmath_jax.evaluation.registry import TASKS
from dsmath_jax.evaluation.summary import read_problems, summarize
from dsmath_jax.grading.grade import Grader
from dsmath_jax.grading.sandbox import Program, ProgramResult, Sandbox
from dsmath_jax.progress import track
from dsmath_jax.settings import find_same
from dsmath_jax.sharding import barrier, broadcast_json
from dsmath_jax.workdir import UserError, atomic_write, hash_json, json_object, write_json, write_jsonl

Lines = list[dict[str, Any]]
PROBLEMS = "problems.jsonl"
GRADER = f"Math-Verify {version('math-verify')} after our equivalence rules"


@dataclasses.dataclass(frozen=True)
class Provenance:
    """The origin of results: the checkpoint and the command as the user gave them, or the stage that evaluates."""

    checkpoint: str
    command: str


class SharedSandbox:
    """The sandbox of several processes: process 0 runs the programs and sends their results to the others."""

    def __init__(self, sandbox: Sandbox | None):
        self._sandbox = sandbox

    def run(self, programs: Sequence[Program]) -> list[ProgramResult]:
        """Runs programs; all processes must call it together."""
        results = [dataclasses.asdict(each) for each in self._sandbox.run(programs)] if self._sandbox else None
        return [ProgramResult(**fields) for fields in broadcast_json(results)]


def needs_programs(job: Job) -> bool:
    """Returns whether answers are programs or contain programs."""
    return job.settings.mode != "cot" or job.kind == "program"


def run(
    policy: Policy,
    names: Sequence[str],
    settings: Settings,
    data_dir: Path,
    out: Path,
    provenance: Provenance,
    make_sandbox: Callable[[], Sandbox],
) -> str:
    """Evaluates a model on tasks; returns the table of results in Markdown.

    Args:
      policy: the model, the same on every process.
      names: tasks of the registry, data sets, or files below `data_dir`.
      settings: how they are asked.
      data_dir: the data folder.
      out: the folder of the results, written by process 0.
      provenance: checkpoint and command for the summaries.
      make_sandbox: makes the sandbox; called before sampling if there are programs.

    Raises:
      UserError: a task, its data, the sandbox or the content of `out` is invalid.
    """
    jobs = [make_job(policy, name, settings, data_dir) for name in distinct(names)]
    first = jax.process_index() == 0
    shared = dataclasses.asdict(settings) | {"max_new_tokens": policy.max_new_tokens}
    shared |= dataclasses.asdict(policy.dtypes)
    del shared["mode"]  # modes may share a folder
    if settings.style == "chat":
        shared |= policy.chat.settings
    with contextlib.ExitStack() as stack:
        sandbox = stack.enter_context(make_sandbox()) if first and any(map(needs_programs, jobs)) else None
        if sandbox:
            print(f"sandbox: {sandbox.level}", file=sys.stderr)
        if first:
            samples.write_or_check_settings(out, shared | {"model": policy.fingerprint})
            for job in jobs:
                samples.write_or_check_settings(out / job.name, {"prompts": hash_json([*job.prompts])})
                write_jsonl(out / job.name / PROBLEMS, map(_problem, job.records))
        grader = stack.enter_context(Grader())
        for job in jobs:
            level = sandbox.level if sandbox and needs_programs(job) else ""
            draw = functools.partial(answers, policy, job, runner=SharedSandbox(sandbox))
            folder = out / job.name
            grade = functools.partial(_grade, level=level, job=job, folder=folder, grader=grader, runner=sandbox)
            draw_missing(folder / samples.NAME, job, draw, grade)
            if first:
                write_json(folder / "summary.json", _summary(folder / samples.NAME, job, level, provenance.command))
    page = _write_summary(out, shared | {"checkpoint": provenance.checkpoint}) if first else ""
    barrier("evaluation")
    return page


def distinct(names: Sequence[str]) -> list[str]:
    """Returns the distinct tasks of these names.

    Raises:
      UserError: a name is unknown, or the results of two tasks would have one folder.
    """
    tasks = {task.name: task for task in map(registry.task, names)}
    if same := find_same(tasks, lambda name: tasks[name].folder):
        raise UserError(f"The results of {' and '.join(same)} would have one folder; rename a file.")
    return [*tasks]


def _problem(record: Record) -> dict[str, str]:
    question = questions.user_message(dataclasses.replace(record, instruction=""))
    return {"id": record.id, "question": question, "answer": record.answer}


def draw_missing(
    path: Path, job: Job, draw: Callable[[int], Iterator[Group]], grade: Callable[[Sequence[Group]], Lines]
) -> None:
    """Draws and grades the samples that a file lacks.

    A thread grades in batches while further groups are drawn. Process 0 grades and writes.
    """
    first = jax.process_index() == 0
    done = broadcast_json(samples.resume(path, job.groups) if first else None)
    stream = track(draw(done), job.name, len(job.groups), done)
    if not first:
        for _ in stream:
            pass
        return
    with ThreadPoolExecutor(1) as executor:
        waiting: list[Group] = []
        graded: Future[Lines] | None = None
        for group in stream:
            waiting.append(group)
            if graded is None or graded.done():
                if graded:
                    samples.append(path, graded.result())
                graded, waiting = executor.submit(grade, waiting), []
        for rest in (graded, executor.submit(grade, waiting) if waiting else None):
            if rest:
                samples.append(path, rest.result())


def _grade(groups: Sequence[Group], level: str, **arguments: Any) -> Lines:
    """Grades groups; where programs ran, lines also have the protection of the sandbox."""
    return [line | ({"sandbox": level} if level else {}) for line in grade_samples.grade_groups(groups, **arguments)]


def _summary(path: Path, job: Job, level: str, command: str) -> dict[str, Any]:
    groups = {r.id: {name: getattr(r, field) for name, field in job.task.groups.items()} for r in job.records}
    return {
        "task": job.task.name,
        "mode": job.settings.mode,
        "shots": job.shots[0] if job.shots[0] == job.shots[1] else f"{job.shots[0]} to {job.shots[1]}",
        "total": job.total,
        "sandbox": level,
        "command": command,
    } | summarize(read_problems(path, groups), job.settings.seed)


def _write_summary(out: Path, run: dict[str, Any]) -> str:
    """Writes the summary and the table of all results in `out`; returns the table."""
    folders = [path.parent for path in sorted(out.glob("*/summary.json")) if (path.parent / PROBLEMS).exists()]
    results = [
        json_object((folder / "summary.json").read_bytes(), f"{folder}/summary.json", f"the folder {folder}")
        for folder in folders
    ]
    order = [*TASKS]
    results.sort(key=lambda each: order.index(each["task"]) if each["task"] in order else len(order))
    pooled = _pooled(results, out, run["seed"])
    levels = ", ".join(sorted({each["sandbox"] for each in results} - {""}))
    run |= {"grader": GRADER, "sandbox": levels}
    write_json(out / "summary.json", {"run": run, "results": results, "pooled": pooled})
    page = table.markdown(run, results, pooled)
    with atomic_write(out / "table.md") as file:
        file.write(page)
    return page


def _pooled(results: Sequence[dict[str, Any]], out: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Returns the summary of all problems by mode, without tasks whose proofs were not verified unless all are such.

    `macro` is the mean of the tasks' accuracies.
    """
    summaries = {}
    for mode in dict.fromkeys(each["mode"] for each in results):
        of_mode = [each for each in results if each["mode"] == mode]
        chosen = [each for each in of_mode if each["checked"]] or of_mode
        problems = [
            dataclasses.replace(problem, groups={"task": each["task"]})
            for each in chosen
            for problem in read_problems(out / f"{registry.task(each['task']).folder}-{mode}" / samples.NAME)
        ]
        names, total = [each["task"] for each in chosen], sum(each["total"] for each in chosen)
        summaries[mode] = {"tasks": names, "total": total} | summarize(problems, seed)
    return summaries
