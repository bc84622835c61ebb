"""Tests of prompts, character by character, and of few-shot examples."""

import dataclasses
import json
from pathlib import Path

import pytest

from dsmath_jax.data import dataset_formats as formats
from dsmath_jax.data import questions
from dsmath_jax.data.chat import MARK, PLAIN, Chat
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.questions import Mode
from dsmath_jax.evaluation import exemplars, prompts
from dsmath_jax.evaluation.exemplars import Exemplar
from dsmath_jax.evaluation.prompts import few_shot, ideal_completion, prompt, stops
from dsmath_jax.evaluation.registry import TASKS, Style, Task, task
from dsmath_jax.workdir import UserError, write_json, write_jsonl
from tests.evaluation.math_files import write_archive, write_mirror

ADD = Record("gsm8k/train/9", "What is 1 + 1?", "One and one.\nThe answer is 2.", "2")
OPTIONS = ("$x$", "{2}", "None", "4")
CHOICE = Record("x/1", "Which?", "Because.", "B", OPTIONS, "abstract_algebra", kind="choice", heading="Choose one.")
SUM = Record("mgsm_zh/test/0", "一加一是多少？", "", "2", kind="number")
YES = formats.bbh("x/2", {"input": "Back?\nOptions:\n- Yes\n- No", "target": "No", "task": "navigate"})
CODE = formats.mbpp(
    "mbpp/dev/2",
    {"text": "Write f.", "code": "def f():\n    return 1", "test_list": ["assert f() == 1"], "test_setup_code": ""},
)
BODY = Record("humaneval/test/0", 'def f():\n    """One."""\n', "    return 1\n", "check(f)", kind="program")
THEORY = formats.minif2f(
    "minif2f/test/0",
    {"informal_statement": "Show $1$.", "informal_proof": "Clear.", "header": "theory x imports Main\nbegin",
     "formal_statement": "theorem x: shows 1", "problem_name": "x"},
)  # fmt: skip
PROGRAM = "def solution():\n    step_1 = 1 + 1\n    return step_1"
WORKED = Exemplar(ADD, PROGRAM, "2")


class Tokenizer:
    """A tokenizer's control tokens."""

    control_ids = {"<s>": 1, "</s>": 2}  # noqa: RUF012
    special_tokens = {"bos_token": "<s>", "eos_token": "</s>"}  # noqa: RUF012
    bos_id, eos_id = 1, 2


CHAT = Chat(Tokenizer(), instruction=questions.PAPER)
BOS, EOS = (f"{MARK}{name}{MARK}" for name in Tokenizer.control_ids)


