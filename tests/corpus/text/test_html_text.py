"""HTML to text: the content in readable form, without boilerplate. (Formulas: test_formulas.py.)"""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmath_jax.corpus.text.html_text import html_to_text
from dsmath_jax.corpus.text.language import language

PROSE = "We add two numbers, which takes a moment or two, and then we look at what came out of it. "
MAIN = f"<h1>Sums</h1><p>{PROSE * 5}</p>"
LINKS = "".join(f'<li><a href="/{number}">Gone{number}</a></li>' for number in range(5))


@pytest.mark.parametrize(
    "boilerplate",
    [
        f"<nav><ul>{LINKS}</ul></nav>",
        "<header><a href='/'>Gone</a></header>",
        "<footer>Gone, all rights reserved</footer>",
        "<aside>Gone: popular posts</aside>",
        f"<ul>{LINKS}</ul>",
        f"<div>{LINKS.replace('li>', 'b>')}</div>",
        "<div>" + "".join(f'<a href="/{number}">Gone{number}</a> ' for number in range(8)) + "</div>",
        '<div class="sidebar">Gone</div>',
        '<div class="md-sidebar md-sidebar--primary">Gone</div>',
        '<div id="comments"><p>Gone: a comment.</p></div>',
        '<div class="social-share">Gone</div>',
        '<p class="copyright">Gone</p>',
        '<div id="cookie-banner">Gone</div>',
        "<div><p>This site uses cookies, Gone. Do you accept all cookies?</p></div>",
        '<a href="#main">Skip to main content, Gone</a>',
        '<div role="navigation">Gone</div>',
        "<form><input type=text><label>Gone</label></form>",
        "<div hidden>Gone</div>",
        '<div style="display: none">Gone</div>',
        '<span aria-hidden="true">Gone</span>',
        '<span class="sr-only">Gone</span>',
        '<a class="headerlink" href="#x">Gone</a>',
        '<a href="#p1">\U0001f517</a>',
        '<div class="post-prevnext"><article><a href="/">Gone</a></article></div>',
        "<script>Gone</script><style>Gone</style><noscript>Gone</noscript><template>Gone</template>",
        "<select><option>Gone</select><button>Gone</button><textarea>Gone</textarea>",
    ],
)
def test_boilerplate_is_removed(boilerplate):
    for html in (f"<body>{boilerplate}<main>{MAIN}</main></body>", f"<body><main>{MAIN}</main>{boilerplate}</body>"):
        text = html_to_text(html)
        assert not re.search("Gone|\U0001f517", text)
        assert text.startswith("Sums\n\nWe add")
        assert text.count("We add") == 5


@pytest.mark.parametrize(
    "content",
    [
        f'<div class="comments">{MAIN}</div>',
        f'<div class="anchor-link"><p>{PROSE * 20}</p></div><nav>{"<p>Menu </p>" * 300}</nav>',
        f'<div class="page-navbar sidebar-left">{MAIN}</div>',
        f'<div class="has-sidebar"><div class="content-with-toc">{MAIN}</div></div>',
        f"<nav>Menu{MAIN}",  # a nav that is never closed
        f"<form><input type=search>{MAIN}</form>",
        "".join(f'<div class="comment"><p>We add {PROSE}</p></div>' for _ in range(5)),
        f"<main><aside>We add in a note, which is part of the text.</aside>{MAIN}</main>",
        f"<ul>{LINKS.replace('Gone', 'We add')}</ul>",  # a page that is nothing but links
        f'<figure class="listing"><figcaption>We add a caption</figcaption></figure>{MAIN}',
        f'<div style="display:none"><p>{PROSE * 4}</p></div>{MAIN}',  # a solution that a click shows
        f"<ul>{''.join(f'<li><a href=/{n}>We add $x_{n}$</a></li>' for n in range(5))}</ul>{MAIN}",
        f"<label>We add a choice</label>{MAIN}",
    ],
)
def test_content_is_kept(content):
    text = html_to_text(f"<body>{content}</body>")
    assert text.count("We add") == content.count("We add")


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>one</p><p>two<br>lines</p>", "one\n\ntwo\nlines"),
        ("a<h2>Title</h2>b", "a\n\nTitle\n\nb"),
        ("<ul><li>one<li>two</ul>", "• one\n  • two"),
        ("<ol><li>one<li>two</ol>", "1. one\n  2. two"),
        ("<table><tr><th>a<th>b<tr><td>1<td><p>2</p></table>", "a | b\n1 | 2"),
        ("<p>code:</p><pre>def f():\n    return 1\n\n    x\t\ty\n</pre>after", "code:\n\ndef f():\n    return 1\n\n    x\t\ty\n\nafter"),  # noqa: E501
        ("<pre><span>a</span>\r\n  b</pre>", "a\n  b"),
        ('<pre><span class="lineno">1</span>a <span class="hljs-comment"># sum</span></pre>', "a # sum"),
        ('<table><tr><td class="gutter"><pre>1\n2</pre><td class="code"><pre>x\n  y</pre></table>', "x\n  y"),
        ("<dl><dt>term<dd>meaning</dl>", "term\nmeaning"),
        ("a  <b>b</b>\n c&nbsp;d &lt;e&gt;", "a b c d <e>"),
        ("", ""),
    ],
)  # fmt: skip
def test_layout_is_readable(markup, text):
    assert html_to_text(f"<body>{markup}</body>").replace("\xa0", " ") == text


