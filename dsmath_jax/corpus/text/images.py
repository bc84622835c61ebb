"""Reads the LaTeX of formula images from their URL or their alternative text."""

import re
from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit

# Services that render the formula in their URL: in the whole query, in one field of it, or in the path.
DRAWN = re.compile(
    r"codecogs\.com|latex\.php|cht=tx|mimetex|mathtex|texify|mathurl|/equation\?|/tex2(?:png|img|svg)|render/math|math\.now\.sh|"
    r"upmath\.me|s2cms\.ru|[?&;](?:latex|tex|math|eqn?|equation|formula|chl)=",
    re.IGNORECASE,
)
FIELDS = ("latex", "tex", "chl", "math", "eq", "eqn", "equation", "formula", "from", "inline")
PATH = re.compile(r"/(?:svg|png|gif|s)/(?P<path>.+)$")
FORMULA_CLASS = re.compile(
    r"(?:^|[-_\s])(?:latex|tex|math|mathjax|mimetex|formula|equation|eq|ql-img-\w+-formula)(?:$|[-_\s])"
)
# Commands for size, color and the like before a formula.
SETTINGS = re.compile(
    r"^(?:\\(?:dpi|bg|fg|color|large|small|tiny|huge|normalsize|Large|LARGE|fn)_?(?:\{\w*\}|\[\w*\])?\s*(?:\{\w+\})?\s*)+"
)
LATEX_LIKE = re.compile(r"\\[a-zA-Z]{2,}|\\[{}|,;!]|[\^_]\s*(?:\{|\w)|^[^\s=]+\s*[=<>]")
DELIMITED = re.compile(r"^\s*(\$\$?|\\\(|\\\[)(.+?)(\$\$?|\\\)|\\\])\s*$", re.DOTALL)


def image_latex(image: Any) -> str:
    """Returns the LaTeX of an image (a resiliparse node), "" if it is not a formula."""
    alt = (image.getattr("alt") or "").strip()
    for name in ("src", "data-src", "data-lazy-src", "data-original"):
        url = image.getattr(name) or ""
        if url and not url.startswith("data:") and DRAWN.search(url):
            latex = _from_url(url)
            if latex:
                return latex
    if not alt:
        return ""
    delimited = DELIMITED.match(alt)
    if delimited and LATEX_LIKE.search(delimited[2]):
        return delimited[2].strip()
    if FORMULA_CLASS.search(image.getattr("class") or ""):
        return alt
    commands = re.findall(r"\\[a-zA-Z]{2,}|[\^_]\{", alt)
    return alt if len(commands) >= 2 or (commands and "=" in alt) else ""


def _from_url(url: str) -> str:
    """Returns the unquoted formula in a URL; a plus sign is a blank in fields and a plus sign in a bare query."""
    parts = urlsplit(url.replace("&amp;", "&"), allow_fragments=False)
    fields = dict(piece.partition("=")[::2] for piece in re.split(r"[&;](?=\w+=)", parts.query))
    for name in FIELDS:
        if fields.get(name):
            return _tidy(unquote_plus(fields[name]))
    if parts.query:
        return _tidy(unquote(parts.query).replace("&space;", " ").replace("&plus;", "+"))
    path = PATH.search(parts.path)
    return _tidy(unquote(path["path"])) if path else ""


def _tidy(latex: str) -> str:
    latex = SETTINGS.sub("", latex.strip())
    delimited = DELIMITED.match(latex)
    return (delimited[2] if delimited else latex).strip()