@pytest.mark.parametrize(
    ("name", "mode", "example", "record", "expected"),
    [
        ("gsm8k", "cot", WORKED, ADD,
         "Q: What is 1 + 1?\nA: One and one.\nThe answer is 2.\n\n\nQ: What is 1 + 1?\nA:"),
        ("gsm8k", "pot", WORKED, ADD,
         f"Q: What is 1 + 1?\n\n# solution in Python:\n\n\n{PROGRAM}\n\n\n"
         "Q: What is 1 + 1?\n\n# solution in Python:\n\n\n"),
        ("gsm8k", "tir", WORKED, ADD,
         f"Q: What is 1 + 1?\nA: ```python\n{PROGRAM}\nprint(solution())\n```\n```output\n2\n```\n"
         "The answer is 2.\n\n\nQ: What is 1 + 1?\nA:"),
        ("math", "cot", Exemplar(Record("x", "Find $x$.", r"So $\boxed{2}$.", "2")), ADD,
         "Problem:\nFind $x$.\n\nSolution:\nSo $\\boxed{2}$.\nFinal Answer: The final answer is $2$. I hope it is "
         "correct.\n\nProblem:\nWhat is 1 + 1?\n\nSolution:\n"),
        ("math", "pot", WORKED, ADD,
         f"Problem:\nWhat is 1 + 1?\n\n# solution in Python:\n\n\n{PROGRAM}\n\n\n"
         "Problem:\nWhat is 1 + 1?\n\n# solution in Python:\n\n\n"),
        ("sat", "cot", Exemplar(CHOICE), CHOICE,
         "Problem:\nWhich?\nWhich of the following is right? Explain your answer.\n(A) $x$, (B) {2}, (C) None, (D) 4\n"
         "Solution:\nBecause.\nFinal Answer: The final answer is (B). I hope it is correct.\n\n"
         "Problem:\nWhich?\nWhich of the following is right? Explain your answer.\n(A) $x$, (B) {2}, (C) None, (D) 4\n"
         "Solution:\n"),
        ("cmath", "cot", Exemplar(Record("x", "多少？", "", "2")), ADD,
         "问题：多少？\n答案：所以答案是：2。\n\n\n问题：What is 1 + 1?\n答案："),
        ("gaokao_mathqa", "cot", Exemplar(CHOICE), CHOICE,
         "问题：Which?\n从以下选项中选择：(A)$x$ (B){2} (C)None (D)4\n答案：Because.\n所以答案是：B。\n\n\n"
         "问题：Which?\n从以下选项中选择：(A)$x$ (B){2} (C)None (D)4\n答案："),
        ("mmlu", "cot", Exemplar(dataclasses.replace(CHOICE, solution="")), CHOICE,
         "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
         "Which?\nA. $x$\nB. {2}\nC. None\nD. 4\nAnswer: B\n\n"
         "Which?\nA. $x$\nB. {2}\nC. None\nD. 4\nAnswer:"),
        ("bbh", "cot", Exemplar(CHOICE), YES,
         "Choose one.\n\nQ: Which?\nOptions:\n(A) $x$\n(B) {2}\n(C) None\n(D) 4\nA: Because.\nSo the answer is (B).\n\n"
         "Q: Back?\nOptions:\n- Yes\n- No\nA:"),
        ("humaneval", "cot", None, BODY, 'def f():\n    """One."""\n'),
        ("mbpp", "cot", Exemplar(CODE), CODE,
         "You are an expert Python programmer, and here is your task: Write f. Your code should pass these tests:\n\n"
         "assert f() == 1\n[BEGIN]\ndef f():\n    return 1\n[DONE]\n\n"
         "You are an expert Python programmer, and here is your task: Write f. Your code should pass these tests:\n\n"
         "assert f() == 1\n[BEGIN]\n"),
        ("minif2f", "cot", Exemplar(THEORY, "  by simp"), THEORY,
         "Informal:\n(*### Problem\n\nShow $1$.\n\n### Solution\n\nClear. *)\n\nFormal:\n"
         "theory x imports Main\nbegin\n\ntheorem x: shows 1\n  by simp\n\n\n\n"
         "Informal:\n(*### Problem\n\nShow $1$.\n\n### Solution\n\nClear. *)\n\nFormal:\n"
         "theory x imports Main\nbegin\n\ntheorem x: shows 1\n"),
    ],
)  # fmt: skip
def test_few_shot_prompts(name: str, mode: Mode, example: Exemplar | None, record: Record, expected: str) -> None:
    exemplars_ = [example] if example else []
    assert few_shot(TASKS[name], record, mode, exemplars_) == expected
    assert prompt(CHAT, TASKS[name], record, mode, "few_shot", exemplars_) == PLAIN + expected


STEPS = "Please reason step by step, and put your final answer within \\boxed{}."


@pytest.mark.parametrize(
    ("name", "mode", "example", "record", "expected"),
    [
        ("gsm8k", "cot", None, ADD, f"User: What is 1 + 1?\n{STEPS}\n\nAssistant:"),
        ("gsm8k", "tir", None, ADD,
         "User: What is 1 + 1?\nPlease integrate natural language reasoning with programs to solve the problem above, "
         "and put your final answer within \\boxed{}.\n\nAssistant:"),
        ("gsm8k", "pot", None, ADD,
         "User: What is 1 + 1?\nWrite a Python program with a function `solution()` that returns the answer."
         "\n\nAssistant:"),
        ("mgsm_zh", "cot", None, SUM,
         "User: 一加一是多少？\n请通过逐步推理来解答问题，并把最终答案放置于\\boxed{}中。\n\nAssistant:"),
        ("sat", "cot", None, CHOICE, f"User: Which?\n(A) $x$\n(B) {{2}}\n(C) None\n(D) 4\n{STEPS}\n\nAssistant:"),
        ("bbh", "cot", None, YES,
         'User: Back?\n- Yes\n- No\nThink step by step, and end with "So the answer is" and the answer.\n\nAssistant:'),
        ("mbpp", "cot", None, CODE,
         "User: Write f. Your code should pass these tests:\n\nassert f() == 1\nPut the program in a ```python block."
         "\n\nAssistant:"),
        ("gsm8k", "cot", WORKED, ADD,
         f"User: What is 1 + 1?\n{STEPS}\n\nAssistant: One and one.\nThe answer is 2.\n"
         f"The answer is $\\boxed{{2}}$.{EOS}User: What is 1 + 1?\n{STEPS}\n\nAssistant:"),
        ("toy/test", "cot", None, ADD, f"User: What is 1 + 1?\n{STEPS}\n\nAssistant:"),
    ],
)  # fmt: skip
def test_a_chat_model_is_asked_by_its_chat_alone(
    name: str, mode: Mode, example: Exemplar | None, record: Record, expected: str
) -> None:
    """The same text for every task, since formats are for base models."""
    entry, examples = task(name), [example] if example else []
    assert prompt(CHAT, entry, record, mode, "chat", examples) == BOS + expected
    if not examples:
        assert prompt(CHAT, entry, record, mode, "chat") == CHAT.prompt(record, mode)
    silent = dataclasses.replace(CHAT, instruction="")
    assert (STEPS in prompt(silent, entry, record, mode, "chat", examples)) is False


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (ADD, "User: What is 1 + 1?\n\nAssistant: One and one.\nThe answer is 2.\n\nUser: Mine?\n\nAssistant:"),
        (CHOICE, "User: Which?\n(A) $x$\n(B) {2}\n(C) None\n(D) 4\n\nAssistant: Because.\nThe answer is B.\n\n"
         "User: Mine?\n\nAssistant:"),
        (YES, "User: Back?\n- Yes\n- No\n\nAssistant: The answer is No.\n\nUser: Mine?\n\nAssistant:"),
    ],
)  # fmt: skip
def test_other_data_are_asked_as_dialogues(record: Record, expected: str) -> None:
    for name in ("toy/test", "mine.jsonl"):
        assert few_shot(task(name), Record("", "Mine?"), "cot", [Exemplar(record)]) == expected
    assert stops(task("mine.jsonl"), "cot", "few_shot") == ("\n\nUser:",)


