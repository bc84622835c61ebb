"""MathML and MathJax output to LaTeX."""

import pytest
from resiliparse.parse.html import HTMLTree

from dsmath_jax.corpus.text.math_element import of_node
from dsmath_jax.corpus.text.mathjax import of_output
from dsmath_jax.corpus.text.mathml import to_latex


def convert(markup: str) -> str:
    return to_latex(of_node(HTMLTree.parse(f"<body><math>{markup}</math>").body.query_selector("math")))


def rows(*cells: str) -> str:
    content = "".join("<mtr>" + "".join(f"<mtd><mi>{cell}</mi></mtd>" for cell in row) + "</mtr>" for row in cells)
    return f"<mtable>{content}</mtable>"


@pytest.mark.parametrize(
    ("markup", "latex"),
    [
        ("<mfrac><mrow><mi>a</mi><mo>+</mo><mn>1</mn></mrow><msqrt><mi>β</mi></msqrt></mfrac>", r"\frac{a + 1}{\sqrt{\beta}}"),  # noqa: E501
        ("<mfrac linethickness='0'><mi>n</mi><mi>k</mi></mfrac>", r"{n \atop k}"),
        ("<mroot><mi>x</mi><mn>3</mn></mroot>", r"\sqrt[3]{x}"),
        ("<msub><mi>x</mi><mi>i</mi></msub>", "x_{i}"),
        ("<msup><mrow><mo>(</mo><mi>x</mi><mo>)</mo></mrow><mn>2</mn></msup>", "(x)^{2}"),
        ("<msubsup><mi>x</mi><mn>1</mn><mn>2</mn></msubsup>", "x_{1}^{2}"),
        ("<msup><mi>f</mi><mo>′</mo></msup>", "f'"),
        ("<munderover><mo>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover>", r"\sum_{i = 1}^{n}"),  # noqa: E501
        ("<munder><mi>lim</mi><mrow><mi>x</mi><mo>→</mo><mn>0</mn></mrow></munder>", r"\lim_{x \to 0}"),
        ("<mover><mi>x</mi><mo>¯</mo></mover>", r"\bar{x}"),
        ("<mover><mrow><mi>A</mi><mi>B</mi></mrow><mo>→</mo></mover>", r"\overrightarrow{AB}"),
        ("<munder><munder><mrow><mi>a</mi><mi>b</mi></mrow><mo>⏟</mo></munder><mi>n</mi></munder>", r"\underbrace{ab}_{n}"),  # noqa: E501
        ("<mover><mo>=</mo><mtext>def</mtext></mover>", r"\overset{\text{def}}{=}"),
        ("<mover><mo>→</mo><mi>f</mi></mover>", r"\xrightarrow{f}"),
        ("<mmultiscripts><mi>X</mi><mi>a</mi><mi>b</mi><mprescripts/><mi>c</mi><none/></mmultiscripts>", "{}_{c}X_{a}^{b}"),  # noqa: E501
        (f"<mo>(</mo>{rows('ab', 'cd')}<mo>)</mo>", r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}"),
        (f"<mo>{{</mo>{rows('ab')}", r"\begin{cases} a & b \end{cases}"),
        (f"<mfenced open='|' close='|'>{rows('ab')}</mfenced>", r"\begin{vmatrix} a & b \end{vmatrix}"),
        (rows("ab").replace("<mtable>", "<mtable columnalign='right left'>"), r"\begin{aligned} a & b \end{aligned}"),
        ("<mfenced open='[' separators=';'><mi>a</mi><mi>b</mi></mfenced>", "[a;b)"),
        ("<menclose notation='box'><mi>a</mi></menclose>", r"\boxed{a}"),
        ("<mi>x</mi><mspace width='2em'/><mphantom><mi>y</mi></mphantom>", r"x\quad \phantom{y}"),
        ("<mtext>5% of A_1</mtext>", r"\text{5\% of A\_1}"),
        ("<mstyle><mi mathvariant='double-struck'>R</mi></mstyle><mi>𝒞</mi><mi>sin</mi><mi>foo</mi>", r"\mathbb{R}\mathcal{C}\sin\mathrm{foo}"),  # noqa: E501
        ("<mi>α</mi><mi>x</mi><mo>≤</mo><mi>ℝ</mi>", r"\alpha x \le \mathbb{R}"),
        ("<mi>f</mi><mo>&ApplyFunction;</mo><mi>x</mi><mo>&InvisibleTimes;</mo><mi>y</mi>", "fxy"),
        ("<semantics><mi>x</mi><annotation-xml encoding='MathML-Content'><ci>x</ci></annotation-xml></semantics>", "x"),
        ("<apply><eq/><apply><power/><ci>x</ci><cn>2</cn></apply><cn>4</cn></apply>", "x^{2} = 4"),
        ("<apply><divide/><ci>a</ci><apply><times/><cn>2</cn><apply><minus/><ci>c</ci><cn>1</cn></apply></apply></apply>", r"\frac{a}{2 (c - 1)}"),  # noqa: E501
        ("<apply><int/><bvar><ci>x</ci></bvar><lowlimit><cn>0</cn></lowlimit><uplimit><infinity/></uplimit><apply><sin/><ci>x</ci></apply></apply>", r"\int_{0}^{\infty} \sin(x) \, dx"),  # noqa: E501
        ("<piecewise><piece><cn>0</cn><apply><lt/><ci>x</ci><cn>1</cn></apply></piece></piecewise>", r"\begin{cases} 0 & x < 1 \end{cases}"),  # noqa: E501
    ],
)  # fmt: skip
def test_an_element_becomes_latex(markup, latex):
    assert convert(markup) == latex


