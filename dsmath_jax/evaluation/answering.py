"""Draws a model's answers to the problems of a task: greedy ones, then samples, always in the same order."""

import collections
import dataclasses
import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dsmath_jax.data import datasets
from dsmath_jax.data.dataset_formats import Kind
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.questions import Mode
from dsmath_jax.data.settings import DataSettings
from dsmath_jax.data.subsample import EVALUATION_SEED, subsample
from dsmath_jax.environments.python_tool import OUTPUT_CHARS, Programs, PythonTool
from dsmath_jax.evaluation import exemplars, registry
from dsmath_jax.evaluation import prompts as prompting
from dsmath_jax.evaluation.policy import Policy, TextCompletion
from dsmath_jax.evaluation.registry import Style, Task
from dsmath_jax.evaluation.samples import Key
from dsmath_jax.evaluation.statistics import MAX_SAMPLES
from dsmath_jax.evaluation.summary import GREEDY
from dsmath_jax.grading.code import Runner, cut_at_stop
from dsmath_jax.sampling.sampler import SamplingParams
from dsmath_jax.sampling.thinking import THINKING_HELP, check_max_thinking_tokens, thinking_budget
from dsmath_jax.settings import INT32, MAX_TEMPERATURE, setting
from dsmath_jax.workdir import UserError

ROUNDS = 4  # programs of a dialogue


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(DataSettings):
    """The settings of an evaluation."""

    mode: Mode = setting("cot", "chain of thought (cot), program of thought (pot) or with tools (tir)")
    style: Style = setting("few_shot", "how the model is asked: few_shot, or chat for a model after instruction tuning")
    samples: int = setting(0, "K: samples of each problem, in addition to the greedy one", ge=0, le=MAX_SAMPLES)
    temperature: float = setting(0.7, "of the samples", ge=0, le=MAX_TEMPERATURE)
    top_p: float = setting(1.0, "of the samples", gt=0, le=1)
    seed: int = setting(0, "of the samples", ge=0, le=INT32)
    max_thinking_tokens: int = setting(0, THINKING_HELP, ge=0)
    limit: int = setting(0, "problems of a task, drawn evenly over its subjects, tasks and levels; 0 for all", ge=0)
    rounds: int = setting(ROUNDS, "programs that a dialogue with tools may run", ge=1)
    output_chars: int = setting(OUTPUT_CHARS, "characters of a program's output that the model sees", ge=1)
    exemplars: tuple[str, ...] = setting(
        (), "data sets and your own files of few-shot examples, below the data folder; () for the task's own"
    )
    shots: int = setting(0, "few-shot examples before a question; 0 for the task's number, or all of a file", ge=0)


def check_chat_settings(asked: Settings, given: Iterable[str]) -> None:
    """Raises a `UserError` where settings of a chat are given, but the style is not chat."""
    for name in given if asked.style != "chat" else ():
        raise UserError(f"{name} belongs to questions in a chat; set style to chat, or leave it out.")


@dataclasses.dataclass(frozen=True)
class Job:
    """A task in one mode, with its prompts.

    Attributes:
      task: the task.
      settings: how it is asked.
      records, prompts: one per problem.
      stops: strings that end a completion.
      shots: the minimum and maximum number of few-shot examples before a question.
      total: number of problems of the whole task.
    """

    task: Task
    settings: Settings
    records: Sequence[Record]
    prompts: Sequence[str]
    stops: Sequence[str]
    shots: tuple[int, int]
    total: int

    @property
    def name(self) -> str:
        """The name of the folder of its results."""
        return f"{self.task.folder}-{self.settings.mode}"

    @property
    def kind(self) -> Kind:
        """The kind of the first record; "program" and "theory" are the kinds of all records or of none."""
        return self.records[0].kind

    @property
    def passes(self) -> tuple[tuple[Sequence[int], float], ...]:
        """The sample numbers and the temperature of each pass over all problems."""
        sampled = ((range(self.settings.samples), self.settings.temperature),) if self.settings.samples else ()
        return (((GREEDY,), 0.0), *sampled)

    @property
    def groups(self) -> list[list[Key]]:
        """The keys of the samples that are drawn together, in order: of one problem in one pass."""
        return [[(record.id, number) for number in numbers] for numbers, _ in self.passes for record in self.records]


@dataclasses.dataclass(frozen=True)
class Answer:
    """A completion of a prompt, in one or more turns.

    Attributes:
      text: the whole text after the prompt, with the mark of a thought that the prompt opened.
      prose: the text that a final answer is extracted from; in dialogues without programs and their outputs.
      finish: "eos", "stop", "length", or "rounds".
    """

    text: str
    prose: str
    finish: str


@dataclasses.dataclass(frozen=True)
class Group:
    """The completions of one problem, an index into the job's records, with the numbers of the samples."""

    problem: int
    numbers: Sequence[int]
    answers: Sequence[Answer]


