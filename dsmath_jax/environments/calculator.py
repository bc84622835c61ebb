"""A calculator: the model writes `<<48 / 2>>`, and the value follows, as in GSM8K's annotations (arXiv 2110.14168)."""

import ast
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction

from dsmath_jax.data.dataset_formats import Record
from dsmath_jax.data.questions import Mode
from dsmath_jax.environments.protocol import Step, TextTurn

OPEN, CLOSE = "<<", ">>"
ERROR = "error"
MAX_DIGITS, MAX_POWER_BITS = 100, 10_000
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

    def step(self, turn: TextTurn) -> Step:
        if turn.finish_reason != "stop":
            return Step()
        _, opened, expression = turn.text.rpartition(CLOSE)[0].rpartition(OPEN)
        return Step(value(expression) if opened else ERROR)


def value(expression: str) -> str:
    """Returns the exact value of an arithmetic expression: an integer, a decimal number or a fraction; else "error"."""
    try:
        found = _value(ast.parse(expression.strip().replace("^", "**"), mode="eval").body)
    except (ArithmeticError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return ERROR
    denominator = found.denominator
    if max(abs(found.numerator), denominator) >= 10**MAX_DIGITS:
        return ERROR
    places = next((n for n in range(7) if 10**n % denominator == 0), None)
    if not places:
        return str(found)
    digits = str(abs(found.numerator) * 10**places // denominator).zfill(places + 1)
    return f"{'-' if found < 0 else ''}{digits[:-places]}.{digits[-places:]}"


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
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if exponent.denominator != 1 or bits * abs(exponent) > MAX_POWER_BITS:
                raise ValueError("too large")
            return base ** int(exponent)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATIONS:
            return OPERATIONS[type(op)](_value(left), _value(right))
    raise ValueError("not arithmetic")
