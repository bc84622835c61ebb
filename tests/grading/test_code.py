"""Tests of programs in completions, their answers, and solutions that run with their tests."""

import ast
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsmath_jax.data import datasets
from dsmath_jax.data.datasets import Record
from dsmath_jax.grading import code, python_values
from dsmath_jax.grading.grades import Grade
from dsmath_jax.grading.sandbox import Limits, Program, ProgramResult, Sandbox
from dsmath_jax.workdir import UserError
from tests.sandboxes import working_sandbox

ADD = 'def add(a, b):\n    """Sum of two numbers."""\n'
ADD_TEST = (
    "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0, 'zero'\n\n\ncheck(add)"
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with working_sandbox(20.0) as made:
        yield made


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("```python\nx = 1\nprint(x)\n```", "x = 1\nprint(x)"),
        ("<think>\n```python\nprint(0)\n```\n</think>\n```python\nprint(1)\n```", "print(1)"),
        ("<think>\n```python\nprint(0)\n```\n", None),
        ("Let us see.\n\n```python\nprint(1)\n```\nThe answer is 1.", "print(1)"),
        ("```py\nprint(1)\n```", "print(1)"),
        ("```Python3 \nprint(1)\n```", "print(1)"),
        ("```\nprint(1)\n```", "print(1)"),
        ("```python\nx = 2\n```\nand then\n```python\nprint(x)\n```", "x = 2\n\nprint(x)"),
        ("```text\nnothing\n```\n```python\nprint(1)\n```\n```output\n1\n```", "print(1)"),
        ("```\nout of place\n```\n```python\nprint(1)\n```", "print(1)"),
        ("```python\nprint(1)", "print(1)"),  # the length limit, or a stop string, took the rest
        ("  ```python\n  print(1)\n  ```", "  print(1)"),
        (
            "def solution():\n    return 1\n```\n\nQ: the next one\n```python\nprint(2)\n```",
            "def solution():\n    return 1",
        ),
        ("# We add.\nimport math\nprint(math.pi)\n", "# We add.\nimport math\nprint(math.pi)"),
        ("from math import sqrt\nprint(sqrt(4))", "from math import sqrt\nprint(sqrt(4))"),
        ("total, rest = 3, 4\nprint(total)", "total, rest = 3, 4\nprint(total)"),
        ("# Solution\nWe print it.\n\n```python\nprint(1)\n```", "print(1)"),
        ("x = '```'\nprint(x)\n```", "x = '```'\nprint(x)"),  # a fence begins a line
        ("The answer is 5.", None),
        ("", None),
        ("```python\n```", None),
        ("```python\n\n\n```\nThe answer is 5.", None),
    ],
)
def test_the_program_of_a_completion(completion: str, program: str | None) -> None:
    assert code.program_of(completion) == program


