r"""Checks miniF2F's formal proofs with Isabelle, each in its own theory file.

Unchecked proofs never count: without `isabelle` on the PATH every grade is "not checked" and there is no accuracy
(`summary`). A theory consists of the data set's header and statement and the model's proof, so that a model cannot
change the statement or add axioms.

Isabelle would run ML programs in a theory with the user's rights. A proof that could contain ML, or that could cheat
(`sorry`, oracles), is refused before Isabelle sees it, and is not written to a file.

As in the paper's evaluation, a step that ends in `sledgehammer` is tried with a list of proof methods; unlike there,
sledgehammer itself is not run.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from dsmath_jax.evaluation.summary import NOT_CHECKED
from dsmath_jax.grading.code import FENCED
from dsmath_jax.grading.grades import Grade
from dsmath_jax.grading.process_groups import reap
from dsmath_jax.workdir import atomic_write

NO_ISABELLE = f"{NOT_CHECKED}: no isabelle on the PATH"
SECONDS, BASE_SECONDS, GRACE = 120.0, 7200.0, 60.0  # for a proof, for the libraries, for the start and end of Isabelle

HEADER = re.compile(r".*?\btheory\s+(?P<name>\S+)(?P<imports>\s+imports\s.*?)\bbegin\b", re.DOTALL)
STATEMENT = re.compile(r"^(?:theorem|lemma)\b", re.MULTILINE)
IMPORT = re.compile(r'"[^"]+"|[\w.]+')
NEXT_PROBLEM = "\nInformal:"
TOKEN = re.compile(
    r"""\(\*|@\{|\{\*|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`|\\<open>|‹|\\<\^?\w+>|[^\W\d][\w'.]*|.""", re.DOTALL
)
FIRST = frozenset("proof by apply using unfolding supply subgoal including sledgehammer normalhammer .".split())
QUOTES = re.compile(r"""^(?:["`‹]|\\<open>)\s*|\s*(?:["`›]|\\<close>)$""")
HAMMERS = ("sledgehammer", "normalhammer")
METHODS = (
    "auto", "simp", "blast", "fastforce", "force", "eval", "presburger", "arith", "linarith", "auto simp: field_simps",
)  # fmt: skip
HAMMERED = "by ({})".format(" | ".join(f"({method}; fail)" for method in METHODS))  # the first that proves the goal
FORBIDDEN = re.compile(
    # ends a proof without proving
    r"sorry|oops|\\<proof>|axiomatization|quick_and_dirty|skip_proofs?|Skip_Proof|cheat\w*|\w*oracle\w*"
    # runs ML or writes files
    r"|S?ML(?:_\w+)?|\w*tactic|\w*setup|\w*_translation|\w*declaration|simproc"
    r"|code_(?:printing|reflect|reserved|identifier|monad)|export_\w+|scala_\w+|\w+_files?"
    # is not part of a single proof
    r"|theory|imports|begin|end|theorem|lemma|corollary|proposition|schematic_goal|notepad"
)
# Antiquotations (which may run ML), old-style text, and letters written as numbers.
CONTROL = re.compile(r"@\{|\{\*|\\<\^(?!(?:sub|sup|bold)>)\w+>|\\\d")
PARENTS = ("HOL-Analysis", "HOL-Number_Theory", "HOL-Computational_Algebra")  # each includes those after it


class Refused(Exception):
    """The reason why a completion is not checked."""


class Attempt(NamedTuple):
    """A completion to check.

    Attributes:
      name: the unique name of its theory and file: letters, digits and "_" ("imo_1959_p1_0").
      answer: the record's answer: header and statement.
      completion: the text of the model.
    """

    name: str
    answer: str
    completion: str


def theory_name(answer: str, sample: int) -> str:
    """Returns the name of the theory of a problem's sample (-1 is the greedy one)."""
    return f"{_split(answer)[0]['name']}_{'greedy' if sample < 0 else sample}"


def theory(attempt: Attempt) -> str:
    """Returns the theory with the proof of a completion.

    Raises:
      Refused: it has no proof, or one that cheats, runs ML or is of another statement.
    """
    header, statement = _split(attempt.answer)
    top = f"theory {attempt.name}{header['imports']}begin{attempt.answer[header.end() : -len(statement)]}"
    return f"{top}{statement}\n{proof(attempt.completion, statement)}\n\nend\n"


def proof(completion: str, statement: str) -> str:
    """Returns the proof in a completion, the text after the statement if it is repeated.

    Raises:
      Refused: as in `theory`.
    """
    text = completion.split(NEXT_PROBLEM)[0]
    if blocks := FENCED.findall(text):
        text = blocks[-1][1]
    if match := re.search(r"\s+".join(map(re.escape, statement.split())), text):
        text = text[match.end() :]
    elif HEADER.match(text) or STATEMENT.match(text.strip()):
        raise Refused("the statement was changed")
    own = STATEMENT.split(text)[0]  # a base model continues with the next problem
    return _hammered(re.sub(r"\bend\s*\Z", "", own).strip())


def grade_theories(attempts: Sequence[Attempt], folder: Path, seconds: float = SECONDS, jobs: int = 0) -> list[Grade]:
    """Writes each attempt as `folder/NAME/NAME.thy` and checks it with Isabelle.

    `isabelle build -D folder` does the same by hand, on any machine.

    Args:
      attempts: attempts with distinct names.
      folder: the folder of the theories and their session files.
      seconds: time limit of a proof.
      jobs: number of parallel checks; 0 for one per two processors.

    Returns:
      grades in order; the answer is the theory.
    """
    theories: dict[str, str] = {}
    refused: dict[str, str] = {}
    for attempt in attempts:
        try:
            theories[attempt.name] = theory(attempt)
        except Refused as why:
            refused[attempt.name] = f"refused: {why}"
    export(theories, folder, seconds)
    if shutil.which("isabelle") is None:  # without a checker there is no accuracy, even if all proofs are refused
        refused = {name: f"{NO_ISABELLE}; {why}" for name, why in refused.items()}
    verdicts = check(theories, folder, seconds, jobs) | refused
    return [Grade(theories.get(each.name), verdicts[each.name] == "proven", verdicts[each.name]) for each in attempts]


def export(theories: Mapping[str, str], folder: Path, seconds: float = SECONDS) -> None:
    """Writes theories by name, each with its own session on top of a session with its imports."""
    bases = {_base(text): _header(text)["imports"] for text in theories.values()}
    for name, imports in bases.items():
        parent, *others = _sessions(imports)
        _write(folder, name, f"theory {name}{imports}begin\nend\n", name, parent, others, 0)
    for name, text in theories.items():
        _write(folder, name, text, session(name), _base(text), (), seconds)
    with atomic_write(folder / "ROOTS") as file:  # of earlier calls too
        file.writelines(f"{path.parent.name}\n" for path in sorted(folder.glob("*/ROOT")))


def check(theories: Mapping[str, str], folder: Path, seconds: float = SECONDS, jobs: int = 0) -> dict[str, str]:
    """Checks exported theories; returns "proven", "not proven: ..." or "not checked: ..." by name.

    A theory whose imports are not installed is not checked.
    """
    isabelle = shutil.which("isabelle")
    if isabelle is None:
        return dict.fromkeys(theories, NO_ISABELLE)
    built = {
        base: _build([isabelle, "build", "-b", "-d", str(folder / base), base], BASE_SECONDS)
        for base in dict.fromkeys(map(_base, theories.values()))
    }

    def verdict(name: str) -> str:
        base = _base(theories[name])
        if built[base]:
            return f"{NOT_CHECKED}: its imports: {built[base]}"
        folders = [part for each in (base, name) for part in ("-d", str(folder / each))]
        strictly = ["-f", "-o", "quick_and_dirty=false"]
        error = _build([isabelle, "build", *strictly, *folders, session(name)], seconds + GRACE)
        return f"not proven: {error}" if error else "proven"

    with ThreadPoolExecutor(jobs or max(1, len(os.sched_getaffinity(0)) // 2)) as pool:
        return dict(zip(theories, pool.map(verdict, theories), strict=True))


def session(name: str) -> str:
    """Returns the name of the session that checks a theory."""
    return f"check_{name}"


def _header(text: str) -> re.Match[str]:
    header = HEADER.match(text)
    if header is None:
        raise Refused("the problem has no theory header")
    return header


def _split(answer: str) -> tuple[re.Match[str], str]:
    """Splits a record's answer into the match of its header and its statement."""
    header = _header(answer)
    statement = STATEMENT.search(answer, header.end())
    if statement is None:
        raise Refused("the problem states no theorem")
    return header, answer[statement.start() :]


def _hammered(text: str) -> str:
    """Replaces the hammers of a proof; raises Refused where it must not be checked."""
    tokens = list(_outer(text))
    if not tokens:
        raise Refused("there is no proof")
    if tokens[0][0] not in FIRST:
        raise Refused(f"a proof does not begin with '{tokens[0][0][:40]}'")
    for token, _ in tokens:
        name = QUOTES.sub("", token)  # a name may be quoted
        forbidden = CONTROL.search(token) or next(
            filter(None, map(FORBIDDEN.fullmatch, (name, *name.split(".")))), None
        )
        if forbidden:
            raise Refused(f"it holds '{forbidden[0]}'")
    for token, start in reversed(tokens):
        if token in HAMMERS:
            text = text[:start] + HAMMERED + text[start + len(token) :]
    return text


def _outer(text: str) -> Iterator[tuple[str, int]]:
    """Yields the tokens of Isabelle's outer syntax with their positions, without comments."""
    position = 0
    while match := TOKEN.match(text, position):
        start, position = match.span()
        if match[0] == "(*":
            position = _closing(text, position, r"\(\*", r"\*\)")
            continue
        if match[0] in ("\\<open>", "‹"):
            position = _closing(text, position, r"\\<open>|‹", r"\\<close>|›")
        elif match[0] in ('"', "`"):
            raise Refused("a string is not closed")
        if not match[0].isspace():
            yield text[start:position], start


def _closing(text: str, position: int, opening: str, closing: str) -> int:
    depth = 1
    for match in re.compile(f"(?P<opening>{opening})|{closing}").finditer(text, position):
        depth += 1 if match["opening"] else -1
        if depth == 0:
            return match.end()
    raise Refused("a comment or cartouche is not closed")


def _base(text: str) -> str:
    """Returns the name of the session with a theory's imports; equal imports have equal names."""
    names = [name.strip('"') for name in IMPORT.findall(_header(text)["imports"])[1:]]
    return "dsmath_" + re.sub(r"\W", "_", "_".join(sorted(set(names))))


def _sessions(imports: str) -> list[str]:
    """Returns the sessions of imports; the first is the parent, which includes most of them."""
    names = [name.strip('"').partition(".")[0] for name in IMPORT.findall(imports) if name.startswith('"')]
    parent = next((name for name in PARENTS if name in names), "HOL")
    return [parent, *(name for name in dict.fromkeys(names) if name != parent)]


def _write(
    folder: Path, name: str, text: str, session: str, parent: str, others: Sequence[str], seconds: float
) -> None:
    """Writes a theory and its own session; 0 seconds mean no limit."""
    options = f"document = false, quick_and_dirty = false, threads = 1, timeout = {seconds:g}"
    sessions = "".join(f'\n    "{other}"' for other in others)
    with atomic_write(folder / name / f"{name}.thy") as file:
        file.write(text)
    with atomic_write(folder / name / "ROOT") as file:
        file.write(f'session {session} = "{parent}" +\n  options [{options}]\n')
        file.write(f"  sessions{sessions}\n" if sessions else "")
        file.write(f"  theories {name}\n")


def _build(command: Sequence[str], seconds: float) -> str:
    """Runs Isabelle; returns its first error, or ""."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        return f"timed out after {seconds:g} s"
    except BaseException:
        _end(process)
        raise
    if process.returncode == 0:
        return ""
    errors = [line.removeprefix("***").strip() for line in output.splitlines() if line.startswith("***")]
    return next(filter(None, errors), f"isabelle ended with code {process.returncode}")[:300]


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a process and its group; on SIGTERM Isabelle also ends the provers, which it runs in other groups."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(ChildProcessError):  # an interrupt that came as it ended has reaped it
        reap(process.pid, grace=5.0)
    process.wait()
    if process.stdout:
        process.stdout.close()