def test_the_published_heading_stays_where_no_example_fits() -> None:
    text = few_shot(TASKS["bbh"], YES, "cot", [Exemplar(CHOICE)], shots=0)
    assert text == "Choose one.\n\nQ: Back?\nOptions:\n- Yes\n- No\nA:"


@pytest.mark.parametrize(
    ("name", "mode", "style", "record", "expected"),
    [
        ("gsm8k", "cot", "few_shot", ADD, "The answer is 2."),
        ("gsm8k", "cot", "chat", ADD, r"The answer is $\boxed{2}$."),
        ("gsm8k", "pot", "few_shot", ADD, "def solution():\n    return '2'"),
        ("gsm8k", "tir", "few_shot", ADD,
         "```python\ndef solution():\n    return '2'\nprint(solution())\n```\n```output\n2\n```\nThe answer is 2."),
        ("cmath", "tir", "chat", SUM,
         "```python\ndef solution():\n    return '2'\nprint(solution())\n```\n```output\n2\n```\n"
         "答案是 $\\boxed{2}$。"),
        ("sat", "cot", "few_shot", CHOICE, "Final Answer: The final answer is (B). I hope it is correct."),
        ("sat", "cot", "chat", CHOICE, r"The answer is $\boxed{B}$."),
        ("mmlu", "cot", "few_shot", CHOICE, "B"),
        ("bbh", "cot", "chat", YES, "So the answer is No."),
        ("mbpp", "cot", "chat", CODE, "```python\ndef f():\n    return 1\n```"),
        ("bbh", "cot", "few_shot", CHOICE, "So the answer is (B)."),
        ("gaokao_mathcloze", "cot", "few_shot", Record("x", "?", "", "$5$;$10$"), "所以答案是：$5$;$10$。"),
        ("gaokao_mathcloze", "cot", "chat", Record("x", "多少？", "", "$5$;$10$"), r"答案是 $\boxed{5;10}$。"),
        ("math", "cot", "chat", Record("x", "?", "", r"\$5"), r"The answer is $\boxed{\$5}$."),
        ("humaneval", "cot", "few_shot", BODY, "    return 1\n"),
        ("mbpp", "cot", "few_shot", CODE, "def f():\n    return 1"),
    ],
)  # fmt: skip
def test_ideal_completions(name: str, mode: Mode, style: Style, record: Record, expected: str) -> None:
    assert ideal_completion(TASKS[name], record, mode, style) == expected


def test_proofs_have_no_gold_answer() -> None:
    with pytest.raises(ValueError, match="minif2f has no gold answers"):
        ideal_completion(TASKS["minif2f"], THEORY, "cot")


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, entry in TASKS.items() for mode in entry.modes])
def test_a_stop_string_ends_the_next_problem(name: str, mode: Mode) -> None:
    entry = TASKS[name]
    record = Record("x", "Q?", "So.", "2", category="c", kind=entry.kind)
    example = Exemplar(record, "def solution():\n    return 2", "2")
    solution = prompts.worked_solution(entry, example, mode, "few_shot")
    continued = few_shot(entry, record, mode, [example, example])  # the second: what a model would continue with
    after = continued.split(solution, 1)[1]
    if name == "humaneval":
        after = "\n\ndef g():\n"  # no problem follows, but another function
    cut = min(after.find(stop) for stop in stops(entry, mode, "few_shot") if stop in after)
    assert not after[:cut].strip()


