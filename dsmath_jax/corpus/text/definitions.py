"""Removes blocks of macro definitions, which pages hide for MathJax."""

import re

from dsmath_jax.corpus.text.delimiters import find_formulas

DEFINING = r"(?:re|provide)?newcommand|DeclareMathOperator|(?:g|x|e)?def|let|require|newenvironment|renewenvironment"
COMMAND = re.compile(rf"\\(?:{DEFINING})\b\*?")


def drop_definitions(text: str) -> str:
    """Removes delimited blocks that have nothing but macro definitions."""
    if not COMMAND.search(text):
        return text
    pieces, end = [], 0
    for span in find_formulas(text):
        if _only_defines(text[span.inner_start : span.inner_end]):
            pieces.append(text[end : span.start])
            end = span.end
    return "".join([*pieces, text[end:]])


def _only_defines(body: str) -> bool:
    """Returns whether a body has nothing but definitions."""
    position = _skip_blank(body, 0)
    while position < len(body):
        command = COMMAND.match(body, position)
        if command is None:
            return False
        position = _skip_blank(body, _after_arguments(body, command.end(), command[0]))
    return True


def _skip_blank(body: str, position: int) -> int:
    comments = re.compile(r"(?:\s|%[^\n]*(?:\n|$)|[{}](?=\s))*").match(body, position)
    return comments.end() if comments else position


def _after_arguments(body: str, position: int, command: str) -> int:
    """Returns the end of the definition whose command ends at `position`: after its name and bracketed arguments."""
    name = re.compile(
        r"\s*\\(?:[A-Za-z@]+|.)(?:\s*=?\s*\\(?:[A-Za-z@]+|.))?[#\d]*"
        if "let" in command
        else r"\s*\\(?:[A-Za-z@]+|.)[#\d]*"
    )
    defined = name.match(body, position)
    position = defined.end() if defined else position
    while bracket := re.compile(r"\s*([{\[])").match(body, position):
        position = _closing(body, bracket.end(), bracket[1])
    return position


def _closing(body: str, position: int, opening: str) -> int:
    """Returns the end of the bracket that closes the one before `position`."""
    closing, depth = {"{": "}", "[": "]"}[opening], 1
    for mark in re.compile(r"\\.|[{}\[\]]", re.DOTALL).finditer(body, position):
        depth += (mark[0] == opening) - (mark[0] == closing)
        if depth == 0:
            return mark.end()
    return len(body)
