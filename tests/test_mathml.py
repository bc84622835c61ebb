"""Splitting text into formulas, and the MathML that may reach the browser."""

import json

import pytest

from dsmath_jax.mathml import mathml, parts


def test_formulas_are_split_from_the_text():
    pieces = parts("Let $x^2$ be \\(y\\), then\n$$z$$ \\[w\\] \\begin{align}a&=b\\end{align} end")
    assert [part["latex"] for part in pieces if isinstance(part, dict)] == [
        "$x^2$", "\\(y\\)", "$$z$$", "\\[w\\]", "\\begin{align}a&=b\\end{align}",
    ]  # fmt: skip
    assert "".join(part if isinstance(part, str) else part["latex"] for part in pieces).startswith(
        "Let $x^2$ be \\(y\\)"
    )


@pytest.mark.parametrize(
    "text", ["$5 and $10 are prices", "US$5 or US$6", "from \\$1 to \\$2", "a $ b $ c", "\\[ a\n\nb \\]"]
)
def test_dollars_that_are_no_formulas_stay_text(text):
    assert parts(text) == [text]


def test_a_formula_becomes_a_tree_of_mathml():
    assert mathml("x^2", True) == [
        "math", {"display": "block"}, ["mrow", {}, ["msup", {}, ["mi", {}, "x"], ["mn", {}, "2"]]],
    ]  # fmt: skip


@pytest.mark.parametrize("latex", ["x^", "\\left( x", "{" * 500 + "x" + "}" * 500, "\\def\\a{\\a\\a}\\a", "\\label{a}"])
def test_formulas_that_cannot_be_converted_keep_their_source(latex):
    assert mathml(latex, False) is None
    assert parts(f"\\({latex}\\)") == [{"latex": f"\\({latex}\\)", "math": None}]


def test_only_known_elements_and_attributes_leave_the_converter():
    tree = json.dumps(
        mathml(
            "\\href{javascript:a}{b} \\text{<script>c</script>} \\style{color:red}{d} \\class{e}{f} \\boxed{g}", False
        )
    )
    assert "href" not in tree
    assert "style" not in tree.replace('"mstyle"', "")
    assert "class" not in tree
    assert "menclose" not in tree