def test_a_program_that_defines_solution_is_asked_for_its_value() -> None:
    assert code.program_of_thought("def solution():\n    return 1") == Program(
        "def solution():\n    return 1", "solution"
    )
    assert code.program_of_thought("print(1)") == Program("print(1)", "")
    assert code.program_of_thought("def solution_of(x):\n    return x").call == ""


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("18", "18"),
        ("18.0", "18"),
        ("-0.0", "0"),
        ("18.000000001", "18"),
        ("17.99999999999999", "18"),
        ("0.30000000000000004", "0.3"),
        ("1234567.8900000001", "1234567.89"),
        ("12345678.9", "12345678.9"),
        ("18.0001", "18.0001"),
        ("0.333", "0.333"),
        ("0.3333333333333333", r"\frac{1}{3}"),
        ("-66.66666666666667", r"-\frac{200}{3}"),
        ("0.333333333333333", r"\frac{1}{3}"),  # SymPy prints 15 digits
        ("3.141592653589793", "3.141592653589793"),
        ("0.6931471805599453", "0.6931471805599453"),
        ("2.5e-07", "0.00000025"),
        ("1e+16", "10000000000000000"),
        ("1e300", r"1 \times 10^{300}"),
        ("inf", r"\infty"),
        ("1,234", "1,234"),
        ("1, 2", "1, 2"),
        ("(1, 2)", "(1, 2)"),
        ("[1, 2]", "1, 2"),
        ("[5]", "5"),
        ("[0,5]", "[0,5]"),  # an interval as a text, not a list as Python prints it
        ("[]", r"\emptyset"),
        ("{1, 2}", r"\{1, 2\}"),
        ("[(1, 2), (3, 4)]", "(1, 2), (3, 4)"),
        ("[[1, 2], [3, 4]]", r"\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}"),
        ("Matrix([[1], [3]])", r"\begin{pmatrix}1 \\ 3\end{pmatrix}"),
        ("{x: 3, y: 1/2}", r"x = 3, y = \frac{1}{2}"),
        ("sqrt(2)/2", r"\frac{\sqrt{2}}{2}"),
        ("-sqrt(2) + 3*pi/4", r"-\sqrt{2} + \frac{3 \cdot \pi}{4}"),
        ("x**2 - (y + 1)*(-3)", r"x^{2} - \left(y + 1\right) \cdot \left(-3\right)"),
        ("(x + 1)**(1/2)", r"\left(x + 1\right)^{\frac{1}{2}}"),
        ("3 + 4*I", r"3 + 4 \cdot i"),
        ("(1+2j)", "1 + 2 i"),
        ("[Fraction(1, 2), np.int64(3)]", r"\frac{1}{2}, 3"),
        ("Interval.Ropen(-1, 2)", "[-1, 2)"),
        ("Union(Interval(-oo, 1), Interval.open(2, 3))", r"(-\infty, 1] \cup (2, 3)"),
        ("True", "True"),
        ("B", "B"),
        ("'Monday'", "Monday"),
    ],
)
def test_values_in_pythons_notation_become_answers(text: str, answer: str) -> None:
    assert python_values.latex(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "None", "5 apples", "The answer is 5", r"\frac12", "x = 5", "50%", "f(3)", "lambda: 1", "[x for x in y]",
        "9" * 5000, "(" * 400, "-" * 1900 + "1", "__import__('os').system('true')",
    ],
)  # fmt: skip
def test_text_that_is_no_value_is_unchanged(text: str) -> None:
    assert python_values.latex(text) is None