def test_deep_nesting_becomes_text():
    assert convert("<mrow>" * 5_000 + "<mi>x</mi>") == "x"


@pytest.mark.parametrize(
    ("markup", "latex"),
    [
        ('<mjx-math><mjx-msup><mjx-mi><mjx-c class="mjx-c1D465 TEX-I"></mjx-c></mjx-mi><mjx-script><mjx-mn>'
         '<mjx-c class="mjx-c32"></mjx-c></mjx-mn></mjx-script></mjx-msup></mjx-math>', "x^{2}"),
        ('<mjx-math><mjx-msubsup><mjx-mi><mjx-c class="mjx-c1D465"></mjx-c></mjx-mi><mjx-script><mjx-mn>2</mjx-mn>'
         "<mjx-spacer></mjx-spacer><mjx-mi>i</mjx-mi></mjx-script></mjx-msubsup></mjx-math>", "x_{i}^{2}"),
        ("<mjx-math><mjx-mfrac><mjx-frac><mjx-num><mjx-nstrut></mjx-nstrut><mjx-mi>a</mjx-mi></mjx-num><mjx-dbox>"
         "<mjx-dtable><mjx-row><mjx-den><mjx-mi>b</mjx-mi></mjx-den></mjx-row></mjx-dtable></mjx-dbox></mjx-frac>"
         "</mjx-mfrac></mjx-math>", r"\frac{a}{b}"),
        ('<svg><g data-mml-node="math"><g data-mml-node="msqrt"><g data-mml-node="mi"><path data-c="1D465"></path></g>'
         '<g data-mml-node="mo"><path data-c="221A"></path></g></g></g></svg>', r"\sqrt{x}"),
        ('<svg><g data-mml-node="msubsup"><g data-mml-node="mi"><use data-c="1D44E"></use></g>'
         '<g data-mml-node="mn" transform="translate(500,400)"><use data-c="32"></use></g>'
         '<g data-mml-node="mn" transform="translate(500,-200)"><use data-c="31"></use></g></g></svg>', "a_{1}^{2}"),
    ],
)  # fmt: skip
def test_mathjax_output_becomes_latex(markup, latex):
    container = HTMLTree.parse(f"<body><mjx-container>{markup}</mjx-container>").body.query_selector("mjx-container")
    assert to_latex(of_output(container)) == latex
