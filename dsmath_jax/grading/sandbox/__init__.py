"""Runs Python programs that a model wrote in a sandbox.

    with Sandbox() as sandbox:
        print(sandbox.level, sandbox.run([Program("print(6 * 7)")]))

The run's process talks to a fork server, a small Python process with SymPy and NumPy imported and no secrets. It forks
a process for each program, which locks itself in before it reads the program. It uses every mechanism that works on the
system; `probe` tries each at start. Namespaces (`namespaces`) hide other processes, the network and all files except
the Python libraries and a temporary scratch folder. Landlock (`landlock`) refuses all other paths. seccomp (`syscalls`)
refuses new processes, sockets, signals to other processes and every system call that Python does not need.
"""

from dsmath_jax.grading.sandbox.limits import Limits, Program, ProgramResult
from dsmath_jax.grading.sandbox.pool import Sandbox

__all__ = ["Limits", "Program", "ProgramResult", "Sandbox"]
