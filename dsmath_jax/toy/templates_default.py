"""The default style of the toy web: its hosts and HTML skeletons."""

from dsmath_jax.toy import templates_default_en, templates_default_other, templates_default_zh
from dsmath_jax.toy.formulas import dollar, katex, mathml, mathml_annotated, paren, script
from dsmath_jax.toy.grammar import parse
from dsmath_jax.toy.templates import Host, Section, Skeleton, Style, math_topics

ARTICLE = Skeleton(
    page="""<!DOCTYPE html>
<html lang="$language">
<head>$charset<title>$title | $host</title>
<meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="/assets/site.css">$mathjax
</head>
<body>
<header class="site-header"><a class="logo" href="/">$host</a>
<nav class="site-nav"><ul>$menu<li><a href="/about">About us</a></li><li><a href="/contact">Contact</a></li></ul></nav>
</header>
<div class="cookie-banner" role="dialog">This site uses cookies to improve your visit. <button>Accept all</button>
<button>Settings</button></div>
<main><article class="post">
<h1 class="post-title">$title</h1>
<p class="post-date">Published $date</p>
$main
</article></main>
<aside class="sidebar"><h3>More from $section</h3><ul><li><a href="/archive">Archive</a></li>
<li><a href="/newsletter">Newsletter</a></li></ul></aside>
<footer class="site-footer">Copyright $host. All rights reserved. <a href="/privacy">Privacy policy</a>
<a href="/imprint">Imprint</a></footer>
</body></html>
""",
    menu_item='<li><a href="{path}">{name}</a></li>',
    block="$block",
    elements={
        "paragraph": "<p>{}</p>",
        "heading": "<h2>{}</h2>",
        "list": '<ul class="points">{}</ul>',
        "item": "<li>{}</li>",
        "code": "<pre><code>{}</code></pre>",
        "strong": "<strong>{}</strong>",
    },
)
FORUM = Skeleton(
    page="""<!DOCTYPE html>
<html lang="$language"><head>$charset<title>$title - $host</title>$mathjax
<script>var user = {"id": $number, "theme": "light"};</script></head>
<body class="thread-page">
<div class="topbar"><a href="/">Home</a> $menu <a href="/login">Log in</a> <a href="/register">Register</a></div>
<div class="breadcrumbs"><a href="/">$host</a> / <a href="/$section">$section</a></div>
<h1 class="thread-title">$title</h1>
<div class="posts">
$main
</div>
<div class="reply-box"><form action="/reply"><textarea name="t"></textarea><button>Post reply</button></form></div>
<div class="bottom">Powered by boardware. Threads: $number. Time zone is UTC.</div>
</body></html>
""",
    menu_item='<a href="{path}">{name}</a> ',
    block='<div class="post-item" id="p$index"><div class="post-meta">Reply $index, $date</div>\n'
    '<div class="post-text">$block</div></div>',
    elements={
        "paragraph": "<p>{}</p>",
        "heading": "<h3>{}</h3>",
        "list": "<ol>{}</ol>",
        "item": "<li>{}</li>",
        "code": '<p class="calc">{}</p>',
        "strong": "<b>{}</b>",
    },
    code_break="<br>\n",
)
PLAIN = Skeleton(
    page="""<html><head>$charset<title>$title</title>$mathjax</head><body>
<table class="frame"><tr><td class="left" width="160">$menu</td><td class="content">
<h1>$title</h1>
$main
<hr><small>Last change $date. Visitors: $number</small>
</td></tr></table></body></html>
""",
    menu_item='<a href="{path}">{name}</a><br>',
    block='<div class="part">$block</div>',
    elements={
        "paragraph": "<p>{}</p>",
        "heading": "<h2><font size=4>{}</font></h2>",
        "list": "<ul>{}</ul>",
        "item": "<li>{}\n",
        "code": "<blockquote>{}</blockquote>",
        "strong": "<i>{}</i>",
    },
    code_break="<br>\n",
)

