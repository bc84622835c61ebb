"""Tests that hostile programs are contained, leave nothing behind, and do not delay others."""

import dataclasses
import functools
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dsmath_jax.grading.sandbox import Limits, Program, ProgramResult, Sandbox
from dsmath_jax.workdir import UserError
from tests.grading.sandbox.hostile import PRELUDE, PROGRAMS, Hostile

LIMITS = Limits(seconds=4.0, cpu_seconds=1.0, memory_bytes=1 << 30, output_bytes=100_000, file_bytes=4 << 20)
CONCURRENT = Program("print(6 * 7)  # concurrent")
WORD = "a-secret-word"
LEVELS = {
    "all mechanisms": (),
    "without namespaces": ("namespaces",),
    "without Landlock": ("landlock",),
    "without seccomp": ("seccomp",),
    "only namespaces": ("landlock", "seccomp"),
}
ALL_LEVELS = [  # each starts its own server
    *list(LEVELS)[:2],
    *(pytest.param(level, marks=pytest.mark.slow) for level in list(LEVELS)[2:]),
]
LISTED = ("/tmp", "/var/tmp", "/dev/shm", "/dev", "/run", "/")


@dataclasses.dataclass
class World:
    """Resources outside of the sandbox, and whether a program has reached them."""

    folder: Path
    mark: str
    listeners: dict[str, socket.socket]

    @property
    def variables(self) -> dict[str, object]:
        ports = {name: listener.getsockname() for name, listener in self.listeners.items()}
        return {
            "SECRET": str(self.folder / "home" / "secret"), "OUTSIDE": str(self.folder / "outside"), "WORD": WORD,
            "REPOSITORY": str(Path(__file__).parents[3]), "PACKAGES": str(Path(np.__file__).parents[1]),
            "TCP": ports["tcp"][1], "UDP": ports["udp"][1], "UNIX": ports["unix"], "MARK": self.mark,
            "PARENT": os.getpid(),
        }  # fmt: skip

    def damage(self) -> list[str]:
        folders = [*LISTED, self.variables["REPOSITORY"], self.variables["PACKAGES"], os.path.dirname(os.__file__)]
        found = [str(path) for folder in map(str, folders) for path in Path(folder).glob(f"*{self.mark}*")]
        found += [str(path) for path in (self.folder / "outside").iterdir()]
        if Path(str(self.variables["SECRET"])).read_text(encoding="utf-8") != WORD:
            found.append("the secret was changed")
        for name, listener in self.listeners.items():
            try:
                heard = listener.recv(1) if name == "udp" else listener.accept()
            except BlockingIOError:
                continue
            found.append(f"{name}: {heard!r}")
        return found


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="outside-"))  # pytest's folders are hidden from other users already
    folder.chmod(0o755)
    (folder / "home").mkdir(mode=0o755)
    (folder / "home" / "secret").write_text(WORD, encoding="utf-8")
    (folder / "outside").mkdir()
    (folder / "outside").chmod(0o777)
    mark = f"mark-{os.getpid()}"
    listeners = {
        "tcp": socket.create_server(("127.0.0.1", 0)),
        "udp": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "unix": socket.socket(socket.AF_UNIX),
        "abstract": socket.socket(socket.AF_UNIX),
    }
    listeners["udp"].bind(("127.0.0.1", 0))
    listeners["unix"].bind(str(folder / "home" / "socket"))
    listeners["abstract"].bind(f"\0{mark}")
    for name, listener in listeners.items():
        listener.setblocking(False)
        if name != "udp":
            listener.listen()
    yield World(folder, mark, listeners)
    for listener in listeners.values():
        listener.close()
    shutil.rmtree(folder)


@dataclasses.dataclass
class Results:
    """The results of the programs and of those that ran between them, and what they left behind."""

    ran: dict[str, ProgramResult]
    concurrent: list[ProgramResult]
    left: list[int]
    damage: list[str]
    scratch: list[str]


@pytest.fixture(scope="module")
def results(world: World) -> Callable[[str], Results]:
    @functools.cache
    def tried(level: str) -> Results | str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DSMATH_SECRET", WORD)
            try:
                sandbox = Sandbox(4, LIMITS, _withhold=LEVELS[level])
            except UserError as error:
                return str(error)
        with sandbox:
            if len(sandbox.level.split(", ")) + len(LEVELS[level]) < 3:
                return f"here is no more than {sandbox.level}"
            return _run(world, sandbox, level)

    def found(level: str) -> Results:
        results = tried(level)
        if isinstance(results, str):
            pytest.skip(results)
        return results

    return found


def _run(world: World, sandbox: Sandbox, level: str) -> Results:
    assert sandbox._server is not None
    server = sandbox._server.process.pid
    chosen = {
        name: hostile
        for name, hostile in PROGRAMS.items()
        if not (hostile.needs and hostile.needs in LEVELS[level])
        # Limits do not depend on the mechanisms; what runs into them is slow.
        and not (LEVELS[level] and hostile.hangs)
    }
    variables = world.variables | {"SERVER": server}
    laid_out = "\n".join(f"{name} = {value!r}" for name, value in variables.items())
    programs = []
    for hostile in chosen.values():
        programs += [Program(f"{PRELUDE}\n{laid_out}\n{hostile.code}", hostile.call), CONCURRENT]
    before = _descendants(server)
    ran = sandbox.run(programs)
    left = sorted(_descendants(server) ^ before)
    scratch = [path.name for path in Path(sandbox._server.folder).iterdir()]
    return Results(dict(zip(chosen, ran[::2], strict=True)), ran[1::2], left, world.damage(), scratch)


def _descendants(process: int) -> set[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    found, new = set(), {process}
    while new:
        found |= new
        new = {child for child, parent in parents.items() if parent in new} - found
    return found


def contained(hostile: Hostile, ran: ProgramResult) -> bool:
    return "escaped" not in ran.output and ran.status in hostile.statuses


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_hostile_program_is_contained(name: str, results: Callable[[str], Results]) -> None:
    ran = results("all mechanisms").ran[name]
    assert "escaped" not in ran.output, ran
    assert ran.status in PROGRAMS[name].statuses, ran


@pytest.mark.parametrize("level", ALL_LEVELS[1:])
def test_fewer_mechanisms_contain_programs_too(level: str, results: Callable[[str], Results]) -> None:
    ran = results(level).ran
    assert {name: found for name, found in ran.items() if not contained(PROGRAMS[name], found)} == {}


@pytest.mark.parametrize("level", ALL_LEVELS)
def test_hostile_programs_leave_nothing_behind(level: str, results: Callable[[str], Results]) -> None:
    found = results(level)
    assert found.damage == []
    assert found.left == []
    assert found.scratch == ["canary"]


@pytest.mark.parametrize("level", ALL_LEVELS)
def test_concurrent_programs_are_not_affected(level: str, results: Callable[[str], Results]) -> None:
    for ran in results(level).concurrent:
        assert (ran.status, ran.output, ran.error) == ("ok", "42\n", "")
