r"""A reader of formulas: LaTeX as data sets and models write it, and plain text as calculators and programs do.

It knows what can be given a value: arithmetic, powers, roots, functions, variables. Sums, integrals, limits and what
else it does not know make it give up, which leaves them to `symbolic`. Letters keep their case, a name its subscript.
"""

import re
from fractions import Fraction
from typing import Any

from dsmath_jax.grading.equivalence.quantities import LARGEST_POWER, periodic

Tree = tuple[Any, ...]  # ("num", Fraction), ("sym", name), (operator or function, tree, …)

DEEPEST = 60  # nested brackets
_FUNCTIONS = (
    "arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch sin cos tan cot sec csc "
    "ln lg log exp cis asin acos atan"
).split()
_ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "tg": "tan", "ctg": "cot"}
_NAMES = "|".join([*_FUNCTIONS, "sqrt", "cbrt", "pi", "abs", "floor", "ceil"])
_PLAIN = re.compile(rf"(?<![\\A-Za-z])(?:np\.|math\.|sp\.|sympy\.|numpy\.)?({_NAMES})(?![A-Za-z])")
_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega hbar ell infty partial nabla"
).split()
_DRESSED = (
    "dot ddot hat tilde bar overline widehat mathbb mathcal mathscr mathfrak overrightarrow vec mathbf boldsymbol bm"
)
_NAMED = "text textbf textit textrm mbox mathrm mathit mathsf operatorname rm"
_UNKNOWN_FUNCTIONS = "fghFGH"
_TOKEN = re.compile(
    r"(?P<num>\d*\.\d*(?:\\overline\s*\{\d+\}|\\dot\s*\{?\d\}?)|[1-9]\d{0,2}(?:,\d{3})+(?![\d,])(?:\.\d+)?|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    r"|(?P<cmd>\\[A-Za-z]+|\\[{}|])|(?P<letter>[A-Za-z])|(?P<op>\*\*|[-+*/^_()\[\]{}|!'%=<>,&$:])|(?P<other>\S)"
)  # fmt: skip


class Unreadable(ValueError):
    """What this reader does not know."""


def read(text: str) -> Tree:
    """The tree of a normalised formula; raises Unreadable."""
    reader = _Reader(_tokens(text))
    tree = reader.sum()
    if reader.place != len(reader.tokens):
        raise Unreadable(text)
    return tree


def _tokens(text: str) -> list[tuple[str, str]]:
    text = _PLAIN.sub(lambda found: f"\\{found[1]} ", text)
    tokens = []
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup or "other"
        if kind == "other":
            raise Unreadable(found[0])
        tokens.append((kind, found[0]))
    return tokens


def symbols(tree: Tree) -> set[str]:
    """Names of the variables in a tree; a function that nothing is known of is one: "f()"."""
    if tree[0] == "sym":
        return {tree[1]}
    if tree[0] == "unknown":
        return {f"{tree[1]}()"}.union(*(symbols(part) for part in tree[2:]))
    return set().union(*(symbols(part) for part in tree[1:] if isinstance(part, tuple)))


def is_complex(tree: Tree) -> bool:
    """Whether the imaginary unit is in a tree."""
    return tree == ("const", "i") or any(is_complex(part) for part in tree[1:] if isinstance(part, tuple))


class _Reader:
    """Reads by recursive descent; every method reads one thing from the place on."""

    def __init__(self, tokens: list[tuple[str, str]]):
        self.tokens, self.place, self.depth, self.bars, self.brackets = tokens, 0, 0, 0, 0

    def peek(self, ahead: int = 0) -> str:
        place = self.place + ahead
        return self.tokens[place][1] if place < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.place += 1
        return token

    def accept(self, *tokens: str) -> bool:
        if self.peek() in tokens and self.peek():
            self.place += 1
            return True
        return False

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise Unreadable(f"no {token}")

    def sum(self) -> Tree:
        tree = self.product()
        while self.peek() in ("+", "-"):
            operator = self.take()
            right = self.product()
            tree = ("+", tree, right if operator == "+" else ("-", right))
        return tree

    def product(self) -> Tree:
        tree = self.factor()
        while True:
            if self.accept("*", "\\times", "\\cdot"):
                tree = ("*", tree, self.factor())
            elif self.accept("/", "\\div"):
                tree = ("/", tree, self.divisor())
            elif self.starts_factor():
                if self.tokens[self.place][0] == "num":
                    raise Unreadable("a number after a factor")
                tree = self.adjacent(tree)
            else:
                return tree

    def divisor(self) -> Tree:
        """What is divided by: one factor, or in "a/bc" all letters that follow it."""
        tree = self.factor()
        while tree[0] in ("sym", "*") and self.place < len(self.tokens) and self.tokens[self.place][0] == "letter":
            tree = ("*", tree, self.factor())
        return tree

    def adjacent(self, left: Tree) -> Tree:
        """A product without a sign; an integer before a proper fraction of integers is a mixed number."""
        fraction = self.peek() == "\\frac"
        right = self.factor()
        if fraction and left[0] == "num" and right[0] == "/" and right[1][0] == right[2][0] == "num":
            above, below = right[1][1], right[2][1]
            if left[1].denominator == above.denominator == below.denominator == 1 and 0 < above < below:
                return ("+", left, right)
        return ("*", left, right)

    def starts_factor(self) -> bool:
        if self.place >= len(self.tokens):
            return False
        kind, token = self.tokens[self.place]
        if kind in ("num", "letter"):
            return True
        if kind == "cmd":
            return token not in (
                "\\}",
                "\\times",
                "\\cdot",
                "\\div",
                "\\pm",
                "\\mp",
                "\\over",
                "\\rfloor",
                "\\rceil",
                "\\|",
            )
        return token in ("(", "[", "{") or (token == "|" and self.bars == 0)

    def factor(self) -> Tree:
        if self.accept("-"):
            return ("-", self.factor())
        if self.accept("+"):
            return self.factor()
        return self.power()

    def power(self) -> Tree:
        tree = self.postfix(self.atom())
        if self.accept("^", "**"):
            if self.accept("\\circ"):
                return self.postfix(("degrees", tree))
            tree = self.postfix(("^", tree, self.exponent()))
        return tree

    def postfix(self, tree: Tree) -> Tree:
        marks = 0
        while self.accept("!"):
            marks += 1
        if marks > 2:
            raise Unreadable("factorials of factorials")
        if marks:
            tree = ("!" * marks, tree)
        return ("/", tree, ("num", Fraction(100))) if self.accept("%") else tree

    def exponent(self) -> Tree:
        if self.accept("-"):
            return ("-", self.exponent())
        if self.accept("+"):
            return self.exponent()
        tree = self.atom()
        if self.accept("^", "**"):
            tree = ("^", tree, self.exponent())
        return tree

    def group(self, closing: str) -> Tree:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unreadable("too deep")
        bars, self.bars = self.bars, 0
        self.brackets += closing != "}"
        tree = self.sum()
        if closing == "}" and self.accept("\\over"):
            tree = ("/", tree, self.sum())
        self.expect(closing)
        self.depth, self.bars, self.brackets = self.depth - 1, bars, self.brackets - (closing != "}")
        return tree

    def argument(self) -> Tree:
        r"""What stands in braces after a command, or the next sign alone: \frac12 is one half."""
        if self.accept("{"):
            return self.group("}")
        if self.place < len(self.tokens) and self.tokens[self.place][0] == "num" and len(self.peek()) > 1:
            digits = self.peek()
            if not digits.isdigit():
                raise Unreadable(digits)
            self.tokens[self.place] = ("num", digits[1:])
            return ("num", Fraction(digits[0]))
        return self.atom()

    def atom(self) -> Tree:
        if self.place >= len(self.tokens):
            raise Unreadable("the end")
        kind, token = self.tokens[self.place]
        self.place += 1
        if kind == "num":
            return ("num", self.number(token))
        if kind == "letter":
            return self.symbol(token)
        if kind == "cmd":
            return self.command(token[1:])
        if token in ("(", "[", "{"):
            return self.group({"(": ")", "[": "]", "{": "}"}[token])
        if token == "|":
            self.bars += 1
            tree = self.sum()
            self.expect("|")
            self.bars -= 1
            return ("abs", tree)
        raise Unreadable(token)

    def number(self, digits: str) -> Fraction:
        if "\\" in digits:
            return periodic(digits)
        if self.peek() == "_":
            raise Unreadable("a number in another base")
        if "," in digits and self.brackets:
            raise Unreadable("a pair")  # (1,234)
        if abs(int(digits.lower().partition("e")[2] or 0)) > LARGEST_POWER:
            raise Unreadable(digits)
        return Fraction(digits.replace(",", "").rstrip(".") or "0")

    def symbol(self, name: str) -> Tree:
        at_number = self.peek() == "(" and self.peek(2) == ")" and self.tokens[self.place + 1][0] == "num"  # I(0)
        if at_number or (name in _UNKNOWN_FUNCTIONS and self.peek() == "("):
            self.take()
            arguments = [self.sum()]
            while self.accept(","):
                arguments.append(self.sum())
            self.expect(")")
            return ("unknown", name, *arguments)
        name += self.subscript()
        while self.accept("'"):
            name += "'"
        if name in ("e", "i"):
            return ("const", name)
        return ("sym", name)

    def subscript(self) -> str:
        if not self.accept("_"):
            return ""
        return "_" + self.written()

    def written(self) -> str:
        """What stands in braces as text, or the next sign alone."""
        if not self.accept("{"):
            return self.take().lstrip("\\")
        depth, text = 1, ""
        while depth:
            if self.place >= len(self.tokens):
                raise Unreadable("no }")
            token = self.take()
            depth += {"{": 1, "}": -1}.get(token, 0)
            if token not in "{}" and token not in {f"\\{command}" for command in _NAMED.split()}:
                text += token.lstrip("\\")
        return text

    def command(self, name: str) -> Tree:
        name = _ALIASES.get(name, name)
        if name in _FUNCTIONS:
            return self.function(name)
        if name == "pi":
            return ("const", "pi")
        if name in _GREEK:
            return self.symbol(name)
        if name == "frac":
            above = self.argument()
            return ("/", above, self.argument())
        if name in ("sqrt", "cbrt"):
            index: Tree = ("num", Fraction(2 if name == "sqrt" else 3))
            if name == "sqrt" and self.accept("["):
                index = self.group("]")
            return ("root", index, self.argument())
        if name == "binom":
            above = self.argument()
            return ("binom", above, self.argument())
        if name in ("abs", "floor", "ceil"):
            return (name, self.argument())
        if name in ("lfloor", "lceil"):
            tree = self.sum()
            self.expect("\\r" + name[1:])
            return (name[1:], tree)
        if name in _DRESSED.split() or name in _NAMED.split():
            inner = self.written()
            dress = (
                name
                if name in ("dot", "ddot", "hat", "tilde", "bar", "overline", "mathbb", "mathcal")
                or inner in ("i", "e", "j")
                else ""
            )
            return self.symbol(f"{dress} {inner}".strip() if dress or len(inner) > 1 else inner)
        if name in ("angle", "triangle"):
            while self.place < len(self.tokens) and self.tokens[self.place][0] == "letter":
                name += self.take()
            return self.symbol(name)
        raise Unreadable(name)

    def function(self, name: str) -> Tree:
        base: Tree | None = None
        if name == "log" and self.accept("_"):
            base = self.argument()
        power = self.exponent() if self.accept("^") else None
        if power == ("-", ("num", Fraction(1))) and name in ("sin", "cos", "tan", "cot", "sec", "csc"):
            name, power = "arc" + name, None
        if name == "cis" and power is None:
            return ("exp", ("*", ("const", "i"), self.operand()))
        tree: Tree = (name, self.operand()) if base is None else ("log", self.operand(), base)
        return tree if power is None else ("^", tree, power)

    def operand(self) -> Tree:
        """What a function without brackets is applied to: sin 2x is that of 2x, sin x cos x that of x."""
        if self.peek() in ("(", "{", "[", "|"):
            return self.atom()
        if self.accept("-"):
            return ("-", self.operand())
        tree = self.power()
        while self.starts_factor() and self.peek() not in ("(", "[", "|") and self.peek()[1:] not in _FUNCTIONS:
            tree = ("*", tree, self.power())
        if (
            self.peek() == "/"
            and tree[0] != "sym"
            and self.tokens[self.place + 1 : self.place + 2]
            and (self.tokens[self.place + 1][0] == "num")
        ):  # sin π/3
            self.take()
            tree = ("/", tree, self.factor())
        return tree
