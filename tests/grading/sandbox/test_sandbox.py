"""Tests of the sandbox: what programs may do, how they end, and what killed processes leave."""

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dsmath_jax.grading.sandbox import Limits, Program, ProgramResult, Sandbox, probe
from dsmath_jax.workdir import UserError

ALL = ("namespaces", "landlock", "seccomp")
REPOSITORY = Path(__file__).parents[3]
SITE = Path(np.__file__).parents[1]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    try:
        found = Sandbox(2, Limits(seconds=60.0))
    except UserError as error:
        pytest.skip(str(error))
    with found:
        yield found


@pytest.fixture(scope="module")
def run(sandbox: Sandbox) -> Callable[..., ProgramResult]:
    return lambda code, call="": sandbox.run([Program(code, call)])[0]


def wait_until(done: Callable[[], bool], seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        time.sleep(0.01)
    return done()


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def server_of(sandbox: Sandbox) -> tuple[int, int]:
    """Returns the pids of the server: the process that was started, and the one that forks programs."""
    assert sandbox._server is not None
    launched = sandbox._server.process.pid
    [server] = children(launched)
    return launched, server


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


USUAL = {
    "arithmetic": ("print(6 * 7)", "42\n"),
    "SymPy": ("from sympy import *\nx = symbols('x')\nprint(solve(x**2 - 3*x + 2, x))", "[1, 2]\n"),
    "NumPy": ("import numpy as np\nprint(np.linalg.solve([[2.0, 0], [0, 4]], [2, 4]))", "[1. 1.]\n"),
    "the main module": ("import sys\nprint(__name__, sys.modules['__main__'].__name__)", "__main__ __main__\n"),
    "the standard library": (
        "import fractions, itertools, datetime, collections, re, random, statistics, hashlib, typing, decimal, json\n"
        "import heapq, bisect, functools, string, calendar, copy, zlib, sqlite3, unicodedata, dataclasses, math\n"
        "print(fractions.Fraction(1, 3), datetime.date(2024, 2, 29), math.comb(5, 2))",
        "1/3 2024-02-29 10\n",
    ),
    "classes": ("import pickle\nclass A:\n    x = 1\nprint(pickle.loads(pickle.dumps(A())).x)", "1\n"),
    "its scratch folder": ("import os\nopen('a', 'w').write('b')\nprint(os.listdir(), open('a').read())", "['a'] b\n"),
    "temporary files": ("import tempfile\nwith tempfile.TemporaryFile() as f:\n    print(f.write(b'abc'))", "3\n"),
    "threads": ("from concurrent.futures import *\nprint(list(ThreadPoolExecutor(4).map(abs, [-1, 2])))", "[1, 2]\n"),
    "an event loop": ("import asyncio\nprint(asyncio.run(asyncio.sleep(0.001, 5)))", "5\n"),
    "alarms": ("import signal, time\nsignal.signal(signal.SIGALRM, lambda *_: print('rung'))\n"
               "signal.setitimer(signal.ITIMER_REAL, 0.01)\ntime.sleep(0.1)", "rung\n"),
    "many digits": ("print(len(str(3**50000)))", "23857\n"),
    "bytes that are no text": ("import sys\nsys.stdout.buffer.write(b'a\\xff')", "a\ufffd"),
    "half a character": ("print('\\ud800')", "\\ud800\n"),
    "Chinese": ("print('答案：72')", "答案：72\n"),
    "its own file for output": ("import sys\nsys.stdout = open(1, 'w', closefd=False)\nprint('kept')", "kept\n"),
    "warnings apart": ("import warnings\nwarnings.warn('no output')\nprint(1)", "1\n"),
    "nothing": ("", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", USUAL)
def test_what_programs_need_works(name: str, run: Callable[..., ProgramResult]) -> None:
    code, output = USUAL[name]
    assert run(code) == ProgramResult("ok", output, None, "", pytest.approx(0, abs=60))


def test_a_function_is_called_and_its_value_returned(run: Callable[..., ProgramResult]) -> None:
    code = "import sympy\ndef solution():\n    print('called')\n    return sympy.Rational(2, 6)"
    assert run(code, "solution") == ProgramResult("ok", "called\n", "1/3", "", pytest.approx(0, abs=60))
    assert run("def solution():\n    pass", "solution").value is None
    assert run("def solution():\n    return ''", "solution").value == ""
    assert run("def solution():\n    return '\\ud800好'", "solution").value == "\\ud800好"
    assert run(code).value is None


def test_a_missing_function_is_an_error(run: Callable[..., ProgramResult]) -> None:
    ran = run("print(1)", "solution")
    assert (ran.status, ran.output) == ("raised", "1\n")
    assert ran.error.endswith("NameError: name 'solution' is not defined")


NO_PYTHON = ("def f(:", "a\0b", "x = '\ud800'")
ENDS = {
    "1 / 0": ("raised", "ZeroDivisionError: division by zero"),
    "def f(:": ("raised", "SyntaxError: invalid syntax"),
    "a\0b": ("raised", "cannot contain null bytes"),
    "x = '\ud800'": ("raised", "surrogates not allowed"),
    "input()": ("raised", "EOFError: EOF when reading a line"),
    "import sys; sys.exit()": ("raised", "SystemExit"),
    "raise SystemExit(0)": ("raised", "SystemExit: 0"),
    "raise KeyboardInterrupt": ("raised", "KeyboardInterrupt"),
    "raise BaseException('own')": ("raised", "BaseException: own"),
    "def f(): f()\nf()": ("raised", "RecursionError: maximum recursion depth exceeded"),
    "import os; os._exit(0)": ("killed", "ended early with exit code 0"),
    "import os; os._exit(3)": ("killed", "ended early with exit code 3"),
    "import ctypes; ctypes.string_at(0)": ("killed", "killed by SIGSEGV"),
    "raise MemoryError": ("out of memory", "MemoryError: more than 2,048 MiB of memory"),
}


@pytest.mark.parametrize("code", ENDS)
def test_the_status_of_a_program(code: str, run: Callable[..., ProgramResult]) -> None:
    how, error = ENDS[code]
    ran = run(f"print('before')\n{code}")
    assert ran.status == how
    assert error in ran.error.splitlines()[-1]
    assert ran.output == ("" if code in NO_PYTHON else "before\n")


def test_a_traceback_begins_in_the_program(run: Callable[..., ProgramResult]) -> None:
    error = run("def f(x):\n    return 1 / x\nf(0)").error
    assert re.sub(r"\n +[~^]+(?=\n)", "", error) == (  # Python 3.13 marks calls too
        "Traceback (most recent call last):\n"
        '  File "program.py", line 3, in <module>\n    f(0)\n'
        '  File "program.py", line 2, in f\n    return 1 / x\n'
        "ZeroDivisionError: division by zero"
    )


def test_limits_hold_and_earlier_output_is_kept() -> None:
    programs = {
        "import time\nprint('early')\ntime.sleep(600)": ("timed out", "timed out after 2 s"),
        "print('early')\nwhile True: pass": ("timed out", "timed out after 1 s of processor time"),
        "print('early')\nx = bytearray(1 << 30)": ("out of memory", "MemoryError: more than 512 MiB of memory"),
        "print('early')\nwhile True: print('x' * 99)": ("too much output", "more than 1,000 bytes of output"),
        "print('early')\nopen('a', 'w').write('x' * 100_000)": ("raised", "OSError: [Errno 27] File too large"),
    }
    limits = Limits(2.0, 1.0, 512 << 20, 1000, 10_000, 4)
    with Sandbox(3, limits, allow_unsandboxed=True) as sandbox:
        for found, (how, error) in zip(sandbox.run(list(map(Program, programs))), programs.values(), strict=True):
            assert (found.status, found.error.splitlines()[-1]) in ((how, error), ("timed out", "timed out after 2 s"))
            assert found.output.startswith("early\n")
            assert len(found.output) <= 1000


def test_results_come_in_order_and_from_several_at_once(sandbox: Sandbox) -> None:
    programs = [Program(f"import time\ntime.sleep({(7 - n) / 100})\nprint({n})") for n in range(8)]
    assert [ran.output for ran in sandbox.run(programs)] == [f"{n}\n" for n in range(8)]
    assert sandbox.run([]) == []
    # Two programs that wait for the same moment end only if both run.
    at = time.time() + 1.0
    both = sandbox.run([Program(f"import time\ntime.sleep(max(0, {at} - time.time()))\nprint(time.time())")] * 2)
    assert all(ran.status == "ok" for ran in both)


def test_programs_share_nothing(sandbox: Sandbox) -> None:
    spoil = (
        "import builtins, math, sympy, random\n"
        "builtins.print = math.pi = sympy.pi = 0\nopen('a', 'w').close()\nrandom.random()"
    )
    look = "import math, os, random\nprint(math.pi, os.listdir('.'), random.random())"
    first, _, second = sandbox.run([Program(look), Program(spoil), Program(look)])
    assert first.output == second.output
    assert first.output.startswith(f"{np.pi} [] ")


WAYS = (
    "import sympy\nsympy.Symbol.leak = sympy.core.cache.leak = 1",
    "import numpy\nnumpy.seterr(all='raise'); numpy.random.seed(7)",
    "import decimal\ndecimal.getcontext().prec = 3; decimal.DefaultContext.prec = 3",
    "import os\nos.umask(0o777); os.environ['LEAK'] = '1'; open('leak', 'w').close()",
    "import locale\nlocale.setlocale(locale.LC_ALL, 'C'); locale.leak = 1",
    "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pthread_sigmask(signal.SIG_BLOCK, [15, 17])",
    "import sys\nsys.setrecursionlimit(50); sys.set_int_max_str_digits(640); sys.modules['leak'] = sys.path.clear()",
    "import gc, warnings\ngc.disable(); warnings.simplefilter('error')",
    "import os\nos.dup2(1, 90); os.close(0)",
)
LOOK = """
import decimal, gc, locale, numpy, os, random, signal, sympy, sys, warnings
print(hasattr(sympy.Symbol, "leak"), numpy.geterr(), numpy.random.random(), random.random(), decimal.getcontext().prec)
print(os.umask(0o22), sorted(os.environ), os.listdir("."), locale.setlocale(locale.LC_ALL), signal.getsignal(15))
print(signal.pthread_sigmask(0, []), sys.getrecursionlimit(), sys.get_int_max_str_digits(), sys.path)
print(sorted(sys.modules), gc.isenabled(), warnings.filters, hash("text"), {"a", "b"}, sympy.Dummy().dummy_index)
for number in range(128):
    try:
        os.fstat(number)
    except OSError:
        continue
    print(number)
"""


def test_every_program_starts_in_the_same_state(sandbox: Sandbox) -> None:
    outputs = [sandbox.run([Program(LOOK)])[0].output]
    for way in WAYS:
        assert sandbox.run([Program(way)])[0].error == "", way
        outputs.append(sandbox.run([Program(LOOK)])[0].output)
    assert set(outputs) == {outputs[0]}
    assert outputs[0].endswith("\n0\n1\n2\n3\n")


@pytest.mark.slow
def test_threads_of_one_program_do_not_count_against_another() -> None:
    hog = "import threading, time\nfor _ in range(99):\n    threading.Thread(target=time.sleep, args=(600,)).start()"
    hold = f"import time\ntry:\n    exec({hog!r})\nexcept RuntimeError:\n    time.sleep(600)"
    use = "import os, time\nfrom concurrent.futures import *\ntime.sleep(1)\nprint(os.getuid())\n"
    start = "print(*ThreadPoolExecutor(9).map(time.sleep, [0.2] * 9))"
    with Sandbox(2, Limits(seconds=5.0), allow_unsandboxed=True) as sandbox:
        users = {ran.output for ran in sandbox.run([Program(use), Program(use)])}
        if len(users) == 1:
            pytest.skip("programs share a user here, whose threads the kernel counts together")
        assert [ran.status for ran in sandbox.run([Program(hold), Program(use + start)])] == ["timed out", "ok"]


STRANGE = {
    "no signals": "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))",
    "no children": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "private files": "os.umask(0o077)",
    "a path that begins where it stands": "sys.path[:0] = ['']",
}


@pytest.mark.parametrize(
    "state", [" ".join(STRANGE), *(pytest.param(name, marks=pytest.mark.slow) for name in STRANGE)]
)
def test_it_starts_whatever_the_environment_of_the_run(state: str, sandbox: Sandbox) -> None:
    chosen = [line for name, line in STRANGE.items() if name in state]
    script = "import os, signal, sys\n" + "\n".join(chosen) + (
        "\nfrom dsmath_jax.grading.sandbox import *\nwith Sandbox(1) as found:\n"
        "    print(found.level, found.run([Program('import sympy; print(sympy.pi)')])[0].output)"
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert (done.stdout, done.returncode) == (f"{sandbox.level} pi\n\n", 0), done.stderr


def test_any_thread_may_call_run(sandbox: Sandbox) -> None:
    found: dict[int, list[ProgramResult]] = {}

    def ask(number: int) -> None:
        found[number] = sandbox.run([Program(f"print({number})")] * 3)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: [ran.output for ran in rans] for number, rans in found.items()} == {
        number: [f"{number}\n"] * 3 for number in range(4)
    }


def test_many_programs_leave_no_descriptors(sandbox: Sandbox) -> None:
    sandbox.run([Program("")])
    before = os.listdir("/proc/self/fd")
    sandbox.run([Program("1 / 0")] * 20)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_program_is_much_faster_than_a_fresh_interpreter(sandbox: Sandbox) -> None:
    def processor_seconds(process: int) -> float:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    _, server = server_of(sandbox)
    before = processor_seconds(server)
    sandbox.run([Program("from sympy import *\nprint(Rational(1, 3))")] * 50)
    warm = (processor_seconds(server) - before) / 50
    before = sum(os.times()[2:4])
    subprocess.run([sys.executable, "-c", "import sympy"], check=True)
    assert warm < (sum(os.times()[2:4]) - before) / 5


def test_a_killed_server_loses_running_programs_and_is_replaced() -> None:
    with Sandbox(2, Limits(seconds=60.0), allow_unsandboxed=True) as sandbox:
        for which in (0, 1):
            found: list[ProgramResult] = []
            programs = [Program("import time\ntime.sleep(600)")] * 2 + [Program("print(3)")] * 2
            asking = threading.Thread(target=lambda f=found, p=programs: f.extend(sandbox.run(p)))
            processes = list(server_of(sandbox))
            asking.start()
            assert wait_until(lambda p=processes: len(children(p[1])) == 2)
            processes += children(processes[1])
            os.kill(processes[which], signal.SIGKILL)
            asking.join()
            assert [(ran.status, ran.output) for ran in found] == [("killed", "")] * 2 + [("ok", "3\n")] * 2
            assert wait_until(lambda p=processes: not any(map(runs, p)))
            assert sandbox.run([Program("print(1)")])[0].output == "1\n"


@pytest.mark.parametrize("withheld", [(), ("namespaces",)])
def test_a_killed_run_leaves_no_process_and_no_folder(withheld: tuple[str, ...], tmp_path: Path) -> None:
    script = (
        "import sys\nfrom dsmath_jax.grading.sandbox import *\n"
        f"found = Sandbox(2, Limits(seconds=600), True, _withhold={withheld!r})\n"
        "print(found._server.process.pid, flush=True)\n"
        "found.run([Program('import time\\ntime.sleep(600)')] * 2)"
    )
    path = os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)])
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": path}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        launched = int(process.stdout.readline())
        [server] = children(launched)
        assert wait_until(lambda: len(children(server)) == 2)
        processes = [launched, server, *children(server)]
        process.kill()
    assert wait_until(lambda: not any(map(runs, processes)))
    assert wait_until(lambda: list(tmp_path.iterdir()) == [])


