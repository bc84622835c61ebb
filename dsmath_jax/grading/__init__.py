r"""Grades answers: extraction, equivalence, worker processes with hard kills, and a sandbox for Python programs.

The package imports no JAX and runs alone. Completions are graded in worker processes with a time limit each:

    >>> from dsmath_jax.grading.grade import Grader, Item
    >>> with Grader(workers=2, seconds=5.0) as grader:
    ...     grader.grades([Item(r"So x is \boxed{\frac{2}{4}}.", gold="0.5", kind="math")])
    [Grade(answer='\\frac{2}{4}', correct=True, reason='same number')]

Two answers are compared in this process, without a time limit, by `equivalence.equal`; `sandbox.Sandbox` runs programs
that a model wrote; `python -m dsmath_jax.grading` grades files.
"""
