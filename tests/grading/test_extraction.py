"""Tests of extracting final answers from completions and gold answers from data sets."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.data import datasets
from dsmath_jax.grading.extraction import MAX_CHARS, extract, extract_stated, gold_of
from dsmath_jax.grading.grades import Kind

FOUR = ("2", "4", "9", "10")

STATED: list[tuple[Kind, str, str | None]] = [
    # Thoughts.
    ("number", "<think>The answer is 3, or rather 4.</think>\n\nThe answer is 5.", "5"),
    ("number", "The answer is 3.</think>So it is 5.", "5"),
    ("number", "<think>The answer is 3, so", None),
    ("math", "<think>\\boxed{3}</think> <think>\\boxed{4}", None),
    ("math", "<think>```output\n3\n```\nSo it", None),
    ("number", f"<think>{'7 ' * MAX_CHARS}", None),
    ("number", "The answer is 5. <think>Is it 6?", "5"),
    # Boxes.
    ("number", "So she has $\\boxed{18}$ eggs left.", "18"),
    ("number", "\\boxed{\\$18.00}", "18.00"),
    ("number", "\\boxed{18\\text{ dollars}}", "18"),
    ("number", "\\boxed{1{,}234}", "1{,}234"),
    ("number", "\\boxed{9^{9^{9}}}", "9^{9^{9}}"),
    ("math", "\\[ \\boxed{ \\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix} } \\]", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
    ("math", "$\\boxed{\\{1,2\\}}$", "\\{1,2\\}"),
    ("math", "\\fbox{7} ", "7"),
    ("math", "It is \\boxed 7.", "7"),
    ("math", "\\boxed{\\boxed{7}}", "7"),
    ("math", "\\boxed{50}\\%", "50\\%"),
    ("math", "First \\boxed{1}. No, wait: \\boxed{2}.", "2"),
    ("math", "$\\boxed{2}$ and $\\boxed{3}$", "2, 3"),
    ("math", "$$\\boxed{(2, 2)} \\quad \\text{and} \\quad \\boxed{(6, 2)}$$", "(2, 2), (6, 2)"),
    ("math", "\\( y_1 = \\boxed{3} \\) and \\( y_2 = \\boxed{4} \\)", "3, 4"),
    ("math", "\\boxed{1} cat and \\boxed{2} dogs", "1, 2"),
    ("math", "\\boxed{-t^2 - t - 3}", "-t^2 - t - 3"),
    ("math", "\\boxed{5}\n\\boxed{5}", "5"),
    ("math", "$$x = \\boxed{7}$$\n\nLet me know if you have 2 more questions!", "7"),
    ("math", "\\boxed{5}. To verify, the answer is consistent with 5+2=7.", "5"),
    ("math", "\\boxed{x=5}. The answer is correct.", "x=5"),
    ("math", "It is \\boxed{5}, as above. So \\boxed{\\frac{1}{2", "5"),
    ("math", "It is $4$, so \\boxed{\\frac{1}{\\sqrt{2}}", None),
    ("number", "There are 4, so \\boxed{", None),
    ("number", "We know \\boxed", None),
    ("number", "\\boxed{}", None),
    # Marks and headings.
    ("number", "She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18", "18"),
    ("number", "#### 1,234", "1,234"),
    ("number", "#### Step 2: count\nThere are 5 apples", "5"),
    ("number", "#### 1. Count\n5 * 3 = 15\nThe total is 15", "15"),
    ("number", "She sells 2 * 9 = $<<2*9=18>>18\nA: 18", "18"),
    ("number", "He pays\nA: 90,000", "90,000"),
    ("math", "So it is 5.\n\n# Answer\n\n42", "42"),
    ("math", "The answer is near.\n\n# Answer\n\nSaturday", "Saturday"),
    ("math", "# Answer\n\n11:30\\text{ a.m.}", "11:30\\text{ a.m.}"),
    ("math", "# Answer\n\n\\begin{pmatrix}\n1 \\\\ 2\n\\end{pmatrix}", "\\begin{pmatrix}\n1 \\\\ 2\n\\end{pmatrix}"),
    ("math", "**Final Answer**\n\nThe final answer is \\[\\frac{3}{4}\\]", "\\frac{3}{4}"),
    ("number", "**Final Answer**\n\n$18$", "18"),
    ("number", "**Answer:** 18", "18"),
    ("number", "**Answer: $18**", "18"),
    ("number", '{"answer": 18}', "18"),
    # Sentences.
    ("number", "The answer is: $18.", "18"),
    ("number", "The answer is 3.5.", "3.5"),
    ("number", "The answer is **18**.", "18"),
    ("number", "The answer is -$12", "-12"),
    ("number", "The answer is $-12$", "-12"),
    ("number", "The answer is 50%.", "50%"),
    ("number", "The answer is 3 1/2.", "3 1/2"),
    ("number", "The answer is 1.5 million", "1.5 million"),
    ("number", "The answer is 5 + 13 = 18 dollars.", "18"),
    ("number", "The answer is 12,000 miles", "12,000"),
    ("number", "The answer is 1,2", "1,2"),
    ("number", "The answer is 15 000.", "15 000"),
    ("number", "It is 16 -3.", "3"),
    ("number", "The answer is 5 or 6", "5 or 6"),
    ("number", "The answer is that in 3 days he has 18 apples.", "18"),
    ("number", "The answer to the question is 18", "18"),
    ("number", "The answer is\n\n18", "18"),
    ("math", "the final answer is $x$. I hope it is correct.", "x"),
    ("math", "Final Answer: The final answer is 1/2. I hope it is correct.", "1/2"),
    ("math", "The answer is\n\\[\nx^2+1.\n\\]", "x^2+1"),
    ("math", "The answer is $x = 5$, since it must be odd.", "x = 5"),
    ("math", "the answer is 5 (since 2+3=5)", "5"),
    ("math", "The answer is $3$ or $5$.", "3 or 5"),
    ("math", "The answer is $5$ cm.", "5 cm"),
    ("math", "The answer is 5 cm.", "5 cm"),
    ("math", "the answer is (2, 3).", "(2, 3)"),
    ("math", "the answer is [0, 1).", "[0, 1)"),
    ("math", "Therefore the answer is \\(x^2\\).", "x^2"),
    ("math", "The answer is **$\\sqrt{2}$**", "\\sqrt{2}"),
    ("math", "The answer is Monday.", "Monday"),
    ("math", "It is $\\textbf{odd}$.\nFinal Answer: The final answer is Tuesday. I hope it is correct.", "Tuesday"),
    ("math", "The answer is \\$5", "\\$5"),
    ("math", "Final Answer: The largest $n$ is 34.", "34"),
    ("math", "Final Answer: Jane started growing Sphere 3 hours ago. I hope it is correct.", "3"),
    ("math", 'The final answer is \\"$12 $ and $13 $\\". I hope it is correct.', "12 and 13"),
    ("math", "The final answer is $ \\begin{pmatrix} 1 \\end{pmatrix} $.", "\\begin{pmatrix} 1 \\end{pmatrix}"),
    # Chinese.
    ("number", "答案是18。", "18"),
    ("number", "答案：18", "18"),
    ("number", "答案是三十六", "三十六"),
    ("number", "答案是负5", "-5"),
    ("number", "所以答案是：68。", "68"),
    ("number", "答：3天一共有18个。", "18"),
    ("math", "因此答案为 $\\frac12$。", "\\frac12"),
    ("math", "故答案为：$\\frac{1}{2}$．", "\\frac{1}{2}"),
    ("math", "答案是$5$;$10$", "5;10"),
    ("math", "答案是 1;$\\frac{8}{9}$", "1;\\frac{8}{9}"),
    # Letters.
    ("choice", "The answer is (C).", "C"),
    ("choice", "Answer: C", "C"),
    ("choice", "The answer is A. 5", "A"),
    ("choice", "The correct option is **D**.", "D"),
    ("choice", "The final answer is (b). I hope it is correct.", "B"),
    ("choice", "Thus, the correct answer is option (D), 10.", "D"),
    ("choice", "Answer: $\\textbf{(B)}$ 4", "B"),
    ("choice", "Therefore, option B is correct. Choice A is incorrect.", "B"),
    ("choice", "(A) is wrong, (B) is wrong, so the answer is (C)", "C"),
    ("choice", "\\boxed{\\text{(C)}}", "C"),
    ("choice", "\\boxed{D. 10}", "D"),
    ("choice", "\\boxed{4}", "4"),
    ("choice", "The answer is 10.", "10"),
    ("choice", "因此选 C。", "C"),
    ("choice", "故选B", "B"),
    ("choices", "故选：BD", "BD"),
    ("choices", "正确答案是A、C、D", "ACD"),
    ("choices", "The answer is A, because B is wrong", "A"),
    ("choices", "\\boxed{ABD}", "ABD"),
    # Words.
    ("text", "So the answer is True.", "True"),
    ("text", "So the answer is > ) }.", "> ) }"),
    ("text", "So the answer is about as so zebra.", "about as so zebra"),
]

IMPLIED: list[tuple[Kind, str, str | None]] = [
    ("number", "Therefore, she makes 9*2 = 18 dollars.", "18"),
    ("number", "So he pays $20 - $5 = $15 in total for 3 books.", "15"),
    ("number", "It is 3.5.", "3.5"),
    ("number", "所以一共有18个苹果。", "18"),
    ("number", "因此，两次一共拍了 77 + 68 = 145 下。", "145"),
    ("number", "So he pays 5 * 3", None),
    ("number", "There are 5.\nSo he has 5 - 2 =", None),
    ("number", "So it is 5 * 3 = <<5*3", None),
    ("number", "Therefore, he makes **18** dollars in 9 days.", "18"),
    ("number", "**Step 3:** So there are 15 left.", "15"),
    ("number", "So he makes 18 dollars a day from 9 eggs at $2 each.", "18"),
    ("number", "She sells 18 eggs (10 brown and 8 white).", "18"),
    ("number", "eighteen", "eighteen"),
    ("number", "---", None),
    ("number", "No idea.", None),
    ("number", "", None),
    ("math", "So we get $2+3 = 5$", "5"),
    ("math", "Hence $x=3$ and the sum is $2+3+4=9$.", "9"),
    ("math", "The sum is $x = \\frac{5}{6} \\approx 0.83$.", "\\frac{5}{6}"),
    ("math", "So $\\angle ABC = 90^\\circ$", "90^\\circ"),
    ("math", "So the line is $y=2x$.", "y=2x"),
    ("math", "$2x+y+1=0$", "2x+y+1=0"),
    ("math", "$p=-1, p=\\frac{15}{8}$", "p=-1, p=\\frac{15}{8}"),
    ("math", "$F_n = \\sum_{k=0}^{n} F_k$", "F_n = \\sum_{k=0}^{n} F_k"),
    ("math", "We have $x = 4$. Therefore, the probability that Alice wins is 2/3.", "2/3"),
    ("math", "The solutions are $x=1$ and $x=-2$.", "x=1 and x=-2"),
    ("math", "The solution is $x<2$ or $x>3$.", "x<2 or x>3"),
    ("math", "The minimum of $x^2+3$ is $3$ when $x=0$.", "3"),
    ("math", "There are $10$ possible values of $x$.", "10"),
    ("math", "The angle is 30 degrees.", "30 degrees"),
    ("math", "So $x \\in [2,5)$.", "x \\in [2,5)"),
    ("math", "1000", "1000"),
    ("math", "Hence the area is \\(12\\pi\\).", "12\\pi"),
    ("choice", " B", "B"),
    ("choice", "(B)", "B"),
    ("choice", "B. because A is wrong", "B"),
    ("choice", "A train leaves. So C", "C"),
    ("choice", "A train leaves at noon.", None),
    ("choice", "The answer is A or C.", "A or C"),
    ("choice", "I think it is E", None),  # of four options
    ("text", "valid", "valid"),
    ("text", "First,\nlet us see.", None),
]

OWN: list[tuple[Kind, str, str | None]] = [
    ("number", "The answer is 5.\n\nQ: How many?\nA: The answer is 7", "5"),
    ("number", "She has 9*2=18.\n\nQ: How many?\nA: The answer is 7", "18"),
    ("math", "The final answer is $5$.\n\nProblem:\nAdd.\n\nSolution:\nThe final answer is $7$. I hope", "5"),
    ("number", "答案是5。\n\n问题：多少？\n答案：7", "5"),
    ("number", "Problem: add 2 and 3\nSolution: \\boxed{5}", "5"),
    ("number", "Sure!\n\nProblem: add 2 and 3\nSolution: \\boxed{5}", "5"),
    ("number", "<think>The answer is 3</think>It is 4", "4"),
    ("number", "```python\nanswer = 3\nprint(answer)\n```\n```output\n4\n```\nSo it is $\\boxed{5}$.", "5"),
    ("number", "It is \\boxed{5}.\n```output\nThe answer is \\boxed{6}\n```\n", "5"),
    ("number", "```python\nprint(6 * 7)\n```\n```output\n6 and 7\n42\n```\n", "42"),
    ("number", "```python\nanswer = 3\n", None),
    ("number", "The answer is:\n```\n18\n```", "18"),
    ("number", "The answer is 7.<|im_end|>\nThe answer is 8.", "7"),
]


@pytest.mark.parametrize(("kind", "completion", "answer"), [*STATED, *IMPLIED, *OWN])
def test_the_final_answer_is_found(kind: Kind, completion: str, answer: str | None) -> None:
    assert extract(completion, kind, FOUR if kind.startswith("choice") else ()) == answer


def test_stated_and_implied_answers_are_distinguished() -> None:
    assert [extract_stated(text, "number") for text in ("The answer is 5.", "There are 5.", "")] == ["5", None, None]
    assert extract_stated("There are 5.\n\nQ: How many?\nThe answer is 6.", "number") is None


def test_without_options_any_letter_may_be_the_answer() -> None:
    assert extract("The answer is (K).", "choice") == "K"
    assert extract("The answer is (K).", "choice", FOUR) != "K"


@pytest.mark.parametrize("kind", ["program", "theory"])
def test_programs_and_theories_are_refused(kind: Kind) -> None:
    with pytest.raises(ValueError, match="is run, not read"):
        extract("The answer is 5.", kind)


@pytest.mark.parametrize(
    ("kind", "field", "gold"),
    [
        ("number", "So 2*9 = $<<2*9=18>>18.\n#### 18", "18"),
        ("number", "So 2*9 = 18\nA: 1,800", "1,800"),
        ("number", "1/2", "1/2"),
        ("number", "27.3%", "27.3%"),
        ("number", "18", "18"),
        ("math", "We have $x=\\boxed{\\frac{1}{\\sqrt{2}}}$ of them.", "\\frac{1}{\\sqrt{2}}"),
        ("math", "1;$\\frac{8}{9}$", "1;$\\frac{8}{9}$"),
        ("math", "2 + 3 = 5", "2 + 3 = 5"),
        ("choice", "B", "B"),
        ("choices", "A B D", "ABD"),
        ("choices", "C", "C"),
        ("text", "> ) }", "> ) }"),
        ("program", "assert f(1) == 2\nassert f(2) == 3", "assert f(1) == 2\nassert f(2) == 3"),
    ],
)
def test_gold_answers_are_read_from_raw_fields(kind: Kind, field: str, gold: str) -> None:
    assert gold_of(field, kind) == gold
    assert gold_of(gold, kind) == gold


SETS: dict[str, Kind] = {
    "gsm8k/test": "number",
    "cmath/test": "number",
    "cmath/dev": "number",
    "mgsm_zh/test": "number",
    "ocw/test": "math",
    "gaokao_mathcloze/test": "math",
    "sat/test": "choice",
    "mmlu_stem/test": "choice",
    "gaokao_mathqa/test": "choices",
}
SENTENCES: dict[Kind, tuple[str, ...]] = {
    "number": ("The answer is {}.", "The answer is ${}$.", "So $\\boxed{{{}}}$.", "So\n#### {}", "答案是{}。", "A: {}"),
    "math": ("So \\boxed{{{}}}.",),
    "choice": ("The answer is ({}).", "So \\boxed{{{}}}.", "Answer: {}", "故选{}。", " {}"),
    "choices": ("答案是 {}", "故选{}。", "\\boxed{{{}}}"),
}


@pytest.mark.parametrize("source", SETS)
def test_gold_answers_of_the_data_sets_are_found_in_sentences(real_data: Path, source: str) -> None:
    kind = SETS[source]
    for record in datasets.load(source, real_data):
        assert gold_of(record.answer, kind) == record.answer
        for sentence in SENTENCES[kind]:
            found = extract(sentence.format(record.answer), kind, record.options)
            assert found is not None
            assert found.replace("$", "") == record.answer.replace("$", "")


def test_gold_answers_are_found_in_solution_fields(real_data: Path) -> None:
    lines = (real_data / "gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()
    records = datasets.load("gsm8k/test", real_data)
    for line, record in zip(lines, records, strict=True):
        assert gold_of(json.loads(line)["answer"], "number").replace(",", "") == record.answer
        assert extract(record.solution, "number") == record.answer
    different = [
        record.answer
        for record in datasets.load("ocw/test", real_data)
        if gold_of(record.solution, "math").removesuffix("\\%") != record.answer
    ]
    assert different == []


def test_letters_are_found_in_solutions(real_data: Path) -> None:
    records = datasets.load("agieval_sat_math/test", real_data)
    assert [r.id for r in records if r.solution and extract(r.solution, "choice", r.options) != r.answer] == []


def test_the_end_of_a_very_long_completion_is_read() -> None:
    assert extract("The answer is 5.\n" + "word " * MAX_CHARS, "number") is None
    assert extract("word " * MAX_CHARS + "The answer is 5.", "number") == "5"


@pytest.mark.parametrize(
    "text",
    [
        "{" * MAX_CHARS,
        "\\boxed{" * (MAX_CHARS // 7),
        "$" * MAX_CHARS,
        "$ " * (MAX_CHARS // 2),
        "the answer is " * (MAX_CHARS // 14),
        "\\[" * (MAX_CHARS // 2),
        "1," * (MAX_CHARS // 2),
        "=\n" * (MAX_CHARS // 2),
        "\n" * MAX_CHARS,
        " \n" * (MAX_CHARS // 2),
        "**" * (MAX_CHARS // 2),
        "\nQ:" * (MAX_CHARS // 3),
        "answer for" * (MAX_CHARS // 10),
    ],
    ids=lambda text: text[:14],
)
@pytest.mark.parametrize("kind", ["number", "math", "choices"])
def test_hostile_texts_are_read_quickly(text: str, kind: Kind) -> None:
    began = time.process_time()
    extract(text, kind)
    assert time.process_time() - began < 4.0


PIECES = ["\\boxed{", "}", "$", "=", "\n", ".", "\0", "x", "(B)", "1,2"]
PIECES += ["the answer is ", "#### ", "\\frac{1}{2}", "答案是"]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join))
def test_any_text_gives_an_answer_or_none(text: str) -> None:
    for kind in ("number", "math", "choice", "choices", "text"):
        answer = extract(text, kind, FOUR)  # type: ignore[arg-type]
        assert answer is None or (answer and answer == answer.strip())
        gold_of(text, kind)  # type: ignore[arg-type]


@given(st.integers(-(10**9), 10**9), st.sampled_from(["The answer is {}.", "#### {}", "\\boxed{{{}}}", "答案是{}。"]))
def test_any_number_is_found(number: int, sentence: str) -> None:
    assert extract(sentence.format(number), "number") == str(number)
    assert extract(sentence.format(f"{number:,}"), "number") == f"{number:,}"
    assert extract(sentence.format(f"{number}.25"), "number") == f"{number}.25"
