"""An evaluation: a model is asked a list of tasks, its answers are graded, and a table reports them.

    DIR/settings.json                  what all results below were made with
    DIR/<task>-<mode>/problems.jsonl   the questions, as they are asked, with their answers
    DIR/<task>-<mode>/samples.jsonl    a line for each graded completion, in an order that never changes
    DIR/<task>-<mode>/summary.json     accuracies with intervals, maj@k, pass@k, by subject and level
    DIR/summary.json, DIR/table.md     all results in DIR, one by one and pooled, next to the paper's figures

What is in `samples.jsonl` is not drawn again: a killed evaluation resumes, and ends as it would have.
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
from dsmath_jax.evaluation import judge, registry, samples, table
from dsmath_jax.evaluation.answering import Group, Job, Settings, answers, make_job
from dsmath_jax.evaluation.policy import Policy
from dsmath_jax.evaluation.registry import TASKS
from dsmath_jax.evaluation.summary import read_problems, summarise
from dsmath_jax.grading.grade import Grader
from dsmath_jax.grading.sandbox import Program, ProgramResult, Sandbox
from dsmath_jax.progress import track
from dsmath_jax.sharding import barrier, from_first
from dsmath_jax.workdir import UserError, atomic_write, hash_json, json_object, write_json, write_jsonl

Lines = list[dict[str, Any]]
PROBLEMS = "problems.jsonl"
GRADER = f"Math-Verify {version('math-verify')} behind rules of its own"


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where results come from, in the user's own words: the checkpoint and the whole command line."""

    checkpoint: str
    command: str


class FirstProcess:
    """The sandbox of a run of several processes: the first one has it and sends the others the programs' results."""

    def __init__(self, sandbox: Sandbox | None):
        self._sandbox = sandbox

    def run(self, programs: Sequence[Program]) -> list[ProgramResult]:
        ran = [dataclasses.asdict(one) for one in self._sandbox.run(programs)] if self._sandbox else None
        return [ProgramResult(**one) for one in from_first(ran)]


def needs_programs(job: Job) -> bool:
    """Whether answers to it are programs, or have some in them."""
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
    """Evaluates `policy` on the tasks of these names; returns the table.

    Args:
      policy: the model; the same on every process.
      names: in the registry, of data sets, or of files below `data_dir`.
      settings: how they are asked.
      data_dir: where the records lie.
      out: the folder of the results; process 0 writes there.
      provenance: what was evaluated and how, for the summaries.
      make_sandbox: makes what programs run in; it is called where there are some, before anything is drawn.

    Raises:
      UserError: a task, its data, the sandbox or what is in `out` does not fit.
    """
    jobs = [make_job(policy, name, settings, data_dir) for name in distinct(names)]
    first = jax.process_index() == 0
    shared = dataclasses.asdict(settings) | {"max_new_tokens": policy.max_new_tokens}
    del shared["mode"]  # modes may share a folder
    if settings.style == "chat":
        shared |= {"template": policy.chat.template, "instruction": policy.chat.instruction}
    with contextlib.ExitStack() as stack:
        sandbox = stack.enter_context(make_sandbox()) if first and any(map(needs_programs, jobs)) else None
        if sandbox:
            print(f"sandbox: {sandbox.level}", file=sys.stderr)
        if first:
            samples.claim(out, shared | {"model": policy.identity})
            for job in jobs:
                samples.claim(out / job.name, {"prompts": hash_json([*job.prompts])})
                write_jsonl(out / job.name / PROBLEMS, map(_problem, job.records))
        grader = stack.enter_context(Grader())
        for job in jobs:
            level = sandbox.level if sandbox and needs_programs(job) else ""
            draw = functools.partial(answers, policy, job, runner=FirstProcess(sandbox))
            folder = out / job.name
            judged = functools.partial(judge.lines, job=job, folder=folder, grader=grader, runner=sandbox)
            grade = functools.partial(_contained, judged, level) if level else judged
            fill(folder / samples.NAME, job, draw, grade)
            if first:
                write_json(folder / "summary.json", _summary(folder / samples.NAME, job, level, provenance.command))
    page = _tell(out, shared | {"checkpoint": provenance.checkpoint}) if first else ""
    barrier("evaluation")
    return page