@given(above=st.integers(-(10**6), 10**6), below=st.integers(1, 1000))
@example(above=78619, below=974)  # by chance Python writes 14 digits of it
def test_a_float_of_a_division_becomes_its_fraction(above: int, below: int) -> None:
    found = python_values.latex(str(above / below)) or ""
    assert Fraction(re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", found)) == Fraction(above, below)


@given(st.text(max_size=40) | st.from_regex(r"[-+*/()\[\]{},.x0-9 ]{1,20}"))
def test_any_text_gives_a_value_or_none(text: str) -> None:
    found = python_values.latex(text)
    assert found is None or isinstance(found, str)


@pytest.mark.parametrize(
    ("ran", "value", "statement"),
    [
        (ProgramResult("ok", "step 1\n", "0.5"), "0.5", r"The answer is $\boxed{0.5}$."),
        (ProgramResult("ok", "step 1\n3.0\n\n", None), "3", r"The answer is $\boxed{3}$."),
        (ProgramResult("ok", "7\n", "None"), "7", r"The answer is $\boxed{7}$."),
        (ProgramResult("ok", "", "north"), "north", r"The answer is $\boxed{north}$."),
        (ProgramResult("ok", "", r"\frac{1}{2}"), r"\frac{1}{2}", r"The answer is $\boxed{\frac{1}{2}}$."),
        (ProgramResult("ok", "She has 5 apples.\n"), "She has 5 apples.", "She has 5 apples."),
        (ProgramResult("ok", ""), None, ""),
        (ProgramResult("ok", "None\n"), None, ""),
        (ProgramResult("raised", "5\n", None, "Traceback\nSystemExit: 0"), "5", r"The answer is $\boxed{5}$."),
        (ProgramResult("raised", "5\n", None, "Traceback\nSystemExit: 1"), None, ""),
        (ProgramResult("raised", "5\n", None, "Traceback\nZeroDivisionError: division by zero"), None, ""),
        (ProgramResult("timed out", "5\n"), None, ""),
        (ProgramResult("too much output", "5\n"), None, ""),
    ],
)
def test_the_answer_of_a_program(ran: ProgramResult, value: str | None, statement: str) -> None:
    assert code.value_of(ran) == value
    assert code.statement(ran) == statement


def test_programs_of_thought_answer_with_their_return_value(sandbox: Sandbox) -> None:
    programs = [
        "def solution():\n    from fractions import Fraction\n    return Fraction(1, 3) + 1",
        "def solution():\n    return 0.1 + 0.2",
        "from sympy import *\nx = symbols('x')\ndef solution():\n    return solve(x**2 - 2, x)",
        "def solution():\n    print(5)\n\nsolution()",
        "print('so'); print(6 * 7)",
        "def solution():\n    return 1 / 0",
        "def solution(x):\n    return x",
        "def solution(:\n",
    ]
    results = code.run_programs_of_thought(
        sandbox, ["No program.", *(f"So:\n```python\n{each}\n```" for each in programs)]
    )
    assert results[0] is None
    found = [code.value_of(ran) for ran in results if ran]
    assert found == [r"\frac{4}{3}", "0.3", r"-\sqrt{2}, \sqrt{2}", "5", "42", None, None, None]


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("    return a + b\n", "passed"),
        ("    return a + b\n\n\ndef main():\n    raise ValueError\n\nmain()", "passed"),  # what follows is cut off
        ("    return a + b\n\nprint(add(1, 2)\n", "passed"),
        ("    return a + b\n```\nThis adds.", "passed"),
        ("return a + b", "passed"),  # a tokenizer dropped the white space
        ("\n    c = a\n    return c + b", "passed"),
        ("Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nIt adds.", "passed"),
        ("```python\nimport math\n\ndef one(a):\n    return a\n\ndef add(a, b):\n    return one(a) + b\n```", "passed"),
        ("def add(a, b):\n    return a + b\n\nif __name__ == '__main__':\n    print(add(1, 2))", "passed"),
        ("```python\n    return a + b\n```", "passed"),
        ("  ```python\n    return a + b\n  ```", "passed"),
        ("```python\nreturn a + b\n```", "passed"),
        ("    return a - b\n", "AssertionError"),
        ("    return abs(a) + b\n", "AssertionError: zero"),
        ("    raise KeyError(a)\n", "KeyError: 1"),
        ("    return a +\n", "SyntaxError: invalid syntax"),
        ("", "AssertionError"),
    ],
)  # fmt: skip
def test_completions_of_a_function_run_with_their_test(sandbox: Sandbox, completion: str, reason: str) -> None:
    (grade,) = code.grade_programs(sandbox, [code.humaneval(completion, ADD, ADD_TEST)])
    assert (grade.correct, grade.reason) == (reason == "passed", reason)


def test_a_whole_function_may_use_the_prompts_imports_and_helpers(sandbox: Sandbox) -> None:
    prompt = 'import math\n\ndef half(a):\n    return a / 2\n\ndef add(a, b):\n    """Sum."""\n'
    written = "```python\ndef add(a, b):\n    return math.floor(2 * half(a + b))\n```"
    (grade,) = code.grade_programs(sandbox, [code.humaneval(written, prompt, ADD_TEST)])
    assert grade.reason == "passed"


@pytest.mark.parametrize(
    "leave",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "exit()",
        "raise SystemExit",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "globals()['check'] = lambda f: None; raise SystemExit(0)",
        "print('passed'); import os; os._exit(0)",
        "import threading, os; threading.Thread(target=os._exit, args=(0,)).start(); import time; time.sleep(9)",
    ],
)
def test_a_program_that_exits_before_its_tests_does_not_pass(sandbox: Sandbox, leave: str) -> None:
    at_once = code.TestedProgram(leave, "assert False")
    when_called = code.humaneval(f"    {leave}\n", ADD, ADD_TEST)
    for grade in code.grade_programs(sandbox, [at_once, when_called]):
        assert not grade.correct
        assert grade.reason != "passed"


def test_a_solution_cannot_report_that_it_passed(sandbox: Sandbox) -> None:
    forged = "finished = finished_0 = passed = lambda: 'passed'\nprint('passed')\nraise SystemExit"
    (grade,) = code.grade_programs(sandbox, [code.TestedProgram(forged, "assert False")])
    assert not grade.correct


