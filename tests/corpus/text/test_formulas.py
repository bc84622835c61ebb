"""Every form of formula on a page becomes LaTeX, once."""

import pytest

from dsmath_jax.corpus.text.html_text import html_to_text

ANNOTATED = (
    '<math display="{display}"><semantics><mrow><mi>loose</mi></mrow>'
    '<annotation encoding="application/x-tex">x^2 &lt; y</annotation></semantics></math>'
)
KATEX = (
    f'<span class="katex"><span class="katex-mathml">{ANNOTATED}</span>'
    '<span class="katex-html" aria-hidden="true"><span class="mord">x2&lt;y</span></span></span>'
)
MEDIAWIKI = (
    '<span class="mwe-math-element"><span style="display:none"><math alttext="{\\displaystyle e^{x}}"><mi>e</mi></math>'
    '</span><img class="mwe-math-fallback-image-inline" alt="{\\displaystyle e^{x}}"></span>'
)
RENDERED = '<span class="MathJax_Preview">loose</span><span class="MathJax"><span>loose</span></span>'
ASSISTIVE = "<mjx-assistive-mml><math><msup><mi>r</mi><mn>2</mn></msup></math></mjx-assistive-mml>"
IMAGES = [
    ('<img class="latex" src="a.png" alt="\\pi r^2">', "$\\pi r^2$"),
    ('<img class="tex" alt="a_n">', "$a_n$"),
    ('<img src="x.png" alt="$a_1 + b$">', "$a_1 + b$"),
    ('<img src="https://latex.codecogs.com/gif.latex?%5Cdpi%7B150%7D%20a%5E2&plus;b" alt="">', "$a^2+b$"),
    ('<img src="//s0.wp.com/latex.php?latex=a%2Bb+%5Cin+S&amp;bg=ffffff" alt="ignored">', "$a+b \\in S$"),
    ('<img src="https://www.zhihu.com/equation?tex=%5Calpha%3D1" alt="[公式]">', "$\\alpha=1$"),
    ('<img src="http://chart.googleapis.com/chart?cht=tx&amp;chl=x%5E3">', "$x^3$"),
    ('<img src="/cgi-bin/mimetex.cgi?\\frac{1}{2}">', "$\\frac{1}{2}$"),
    ('<img src="/cgi-bin/mathtex.cgi?x_1">', "$x_1$"),
    ('<img class="ql-img-inline-formula" data-src="q.svg" alt="\\zeta(s)">', "$\\zeta(s)$"),
]
ELEMENTS = [
    (KATEX.format(display="inline"), "$x^2 < y$"),
    (f'<span class="katex-display">{KATEX.format(display="block")}</span>', "$$x^2 < y$$"),
    (ANNOTATED.format(display="block"), "$$x^2 < y$$"),
    ('<span class="katex-error" title="ParseError">\\foo{x}</span>', "$\\foo{x}$"),
    (f'{RENDERED}<script type="math/tex">a_n < b</script>', "$a_n < b$"),
    ('<script type="math/tex; mode=display">\n\\sum_i i\n</script>', "$$\\sum_i i$$"),
    ('<script type="math/tex">% <![CDATA[\na < b %]]></script>', "$a < b$"),
    ('<script type="math/mml"><math><mi>x</mi><mo>=</mo><mi>y</mi></math></script>', "$x = y$"),
    ('<script type="math/asciimath">x/2</script>', "$\\frac{x}{2}$"),
    ('<script type="math/tex">\\text{if $x$}</script>', "\\(\\text{if $x$}\\)"),
    ('<span class="MathJax" data-mathml="&lt;math&gt;&lt;mi&gt;q&lt;/mi&gt;&lt;/math&gt;"><span>loose</span></span>', "$q$"),  # noqa: E501
    (f"<mjx-container><svg></svg>{ASSISTIVE}</mjx-container>", "$r^{2}$"),
    (f'<mjx-container display="true"><mjx-math data-latex="r^2"><mjx-c>r</mjx-c></mjx-math>{ASSISTIVE}</mjx-container>', "$$r^2$$"),  # noqa: E501
    ('<mjx-container><mjx-math><mjx-mi><mjx-c class="mjx-c1D465"></mjx-c></mjx-mi></mjx-math></mjx-container>', "$x$"),
    ("<math><msup><mi>e</mi><mi>x</mi></msup></math>", "$e^{x}$"),
    ("<mml:math><mml:mfrac><mml:mi>a</mml:mi><mml:mi>b</mml:mi></mml:mfrac></mml:math>", "$\\frac{a}{b}$"),
    ('<math alttext="x\\in A"><mi>x</mi></math>', "$x\\in A$"),
    (MEDIAWIKI, "$e^{x}$"),
    ('<span data-expr="x^2">loose</span>', "$x^2$"),
    ('<span class="ztext-math" data-tex="\\beta=1">loose</span>', "$\\beta=1$"),
    ('<div data-math="a=b">loose</div>', "$a=b$"),
    ('<span class="math inline">x^2</span>', "$x^2$"),
    ('<d-math block>y_1</d-math>', "$$y_1$$"),
    ('<span class="texhtml"><i>x</i><sup>2</sup> &le; <i>π</i></span>', "$x^{2} \\le \\pi$"),
]  # fmt: skip