def test_gsm8k_examples_have_programs(real_data: Path) -> None:
    entry = TASKS["gsm8k"]
    spoken, programmed = (exemplars.load(entry, mode, real_data).examples for mode in ("cot", "pot"))
    assert [each.record.question for each in spoken] == [each.record.question for each in programmed]
    for solved, program in zip(spoken, programmed, strict=True):
        assert solved.record.solution.endswith(f"\nThe answer is {solved.record.answer}.")
        assert float(program.output) == float(solved.record.answer)
        assert "<<" not in program.program
    assert programmed[0].program == (
        "def solution():\n    # Natalia sold 48/2 clips in May.\n    step_1 = 48 / 2\n"
        "    # Natalia sold 48+24 clips altogether in April and May.\n    step_2 = 48 + step_1\n    return step_2"
    )
    assert programmed[0].output == "72.0"  # as Python prints it


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("He has <<2**2=4>>4.", "4"),
        ("He has <<f(2)=4>>4.", "4"),
        ("He has <<(1=4>>4.", "4"),
        ("He has <<1/0=4>>4.", "4"),
        ("He has <<1+1=2>>2.", "4"),
        ("He has 4.", "4"),
        ("He has <<2+2=4>>4.", "four"),
    ],
)
def test_marks_that_make_no_program(solution: str, answer: str) -> None:
    with pytest.raises(
        UserError, match=rf"marks of x/1 are not arithmetic that ends in {answer}; .* or give --exemplars"
    ):
        exemplars.with_program(Record("x/1", "?", solution, answer))


def test_examples_of_math_are_the_same_in_the_archive_and_in_a_mirror(tmp_path: Path) -> None:
    write_archive(tmp_path / "archive")
    write_mirror(tmp_path / "mirror")
    found = [exemplars.load(TASKS["math"], "cot", tmp_path / name).examples for name in ("archive", "mirror")]
    archive, mirror = ([(each.record.question, each.record.answer) for each in examples] for examples in found)
    assert archive == mirror
    assert len({each.record.category for each in found[0]}) == len(archive) == 4
    assert not any("[asy]" in question for question, _ in archive)
    # A mirror that lacks one has another instead, and the rest stay.
    path = tmp_path / "mirror" / "math" / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_jsonl(path, [row for row in rows if row["problem"] != archive[0][0]])
    fewer = [each.record.question for each in exemplars.load(TASKS["math"], "cot", tmp_path / "mirror").examples]
    assert len(set(fewer) & {question for question, _ in archive}) == 3


def test_open_questions_have_no_letters(real_data: Path) -> None:
    answers = [each.record.answer for each in exemplars.load(TASKS["ocw"], "cot", real_data).examples]
    assert answers[:2] == ["$(2,-5)$", "980"]
    assert [each.record.answer for each in exemplars.load(TASKS["sat"], "cot", real_data).examples] == list("ADBD")


def test_examples_of_agieval_are_text(real_data: Path) -> None:
    for name in ("sat", "gaokao_mathcloze", "gaokao_mathqa"):
        for example in exemplars.load(TASKS[name], "cot", real_data).examples:
            solution = example.record.solution
            assert "\\n" not in solution.replace("\\neq", "")
            assert "\\\\frac" not in solution
            assert "incorrect" not in solution
            assert not solution.endswith((",", "\n."))


def given(folder: Path, *rows: dict) -> Path:
    write_jsonl(folder / "gsm8k" / "test.jsonl", [{"question": "Asked?", "answer": "#### 1"}])
    write_jsonl(folder / "mine.jsonl", rows)
    return folder / "mine.jsonl"


FULL = {"question": "Mine?", "solution": "So.", "answer": 4, "program": "def solution():\n    return 4\n"}
GSM8K: Task = TASKS["gsm8k"]


def test_a_users_own_examples(tmp_path: Path) -> None:
    path = given(tmp_path, FULL, FULL | {"question": "Second?"})
    loaded = exemplars.load(GSM8K, "pot", tmp_path, [path.name])
    assert loaded.for_record(ADD) == (
        Exemplar(Record("mine/0", "Mine?", "So.", "4", kind="number"), "def solution():\n    return 4", "4"),
        Exemplar(Record("mine/1", "Second?", "So.", "4", kind="number"), "def solution():\n    return 4", "4"),
    )
    found = exemplars.load(GSM8K, "cot", tmp_path, [str(path)])  # an absolute path works too
    assert few_shot(GSM8K, ADD, "cot", found.for_record(ADD)).startswith(
        "Q: Mine?\nA: So.\nThe answer is 4.\n\n\nQ: Second?"
    )
    one = exemplars.load(GSM8K, "cot", tmp_path, [path.name], shots=1)
    assert [each.record.question for each in one.for_record(ADD)] == ["Mine?"]