def distinct(names: Sequence[str]) -> list[str]:
    """Tasks, each once, whose results go to folders of their own.

    Raises:
      UserError: a name is unknown, or two are of one folder.
    """
    found = list({task.name: task for task in map(registry.task, names)}.values())
    for place, one in enumerate(found):
        for other in found[:place]:
            if one.folder == other.folder:
                raise UserError(f"The results of {other.name} and {one.name} would have one folder; rename a file.")
    return [one.name for one in found]


def _problem(record: Record) -> dict[str, str]:
    question = questions.ask(dataclasses.replace(record, instruction=""))
    return {"id": record.id, "question": question, "answer": record.answer}


def fill(
    path: Path, job: Job, draw: Callable[[int], Iterator[Group]], grade: Callable[[Sequence[Group]], Lines]
) -> None:
    """Draws and grades what is missing in a file of samples.

    Grading goes on beside drawing, in batches of whatever was drawn meanwhile; process 0 grades and writes.
    """
    first = jax.process_index() == 0
    done = from_first(samples.resume(path, job.groups) if first else None)
    stream = track(draw(done), job.name, len(job.groups), done)
    if not first:
        for _ in stream:
            pass
        return
    with ThreadPoolExecutor(1) as beside:
        waiting: list[Group] = []
        graded: Future[Lines] | None = None
        for group in stream:
            waiting.append(group)
            if graded is None or graded.done():
                if graded:
                    samples.append(path, graded.result())
                graded, waiting = beside.submit(grade, waiting), []
        for rest in (graded, beside.submit(grade, waiting) if waiting else None):
            if rest:
                samples.append(path, rest.result())


def _contained(judged: Callable[[Sequence[Group]], Lines], level: str, groups: Sequence[Group]) -> Lines:
    """Lines that say how the programs were contained."""
    return [line | {"sandbox": level} for line in judged(groups)]


def _summary(path: Path, job: Job, level: str, command: str) -> dict[str, Any]:
    told_by = job.task.groups
    groups = {r.id: {name: getattr(r, field) for name, field in told_by.items()} for r in job.records}
    return {
        "task": job.task.name,
        "mode": job.settings.mode,
        "shots": job.shots[0] if job.shots[0] == job.shots[1] else f"{job.shots[0]} to {job.shots[1]}",
        "total": job.total,
        "sandbox": level,
        "command": command,
    } | summarise(read_problems(path, groups), job.settings.seed)


def _tell(out: Path, run: dict[str, Any]) -> str:
    """Writes the summary and the table of all results in `out`; returns the table."""
    folders = [path.parent for path in sorted(out.glob("*/summary.json")) if (path.parent / PROBLEMS).exists()]
    results = [
        json_object((folder / "summary.json").read_bytes(), f"{folder}/summary.json", f"the folder {folder}")
        for folder in folders
    ]
    order = [*TASKS]
    results.sort(key=lambda one: order.index(one["task"]) if one["task"] in order else len(order))
    pooled = _pooled(results, out, run["seed"])
    levels = ", ".join(sorted({one["sandbox"] for one in results} - {""}))
    run |= {"grader": GRADER, "sandbox": levels}
    write_json(out / "summary.json", {"run": run, "results": results, "pooled": pooled})
    page = table.markdown(run, results, pooled)
    with atomic_write(out / "table.md") as file:
        file.write(page)
    return page


def _pooled(results: Sequence[dict[str, Any]], out: Path, seed: int) -> dict[str, dict[str, Any]]:
    """For each mode what all problems come to together, but for those that nothing here could check.

    `macro` has the plain mean of the tasks' accuracies.
    """
    found = {}
    for mode in dict.fromkeys(one["mode"] for one in results):
        of_mode = [one for one in results if one["mode"] == mode]
        chosen = [one for one in of_mode if one["checked"]] or of_mode
        problems = [
            dataclasses.replace(problem, groups={"task": one["task"]})
            for one in chosen
            for problem in read_problems(out / f"{registry.task(one['task']).folder}-{mode}" / samples.NAME)
        ]
        names, total = [one["task"] for one in chosen], sum(one["total"] for one in chosen)
        found[mode] = {"tasks": names, "total": total} | summarise(problems, seed)
    return found
