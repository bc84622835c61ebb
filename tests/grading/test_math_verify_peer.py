"""Compares the grader with Math-Verify: on cases like those of its tests, and on the labeled pairs of answers.

The cases were chosen by the kinds of Math-Verify's tests, with other values. Where its tests and the conventions here
differ on purpose (a decimal comma, a point against an interval's text, rounded decimals), there is no case.
"""

import functools
from collections import Counter

import pytest

from benchmarks.grading import math_verify
from dsmath_jax.grading.extraction import gold_of
from dsmath_jax.grading.grade import Grader, Item
from dsmath_jax.grading.workers import Workers
from tests.grading.test_labeled import PAIRS, verdicts

# Kind of case: gold answer, completion, whether it is correct.
CASES: dict[str, list[tuple[str, str, bool]]] = {
    "numbers": [
        ("-8", "-8", True),
        ("3185000", "3,185,000", True),
        ("2000", "2 000", True),
        ("4000", "4000.0", True),
        ("2500.0", "2,500.0", True),
        ("0.7", ".7", True),
        ("250.75", "$250.75", True),
        ("3250.75", "3,250.75€", True),
        ("3", "QX3T", False),
    ],
    "fractions": [
        ("13/6", r"$\frac{13}{6}$", True),
        ("-13/6", r"$-\frac{13}{6}$", True),
        ("$2/7$", r"$\frac27 $", True),
        ("$1$", r"$\frac5{5} $", True),
        ("$2/7$", r"$\cfrac{2}{7} $", True),
        ("$2/7$", r"$\left( \tfrac{2}{7} \right)$", True),
        ("$2/7$", r"$\frac{2}{7} \text{litres}$", True),
        ("$2/7$", r"$m = \frac{2}{7}$", True),
        (r"$\frac{x+5}{3}$", r"$\frac{x}{3}+\frac{5}{3}$", True),
    ],
    "delimiters": [
        ("$6$", r"Answer \[ 6 \]", True),
        ("$6$", "Answer $$ 6 $$", True),
        ("$6$", r"Answer \( 6 \)", True),
        ("$6$", "Answer \\[ \n 6 \n \\]", True),
        ("$12$", r"Answer \( (7+5) \)", True),
        (r"$\frac{3}{5}$", r"The answer is $\boxed{\frac{3}{5}}$.", True),
        (r"$\sqrt{7}$", r"$\sqrt7 $", True),
    ],
    "sets": [
        ("$[0,4)$", "$[0,4)$", True),
        ("$[0,4)$", "$[0,3)$", False),
        ("$(0,4)$", "$[0,4)$", False),
        ("$3$", "$-[0,3)$", False),
        (r"$\{2\pm\sqrt{3},-4\}$", r"The answer is $\boxed{\{2\pm\sqrt{3},-4\}}.$", True),
        (r"$[-2, -\frac{1}{2}) \cup (1, \infty)$", r"It is $\boxed{[-2, -\tfrac12) \cup (1, \infty)}.$", True),
        (r"$\pm 19$", r"$\{-19, 19\}$", True),
        (r"$\pm 19$", "$19$", False),
        (r"$(\frac{4}{5},\frac{5}{2}]$", "$(0.8,2.5]$", True),
    ],
    "percent": [
        (r"$36\%$", "36 percent", True),
        (r"$36\%$", "36 %", True),
        (r"$36\%$", "36", True),
        ("$0.36$", "36", False),
        ("$36/100$", "36", False),
        ("$36$", "36/100", False),
    ],
    "relations": [
        ("$x >= 7$", r"Therefore $x \geq 7$.", True),
        ("$x < 4$", r"We find that $x \lt 4$.", True),
        ("$x > 6$", "Therefore $x < 6$.", False),
        (r"$x \geq 6$", r"$x \leq 6$", False),
        (r"$x \leq 6$", r"$6 \geq x$", True),
        ("$x < 2$", "$-x > -2$", True),
        ("$x < 2$", "$x > -2$", False),
        ("$13$", "$x=13$", True),
        ("$m=3$", "$3$", True),
        ("$8 = 5a+c$", "$5a+c$", False),
        ("$3x + z = 2$", "$2$", False),
        ("$a^2 + b = 0$", "$0$", False),
        ("$3x+6y-4=0$", r"$y=-\frac{1}{2}x+\frac{2}{3}$", True),
        ("$x^2/9 + y^2/5 = 1$", "$x^2/18 + y^2/10 = 1/2$", True),
        ("$12x+7y-3z+40=0$", "$-12x-7y+3z-40=0$", True),
        ("$-5 < a < 12$", "$(-5, 12)$", True),
        (r"$-3 \le x \le 8$", r"$x \in [-3,8]$", True),
    ],
    "matrices": [
        (
            r"$\begin{pmatrix}2 & 0 \\ 0 & 2\end{pmatrix}$",
            r"It is $ \begin{bmatrix}2 & 0 \\ 0 & 2\end{bmatrix} $.",
            True,
        ),
        (
            r"$\begin{pmatrix}5 & 2 \\3 & 4\end{pmatrix}$",
            r"$ \left[\begin{array}{cc}5 & 2 \\3 & 4\end{array}\right] $",
            True,
        ),
        (
            r"$\begin{pmatrix}4 & 6 \\ 6 & 8\end{pmatrix}$",
            r"$\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix} + \begin{pmatrix}3 & 4 \\ 3 & 4\end{pmatrix}$",
            True,
        ),
        (r"$\begin{pmatrix}5 & 2 \\ 3 & 4\end{pmatrix}$", r"$\begin{pmatrix}5 & 2 \\ 3 & 6\end{pmatrix}$", False),
    ],
    "expressions": [
        ("$3-4q$", r"Since $x<3$, $3-x=2q$. Thus $x-2q=\boxed{3-4q}$.", True),
        (r"$2 \cos b \cos a$", r"\[\cos (a + b) + \cos (a - b) = \boxed{2 \cos b \cos a}.\]", True),
        (r"$\cot^2(y)+1$", r"$\csc^2(y)$", True),
        (r"$\frac{\sqrt{\sqrt{7}+5}}{9+2\sqrt{14}}$", r"$\frac{\sqrt{\sqrt{7}+5}}{2\sqrt{14}+9}$", True),
        ("$(a+4)(b+3)$", "$(+4)(b+3)$", False),
        ("$5$", r"$\frac{1+\sqrt{13}}{2}$", False),
        (r"$5$", r"$5\sqrt{3}$", False),
        ("$x+4n+1$", "$x+1$", False),
        ("$f(x)$", "$f(y)$", False),
        (r"$1 - \frac{1}{\mathrm{e}}$", r"$1 - \frac{1}{\mathrm{e}}$", True),
        (r"$\frac{7}{4}\pi$", r"Therefore $\boxed{\frac74\pi}$.", True),
    ],
    "named and listed": [
        ("$(p,q)=(5,3)$", "$(5,3)$", True),
        ("$(9,4)or(4,9)$", r"$\boxed{(4,9),\ (9,4)}$", True),
        (r"$V_{1}:V_{2}=9:16$", "$9:16$", True),
        ("$n=2, 4, 6$", "$n=2, 4, 6$", True),
        ("$n=2, 4, 6$", "$n=2, 4, 8$", False),
        (r"$(3,2),(1,4),(-1,-9)$", r"$\boxed{(1, 4), (3, 2), (-1, -9)}$", True),
        (r"$(3,2,1),(1,4),(-1,-9)$", r"$\boxed{(1, 4), (3, 2), (-1, -9)}$", False),
        ("$-9;-7;-5$", r"$\boxed{\{-9, -7, -5\}}$", True),
        ("$3$ and $5$ and $8$", r"$\boxed{3,5,8}$", True),
        (r"$4 \text{ and } 9$", r"$\boxed{4 \text{ and } 9}$", True),
        ("$17, 25, and 60$", r"$17, 25, \text{ and } 60$", True),
        ("$17, 25, and 60$", "$17, 35, and 60$", False),
        (r"$(5, 7)$", r"The points are $\boxed{(5, 9)}$.", False),
    ],
    "words and letters": [
        (r"$\text{Oliver}$", r"Therefore, $\boxed{\text{Oliver}}$ is our answer.", True),
        (r"$\text{even}$", "$even$", True),
        (r"$\text{G}$", "$G$", True),
        ("$d$", r"$\text{G}$", False),
        (r"$\text{The points lie on a line}$", r"$\text{The points lie on a line}$", True),
        (r"$45$ miles", r"The distance is $\boxed{45\textnormal{ miles}}.$", True),
        ("$11:30$", "$11:30$", True),
        ("$11:30$", "$1:30$", False),
    ],
    "grouped digits": [
        (r"$\boxed{22222222200}$", r"is $\boxed{22,\! 222,\! 222,\! 200}$", True),
        (r"$\boxed{17{,}916}$", "The answer is $17,916$.", True),
        ("$12455$", r"Final Answer: The final answer is $12,455$. I hope it is correct.", True),
        (r"$\boxed{45213}$", r"is $\boxed{45, 213}$", False),
        ("$1112012_3$", r"$\boxed{1112022_3}$", False),
    ],
}  # fmt: skip