def test_records_of_a_data_set_are_few_shot_examples(tmp_path: Path) -> None:
    rows = [{"id": f"train/{n}", "question": f"{n}?", "solution": f"The answer is {n}.", "answer": n} for n in range(9)]
    write_jsonl(tmp_path / "problems" / "train.jsonl", rows)
    found = exemplars.load(task("toy/test"), "cot", tmp_path, ["toy/train"], shots=2)
    assert [each.record.question for each in found.for_record(ADD)] == ["0?", "1?"]
    itself = found.examples[0].record  # for a problem among them, the next one takes its place
    assert [each.record.question for each in found.for_record(itself)] == ["1?", "2?"]
    with pytest.raises(UserError, match="few-shot examples are the data set 'toy/train'; give their number as shots"):
        exemplars.load(task("toy/test"), "cot", tmp_path, ["toy/train"])


@pytest.mark.parametrize(
    ("mode", "row", "message"),
    [
        ("pot", {"program": ""}, r"the field 'program' is missing, which examples of gsm8k \(pot\) need"),
        ("pot", {"program": 3}, "the field 'program' is not text"),
        ("cot", {"answer": ""}, r"the field 'answer' is missing, which examples of gsm8k \(cot\) need"),
        ("cot", {"question": ""}, "the field 'question' is empty"),
        ("cot", {"question": "Asked? "}, "the field 'question' is that of the test problem gsm8k/test/0"),
    ],
)
def test_invalid_examples_of_a_user(tmp_path: Path, mode: Mode, row: dict, message: str) -> None:
    path = given(tmp_path, FULL, FULL | row)
    with pytest.raises(UserError, match=rf"mine\.jsonl, line 2: {message}; fix or remove it, or set columns\.$"):
        exemplars.load(GSM8K, mode, tmp_path, [path.name])


SAT_FILE = {"question": "Mine?", "solution": "So.", "answer": "B", "options": ["1", "2"]}


def given_sat(folder: Path, **changes: object) -> Path:
    asked = {"question": "Asked?", "options": "A) 1 B) 2", "Answer": "A"}
    write_jsonl(folder / "sat" / "test.jsonl", [asked])
    write_jsonl(folder / "mine.jsonl", [SAT_FILE | changes])
    return folder / "mine.jsonl"


def test_a_users_own_examples_have_options(tmp_path: Path) -> None:
    path = given_sat(tmp_path)
    (example,) = exemplars.load(TASKS["sat"], "cot", tmp_path, [path.name]).for_record(CHOICE)
    assert (example.record.options, example.record.kind) == (("1", "2"), "choice")
    text = few_shot(TASKS["sat"], CHOICE, "cot", [example])
    assert "(A) 1, (B) 2\nSolution:\nSo.\nFinal Answer: The final answer is (B)." in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "C"}, "the field 'answer' names none of the options AB"),
        ({"options": [1, 2]}, "the field 'options' is not a list of texts"),
        ({"options": "A) 1 B) 2"}, "the field 'options' is not a list of texts"),
    ],
)
def test_invalid_options_of_a_users_examples(tmp_path: Path, change: dict, message: str) -> None:
    path = given_sat(tmp_path, **change)
    with pytest.raises(UserError, match=rf"mine\.jsonl, line 1: {message}; fix or remove it, or set columns\.$"):
        exemplars.load(TASKS["sat"], "cot", tmp_path, [path.name])


def test_files_without_examples(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"The file .*mine\.jsonl has no records"):
        exemplars.load(GSM8K, "cot", tmp_path, [given(tmp_path).name])
    write_jsonl(tmp_path / "gsm8k" / "train.jsonl", [{"question": "?", "answer": "<<1=1>>1\n#### 1"}])
    with pytest.raises(UserError, match=r"data set 'gsm8k/train' has no record 4, a few-shot example"):
        exemplars.load(GSM8K, "cot", tmp_path)
    write_json(tmp_path / "empty" / "x.json", {})
    with pytest.raises(UserError, match=r"'gsm8k/train' needs the file .*; set .*, or take it from github"):
        exemplars.load(GSM8K, "cot", tmp_path / "empty")
