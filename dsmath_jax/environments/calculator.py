"""A calculator: the model writes `<<48 / 2>>`, and the value follows, as in GSM8K's annotations (arXiv 2110.14168)."""

import ast
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction

from dsmath_jax.data.dataset_formats import Record
from dsmath_jax.data.questions import Mode
from dsmath_jax.environments.protocol import Said, Step

OPEN, CLOSE = "<<", ">>"
ERROR = "error"
MAX_EXPONENT, MAX_DIGITS = 1000, 100
OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: lambda x, y: Fraction(x // y), ast.Mod: operator.mod,
}  # fmt: skip


class Calculator:
    """The environment of one dialogue; any number of calls, and no reward of its own."""

    mode: Mode = "cot"
    stop_strings: Sequence[str] = (CLOSE,)

    def reset(self, record: Record) -> str:
        return record.question

    def step(self, said: Said) -> Step:
        if said.finish_reason != "stop":
            return Step()
        return Step(value(said.text.rpartition(CLOSE)[0].rpartition(OPEN)[2]))


def value(expression: str) -> str:
    """Returns the exact value of an arithmetic expression: an integer, a decimal number or a fraction; else "error"."""
    try:
        found = _value(ast.parse(expression.strip().replace("^", "**"), mode="eval").body)
    except (ArithmeticError, RecursionError, SyntaxError, TypeError, ValueError):
        return ERROR
    whole, rest = str(found.numerator), found.denominator
    if max(len(whole), len(str(rest))) > MAX_DIGITS:
        return ERROR
    if rest == 1:
        return whole
    places = next((n for n in range(1, 7) if 10**n % rest == 0), 0)
    return f"{found.numerator}/{rest}" if not places else f"{float(found):.{places}f}"


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base, exponent = _value(left), _value(right)
            if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT or abs(base) > 10**MAX_DIGITS:
                raise ValueError("too large")
            return base ** int(exponent)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATIONS:
            return OPERATIONS[type(op)](_value(left), _value(right))
    raise ValueError("not arithmetic")