def make_job(policy: Policy, name: str, settings: Settings, data_dir: Path) -> Job:
    """Loads a task and builds its prompts.

    A prompt has as many few-shot examples as fit into the model's context with a completion.

    Raises:
      UserError: the task is unknown, lacks the mode, or its data are missing or have no answers.
    """
    entry = registry.task(name)
    check_max_thinking_tokens(settings.max_thinking_tokens, policy.max_new_tokens)
    thinking_budget(policy.chat, settings.max_thinking_tokens)
    if settings.mode not in entry.modes:
        raise UserError(f"The task '{name}' has no mode {settings.mode}; use one of {', '.join(entry.modes)}.")
    all_records = registry.records(name, data_dir, columns=settings.columns)
    records = subsample([all_records], settings.limit, EVALUATION_SEED)
    check_records(name, records)
    examples = None
    if settings.style == "few_shot" or settings.exemplars:
        examples = exemplars.load(entry, settings.mode, data_dir, settings.exemplars, settings.shots, settings.columns)
    texts, shots, lengths = [], [], []
    for record in records:
        chosen = examples.for_record(record) if examples else ()
        for count in range(len(chosen), -1, -1):
            text = prompting.prompt(policy.chat, entry, record, settings.mode, settings.style, chosen, count)
            length = len(policy.encode(text))
            if length <= policy.max_prompt_tokens:
                break
        texts.append(text)
        shots.append(count)
        lengths.append(length)
    stops = prompting.stops(entry, settings.mode, settings.style)
    if long := sum(length > policy.max_prompt_tokens for length in lengths):
        logging.warning(
            "%s: %d of %d prompts leave less of the model's context than max_new_tokens; completions that fill it are "
            "truncated, and counted as such.", name, long, len(lengths),
        )  # fmt: skip
    return Job(entry, settings, records, texts, stops, (min(shots), max(shots)), len(all_records))


def check_records(name: str, records: Sequence[Record]) -> None:
    """Raises a `UserError` where the records of a task cannot be graded."""
    datasets.check_answers(records)
    if twice := [key for key, count in collections.Counter(record.id for record in records).items() if count > 1]:
        raise UserError(f"{name} has several records with the id {twice[0]}; correct or remove the ids.")
    kinds = {record.kind for record in records}
    if len(kinds) > 1 and kinds & {"program", "theory"}:
        raise UserError(f"The records of {name} are of the kinds {', '.join(sorted(kinds))}; give each its own file.")


def answers(policy: Policy, job: Job, done: int, runner: Runner | None) -> Iterator[Group]:
    """Yields the groups after the first `done` ones; a group does not depend on `done`."""
    problems, draw = len(job.records), _dialogues if job.settings.mode == "tir" else _completions
    for index, (numbers, temperature) in enumerate(job.passes):
        start = min(max(0, done - index * problems), problems)
        if start < problems:
            yield from draw(policy, job, range(start, problems), numbers, temperature, runner)


def _completions(
    policy: Policy, job: Job, chosen: range, numbers: Sequence[int], temperature: float, runner: Runner | None
) -> Iterator[Group]:
    del runner  # programs run when they are graded
    settings, thought = job.settings, _opened_thought(policy, job.settings)
    sampling = dataclasses.replace(
        _sampling(policy, settings, temperature), samples=len(numbers), stop_strings=job.stops
    )
    groups = policy.complete([job.prompts[i] for i in chosen], sampling, numbers=chosen)
    for problem, group in zip(chosen, groups, strict=True):
        texts = [thought + cut_at_stop(completion.text, job.stops) for completion in group]
        yield Group(problem, numbers, [Answer(text, text, c.finish) for text, c in zip(texts, group, strict=True)])


def _dialogues(
    policy: Policy, job: Job, chosen: range, numbers: Sequence[int], temperature: float, runner: Runner | None
) -> Iterator[Group]:
    assert runner is not None
    settings, thought = job.settings, _opened_thought(policy, job.settings)
    make = functools.partial(PythonTool, Programs(runner), settings.output_chars, job.stops)
    sampling = dataclasses.replace(_sampling(policy, settings, temperature), samples=len(numbers))
    prompts, records = [job.prompts[i] for i in chosen], [job.records[i] for i in chosen]
    groups = policy.converse(prompts, records, make, settings.rounds + 1, sampling, chosen)
    for problem, group in zip(chosen, groups, strict=True):
        drawn = [
            Answer(thought + _without_stop(c, job.stops), thought + (answer or c.text), c.finish) for c, answer in group
        ]
        yield Group(problem, numbers, drawn)


def _without_stop(completion: TextCompletion, stops: Sequence[str]) -> str:
    """Returns the text before the stop string that ended a completion, if one did."""
    found = max((completion.text.rfind(stop) for stop in stops), default=-1) if completion.finish == "stop" else -1
    return completion.text if found < 0 else completion.text[:found]


def _opened_thought(policy: Policy, settings: Settings) -> str:
    return policy.chat.opens_thought if settings.style == "chat" else ""


def _sampling(policy: Policy, settings: Settings, temperature: float) -> SamplingParams:
    thinking = thinking_budget(policy.chat, settings.max_thinking_tokens, plain=settings.style != "chat")
    return SamplingParams(temperature=temperature, top_p=settings.top_p, seed=settings.seed, thinking=thinking)
