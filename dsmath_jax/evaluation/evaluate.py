"""Stage `evaluate`: greedy accuracy, maj@k and pass@k of the base, SFT and RL models on held-out problems.

Paper §5.2.2.
"""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from dsmath_jax.data import benchmarks, chat, tokenizer
from dsmath_jax.evaluation import judge
from dsmath_jax.evaluation.answering import Job, Settings, answers, warn_of_long
from dsmath_jax.evaluation.policy import Policy
from dsmath_jax.evaluation.run import fill
from dsmath_jax.evaluation.summary import Problem, summarise
from dsmath_jax.grading.grade import Grader
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.sampling.sampler import Sampler
from dsmath_jax.sharding import Layout, MeshSettings, barrier, make_mesh
from dsmath_jax.training.model_files import read_model, read_params
from dsmath_jax.workdir import UserError, data_folder, read_jsonl, remove, write_json, write_jsonl

# The models of a run, by the stage that made them, and whether they are asked with worked examples before the question.
MODELS = {"base": ("pretrain", True), "sft": ("sft", False), "rl": ("rl", False)}
STOPS = ("\n\nUser:",)  # the base model knows no EOS of an answer: what it goes on to ask itself is not part of it


def stage_of(model: str) -> str:
    """The stage that makes the model "base", "sft" or "rl".

    Raises:
      UserError: it is none of these.
    """
    if model not in MODELS:
        raise UserError(f"Unknown model '{model}' in evaluate.models; known ones are {', '.join(MODELS)}.")
    return MODELS[model][0]


def run(config: ConfigDict, workdir: Path) -> dict:
    """Writes `evaluate/<model>.jsonl` (every completion, graded) and `evaluate/summary.json`.

    A model that has its file is not asked again, and one of which some completions are there goes on after them.
    """
    ours, folder, layout = config.evaluate, workdir / "evaluate", Layout(make_mesh(MeshSettings(**config.mesh)))
    text_tokenizer = tokenizer.load(workdir / "tokenizer")
    data_dir = data_folder(config, workdir)
    records = [r for name in ours.data for r in benchmarks.load(name, data_dir)][: ours.problems]
    examples = [r for name in ours.examples for r in benchmarks.load(name, data_dir)][: ours.shots]
    settings = Settings(style="chat", samples=ours.samples, temperature=ours.temperature, seed=config.seed)
    summary: dict[str, dict] = {}
    samplers: dict[ModelConfig, Sampler] = {}
    with Grader() as grader:
        for name in ours.models:
            stage, few_shot = MODELS[name]
            path, shots = folder / f"{name}.jsonl", examples if few_shot else []
            if not path.exists():
                prompts = [chat.few_shot(shots, record.question) for record in records]
                count = len(shots)
                job = Job(name, settings, records, prompts, STOPS, (count, count), len(records))
                model = read_model(workdir / stage, layout)
                # Models of one shape share a sampler, and with it what is compiled.
                if model.config not in samplers:
                    stop = text_tokenizer.stop_ids
                    samplers[model.config] = Sampler(model, layout, stop, ours.max_new_tokens, ours.rows)
                policy = Policy(
                    read_params(workdir / stage, model.config, layout), text_tokenizer, samplers[model.config],
                    model.config.context, ours.max_new_tokens,
                )  # fmt: skip
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
            summary[name] = summarise(problems, config.seed) | {"temperature": ours.temperature}
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