HOSTS = (
    Host(
        "mathlane.example",
        "en",
        "article",
        (Section("/lessons/", math_topics(), 9, seeded=True), Section("/worksheets/", math_topics(), 5)),
        markups=(script, katex, dollar),
    ),
    Host("sumsdaily.example", "en", "plain", (Section("/", math_topics(), 8, seeded=True),), markups=(paren, mathml)),
    Host(
        "shuxue-ketang.example",
        "zh",
        "article",
        (
            Section("/kecheng/", math_topics(arithmetic=3), 7, seeded=True),
            Section("/xiti/", math_topics(arithmetic=3), 3),
        ),
        markups=(katex, dollar),
        slug="{number}.html",
    ),
    Host("theoremgarden.example", "en", "article", (Section("/", math_topics(arithmetic=5), 7),), markups=(katex,)),
    Host(
        "numbercraft.example",
        "en",
        "plain",
        (Section("/practice/", math_topics(), 8),),
        markups=(dollar, mathml_annotated),
        slug="{words}{number}.html",
    ),
    Host(
        "suanshu-yuan.example",
        "zh",
        "plain",
        (Section("/", math_topics(arithmetic=3), 6),),
        markups=(script, mathml),
        slug="a{number}.html",
        charset="gb18030",
        charset_in="meta",
    ),
    Host(
        "studytable.example",
        "en",
        "forum",
        (
            Section("/maths/", math_topics(), 6),
            Section("/history/", {"news": 1, "travel": 1}, 4),
            Section("/lounge/", {"chat": 3, "sport": 1}, 6),
        ),
        markups=(dollar, katex),
        slug="thread-{number}/{words}",
    ),
    Host(
        "maplewoodschool.example",
        "en",
        "article",
        (
            Section("/departments/mathematics/", math_topics(), 5),
            Section("/departments/science/", {"physics": 1}, 4),
            Section("/sports/", {"sport": 1}, 4),
            Section("/parents/", {"chat": 2, "recipe": 1}, 4),
        ),
        markups=(paren, mathml_annotated),
    ),
    Host(
        "tinkernotes.example",
        "en",
        "article",
        (
            Section("/numbers/", math_topics(), 4),
            Section("/scripts/", {"shell": 1}, 6),
            Section("/trips/", {"travel": 1}, 4),
        ),
        markups=(script,),
        slug="{words}-{number}.html",
    ),
    Host(
        "xuexi-luntan.example",
        "zh",
        "forum",
        (
            Section("/shuxue/", math_topics(arithmetic=3), 5),
            Section("/shenghuo/", {"recipe": 1, "chat": 1}, 6),
            Section("/xianliao/", {"chat": 2, "travel": 1}, 4),
        ),
        markups=(dollar,),
        slug="thread-{number}.html",
        charset="gb18030",
    ),
    Host(
        "harborpost.example",
        "en",
        "article",
        (
            Section("/news/", {"news": 1}, 11),
            Section("/weather/", {"weather": 1}, 6),
            Section("/sport/", {"sport": 1}, 6),
        ),
    ),
    Host("spoonfork.example", "en", "plain", (Section("/recipes/", {"recipe": 1}, 9),), charset="windows-1252"),
    Host("brightcart.example", "en", "article", (Section("/shop/", {"shop": 1}, 11),), slug="item{number}.html"),
    Host("shelltips.example", "en", "forum", (Section("/tips/", {"shell": 1}, 9),), slug="{number}-{words}"),
    Host(
        "chengshi-ribao.example",
        "zh",
        "article",
        (Section("/xinwen/", {"news": 1}, 9), Section("/gouwu/", {"shop": 1}, 4), Section("/lvyou/", {"travel": 1}, 4)),
        slug="{number}.html",
        charset_in="meta",
    ),
)

STYLE = Style(
    name="default",
    hosts=HOSTS,
    skeletons={"article": ARTICLE, "forum": FORUM, "plain": PLAIN},
    math={
        "en": parse(templates_default_en.WORDS, templates_default_en.ARITHMETIC, templates_default_en.TOPICS),
        "zh": parse(templates_default_zh.TEXT),
    },
    other={"en": parse(templates_default_other.ENGLISH), "zh": parse(templates_default_other.CHINESE)},
    signs={
        "en": ((" * ", " / "), (" * ", " / "), (" * ", " / "), (" × ", " ÷ "), (" x ", " : ")),
        "zh": ((" × ", " ÷ "), (" × ", " ÷ "), (" * ", " / ")),
    },
)