def test_a_closed_sandbox_leaves_nothing() -> None:
    sandbox = Sandbox(1, allow_unsandboxed=True)
    assert sandbox._server is not None
    processes, folder = server_of(sandbox), Path(sandbox._server.folder)
    assert folder.is_dir()
    sandbox.close()
    assert not any(map(runs, processes))
    assert not folder.exists()


@pytest.mark.parametrize("withheld", [ALL, ("namespaces", "landlock"), ("namespaces", "seccomp")])
def test_it_refuses_to_start_where_programs_are_not_contained(withheld: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"cannot be contained here \(namespaces: it is withheld.*--allow-unsandboxed"):
        Sandbox(1, _withhold=withheld)


def test_limits_hold_where_uncontained_programs_are_allowed() -> None:
    with Sandbox(1, Limits(seconds=10.0, cpu_seconds=1.0), True, _withhold=ALL) as sandbox:
        assert sandbox.level == "unsandboxed"
        assert set(sandbox.missing) == set(ALL)
        ok, slow = sandbox.run([Program("print(1)"), Program("while True: pass")])
        assert (ok.status, ok.output, slow.status) == ("ok", "1\n", "timed out")


BREAK = """
import sys
from dsmath_jax.grading.sandbox import kernel, landlock, namespaces, probe
whole = probe.missing(sys.argv[1], sys.argv[2:], ())
namespaces.enter_files = landlock.restrict = kernel.seccomp = lambda *_: None
print(sorted(whole), sorted(probe.missing(sys.argv[1], sys.argv[2:], ())))
"""


