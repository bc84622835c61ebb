"""A second style of the toy web: other hosts, HTML skeleton, ways to write formulas, subjects, sentences and words.

It shows that the corpus is not tuned to the default style.
"""

import html
import zlib

from dsmath_jax.toy.formulas import dollar, mathml, mathml_annotated, paren, script
from dsmath_jax.toy.grammar import parse
from dsmath_jax.toy.templates import Host, Section, Skeleton, Style, math_topics
from tests.toy import templates_unseen_en, templates_unseen_other, templates_unseen_zh


def chtml(tex: str, display: bool) -> str:
    """MathJax 3: glyphs come from the style sheet, so that only the assistive MathML holds text."""
    letters = [letter for letter in tex if letter.isalnum()]
    glyphs = "".join(f'<mjx-mi><mjx-c class="mjx-c{ord(letter):X}"></mjx-c></mjx-mi>' for letter in letters)
    block = ' display="true"' if display else ""
    return (
        f'<mjx-container class="MathJax" jax="CHTML"{block}><mjx-math aria-hidden="true">{glyphs}</mjx-math>'
        f'<mjx-assistive-mml unselectable="on">{mathml(tex, display)}</mjx-assistive-mml></mjx-container>'
    )


def wiki(tex: str, display: bool) -> str:
    """MediaWiki: hidden MathML next to a picture whose alternative text is the TeX."""
    source = html.escape(r"{\displaystyle " + tex + "}")
    hidden = mathml(tex, display).replace("<math", f'<math alttext="{source}"', 1)
    picture = f"/media/math/render/svg/{zlib.crc32(tex.encode()):08x}"
    return (
        f'<span class="mwe-math-element"><span class="mwe-math-mathml-a11y" style="display: none;">{hidden}</span>'
        f'<img class="mwe-math-fallback-image" src="{picture}" alt="{source}">'
        "</span>"
    )


def latexml(tex: str, display: bool) -> str:
    return mathml(tex, display).replace("<math", f'<math class="ltx_Math" alttext="{html.escape(tex)}"', 1)


MAGAZINE = Skeleton(
    page="""<!doctype html>
<html lang="$language" dir="ltr">
  <head>
    $charset
    <meta property="og:title" content="$title">
    <title>$host :: $title</title>$mathjax
    <style>.wrap-7 { margin: auto } .txt-2 { color: #222 }</style>
  </head>
  <body>
    <div id="consent" class="consent-layer">We and our 85 partners store information on your device.
      <a class="btn-x" href="#">Agree</a> <a class="btn-x" href="#">More options</a></div>
    <div class="hd-1" role="navigation"><span>$host</span> <span>Search</span> <span>Subscribe</span> $menu</div>
    <div class="wrap-7">
      <h1 class="ttl-4">$title</h1>
      <div class="by-3">By the editors · $date · Share · Print</div>
      <div class="txt-2">
$main
      </div>
      <div class="rel-5"><b>You may also like</b> <a href="/top">Top stories</a> <a href="/random">Surprise me</a></div>
    </div>
    <div class="ft-9" role="contentinfo">© $host · Terms of use · Accessibility · Jobs</div>
    <script>window.dataLayer = window.dataLayer || []; dataLayer.push({page: $number});</script>
  </body>
</html>
""",
    menu_item='<a class="mi-1" href="{path}">{name}</a> ',
    block='<section class="s-$index">$block</section>',
    elements={
        "paragraph": '<div class="pp-1">{}</div>',
        "heading": '<h3 class="hh-2">{}</h3>',
        "list": "<dl>{}</dl>",
        "item": "<dd>{}</dd>",
        "code": '<div class="eq-6">{}</div>',
        "strong": '<span style="font-weight:bold">{}</span>',
    },
    code_break="<br />",
)
WIKI = Skeleton(
    page="""<!DOCTYPE html>
<html lang="$language"><head>$charset<title>$title — $host</title>$mathjax</head>
<body class="wk-body">
<div id="side-panel"><ul>$menu<li>Random page</li><li>Recent changes</li><li>Donate</li></ul></div>
<div id="wk-content" role="main">
<h1 id="firstHeading">$title</h1>
<div id="siteSub">From $host, the free handbook</div>
<div class="wk-output">
$main
</div>
<div class="wk-cats">Categories: $section | Pages of $date</div>
</div>
<div id="wk-footer">This page was last edited on $date. Text is available under a free licence.</div>
</body></html>
""",
    menu_item='<li><a href="{path}" title="{name}">{name}</a></li>',
    block="$block",
    elements={
        "paragraph": "<p>{}\n</p>",
        "heading": '<h2><span class="wk-headline">{}</span></h2>',
        "list": "<ul>{}</ul>\n",
        "item": "<li>{}</li>\n",
        "code": '<dl><dd class="wk-calc">{}</dd></dl>',
        "strong": "<b>{}</b>",
    },
    code_break="</dd><dd>",
)
CARDS = Skeleton(
    page="""<html lang="$language"><head>$charset<title>$title</title>$mathjax</head>
<body data-page="$number">
<ul class="tabs-a">$menu<li>Help</li></ul>
<h2>$title</h2>
$main
<p class="legal-b">$host, $date. Contact the webmaster. Site map.</p>
</body></html>
""",
    menu_item='<li><a href="{path}">{name}</a></li>',
    block='<table class="card-c"><tbody><tr><td>$block</td></tr></tbody></table>',
    elements={
        "paragraph": "{}<br>",
        "heading": "<h4>{}</h4>",
        "list": "<ol>{}</ol>",
        "item": "<li><span>{}</span></li>",
        "code": "<pre>{}</pre>",
        "strong": "<u>{}</u>",
    },
)

