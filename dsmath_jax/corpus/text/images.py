"""Formulas that were put on a page as images: LaTeX from the image's address or its alternative text."""

import re
from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit

# Services that draw what stands in their address; some take all of the query, some one field of it, some the path.
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
# Letters for size, colour and the like that such services take in front of a formula.
SETTINGS = re.compile(
    r"^(?:\\(?:dpi|bg|fg|color|large|small|tiny|huge|normalsize|Large|LARGE|fn)_?(?:\{\w*\}|\[\w*\])?\s*(?:\{\w+\})?\s*)+"
)
LATEX_LIKE = re.compile(r"\\[a-zA-Z]{2,}|\\[{}|,;!]|[\^_]\s*(?:\{|\w)|^[^\s=]+\s*[=<>]")
SIGNED = re.compile(r"^\s*(\$\$?|\\\(|\\\[)(.+?)(\$\$?|\\\)|\\\])\s*$", re.DOTALL)


def image_latex(image: Any) -> str:
    """Returns the LaTeX that an image (a resiliparse node) stands for, "" where it shows no formula."""
    alt = (image.getattr("alt") or "").strip()
    for name in ("src", "data-src", "data-lazy-src", "data-original"):
        address = image.getattr(name) or ""
        if address and not address.startswith("data:") and DRAWN.search(address):
            latex = _of_address(address)
            if latex:
                return latex
    if not alt:
        return ""
    signed = SIGNED.match(alt)
    if signed and LATEX_LIKE.search(signed[2]):
        return signed[2].strip()
    if FORMULA_CLASS.search(image.getattr("class") or ""):
        return alt
    commands = re.findall(r"\\[a-zA-Z]{2,}|[\^_]\{", alt)
    return alt if len(commands) >= 2 or (commands and "=" in alt) else ""


def _of_address(address: str) -> str:
    """The formula in an address, percent signs undone; a plus sign is a blank in fields and itself in a bare query."""
    parts = urlsplit(address.replace("&amp;", "&"), allow_fragments=False)
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
    signed = SIGNED.match(latex)
    return (signed[2] if signed else latex).strip()