def test_an_ineffective_mechanism_is_detected(tmp_path: Path) -> None:
    (tmp_path / probe.CANARY).touch()
    command = [sys.executable, "-c", BREAK, str(tmp_path), str(SITE)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.endswith(f"{sorted(ALL)}\n")


def test_levels() -> None:
    assert all(map(probe.contain, (ALL, ["namespaces"], ["landlock", "seccomp"])))
    assert not any(map(probe.contain, ((), ["landlock"], ["seccomp"])))
    assert probe.level({"seccomp", "namespaces"}) == "namespaces, seccomp"
    assert probe.level(["seccomp"]) == "unsandboxed but for seccomp"
    assert probe.level([]) == "unsandboxed"


@pytest.fixture(scope="module")
def as_ordinary_user() -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs Python code as the user "nobody"."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user; all other tests have run as an ordinary one")
    path = os.pathsep.join(map(str, (REPOSITORY, SITE)))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}

    def run_by(python: str, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-c", text], capture_output=True, text=True, env=environment, cwd="/",
            user=65534, group=65534, extra_groups=[],
        )  # fmt: skip

    same = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin")
    for python in filter(None, (sys.executable, same)):
        try:
            if run_by(python, "import numpy, dsmath_jax").returncode == 0:
                return functools.partial(run_by, python)
        except PermissionError:
            continue  # in the home of another user
    pytest.skip("an ordinary user has no Python with the packages here")


