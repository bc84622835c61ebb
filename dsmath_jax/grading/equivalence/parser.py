r"""Parses formulas into expression trees.

The parser knows what has a value: arithmetic, powers, roots, functions, variables. It refuses sums, integrals, limits
and all other notation, which `symbolic` then compares. Letters keep their case, names their subscripts.
"""

from fractions import Fraction

from dsmath_jax.grading.equivalence.expressions import Tree
from dsmath_jax.grading.equivalence.quantities import LARGEST_POWER, periodic
from dsmath_jax.grading.equivalence.tokenizer import FUNCTIONS, ParseError, tokenize

MAX_DEPTH = 60  # nested brackets
_ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "tg": "tan", "ctg": "cot"}
_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega hbar ell infty partial nabla"
).split()
_KEPT_ACCENTS = "dot ddot hat tilde bar overline mathbb mathcal".split()  # that distinguish one variable from another
_ACCENTS = [*_KEPT_ACCENTS, *"widehat mathscr mathfrak overrightarrow vec mathbf boldsymbol bm".split()]
_TEXT = "text textbf textit textrm mbox mathrm mathit mathsf operatorname rm".split()
_ENDS_PRODUCT = r"\} \times \cdot \div \pm \mp \over \rfloor \rceil \|".split()  # commands that begin no factor
_UNKNOWN_FUNCTIONS = "fghFGH"


def parse(text: str) -> Tree:
    """Returns the tree of a normalized formula; raises ParseError."""
    parser = _Parser(tokenize(text))
    tree = parser.sum()
    if parser.position != len(parser.tokens):
        raise ParseError(text)
    return tree


class _Parser:
    """A recursive-descent parser; each method parses one construct at the current token."""

    def __init__(self, tokens: list[tuple[str, str]]):
        self.tokens, self.position, self.depth, self.bars, self.brackets = tokens, 0, 0, 0, 0

    def peek(self, ahead: int = 0) -> str:
        position = self.position + ahead
        return self.tokens[position][1] if position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.position += 1
        return token

    def accept(self, *tokens: str) -> bool:
        if self.peek() in tokens and self.peek():
            self.position += 1
            return True
        return False

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise ParseError(f"no {token}")

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
                if self.tokens[self.position][0] == "num":
                    raise ParseError("a number after a factor")
                tree = self.adjacent(tree)
            else:
                return tree

    def divisor(self) -> Tree:
        """Parses a divisor: one factor, and in "a/bc" all letters that follow it."""
        tree = self.factor()
        while (
            tree[0] in ("sym", "*") and self.position < len(self.tokens) and self.tokens[self.position][0] == "letter"
        ):
            tree = ("*", tree, self.factor())
        return tree

    def adjacent(self, left: Tree) -> Tree:
        """Parses a product without a sign; an integer before a proper fraction of integers is a mixed number."""
        fraction = self.peek() == "\\frac"
        right = self.factor()
        if fraction and left[0] == "num" and right[0] == "/" and right[1][0] == right[2][0] == "num":
            above, below = right[1][1], right[2][1]
            if left[1].denominator == above.denominator == below.denominator == 1 and 0 < above < below:
                return ("+", left, right)
        return ("*", left, right)

    def starts_factor(self) -> bool:
        if self.position >= len(self.tokens):
            return False
        kind, token = self.tokens[self.position]
        if kind in ("num", "letter"):
            return True
        if kind == "cmd":
            return token not in _ENDS_PRODUCT
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
            raise ParseError("factorials of factorials")
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
        if self.depth > MAX_DEPTH:
            raise ParseError("too deep")
        bars, self.bars = self.bars, 0
        self.brackets += closing != "}"
        tree = self.sum()
        if closing == "}" and self.accept("\\over"):
            tree = ("/", tree, self.sum())
        self.expect(closing)
        self.depth, self.bars, self.brackets = self.depth - 1, bars, self.brackets - (closing != "}")
        return tree

    def argument(self) -> Tree:
        r"""Parses an argument of a command, in braces or a single token: \frac12 is one half."""
        if self.accept("{"):
            return self.group("}")
        if self.position < len(self.tokens) and self.tokens[self.position][0] == "num" and len(self.peek()) > 1:
            digits = self.peek()
            if not digits.isdigit():
                raise ParseError(digits)
            self.tokens[self.position] = ("num", digits[1:])
            return ("num", Fraction(digits[0]))
        return self.atom()

    def atom(self) -> Tree:
        if self.position >= len(self.tokens):
            raise ParseError("the end")
        kind, token = self.tokens[self.position]
        self.position += 1
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
        raise ParseError(token)

    def number(self, digits: str) -> Fraction:
        if "\\" in digits:
            return periodic(digits)
        if self.peek() == "_":
            raise ParseError("a number in another base")
        if "," in digits and self.brackets:
            raise ParseError("a pair")  # (1,234)
        if abs(int(digits.lower().partition("e")[2] or 0)) > LARGEST_POWER:
            raise ParseError(digits)
        return Fraction(digits.replace(",", "").rstrip(".") or "0")

    def symbol(self, name: str) -> Tree:
        at_number = self.peek() == "(" and self.peek(2) == ")" and self.tokens[self.position + 1][0] == "num"  # I(0)
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
        """Returns the text in braces, or the next token."""
        if not self.accept("{"):
            return self.take().lstrip("\\")
        depth, text = 1, ""
        while depth:
            if self.position >= len(self.tokens):
                raise ParseError("no }")
            token = self.take()
            depth += {"{": 1, "}": -1}.get(token, 0)
            if token not in "{}" and token[1:] not in _TEXT:
                text += token.lstrip("\\")
        return text

    def command(self, name: str) -> Tree:
        name = _ALIASES.get(name, name)
        if name in FUNCTIONS:
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
        if name in _ACCENTS or name in _TEXT:
            inner = self.written()
            accent = name if name in _KEPT_ACCENTS or inner in ("i", "e", "j") else ""
            return self.symbol(f"{accent} {inner}".strip() if accent or len(inner) > 1 else inner)
        if name in ("angle", "triangle"):
            while self.position < len(self.tokens) and self.tokens[self.position][0] == "letter":
                name += self.take()
            return self.symbol(name)
        raise ParseError(name)

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
        """Parses the argument of a function: of sin 2x it is 2x, of sin x cos x it is x."""
        if self.peek() in ("(", "{", "[", "|"):
            return self.atom()
        if self.accept("-"):
            return ("-", self.operand())
        tree = self.power()
        while self.starts_factor() and self.peek() not in ("(", "[", "|") and self.peek()[1:] not in FUNCTIONS:
            tree = ("*", tree, self.power())
        after = self.tokens[self.position + 1 : self.position + 2]
        if self.peek() == "/" and tree[0] != "sym" and after and after[0][0] == "num":  # sin π/3
            self.take()
            tree = ("/", tree, self.factor())
        return tree
