"""AsciiMath to LaTeX."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmath_jax.corpus.text.asciimath import plausible, to_latex


@pytest.mark.parametrize(
    ("source", "latex"),
    [
        ("sum_(i=1)^n i^3=((n(n+1))/2)^2", r"\sum_{i=1}^{n}i^{3}=(\frac{n(n+1)}{2})^{2}"),
        ("x=(-b+-sqrt(b^2-4ac))/(2a)", r"x=\frac{-b\pm\sqrt{b^{2}-4ac}}{2a}"),
        ("[[a,b],[c,d]]((n),(k))", r"\begin{bmatrix} a & b \\ c & d \end{bmatrix}\begin{pmatrix} n \\ k \end{pmatrix}"),
        ('{(x, "if " x>0),(0, "otherwise"):}', r"\begin{cases} x & \text{if }x>0 \\ 0 & \text{otherwise} \end{cases}"),
        ("RR^n xx alpha/beta", r"\mathbb{R}^{n}\times\frac{\alpha}{\beta}"),
        ("lim_(h->0) hat x", r"\lim_{h\to0}\hat{x}"),
        ("text(for all) root(3)(x) != oo", r"\text{for all}\sqrt[3]{x}\ne\infty"),
        ("frac{a}{b} bb(A)", r"\frac{a}{b}\mathbf{A}"),
        ("a)b/", "a)b/"),
    ],
)
def test_asciimath_becomes_latex(source, latex):
    assert to_latex(source) == latex


@pytest.mark.parametrize("source", ["x+y=2", "alpha", "int_0^1 f(x)dx", "x"])
def test_formulas_are_plausible(source):
    assert plausible(source)


@pytest.mark.parametrize("source", ["std::vector", "list.append(x)", "python", "npm i", "foo_bar", " "])
def test_code_is_not_plausible(source):
    assert not plausible(source)


@settings(deadline=None)
@given(st.text(alphabet='ab12^_/()[]{}|,:"`\\ sqrtfrac+-', max_size=200))
def test_any_source_is_converted(source):
    to_latex(source)
    plausible(source)


def test_nested_brackets_take_linear_time():
    to_latex("[[" * 1_000 + "x,y" + "]]" * 1_000)
    to_latex("(" * 50_000)
