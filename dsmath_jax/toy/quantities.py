"""The numbers in the exercises of the toy web: a function for each kind of exercise.

Each function calls `draw(low, high)` for random integers and returns the numbers that sentence patterns of that kind
use (`@a`, `@b`, ... and mostly the result `@r`). The sentences are in the templates.
"""

from collections.abc import Callable
from math import comb, gcd

Draw = Callable[[int, int], int]


def add(draw: Draw) -> dict[str, int]:
    r = draw(5, 99 if draw(0, 4) else 160)
    a = draw(2, r - 2)
    return {"a": a, "b": r - a, "r": r}


def subtract(draw: Draw) -> dict[str, int]:
    a = draw(5, 99)
    b = draw(2, a - 1)
    return {"a": a, "b": b, "r": a - b}


def multiply(draw: Draw) -> dict[str, int]:
    a, b = draw(2, 12), draw(2, 9)
    if draw(0, 4) == 0:
        a = draw(11, 49)
    return {"a": a, "b": b, "r": a * b}


def divide(draw: Draw) -> dict[str, int]:
    r, b = draw(2, 12), draw(2, 9)
    if draw(0, 4) == 0:
        r = draw(11, 33)
    return {"a": r * b, "b": b, "r": r}


def compare(draw: Draw) -> dict[str, int]:
    a, b = draw(3, 45), draw(2, 30)
    return {"a": a, "b": b, "s": a + b, "r": a + a + b}


def multiply_add(draw: Draw) -> dict[str, int]:
    a, b, c = draw(2, 9), draw(2, 9), draw(2, 60)
    return {"a": a, "b": b, "c": c, "s": a * b, "r": a * b + c}


def multiply_subtract(draw: Draw) -> dict[str, int]:
    a, b = draw(3, 10), draw(2, 9)
    c = draw(2, a * b - 1)
    return {"a": a, "b": b, "c": c, "s": a * b, "r": a * b - c}


def two_products(draw: Draw) -> dict[str, int]:
    a, b, c, d = (draw(2, 9) for _ in range(4))
    return {"a": a, "b": b, "c": c, "d": d, "s": a * b, "t": c * d, "r": a * b + c * d}


def add_divide(draw: Draw) -> dict[str, int]:
    r, c = draw(2, 12), draw(2, 9)
    a = draw(1, r * c - 1)
    return {"a": a, "b": r * c - a, "c": c, "s": r * c, "r": r}


def add_subtract(draw: Draw) -> dict[str, int]:
    s = draw(8, 99)
    a, c = draw(2, s - 2), draw(2, s - 1)
    return {"a": a, "b": s - a, "s": s, "c": c, "r": s - c}


def tens(draw: Draw) -> dict[str, int]:
    p, q, u, v = draw(1, 8), draw(1, 9), draw(1, 8), draw(1, 9)
    tens_sum, ones_sum = 10 * (p + u), q + v
    return {
        "a": 10 * p + q, "b": 10 * u + v, "p": 10 * p, "q": q, "u": 10 * u, "v": v,
        "s": tens_sum, "t": ones_sum, "r": tens_sum + ones_sum,
    }  # fmt: skip


def linear(draw: Draw) -> dict[str, int]:
    a, b, x = draw(2, 12), draw(2, 40), draw(2, 15)
    return {"a": a, "b": b, "s": a * x, "c": a * x + b, "r": x}


def quadratic(draw: Draw) -> dict[str, int]:
    p = draw(1, 9)
    q = p + draw(1, 9)
    return {"p": p, "q": q, "s": p + q, "t": p * q, "d": (p + q) ** 2 - 4 * p * q}


def square_of_sum(draw: Draw) -> dict[str, int]:
    a = draw(2, 15)
    return {"a": a, "b": 2 * a, "c": a * a}


def system(draw: Draw) -> dict[str, int]:
    x, y = draw(6, 40), draw(1, 5)
    return {"x": x, "y": y, "s": x + y, "d": x - y, "t": 2 * x}


def rectangle(draw: Draw) -> dict[str, int]:
    a, b = draw(3, 24), draw(2, 12)
    return {"a": a, "b": b, "s": a + b, "p": 2 * (a + b), "r": a * b}


def right_triangle(draw: Draw) -> dict[str, int]:
    k, triple = draw(1, 6), draw(0, 3)
    a, b, c = ((3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25))[triple]
    return {"a": a * k, "b": b * k, "r": c * k, "s": (c * k) ** 2, "p": (a * k) ** 2, "q": (b * k) ** 2}


def angles(draw: Draw) -> dict[str, int]:
    a, b = draw(20, 85), draw(20, 85)
    return {"a": a, "b": b, "s": a + b, "r": 180 - a - b}


def circle(draw: Draw) -> dict[str, int]:
    r = draw(2, 20)
    return {"r": r, "d": 2 * r, "s": r * r}


def marbles(draw: Draw) -> dict[str, int]:
    a, b = draw(2, 20), draw(2, 20)
    g = gcd(a, a + b)
    return {"a": a, "b": b, "n": a + b, "p": a // g, "q": (a + b) // g}


def dice(draw: Draw) -> dict[str, int]:
    r = draw(3, 11)
    ways = 6 - abs(r - 7)
    g = gcd(ways, 36)
    return {"r": r, "w": ways, "p": ways // g, "q": 36 // g}


def choose(draw: Draw) -> dict[str, int]:
    n = draw(4, 18)
    return {"n": n, "m": n - 1, "s": n * (n - 1), "r": comb(n, 2)}


def remainder(draw: Draw) -> dict[str, int]:
    b, q = draw(3, 12), draw(2, 20)
    r = draw(1, b - 1)
    return {"a": b * q + r, "b": b, "q": q, "s": b * q, "r": r}


def common_divisor(draw: Draw) -> dict[str, int]:
    g, m, n = draw(2, 12), draw(2, 9), draw(2, 9)
    return {"a": g * m, "b": g * n, "r": gcd(g * m, g * n), "l": g * m * n // gcd(m, n)}


def powers(draw: Draw) -> dict[str, int]:
    p, k = draw(2, 5), draw(2, 4)
    return {"p": p, "k": k, "m": k + 1, "r": p**k, "s": p ** (k + 1)}


def derivative(draw: Draw) -> dict[str, int]:
    a, n, x = draw(2, 12), draw(2, 7), draw(1, 3)
    return {"a": a, "n": n, "m": n - 1, "c": a * n, "x": x, "r": a * n * x ** (n - 1)}


def integral(draw: Draw) -> dict[str, int]:
    n, k, b = draw(1, 4), draw(1, 8), draw(1, 3)
    return {"n": n, "m": n + 1, "a": k * (n + 1), "k": k, "b": b, "r": k * b ** (n + 1)}


def limit(draw: Draw) -> dict[str, int]:
    a = draw(2, 20)
    return {"a": a, "s": a * a, "r": 2 * a}


# The kinds of exercises of each topic. The word problems need only `arithmetic`.
TOPICS: dict[str, tuple[Callable[[Draw], dict[str, int]], ...]] = {
    "arithmetic": (
        add, subtract, multiply, divide, compare, multiply_add, multiply_subtract, two_products, add_divide,
        add_subtract, tens,
    ),
    "algebra": (linear, quadratic, square_of_sum, system),
    "geometry": (rectangle, right_triangle, angles, circle),
    "probability": (marbles, dice, choose),
    "number_theory": (remainder, common_divisor, powers),
    "calculus": (derivative, integral, limit),
}  # fmt: skip