@pytest.mark.parametrize(("formula", "text"), ELEMENTS + IMAGES)
def test_a_formula_element_becomes_latex_once(formula, text):
    assert html_to_text(f"<body><p>Let {formula} be.</p></body>").split() == ["Let", *text.split(), "be."]


@pytest.mark.parametrize(
    "formula",
    [
        "\\(x + y\\)",
        "\\[\\int_0^1 f\\]",
        "$n \\ge 1$",
        "$$a_1 \\\\ b_1 & c$$",
        "\\begin{align} a &= b \\\\ c &< d \\end{align}",
        "$a < b$",
        "$a<b$ and $c>d$",
        "$0<x<1$",
        "\\(x<y^2\\)",
    ],
)
def test_delimited_formulas_stay_as_they_are(formula):
    source = formula.replace("& ", "&amp; ").replace("&=", "&amp;=").replace("&<", "&amp;&lt;")
    assert html_to_text(f"<body><p>Let {source} be.</p></body>") == f"Let {formula} be."


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("$a<em>1 + b</em>2$", "$a_1 + b_2$"),
        ("$x<em>1$ and $y</em>1$", "$x_1$ and $y_1$"),
        ("$x^<em>$ and $y^</em>$", "$x^*$ and $y^*$"),
        ("$$a = 1 \\\\<br>b = 2$$", "$$a = 1 \\\\\nb = 2$$"),
        ("\\(x<sub>10</sub>\\)", "\\(x_{10}\\)"),
        ("\\begin{align}a<em>i &amp;= b</em>i\\end{align}", "\\begin{align}a_i &= b_i\\end{align}"),
        ('$u:<a href="http://a.org">http://a.org</a>$', "$u:http://a.org$"),
        ("<em>costs</em> $5 and <em>not</em> $6", "costs $5 and not $6"),
        ("<code>$x</code> and <em>y</em> <code>$z</code>", "$x and y $z"),
    ],
)
def test_markup_inside_a_formula_becomes_text_again(markup, text):
    assert html_to_text(f"<body><p>Let {markup} be.</p></body>") == f"Let {text} be."


def test_asciimath_is_converted_only_if_the_page_loads_it():
    page = "<body><p>Let `x/2` be, and <code>`y/2`</code>.</p></body>"
    assert html_to_text(page) == "Let `x/2` be, and `y/2`."
    loaded = f'<script src="ASCIIMathML.js"></script>{page}'
    assert html_to_text(loaded) == "Let $\\frac{x}{2}$ be, and `y/2`."
    with_tex = f'<script src="MathJax.js?config=TeX-MML-AM_CHTML"></script>{page.replace("x/2", "std::list")}'
    assert "`std::list`" in html_to_text(with_tex)


def test_blocks_of_definitions_are_removed_and_formulas_stay():
    definitions = "\\(\\newcommand{\\R}{\\mathbb R}\n\\DeclareMathOperator{\\id}{id}\\def\\x#1{#1_2}\\let\\a\\b\\)"
    html = f'<body><div class="hidden-content" style="display:none">{definitions}</div>{definitions}<p>In \\(\\R\\).</p></body>'  # noqa: E501
    assert html_to_text(html) == "In \\(\\R\\)."
    assert "y = 1" in html_to_text("<body>\\(\\newcommand{\\R}{R} y = 1\\)</body>")


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("x<sup>2</sup>", "x^2"),
        ("10<sup>−12</sup> m<sub>e</sub>", "10^{-12} m_e"),
        ("e<sup>x<sup>2</sup></sup>", "e^{x^2}"),
        ("<i>a</i><sub>ij</sub>", "a_{ij}"),
        ("the 1<sup>st</sup> and 4<sup>th</sup>", "the 1st and 4th"),
        ('text<sup class="reference"><a href="#n1">[1]</a></sup> goes', "text goes"),
        ('a claim.<sup><a href="#fn1">1</a></sup>', "a claim."),
        ("Brand<sup>TM</sup>", "BrandTM"),
        ("<var>n</var><sup>2</sup>", "n^2"),
    ],
)
def test_sub_and_superscripts(markup, text):
    assert html_to_text(f"<body><p>{markup}</p></body>") == text


def test_each_of_several_formulas_appears_once():
    html = f"<body><p>{ELEMENTS[0][0]} then {ELEMENTS[4][0]} then {MEDIAWIKI} then {IMAGES[0][0]}</p></body>"
    text = html_to_text(html)
    assert [text.count(part) for part in ("x^2 < y", "a_n < b", "e^{x}", "\\pi r^2")] == [1, 1, 1, 1]
    assert "loose" not in text