# Such a program must above all not reach the files of its own user.
TEXT_OF_ORDINARY_USER = """
import os, tempfile
from dsmath_jax.grading.sandbox import Program, Sandbox
ATTEMPTS = '''
import os, sympy
for attempt in (
    lambda: open(PATH), lambda: open(PATH, "a"), lambda: os.open(PATH, os.O_RDONLY | os.O_TRUNC),
    lambda: os.truncate(PATH, 0), lambda: os.chmod(PATH, 0), lambda: os.utime(PATH, (0, 0)), lambda: os.unlink(PATH),
    lambda: os.setxattr(PATH, "user.a", b"b"), lambda: os.rename(PATH, PATH + "2"), lambda: os.link(PATH, "mine"),
    lambda: os.kill(PARENT, 9),
):
    try:
        attempt()
        print("escaped")
    except OSError:
        pass
print(sympy.Rational(1, 2), os.getuid())
'''
with tempfile.NamedTemporaryFile("w") as file, Sandbox(2, _withhold={withheld!r}) as found:
    file.write("mine")
    file.flush()
    before = os.stat(file.name)
    [ran] = found.run([Program(f"PATH = {{file.name!r}}\\nPARENT = {{os.getpid()}}" + ATTEMPTS)])
    assert os.stat(file.name) == before
    print(found.level, ran.status, ran.output)
    print(open(file.name).read())
"""
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "withheld", [("namespaces",), *(pytest.param(few, marks=SLOW) for few in ((), ("landlock",), ("seccomp",)))]
)
def test_an_ordinary_user_is_protected_as_well(
    withheld: tuple[str, ...], as_ordinary_user: Callable[[str], subprocess.CompletedProcess[str]]
) -> None:
    done = as_ordinary_user(TEXT_OF_ORDINARY_USER.format(withheld=withheld))
    if "cannot be contained here" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.stdout == f"{', '.join(name for name in ALL if name not in withheld)} ok 1/2 65534\n\nmine\n", (
        done.stderr
    )


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "dsmath_jax.grading.sandbox", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=REPOSITORY)


def test_the_command_line_runs_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("print(6 * 7)\ndef solution():\n    return 8", encoding="utf-8")
    done = command(str(tmp_path / "a.py"), "--call=solution", "--allow-unsandboxed")
    assert (done.returncode, done.stdout) == (0, "42\n")
    assert '"value": "8"' in done.stderr
    absent = command(str(tmp_path / "absent.py"))
    assert absent.returncode == 2
    assert "absent.py cannot be read" in absent.stderr


def test_the_command_line_prints_the_level(sandbox: Sandbox) -> None:
    assert command("--probe").stdout.splitlines()[0] == sandbox.level
