r"""Converts values that programs print or return from Python's notation to LaTeX.

The text of a value is parsed, never evaluated: "sqrt(2)/2" becomes `\frac{\sqrt{2}}{2}`, "[3, -1]" the
list `3, -1`, "Interval.open(0, oo)" the interval `(0, \infty)`. Floating-point noise is removed:

- a float that has at most 6 digits when rounded to 10, or at most 12 when rounded to 15, becomes that short number
  (18.000000001 is 18, 0.30000000000000004 is 0.3);
- any other float within 1e-12 (relative) of a fraction with a denominator of at most 1000 becomes that fraction
  (0.3333333333333333 is 1/3). One random float in a million does.

Rounded numbers ("0.333") stay as they are.
"""

import ast
import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction

MAX_CHARS = 2000  # characters; longer values are not answers
THOUSANDS = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?")
HANDWRITTEN = re.compile(r"\[[^\]]*,\S")  # Python writes a space after commas, so "[0,5]" is an interval
SHORT = ((10, 6), (15, 12))  # (digits to round to, maximum digits of a short number)
CLOSE, LARGEST_DENOMINATOR = 1e-12, 1000
SUM, PRODUCT, POWER, ATOM = 1, 2, 3, 4  # precedence of a term

NAMES = {
    "pi": r"\pi", "oo": r"\infty", "inf": r"\infty", "E": "e", "I": "i", "j": "i",
    "Reals": r"\mathbb{R}", "EmptySet": r"\emptyset",
}  # fmt: skip
FUNCTIONS = {
    "sqrt": r"\sqrt{%s}", "cbrt": r"\sqrt[3]{%s}", "exp": r"e^{%s}", "Abs": r"\left|%s\right|",
    "log": r"\ln\left(%s\right)", "ln": r"\ln\left(%s\right)", "factorial": r"\left(%s\right)!",
    "floor": r"\lfloor %s \rfloor", "ceiling": r"\lceil %s \rceil",
    **{name: rf"\{name}\left(%s\right)" for name in "sin cos tan cot sec csc sinh cosh tanh".split()},
    **{f"a{name}": rf"\arc{name}\left(%s\right)" for name in "sin cos tan".split()},
}  # fmt: skip
WRAPPERS = "Integer Float Decimal Fraction Rational mpf float64 float32 int64 int32 Tuple Point Point2D Point3D".split()
MATRICES = ("Matrix", "ImmutableMatrix", "ImmutableDenseMatrix", "MutableDenseMatrix", "array")
BRACKETS = {"Interval": "[]", "Interval.open": "()", "Interval.Lopen": "(]", "Interval.Ropen": "[)"}
RELATIONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: r"\leq", ast.Gt: ">", ast.GtE: r"\geq", ast.Eq: "=", ast.NotEq: r"\neq",
}  # fmt: skip


class _NoValue(Exception):
    """The text is not a value that can be an answer."""


def latex(text: str) -> str | None:
    """Converts a value in Python's notation to LaTeX; None for other texts: prose, LaTeX, None."""
    text = text.strip()
    if len(text) > MAX_CHARS or "\\" in text:
        return None
    if THOUSANDS.fullmatch(text) or HANDWRITTEN.match(text):
        return text
    try:
        return _whole(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, MemoryError, RecursionError, _NoValue):
        return None


def number(value: float) -> str:
    """Writes a float in decimal notation or as a fraction, without noise."""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else r"\infty" if value > 0 else r"-\infty"
    for rounded, most in SHORT:
        short = Decimal(f"{value:.{rounded}g}").normalize()
        if len(short.as_tuple().digits) <= most:
            return _decimal(short)
    near = Fraction(value).limit_denominator(LARGEST_DENOMINATOR)
    if abs(float(near) - value) <= CLOSE * abs(value):
        return rf"\frac{{{near.numerator}}}{{{near.denominator}}}"
    return _decimal(Decimal(repr(value)))


def _decimal(value: Decimal) -> str:
    if value and abs(value.adjusted()) > 20:
        mantissa, _, exponent = f"{value.normalize():e}".partition("e")
        return rf"{mantissa} \times 10^{{{int(exponent)}}}"
    return format(value, "f") if value else "0"


def _whole(node: ast.expr) -> str:
    """Writes a whole answer. The brackets of a list belong to Python, not to the answer: `[5]` is 5."""
    if isinstance(node, ast.List | ast.Tuple) and not node.elts:
        return r"\emptyset"
    if isinstance(node, ast.List) and not _rows(node.elts):
        return ", ".join(map(_term, node.elts))
    if isinstance(node, ast.Tuple) and (len(node.elts) < 2 or node.col_offset == node.elts[0].col_offset):
        return ", ".join(map(_term, node.elts))  # (5,), and "1, 2" without parentheses
    return _term(node)


def _term(node: ast.expr, least: int = 0) -> str:
    """Writes a value, in parentheses where its precedence is below `least`."""
    for kind, write in WRITERS.items():
        if isinstance(node, kind):
            text, precedence = write(node)
            return text if precedence >= least else rf"\left({text}\right)"
    raise _NoValue


