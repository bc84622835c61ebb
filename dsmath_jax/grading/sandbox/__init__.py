"""Runs Python programs that a model wrote, contained.

    with Sandbox() as sandbox:
        print(sandbox.level, sandbox.run([Program("print(6 * 7)")]))

The run's own process talks to one server, a small Python process that has SymPy and NumPy imported and no secrets: it
forks one process for each program, which locks itself in before it reads a line of it. What locks it is what the
system has, and each mechanism is tried at start (`probe`): namespaces (`namespaces`) leave it no other processes, no
network and no files but the Python libraries and a scratch folder that vanishes; Landlock (`landlock`) refuses all
other paths; seccomp (`syscalls`) refuses new processes, sockets, signals to others and whatever Python has no need of.
"""

from dsmath_jax.grading.sandbox.limits import Limits, Program, Ran
from dsmath_jax.grading.sandbox.pool import Sandbox

__all__ = ["Limits", "Program", "Ran", "Sandbox"]