@functools.cache
def case_grades() -> dict[str, list[tuple[bool, bool]]]:
    """Returns for the cases of each kind whether this grader and Math-Verify find them correct."""
    flat = [(gold, completion) for cases in CASES.values() for gold, completion, _ in cases]
    with Grader() as grader:
        own = grader.grades([Item(completion, gold_of(gold, "math"), "math") for gold, completion in flat])
    both = iter(zip((grade.correct for grade in own), verified(flat), strict=True))
    return {kind: [next(both) for _ in cases] for kind, cases in CASES.items()}


def verified(asked: list[tuple[str, str]]) -> list[bool]:
    """Returns the verdict of plain Math-Verify on texts without preparation."""
    with Workers(seconds=5, preload=("math_verify",)) as workers:
        outcomes = workers.map(f"{math_verify.__module__}:{math_verify.__name__}", asked)
    return [outcome.value is True for outcome in outcomes]


@pytest.mark.parametrize("kind", CASES)
def test_cases_like_those_of_math_verifys_tests_are_correct(kind: str) -> None:
    disagreeing = [case for case, (own, _) in zip(CASES[kind], case_grades()[kind], strict=True) if own != case[2]]
    assert not disagreeing


def test_math_verify_agrees_with_these_cases() -> None:
    """Checks that these are cases of its kind."""
    disagreeing = [
        case
        for kind, cases in CASES.items()
        for case, (_, peer) in zip(cases, case_grades()[kind], strict=True)
        if peer != case[2]
    ]
    assert not disagreeing


@pytest.mark.slow
def test_no_group_of_labeled_pairs_is_graded_worse_than_by_math_verify() -> None:
    """Math-Verify is given answers in LaTeX between dollars, others as they are.

    There is no comparison on the monsters: of those it says after its own time limits what was not found equal.
    """
    rows = [(row, found is True) for row, found in zip(PAIRS, verdicts(), strict=True) if row["group"] != "monsters"]
    peer = verified([(_dollars(row, row["gold"]), _dollars(row, row["answer"])) for row, _ in rows])
    agreeing: Counter[tuple[str, str]] = Counter()
    for (row, own), other in zip(rows, peer, strict=True):
        agreeing[row["group"], "own"] += own == row["equal"]
        agreeing[row["group"], "other"] += other == row["equal"]
    groups = dict.fromkeys(row["group"] for row, _ in rows)
    worse = [
        f"{group}: {agreeing[group, 'own']} against {agreeing[group, 'other']}"
        for group in groups
        if agreeing[group, "own"] < agreeing[group, "other"]
    ]
    assert len(groups) > 25
    assert not worse


def _dollars(row: dict, answer: str) -> str:
    return f"${answer}$" if row["kind"] == "math" and "$" not in answer else answer
