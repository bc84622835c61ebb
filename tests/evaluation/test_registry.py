"""Tests every task on its real records, and the grading of its gold answers."""

import collections
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsmath_jax.command_line import load_config
from dsmath_jax.data import datasets
from dsmath_jax.data.datasets import Record
from dsmath_jax.evaluation import exemplars, prompts, registry
from dsmath_jax.evaluation.registry import TASKS, Style
from dsmath_jax.grading import code, equivalence, grade
from dsmath_jax.grading.sandbox import Program, Sandbox
from dsmath_jax.workdir import UserError
from tests.evaluation.math_files import rows, write_archive, write_mirror

CONFIGS = Path(__file__).parents[2] / "configs"
COUNTS = {
    "gsm8k": 1319, "math": 15, "ocw": 272, "sat": 32, "mmlu_stem": 3018, "mgsm_zh": 250, "cmath": 1098,
    "gaokao_mathcloze": 118, "gaokao_mathqa": 351, "mmlu": 14042, "bbh": 6511, "humaneval": 164, "mbpp": 500,
    "minif2f": 244,
}  # fmt: skip
SHOTS = {
    "gsm8k": 8, "math": 4, "ocw": 4, "sat": 4, "mmlu_stem": 4, "mgsm_zh": 8, "cmath": 6, "gaokao_mathcloze": 5,
    "gaokao_mathqa": 5, "mmlu": 5, "bbh": 3, "humaneval": 0, "mbpp": 3, "minif2f": 0,
}  # fmt: skip
STYLES: tuple[Style, ...] = ("few_shot", "chat")
ANSWERED = [name for name, entry in TASKS.items() if entry.kind not in ("program", "theory")]


@pytest.fixture
def data(real_data: Path, tmp_path: Path) -> Path:
    """The real data, with MATH as in its archive."""
    for folder in real_data.iterdir():
        (tmp_path / folder.name).symlink_to(folder.resolve())
    write_archive(tmp_path)
    return tmp_path


def test_every_task_loads_whole(data: Path) -> None:
    assert {name: len(registry.records(name, data)) for name in TASKS} == COUNTS


def test_subjects_and_levels_of_math_are_kept(tmp_path: Path) -> None:
    write_archive(tmp_path / "archive")
    write_mirror(tmp_path / "mirror")
    expected = collections.Counter((fields["type"], fields["level"].split()[1]) for _, fields in rows("test"))
    for folder in ("archive", "mirror"):
        found = registry.records("math", tmp_path / folder)
        assert collections.Counter((record.category, record.level) for record in found) == expected


def test_a_limit_draws_problems_from_all_parts(data: Path) -> None:
    some, all_ = registry.records("cmath", data, 60), registry.records("cmath", data)
    shares = [collections.Counter(record.level for record in records) for records in (some, all_)]
    assert all(abs(shares[0][level] - 60 * count / len(all_)) <= 1 for level, count in shares[1].items())
    assert [record for record in all_ if record in some] == some
    assert registry.records("cmath", data, 2000) == all_
    assert len({record.category for record in registry.records("mmlu", data, 57 * 4)}) == 57


@pytest.mark.slow
def test_ideal_completions_are_correct_and_those_of_other_problems_are_not(data: Path) -> None:
    incorrect = collections.Counter[str]()
    for name in ANSWERED:
        entry, found = TASKS[name], registry.records(name, data)
        for mode, style in itertools.product(set(entry.modes) - {"pot"}, STYLES):
            completions = [prompts.ideal_completion(entry, record, mode, style) for record in found]
            assert not missed(found, completions), f"{mode} {style}"
        others = deranged(found)
        completions = [prompts.ideal_completion(entry, found[other], "cot") for other in others]
        incorrect[name] = len(missed(found, completions))
    assert incorrect == {name: COUNTS[name] for name in ANSWERED}


def missed(found: list[Record], completions: list[str]) -> list[tuple[str, str, str, list]]:
    """Returns the completions that are not graded as correct: id, completion, gold answer and grade."""
    graded = [
        (record.id, text, record.answer, grade.grade(text, record.answer, record.kind, record.options))
        for record, text in zip(found, completions, strict=True)
    ]
    return [each for each in graded if not each[3][1]]