HOSTS = (
    Host(
        "units.figura.test",
        "en",
        "magazine",
        (Section("/course-a/", math_topics(), 8, seeded=True), Section("/course-b/", math_topics(), 5)),
        markups=(chtml, script, paren),
        slug="{number}-{words}",
    ),
    Host(
        "handbook.quanta.test",
        "en",
        "wiki",
        (Section("/wiki/", math_topics(), 8, seeded=True),),
        markups=(wiki, latexml),
        slug="{words}_{number}",
    ),
    Host(
        "danyuan.test",
        "zh",
        "magazine",
        (Section("/a/", math_topics(arithmetic=3), 7, seeded=True), Section("/b/", math_topics(arithmetic=3), 3)),
        markups=(chtml, dollar),
        slug="?id={number}",
    ),
    Host(
        "tutor.abaco.test",
        "en",
        "cards",
        (Section("/units/", math_topics(), 9),),
        markups=(dollar, mathml),
        slug="{number}",
    ),
    Host("www.reckon.test", "en", "wiki", (Section("/", math_topics(arithmetic=5), 7),), markups=(latexml, wiki)),
    Host(
        "lianxi.test",
        "zh",
        "cards",
        (Section("/dy/", math_topics(arithmetic=3), 6),),
        markups=(latexml, script),
        slug="{number}.htm",
        charset="gb18030",
        charset_in="meta",
    ),
    Host(
        "campus.oakridge.test",
        "en",
        "magazine",
        (
            Section("/faculty/maths/", math_topics(), 6),
            Section("/faculty/chemistry/", {"chemistry": 1}, 4),
            Section("/clubs/", {"concert": 1, "garden": 1}, 9),
        ),
        markups=(mathml_annotated, dollar),
    ),
    Host(
        "diary.pennywise.test",
        "en",
        "cards",
        (
            Section("/figures/", math_topics(), 5),
            Section("/garden/", {"garden": 1}, 6),
            Section("/root/", {"server": 1}, 6),
        ),
        markups=(paren,),
        slug="entry{number}.php",
    ),
    Host(
        "shequ.test",
        "zh",
        "wiki",
        (
            Section("/suanti/", math_topics(arithmetic=3), 5),
            Section("/yanghua/", {"garden": 1, "medicine": 1}, 6),
            Section("/dianying/", {"cinema": 1, "concert": 1}, 6),
        ),
        markups=(wiki, mathml_annotated),
        charset="gb18030",
        slug="p{number}",
    ),
    Host(
        "reel.review.test",
        "en",
        "magazine",
        (Section("/films/", {"cinema": 1}, 11), Section("/records/", {"concert": 1}, 9)),
        charset="windows-1252",
    ),
    Host("torque.test", "en", "wiki", (Section("/cars/", {"motoring": 1}, 11),), slug="{words}/{number}"),
    Host("hammerfall.test", "en", "cards", (Section("/lots/", {"auction": 1}, 11),), slug="lot-{number}.html"),
    Host("rackspace.test", "en", "wiki", (Section("/howto/", {"server": 1}, 9),)),
    Host(
        "wanbao.test",
        "zh",
        "magazine",
        (
            Section("/che/", {"motoring": 1}, 6),
            Section("/jiankang/", {"medicine": 1}, 6),
            Section("/ge/", {"concert": 1}, 4),
        ),
        slug="{number}.html",
    ),
)

STYLE = Style(
    name="unseen",
    hosts=HOSTS,
    skeletons={"magazine": MAGAZINE, "wiki": WIKI, "cards": CARDS},
    math={"en": parse(templates_unseen_en.TEXT), "zh": parse(templates_unseen_zh.TEXT)},
    other={"en": parse(templates_unseen_other.ENGLISH), "zh": parse(templates_unseen_other.CHINESE)},
    signs={"en": ((" * ", " / "), (" · ", " : "), (" × ", " ÷ ")), "zh": ((" × ", " ÷ "), (" · ", " : "))},
)