def _constant(node: ast.Constant) -> tuple[str, int]:
    match node.value:
        case bool() | str() | int():
            return str(node.value), ATOM
        case float():
            return number(node.value), PRODUCT
        case complex():
            imaginary = number(node.value.imag)
            return ("i" if imaginary == "1" else f"{imaginary} i"), PRODUCT
    raise _NoValue


def _name(node: ast.Name) -> tuple[str, int]:
    return NAMES.get(node.id, node.id), ATOM


def _unary(node: ast.UnaryOp) -> tuple[str, int]:
    if not isinstance(node.op, ast.USub | ast.UAdd):
        raise _NoValue
    text = _term(node.operand, PRODUCT)
    return f"-{text}" if isinstance(node.op, ast.USub) and text != "0" else text, SUM


def _binary(node: ast.BinOp) -> tuple[str, int]:
    match node.op:
        case ast.Add() | ast.Sub():
            sign = "+" if isinstance(node.op, ast.Add) else "-"
            return f"{_term(node.left, SUM)} {sign} {_term(node.right, PRODUCT)}", SUM
        case ast.Mult():
            left = _term(node.left, SUM if isinstance(node.left, ast.UnaryOp) else PRODUCT)
            return rf"{left} \cdot {_term(node.right, PRODUCT)}", PRODUCT
        case ast.Div():
            return rf"\frac{{{_term(node.left)}}}{{{_term(node.right)}}}", PRODUCT
        case ast.Pow():
            return f"{_term(node.left, ATOM)}^{{{_term(node.right)}}}", POWER
    raise _NoValue


def _compare(node: ast.Compare) -> tuple[str, int]:
    text = _term(node.left)
    for relation, right in zip(node.ops, node.comparators, strict=True):
        if type(relation) not in RELATIONS:
            raise _NoValue
        text += f" {RELATIONS[type(relation)]} {_term(right)}"
    return text, 0


def _listed(items: Sequence[ast.expr], opening: str, closing: str) -> tuple[str, int]:
    return opening + ", ".join(map(_term, items)) + closing, ATOM


def _list(node: ast.List) -> tuple[str, int]:
    return _matrix(node.elts) if _rows(node.elts) else _listed(node.elts, "[", "]")


def _dict(node: ast.Dict) -> tuple[str, int]:
    """Writes the solution of a solver: the value of each unknown."""
    if not node.keys or None in node.keys:
        raise _NoValue
    return ", ".join(f"{_term(k)} = {_term(v)}" for k, v in zip(node.keys, node.values, strict=True) if k), 0


def _rows(items: Sequence[ast.expr]) -> bool:
    """Returns whether these are the rows of a matrix: two or more lists of one length."""
    lengths = {len(item.elts) if isinstance(item, ast.List) else 0 for item in items}
    return len(items) > 1 and len(lengths) == 1 and 0 not in lengths


def _matrix(rows: Sequence[ast.expr]) -> tuple[str, int]:
    """Writes a matrix from rows, or a column from numbers."""
    written = [" & ".join(map(_term, row.elts)) if isinstance(row, ast.List) else _term(row) for row in rows]
    return r"\begin{pmatrix}" + r" \\ ".join(written) + r"\end{pmatrix}", ATOM


def _call(node: ast.Call) -> tuple[str, int]:
    name, arguments = ast.unparse(node.func).removeprefix("np."), node.args
    match name, len(arguments):
        case "set" | "FiniteSet", 0:
            return r"\emptyset", ATOM
        case "FiniteSet", _:
            return _listed(arguments, r"\{", r"\}")
        case "Union", _:
            return r" \cup ".join(map(_term, arguments)), SUM
        case "Eq", 2:
            return f"{_term(arguments[0])} = {_term(arguments[1])}", 0
        case "Rational" | "Fraction", 2:
            return rf"\frac{{{_term(arguments[0])}}}{{{_term(arguments[1])}}}", PRODUCT
        case "log", 2:
            return rf"\log_{{{_term(arguments[1])}}}\left({_term(arguments[0])}\right)", ATOM
        case "binomial", 2:
            return rf"\binom{{{_term(arguments[0])}}}{{{_term(arguments[1])}}}", ATOM
    if name in BRACKETS and len(arguments) == 2:
        left, right = map(_term, arguments)
        opening = "(" if "infty" in left else BRACKETS[name][0]
        closing = ")" if "infty" in right else BRACKETS[name][1]
        return f"{opening}{left}, {right}{closing}", ATOM
    if name in MATRICES and arguments and isinstance(arguments[0], ast.List) and arguments[0].elts:
        return _matrix(arguments[0].elts)
    if name in WRAPPERS and arguments:
        return (_term(arguments[0]), SUM) if len(arguments) == 1 else _listed(arguments, "(", ")")
    if name in FUNCTIONS and len(arguments) == 1:
        return FUNCTIONS[name] % _term(arguments[0]), POWER
    raise _NoValue


WRITERS: dict[type[ast.expr], Callable[..., tuple[str, int]]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.UnaryOp: _unary,
    ast.BinOp: _binary,
    ast.Compare: _compare,
    ast.Tuple: lambda node: _listed(node.elts, "(", ")"),
    ast.List: _list,
    ast.Set: lambda node: _listed(node.elts, r"\{", r"\}"),
    ast.Dict: _dict,
    ast.Call: _call,
}
