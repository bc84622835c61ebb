import pytest

from dsmath_jax.corpus.html_text import html_to_text, language

KATEX = (
    '<span class="katex"><span class="katex-mathml"><math><semantics><mrow><mi>x</mi></mrow>'
    '<annotation encoding="application/x-tex">x^2 &lt; y</annotation></semantics></math></span>'
    '<span class="katex-html" aria-hidden="true"><span class="mord">x2&lt;y</span></span></span>'
)
MATHML = "<math><mfrac><mrow><mi>a</mi><mo>+</mo><mn>1</mn></mrow><msqrt><mi>β</mi></msqrt></mfrac></math>"
MEDIAWIKI = (
    '<span class="mwe-math-element"><span style="display:none"><math alttext="{\\displaystyle e^{x}}"><mi>e</mi></math>'
    '</span><img class="mwe-math-fallback-image-inline" alt="{\\displaystyle e^{x}}"></span>'
)
MATHJAX2 = (
    '<span class="MathJax_Preview">loose</span><span class="MathJax"><span>loose</span></span>'
    '<script type="math/tex">a_n < b</script>'
)
MATHJAX3 = (
    "<mjx-container><svg></svg><mjx-assistive-mml><math><msup><mi>r</mi><mn>2</mn></msup></math></mjx-assistive-mml>"
    "</mjx-container>"
)


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        (KATEX, "$x^2 < y$"),
        (f'<span class="katex-display">{KATEX}</span>', "$$x^2 < y$$"),
        (MATHJAX2, "$a_n < b$"),
        ('<script type="math/tex; mode=display">\n\\sum_i i\n</script>', "$$\\sum_i i$$"),
        (MATHJAX3, "$r^{2}$"),
        (MATHML, "$\\frac{a + 1}{\\sqrt{\\beta}}$"),
        ('<math alttext="x\\in A"><mi>x</mi></math>', "$x\\in A$"),
        (MEDIAWIKI, "$e^{x}$"),
        ('<img class="latex" src="a.png" alt="\\pi r^2">', "$\\pi r^2$"),
        ("\\(x + y\\)", "\\(x + y\\)"),
        ("\\[\\int_0^1 f\\]", "\\[\\int_0^1 f\\]"),
        ("$n \\ge 1$", "$n \\ge 1$"),
    ],
)
def test_a_formula_stands_in_the_text_once_as_latex(formula, text):
    assert html_to_text(f"<body><p>Let {formula} be.</p></body>").split() == ["Let", *text.split(), "be."]


def test_frames_go_and_content_stays():
    html = """<html><body class="has-sidebar"><header><a href="/">Site</a></header>
      <nav><ul><li><a href="/">Home</a></ul></nav>
      <div class="page-navbar sidebar-left"><main><h1>Sums</h1><p>We add two numbers, which takes a moment or two.</p>
      <ul><li>one item<li>another <a href="x">item</a></ul><pre>x = 1\n    y = 2</pre></main></div>
      <ul><li><a href=1>Aaaa</a><li><a href=2>Bbbb</a><li><a href=3>Cccc</a><li><a href=4>Dddd</a></ul>
      <div id="cookie-banner">We use cookies</div><div class="sidebar">Popular</div><script>var x</script>
      <footer>All rights reserved</footer></body></html>"""
    text = html_to_text(html)
    for kept in ("Sums", "We add two numbers", "one item", "another item", "x = 1\n    y = 2"):
        assert kept in text
    for gone in ("Site", "Home", "Aaaa", "cookies", "Popular", "var x", "rights"):
        assert gone not in text


def test_a_name_does_not_condemn_most_of_the_page():
    assert "worked example" in html_to_text('<body><div class="comments"><p>A worked example in full.</p></div></body>')


def test_xml_pages_with_empty_elements_are_read():
    html = '<?xml version="1.0"?><html><head><script src="a.js"/></head><body><div/><p>Text<br/>here</p></body></html>'
    assert html_to_text(html).split() == ["Text", "here"]


def test_a_page_without_text():
    assert html_to_text("") == ""
    assert language("") == "unknown"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The farmer sells twelve eggs at the market and counts what is left over in the evening.", "en"),
        ("Let \\(\\alpha\\in\\mathbb{R}\\) be a number that is not zero, and let us look at its square root.", "en"),
        ("农夫在市场上卖了十二个鸡蛋,晚上数剩下的。$x^2+y^2=z^2$", "zh"),
        ("これは数学の問題です。答えを求めなさい。", "ja"),
        ("Der Bauer verkauft zwölf Eier auf dem Markt und zählt am Abend, was übrig ist.", "de"),
    ],
)
def test_language(text, code):
    assert language(text) == code
