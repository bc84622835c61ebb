"""Tests of parsing and comparing formulas, plain numbers and sets of real numbers."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.grading.equivalence import sets, units, values
from dsmath_jax.grading.equivalence.arithmetic import TooLarge
from dsmath_jax.grading.equivalence.expressions import symbols
from dsmath_jax.grading.equivalence.normalization import normalize, split
from dsmath_jax.grading.equivalence.numerals import in_digits
from dsmath_jax.grading.equivalence.parser import parse
from dsmath_jax.grading.equivalence.quantities import Number, close, number, quantity
from dsmath_jax.grading.equivalence.tokenizer import ParseError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.50", Fraction(2469, 2)), ("12 345", 12345), ("-3/4", Fraction(-3, 4)), (r"\frac{3}{4}", Fraction(3, 4)),
        (r"\frac12", Fraction(1, 2)), ("3 1/2", Fraction(7, 2)), (r"3\frac{1}{2}", Fraction(7, 2)),
        ("1.2e-3", Fraction(3, 2500)),
        (r"1.2\times10^{3}", 1200), ("10^{-2}", Fraction(1, 100)), (r"0.1\overline{6}", Fraction(1, 6)), ("(5)", 5),
        ("+.5", Fraction(1, 2)),
        ("1,2", None), ("0,111", None), ("12,34", None), ("11 7/6", None), ("4 4/0", None), ("1/0", None),
        ("1e99999", None),
        ("5x", None), ("2^3", None), ("", None), ("9" * 5000, None),
    ],
)  # fmt: skip
def test_a_plain_number_is_parsed_exactly_or_not(text: str, value: Fraction | None) -> None:
    found = number(text)
    assert (found.value if found is not None else None) == value


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0.333333", "1/3", True), ("0.33333", "1/3", False), ("0.666666", "2/3", True), ("0.666667", "2/3", True),
        ("0.666665", "2/3", False), ("1.325347e-27", "1.325348e-27", False), ("3e-8", "4e-8", False),
        ("0.1", "1/10", True),
        ("33.333333333333336", "100/3", True), ("16386.17", "16386.169", False), ("-0.333333", "1/3", False),
    ],
)  # fmt: skip
def test_only_long_decimals_are_rounded(one: str, other: str, same: bool) -> None:
    left, right = number(one), number(other)
    assert left is not None
    assert right is not None
    assert close(left, right) == close(right, left) == same


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("$18", 18, "$"), ("-$12", -12, "$"), ("5 cm", 5, "cm"), ("$2.50 each", Fraction(5, 2), "$"),
        ("90^\\circ", 90, "^\\circ"),
        ("18 dollars per hour", 18, "dollars per hour"), ("5 feet 6 inches", Fraction(11, 2), "feet"), ("50%", 50, "%"),
        ("1元5角", Fraction(3, 2), "元"), ("5个苹果", 5, "个苹果"), ("5", 5, ""),
    ],
)  # fmt: skip
def test_a_quantity_is_a_number_and_its_unit(text: str, value: Fraction, unit: str) -> None:
    found = quantity(text)
    assert found is not None
    assert (found.number.value, found.unit) == (value, unit)


@pytest.mark.parametrize("text", ["5x", "5 x", "3 cm 4", "x cm", "1, 2 cm", "cm", "2 hours 3 cm"])
def test_a_product_or_a_list_is_no_quantity(text: str) -> None:
    assert quantity(text) is None


@pytest.mark.parametrize(
    ("one", "other", "factor"),
    [
        ("cm", "m", Fraction(1, 100)), ("cm^2", "square centimeters", 1), ("km/h", "kilometers per hour", 1),
        ("", "cm", 1),
        ("cm", "cm^2", None), ("dollars", "cents", 100), ("apples", "apple", 1), ("apples", "pears", None),
        ("hour", "minutes", 60), ("$", "元", None), ("mL", "cm^3", 1), ("个", "个苹果", 1),
    ],
)  # fmt: skip
def test_units_are_converted_or_differ(one: str, other: str, factor: Fraction | None) -> None:
    assert units.factor_between(one, other) == factor


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("一百二十", "120"), ("两千零五", "2005"), ("十五", "15"), ("负三", "-3"), ("三分之二", "2/3"),
        ("百分之四十", "40%"),
        ("五又二分之一", "11/2"),
        ("二〇二四", "2024"), ("三点一四", "3.14"), ("3万", "30000"), ("一亿二千万", "120000000"),
        ("twenty-five", "25"),
        ("2.5 million", "2500000"), ("two hundred and six", "206"), ("一次函数", "一次函数"),
        ("Nineteenth", "Nineteenth"),
    ],
)  # fmt: skip
def test_numerals_are_read(text: str, digits: str) -> None:
    assert in_digits(text) == digits


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("$x$", "x"), (r"\(x\)", "x"), (r"\boxed{5}.", "5"), (r"\$5", "$5"), ("**5**", "5"),
        (r"\left( 3 \right)", "( 3 )"),
        ("（１，２）", "(1,2)"), (r"14{,}916", "14916"), (r"11,\! 111", "11111"), ("32, 349", "32, 349"),
        (r"\dfrac12", r"\frac12"),
        ("x ≤ 2", r"x \le 2"), ("x^{\\prime}", "x'"), ("5²", "5^{2}"), ("2½", r"2\frac{1}{2}"),
        (r"90^{\circ}", r"90^\circ"),
    ],
)  # fmt: skip
def test_normalization(text: str, plain: str) -> None:
    assert normalize(text).replace(" ", "") == plain.replace(" ", "")


@given(st.text(max_size=40))
def test_normalization_is_idempotent(text: str) -> None:
    assert normalize(normalize(normalize(text))) == normalize(normalize(text))


def test_texts_are_split_outside_brackets_only() -> None:
    import re

    assert split(r"(1,2),[3,4), \{5,6\}", re.compile(",")) == ["(1,2)", "[3,4)", r"\{5,6\}"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1+2*3", 7), ("2^{3^2}", 512), ("-2^2", -4), (r"3\frac12", Fraction(7, 2)), (r"2\frac{x}{x}", 2),
        ("2(3)", 6), ("|2-5|", 3),
        ("5!", 120), ("6!!", 48), (r"\sqrt{16}", 4), (r"\sqrt[3]{-8}", -2), ("8^{2/3}", 4), (r"\lfloor 2.7\rfloor", 2),
        (r"\log_2 8", 3), ("50%", Fraction(1, 2)), ("1.5e3", 1500), (r"\frac{1}{2}\cdot\frac{2}{3}", Fraction(1, 3)),
    ],
)  # fmt: skip
def test_formulas_have_values(text: str, value: Fraction) -> None:
    assert values.same(values.value(parse(text), {"x": Fraction(3)}), Fraction(value))


@pytest.mark.parametrize(
    "text", ["", "+", "1 2", "(1", "1)", r"\sum_{k=1}^n k", "x=1", "1,2", r"\foo", "10_2", "?", "(1,234)"]
)
def test_other_text_is_a_parse_error(text: str) -> None:
    with pytest.raises(ParseError):
        parse(text)


def test_names_keep_their_case_subscripts_and_primes() -> None:
    assert symbols(parse(r"M m_1 + m_{1} x' \dot{x} f(t) e i \pi")) == {"M", "m_1", "x'", "dot x", "f()", "t"}


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 20))
def test_expanded_and_factored_polynomials_are_the_same_and_no_others(a: int, b: int, c: int) -> None:
    factored = parse(f"{c}(x-({a}))(x-({b}))")
    assert values.equal(factored, parse(f"{c}x^2-({c * (a + b)})x+({c * a * b})"))
    assert not values.equal(factored, parse(f"{c}x^2-({c * (a + b)})x+({c * a * b})+1"))


@pytest.mark.parametrize("text", ["9^{9^9}", "(10^9)!", "2^{10^{10}}", r"\exp(10^9)"])
def test_numbers_with_too_many_digits_are_refused(text: str) -> None:
    with pytest.raises(TooLarge):
        values.value(parse(text))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (r"(-\infty,0)\cup(0,1]", r"x\le 1, x\ne 0", True), ("[0,1)\\cup[1,2]", "[0,2]", True),
        (r"\{1,2\}", r"\{2,1\}", True),
        (r"\mathbb{R}\setminus\{0\}", r"x\ne 0", True), ("x<1 or x>2", r"(-\infty,1)\cup(2,\infty)", True),
        (r"[0,\sqrt{2}]", r"[0,2^{1/2}]", True), ("[0,1)\\cup(1,2]", "[0,2]", False), ("(0,1)", "[0,1]", False),
    ],
)  # fmt: skip
def test_sets_are_the_same_by_their_elements(one: str, other: str, same: bool) -> None:
    left, right = sets.real_set(normalize(one)), sets.real_set(normalize(other))
    assert left is not None
    assert right is not None
    assert sets.same(left, right) == same


@pytest.mark.parametrize("text", ["x^2<4", "|x|<2", "x>a", "x+y>1", "5", "(1,2,3)", "(a,b)", "(0,1),(2,3)"])
def test_other_text_is_not_parsed_as_a_set(text: str) -> None:
    assert sets.real_set(text) is None


def test_a_number_records_its_notation() -> None:
    assert number("0.0120") == Number(Fraction(3, 250), decimals=4, significant=3)