def test_secrets_differ_between_programs_and_are_not_reported() -> None:
    class Recorder:
        def run(self, programs: Sequence[Program]) -> list[ProgramResult]:
            self.programs = list(programs)
            return [ProgramResult("ok", "", "passed") for _ in programs]

    recorder = Recorder()
    grades = code.grade_programs(
        recorder, [code.TestedProgram("x = 1", "assert x"), None, code.TestedProgram("x = 1", "assert x")]
    )
    assert grades == [
        Grade("x = 1", False, "ended before its tests did"),
        Grade(None, False, "no program"),
        Grade("x = 1", False, "ended before its tests did"),
    ]
    one, other = recorder.programs
    assert one.call != other.call
    assert one.code != other.code


def test_programs_that_hang_or_fill_memory_lose_only_their_own_grade() -> None:
    try:
        tight = Sandbox(limits=Limits(seconds=1.0, cpu_seconds=1.0))
    except UserError as why:
        pytest.skip(f"no sandbox here: {why}")
    with tight as sandbox:
        tested = [
            code.TestedProgram("while True:\n    pass", ""),
            code.TestedProgram("x = bytearray(1 << 40)", ""),
            code.TestedProgram("x = 1", "assert x == 1"),
        ]
        hung, hungry, good = code.grade_programs(sandbox, tested)
    assert (hung.correct, hung.reason) == (False, "timed out")
    assert not hungry.correct
    assert hungry.reason in ("out of memory", "MemoryError")
    assert (good.correct, good.reason) == (True, "passed")


@pytest.mark.parametrize(
    ("completion", "solution"),
    [
        ("def f(x):\n    return x\n[DONE]\nMore text", "def f(x):\n    return x\n"),
        ("[BEGIN]\ndef f(x):\n    return x\n[DONE]", "def f(x):\n    return x\n"),
        ("Sure.\n```python\ndef f(x):\n    return x\n```\nDone.", "def f(x):\n    return x\n"),
        ("\r\ndef f(x):\r\n    return x\r\n".replace("\r", ""), "def f(x):\n    return x\n"),
        ("R = 3\ndef f(x):\n    return x\n```", "R = 3\ndef f(x):\n    return x\n"),
        ("", None),
        ("\n[DONE]", None),
    ],
)
def test_the_program_of_an_mbpp_completion(completion: str, solution: str | None) -> None:
    tested = code.mbpp(completion, "assert f(1) == 1")
    assert (tested.solution if tested else None) == solution


def _humaneval(record: Record, solution: str) -> code.TestedProgram:
    return code.humaneval(solution, record.question, record.answer)


def _mbpp(record: Record, solution: str) -> code.TestedProgram | None:
    return code.mbpp(f"{solution}\n[DONE]", record.answer)


def _all_pass_and_none_that_raises(sandbox: Sandbox, tested: list[list[code.TestedProgram | None]]) -> None:
    canonical, raising = tested
    grades = code.grade_programs(sandbox, canonical)
    assert [(grade.reason, grade.answer) for grade in grades if not grade.correct] == []
    assert not any(grade.correct for grade in code.grade_programs(sandbox, raising))


def _solutions(name: str, folder: Path, every: int) -> list[list[code.TestedProgram | None]]:
    records = datasets.load(name, folder)[::every]
    if name.startswith("humaneval"):
        good = [_humaneval(r, r.solution) for r in records]
        bad = [_humaneval(r, "    raise NotImplementedError\n") for r in records]
        return [[*good], [*bad]]
    raising = [_raising(r.solution) for r in records]
    return [[_mbpp(r, r.solution) for r in records], [_mbpp(r, text) for r, text in zip(records, raising, strict=True)]]


def _raising(solution: str) -> str:
    """A program whose functions all raise."""
    tree = ast.parse(solution)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = ast.parse("raise NotImplementedError").body
    return ast.unparse(tree)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MBPP's code has invalid escapes
@pytest.mark.parametrize("name", ["humaneval/test", "mbpp/test"])
def test_canonical_solutions_pass_and_raising_ones_do_not(sandbox: Sandbox, real_data: Path, name: str) -> None:
    _all_pass_and_none_that_raises(sandbox, _solutions(name, real_data, every=12))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["humaneval/test", "mbpp/test", "mbpp/train", "mbpp/validation", "mbpp/dev"])
def test_all_canonical_solutions_pass_and_raising_ones_do_not(sandbox: Sandbox, real_data: Path, name: str) -> None:
    _all_pass_and_none_that_raises(sandbox, _solutions(name, real_data, every=1))
