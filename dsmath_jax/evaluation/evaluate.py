"""Stage `evaluate`: greedy accuracy, maj@k and pass@k of the base, SFT and RL models on held-out problems.

Paper §5.2.2.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from dsmath_jax.data import benchmarks, chat, tokenizer
from dsmath_jax.data.benchmarks import Record
from dsmath_jax.evaluation import judge
from dsmath_jax.evaluation.answering import Job, Settings, answers, warn_of_long
from dsmath_jax.evaluation.policy import Policy
from dsmath_jax.evaluation.run import fill
from dsmath_jax.evaluation.settings import MODELS, EvaluateSettings
from dsmath_jax.evaluation.summary import Problem, summarise
from dsmath_jax.grading.grade import Grader
from dsmath_jax.settings import check_choice
from dsmath_jax.sharding import Layout, barrier
from dsmath_jax.training.model_files import LanguageModel, read_model, read_params
from dsmath_jax.workdir import read_jsonl, remove, write_json, write_jsonl

STOPS = ("\n\nUser:",)  # the base model knows no EOS of an answer: what it goes on to ask itself is not part of it


def stage_of(model: str) -> str:
    """The stage that makes the model "base", "sft" or "rl".

    Raises:
      UserError: it is none of these.
    """
    check_choice("evaluate.models", model, MODELS)
    return MODELS[model][0]


def check(settings: EvaluateSettings, read: Callable[[str], Sequence[Record]]) -> None:
    """Raises a `UserError` where a data set cannot be read: `read` is from its name to its records."""
    for name in (*settings.data, *settings.examples):
        read(name)


def run(settings: EvaluateSettings, workdir: Path, data_dir: Path, layout: Layout, seed: int) -> dict:
    """Writes `evaluate/<model>.jsonl` (every completion, graded) and `evaluate/summary.json`.

    A model that has its file is not asked again; one of which some completions are there resumes after them.
    """
    folder = workdir / "evaluate"
    text_tokenizer = tokenizer.load(workdir / "tokenizer")
    records = [r for name in settings.data for r in benchmarks.load(name, data_dir)][: settings.problems or None]
    examples = [r for name in settings.examples for r in benchmarks.load(name, data_dir)][: settings.shots]
    asked = Settings(style="chat", samples=settings.samples, temperature=settings.temperature, seed=seed)
    summary: dict[str, dict] = {}
    with Grader() as grader:
        for name in settings.models:
            stage, few_shot = MODELS[name]
            path, shots = folder / f"{name}.jsonl", examples if few_shot else []
            if not path.exists():
                prompts = [chat.few_shot(shots, record.question) for record in records]
                count = len(shots)
                job = Job(name, asked, records, prompts, STOPS, (count, count), len(records))
                model = read_model(workdir / stage, layout)
                params = read_params(workdir / stage, model.config, layout)
                policy = Policy.of(
                    LanguageModel(model, params, text_tokenizer, layout), settings.max_new_tokens, settings.decode_slots
                )
                warn_of_long(policy, job.name, [len(policy.ids(prompt)) for prompt in prompts])
                draw = functools.partial(answers, policy, job, runner=None)
                grade = functools.partial(judge.lines, job=job, folder=folder, grader=grader, runner=None)
                made = folder / f"{name}.made.jsonl"
                fill(made, job, draw, grade)
                if jax.process_index() == 0:
                    write_jsonl(path, _rows(job, read_jsonl(made)))
                    remove(made)
            barrier(f"evaluate {name}")
            problems = [Problem(row["id"], row["greedy"], row["samples"]) for row in read_jsonl(path)]
            summary[name] = summarise(problems, seed) | {"temperature": settings.temperature}
    if jax.process_index() == 0:
        write_json(folder / "summary.json", summary)
    return {name: scores["greedy"] for name, scores in summary.items()}


def _rows(job: Job, lines: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """A row a problem, of the greedy completions, which come first, and the samples."""
    told = iter(lines)
    first, samples = ([[next(told) for _ in numbers] for _ in job.records] for numbers, _ in job.passes)
    for record, (greedy,), group in zip(job.records, first, samples, strict=True):
        question = {"id": record.id, "question": record.question, "answer": record.answer}
        yield question | {"greedy": greedy, "samples": group}
