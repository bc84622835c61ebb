"""Blocks of macro definitions, which pages hide for MathJax to read, are no text."""

import re

from dsmath_jax.corpus.text.delimiters import find_formulas

DEFINING = r"(?:re|provide)?newcommand|DeclareMathOperator|(?:g|x|e)?def|let|require|newenvironment|renewenvironment"
COMMAND = re.compile(rf"\\(?:{DEFINING})\b\*?")


def drop_definitions(text: str) -> str:
    """Removes delimited blocks that define macros and say nothing else."""
    if not COMMAND.search(text):
        return text
    pieces, place = [], 0
    for span in find_formulas(text):
        if _only_defines(text[span.inner_start : span.inner_end]):
            pieces.append(text[place : span.start])
            place = span.end
    return "".join([*pieces, text[place:]])


def _only_defines(body: str) -> bool:
    """Whether nothing but definitions stands between two delimiters."""
    place = _skip_blank(body, 0)
    while place < len(body):
        command = COMMAND.match(body, place)
        if command is None:
            return False
        place = _skip_blank(body, _after_arguments(body, command.end(), command[0]))
    return True


def _skip_blank(body: str, place: int) -> int:
    comments = re.compile(r"(?:\s|%[^\n]*(?:\n|$)|[{}](?=\s))*")
    found = comments.match(body, place)
    return found.end() if found else place


def _after_arguments(body: str, place: int, command: str) -> int:
    """Where the definition that begins before `place` ends: after its name and its bracketed arguments."""
    name = re.compile(
        r"\s*\\(?:[A-Za-z@]+|.)(?:\s*=?\s*\\(?:[A-Za-z@]+|.))?[#\d]*"
        if "let" in command
        else r"\s*\\(?:[A-Za-z@]+|.)[#\d]*"
    )
    found = name.match(body, place)
    place = found.end() if found else place
    while bracket := re.compile(r"\s*([{\[])").match(body, place):
        place = _closing(body, bracket.end(), bracket[1])
    return place


def _closing(body: str, place: int, opening: str) -> int:
    """Just after the bracket that closes the one before `place`."""
    closing, depth = {"{": "}", "[": "]"}[opening], 1
    for found in re.compile(r"\\.|[{}\[\]]", re.DOTALL).finditer(body, place):
        depth += (found[0] == opening) - (found[0] == closing)
        if depth == 0:
            return found.end()
    return len(body)