def deranged(found: list[Record]) -> list[int]:
    """Returns for each record the index of another with a different gold answer."""
    normal = [record.answer.replace(" ", "").lower() for record in found]
    order = sorted(range(len(found)), key=lambda place: normal[place])
    most = max(collections.Counter(normal).values())
    others = [0] * len(found)
    for place, index in enumerate(order):
        others[index] = order[(place + most) % len(order)]

    def same(index: int, other: int) -> bool:
        gold, answer, kind = found[index].answer, found[other].answer, found[index].kind
        return kind in ("number", "math") and equivalence.equal(gold, answer, kind).equal

    for index, other in enumerate(others):
        if same(index, other):  # in other words: "4e33" and "4\cdot 10^{33}"
            swap = next(i for i, o in enumerate(others) if not same(index, o) and not same(i, other))
            others[index], others[swap] = others[swap], other
    assert sorted(others) == list(range(len(found)))
    return others


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


def test_example_programs_print_the_answer(data: Path, sandbox: Sandbox) -> None:
    examples = exemplars.load(TASKS["gsm8k"], "tir", data).examples
    ran = sandbox.run([Program(f"{example.program}\nprint(solution())") for example in examples])
    assert [each.output.strip() for each in ran] == [example.output for example in examples]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_programs_that_return_gold_answers_are_correct(data: Path, sandbox: Sandbox, name: str) -> None:
    found = registry.records(name, data)
    incorrect = {}
    for style in STYLES:
        completions = [prompts.ideal_completion(TASKS[name], record, "pot", style) for record in found]
        ran = sandbox.run([code.program_of_thought(code.program_of(text) or "") for text in completions])
        answers = [code.statement(each) for each in ran]
        assert not missed(found, answers)
        incorrect[style] = missed(found, [answers[other] for other in deranged(found)])
    assert {style: len(each) for style, each in incorrect.items()} == dict.fromkeys(STYLES, COUNTS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_canonical_solutions_pass_and_those_of_others_do_not(data: Path, sandbox: Sandbox, name: str) -> None:
    found = registry.records(name, data)
    completions = [prompts.ideal_completion(TASKS[name], record, "cot") for record in found]
    for texts, passed in ((completions, len(found)), (completions[1:] + completions[:1], 0)):
        pairs = zip(texts, found, strict=True)
        if name == "humaneval":
            grades = code.grade_programs(sandbox, [code.humaneval(text, r.question, r.answer) for text, r in pairs])
        else:
            grades = code.grade_programs(sandbox, [code.mbpp(text, r.answer) for text, r in pairs])
        incorrect = [(record.id, each.reason) for record, each in zip(found, grades, strict=True) if not each.correct]
        assert len(found) - len(incorrect) == passed, incorrect[:9]


def test_the_corpus_is_decontaminated_against_every_task() -> None:
    sources = {entry.source for entry in TASKS.values()}
    assert sources <= set(datasets.SOURCES)
    assert sources <= set(datasets.TEST_SPLITS)
    assert load_config(f"{CONFIGS / 'corpus_small.py'}").corpus.benchmarks == (datasets.ALL,)
    assert sources <= set(load_config(f"{CONFIGS / 'corpus.py'}").corpus.benchmarks)


def test_few_shot_examples_are_of_no_test_split(data: Path) -> None:
    for name, entry in TASKS.items():
        assert entry.source.endswith("/test")
        asked = {" ".join(record.question.split()) for record in registry.records(name, data)}
        for mode, shots in entry.shots.items():
            assert shots.source.rpartition("/")[2] in ("train", "dev")
            loaded = exemplars.load(entry, mode, data).examples
            assert len(loaded) >= shots.count
            for example in loaded:
                assert example.record.id.startswith(f"{shots.source}/")
                if name not in ("mmlu", "bbh"):  # whose subjects share a few: see the next test
                    assert " ".join(example.record.question.split()) not in asked


@pytest.mark.parametrize("name", ["mmlu", "bbh"])
def test_no_record_is_its_own_example(data: Path, name: str) -> None:
    loaded = exemplars.load(TASKS[name], "cot", data)
    counts = collections.Counter[int]()
    for record in registry.records(name, data):
        chosen = loaded.for_record(record)
        counts[len(chosen)] += 1
        assert all(example.record.category == record.category for example in chosen)
        assert all((each.record.question, each.record.options) != (record.question, record.options) for each in chosen)
    assert set(counts) <= {SHOTS[name], SHOTS[name] - 1}
    assert counts[SHOTS[name] - 1] < 10


def test_as_many_examples_as_in_the_paper(data: Path) -> None:
    for name, entry in TASKS.items():
        loaded = exemplars.load(entry, "cot", data)
        assert len(loaded.for_record(registry.records(name, data, 5)[2])) == SHOTS[name]
    assert {name: entry.shots["pot"].count for name, entry in TASKS.items() if "pot" in entry.modes} == {
        "gsm8k": 8, "math": 4,
    }  # fmt: skip
    assert {name for name, entry in TASKS.items() if "tir" in entry.modes} == {"gsm8k", "math", "mgsm_zh", "cmath"}


def test_bbh_is_asked_as_it_is_published(real_data: Path) -> None:
    published = [
        (f"bbh/test/{path.stem}/{number}", example["input"])
        for path in sorted((real_data / "bbh" / "tasks").glob("*.json"))
        for number, example in enumerate(json.loads(path.read_text())["examples"])
    ]
    form = TASKS["bbh"].formats["cot"]
    found = registry.records("bbh", real_data)
    assert [record.id for record in found] == [identity for identity, _ in published]
    differ = [
        (prompts.format_question(form, record), text)
        for record, (_, text) in zip(found, published, strict=True)
        if squeezed(prompts.format_question(form, record)) != squeezed(text)
    ]
    assert not differ


def squeezed(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def test_records_are_of_the_kind_of_their_task(data: Path) -> None:
    for name, entry in TASKS.items():
        kinds = {record.kind for record in registry.records(name, data)}
        assert kinds == ({"text", "choice"} if name == "bbh" else {entry.kind})


def test_kinds_of_bbh(real_data: Path) -> None:
    kinds = collections.defaultdict(set)
    for record in registry.records("bbh", real_data):
        kinds[record.kind].add(record.category)
    texts = {
        "boolean_expressions", "causal_judgement", "dyck_languages", "formal_fallacies", "multistep_arithmetic_two",
        "navigate", "object_counting", "sports_understanding", "web_of_lies", "word_sorting",
    }  # fmt: skip
    # Three problems of these were published with their options split at commas.
    assert kinds["text"] == texts | {"movie_recommendation", "ruin_names"}
    assert not kinds["choice"] & texts
    assert len(kinds["choice"]) == 17


@pytest.mark.parametrize(("name", "nearest"), [("gsm8", "gsm8k"), ("toy/tset", "toy/test"), ("mine.txt", "")])
def test_an_unknown_name_is_reported_with_the_nearest(name: str, nearest: str) -> None:
    message = rf"Unknown task '{name}', did you mean '{nearest}.*; known ones are gsm8k, math,.* any data set such as"
    with pytest.raises(UserError, match=message):
        registry.task(name)


def test_data_sets_and_files_are_tasks_too() -> None:
    assert registry.task("gsm8k/test") is TASKS["gsm8k"]
    train, mine = registry.task("gsm8k/train"), registry.task("sets/mine.jsonl")
    assert (train.source, train.formats) == ("gsm8k/train", TASKS["gsm8k"].formats)
    assert (mine.source, mine.folder, mine.formats) == ("sets/mine.jsonl", "sets_mine", registry.DEFAULT)
    assert registry.task("/data/mine.jsonl").folder == "data_mine"
    assert registry.task("../mine.jsonl").folder == "mine"


def test_records_say_how_a_chat_model_is_asked(data: Path) -> None:
    """Exactly the data sets whose answers have another form than the run's instruction says."""
    asking = {name for name in TASKS if registry.records(name, data, 1)[0].instruction}
    assert asking == {"bbh", "humaneval", "mbpp", "minif2f"}
    problem = registry.records("minif2f", data, 1)[0]
    assert problem.prompt.endswith(f"Formal:\n{problem.answer}")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gsm8k", r"gsm8k/test\.jsonl, which is missing; .*--data_dir, or take it from github\.com/openai/grade"),
        ("math", r"MATH/test.*; unpack .*: curl -L https://people\.eecs\.berkeley\.edu/\S+ \| tar x -C /\S+\.$"),
        ("bbh", r"or take it from github\.com/suzgunmirac/BIG-Bench-Hard"),
    ],
)
def test_missing_data_are_reported_with_their_source(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        registry.records(name, tmp_path)


def test_all_public_sources_say_where_they_are_published() -> None:
    unknown = {name.split("/")[0] for name in datasets.SOURCES} - set(datasets.PUBLISHED)
    assert unknown == {"toy", "math"}  # made by the project; the message has the command


def test_completions_end_before_a_stop(data: Path) -> None:
    for name, entry in TASKS.items():
        if entry.kind == "theory":
            continue
        for mode, style in itertools.product(entry.modes, STYLES):
            stops = prompts.stops(entry, mode, style)
            for record in registry.records(name, data):
                completion = prompts.ideal_completion(entry, record, mode, style)
                assert not [stop for stop in stops if stop in completion], record.id