def test_xml_pages_with_empty_elements_are_read():
    html = '<?xml version="1.0"?><html><head><script src="a.js"/></head><body><div/><p>Text<br/>here</p></body></html>'
    assert html_to_text(html).split() == ["Text", "here"]


TAGS = (
    "div p span em b i a ul li ol table tr td pre code h2 sup sub section article nav header math mi script br".split()
)


@st.composite
def markup(draw):
    """Opening and closing tags in any order, with numbered words between them."""
    pieces = []
    for number in range(draw(st.integers(0, 25))):
        tag = draw(st.sampled_from(TAGS))
        pieces.append(
            draw(
                st.sampled_from(
                    [f"<{tag}>", f"</{tag}>", f'<{tag} class="math toc x">', "$", "\\(", "\\begin{a}", "<", "&"]
                )
            )
        )
        pieces.append(f" w{number}w ")
    return "".join(pieces)


@settings(deadline=None, max_examples=300)
@given(markup())
def test_any_markup_gives_text_in_its_order(html):
    numbers = [int(number) for number in re.findall(r"w(\d+)w", html_to_text(f"<body>{html}"))]
    # Text between a table and its cells is moved before the table, as browsers do.
    assert (sorted(numbers) if "<table" in html else numbers) == sorted(set(numbers))


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda content: content.decode("latin-1")))
def test_any_text_is_accepted(html):
    html_to_text(html)


@pytest.mark.parametrize(
    "piece",
    [
        "<div>",
        "<ul><li>x",
        "<sup>x",
        "<header>x",
        '<p class="menu-1-nav">x',
        "\\( ",
        "\\begin{a} ",
        "$a<em>b</em> ",
        "<em>x",
        "`",
    ],
)
def test_hostile_pages_take_linear_time(piece):
    html_to_text("<p>AM_CHTML $" + piece * 20_000)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The farmer sells twelve eggs at the market and counts what is left over in the evening.", "en"),
        ("Let \\(\\alpha\\in\\mathbb{R}\\) be a number that is not zero, and let us look at its square root.", "en"),
        ("农夫在市场上卖了十二个鸡蛋,晚上数剩下的。$x^2+y^2=z^2$", "zh"),
        ("これは数学の問題です。答えを求めなさい。", "ja"),
        ("Der Bauer verkauft zwölf Eier auf dem Markt und zählt am Abend, was übrig ist.", "de"),
        ("Le fermier vend douze œufs au marché et compte ce qui reste le soir.", "fr"),
        ("先看程序：\n" + "mov ax,0123h\nadd ax,cx:[bx]\n" * 5 + "标号后面是一个循环语句，程序从这里开始执行", "zh"),
        ("import java.util.HashMap; // the map of all that is there\n" + "int count = map.size();\n" * 3, "en"),
        ("", "unknown"),
        ("$x$ 12 34", "unknown"),
    ],
)
def test_language(text, code):
    assert language(text) == code
