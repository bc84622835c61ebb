r"""miniF2F's formal proofs: theories of what a model wrote, one file each, checked where there is an Isabelle.

A proof that nobody checked is never counted as one: without `isabelle` on the PATH every grade says "not checked", and
an accuracy of such grades is none (`summary`). What is checked is the data set's own header and statement with the
model's proof behind it, so a statement that it changed, weakened or wrote axioms for is not what gets proven.

A theory can hold programs in ML, which Isabelle would run with the user's rights. A proof that could bring any, or
that could cheat (`sorry`, oracles), is refused unread: before any Isabelle sees it, and without a file of its own.

As in the paper's evaluation, a step that ends in `sledgehammer` is tried with a row of proof methods; unlike there, the
hammer itself is not.
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
SECONDS, BASE_SECONDS, GRACE = 120.0, 7200.0, 60.0  # for a proof, for the libraries, for Isabelle's own start and end

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
HAMMERED = "by ({})".format(" | ".join(f"({method}; fail)" for method in METHODS))  # the first that leaves no goal
FORBIDDEN = re.compile(
    # what ends a proof without one
    r"sorry|oops|\\<proof>|axiomatization|quick_and_dirty|skip_proofs?|Skip_Proof|cheat\w*|\w*oracle\w*"
    # what runs ML or writes files
    r"|S?ML(?:_\w+)?|\w*tactic|\w*setup|\w*_translation|\w*declaration|simproc"
    r"|code_(?:printing|reflect|reserved|identifier|monad)|export_\w+|scala_\w+|\w+_files?"
    # what is no part of one proof
    r"|theory|imports|begin|end|theorem|lemma|corollary|proposition|schematic_goal|notepad"
)
# Antiquotations (which may run ML), text of the old kind, and letters written as numbers.
CONTROL = re.compile(r"@\{|\{\*|\\<\^(?!(?:sub|sup|bold)>)\w+>|\\\d")
PARENTS = ("HOL-Analysis", "HOL-Number_Theory", "HOL-Computational_Algebra")  # each has those behind it within reach


class Refused(Exception):
    """Why a completion is no proof that may be checked."""


class Attempt(NamedTuple):
    """A completion to check.

    Attributes:
      name: of its theory and file: letters, digits and "_", unique ("imo_1959_p1_0").
      answer: the record's: header and statement.
      completion: what the model wrote.
    """

    name: str
    answer: str
    completion: str


def theory_name(answer: str, sample: int) -> str:
    """The name of the theory with a problem's sample (-1 is the greedy one)."""
    return f"{_split(answer)[0]['name']}_{'greedy' if sample < 0 else sample}"


def theory(attempt: Attempt) -> str:
    """The whole theory that a completion makes.

    Raises:
      Refused: it holds no proof, or one that cheats, runs ML or is of another statement.
    """
    header, statement = _split(attempt.answer)
    top = f"theory {attempt.name}{header['imports']}begin{attempt.answer[header.end() : -len(statement)]}"
    return f"{top}{statement}\n{proof(attempt.completion, statement)}\n\nend\n"


def proof(completion: str, statement: str) -> str:
    """The proof in a completion: what follows the statement where it is repeated, else what goes on from it.

    Raises:
      Refused: as `theory`.
    """
    text = completion.split(NEXT_PROBLEM)[0]
    if blocks := FENCED.findall(text):
        text = blocks[-1][1]
    if found := re.search(r"\s+".join(map(re.escape, statement.split())), text):
        text = text[found.end() :]
    elif HEADER.match(text) or STATEMENT.match(text.strip()):
        raise Refused("the statement was changed")
    own = STATEMENT.split(text)[0]  # a base model goes on to the next problem
    return _hammered(re.sub(r"\bend\s*\Z", "", own).strip())


def grade_theories(attempts: Sequence[Attempt], folder: Path, seconds: float = SECONDS, jobs: int = 0) -> list[Grade]:
    """Writes each attempt as `folder/NAME/NAME.thy` and has Isabelle check it.

    By hand the same is `isabelle build -D folder`, at any time and on any machine.

    Args:
      attempts: their names differ.
      folder: where the theories go, with the session files that they are checked by.
      seconds: for one proof.
      jobs: that run at once; 0 for one on two processors.

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
    if shutil.which("isabelle") is None:  # an accuracy without a checker is none, even where no proof is fit for one
        refused = {name: f"{NO_ISABELLE}; {why}" for name, why in refused.items()}
    verdicts = check(theories, folder, seconds, jobs) | refused
    return [Grade(theories.get(each.name), verdicts[each.name] == "proven", verdicts[each.name]) for each in attempts]


def export(theories: Mapping[str, str], folder: Path, seconds: float = SECONDS) -> None:
    """Writes theories by name, each with a session of its own upon one that holds its imports."""
    bases = {_base(text): _header(text)["imports"] for text in theories.values()}
    for name, imports in bases.items():
        parent, *others = _sessions(imports)
        _write(folder, name, f"theory {name}{imports}begin\nend\n", name, parent, others, 0)
    for name, text in theories.items():
        _write(folder, name, text, session(name), _base(text), (), seconds)
    with atomic_write(folder / "ROOTS") as file:  # of earlier ones too
        file.writelines(f"{path.parent.name}\n" for path in sorted(folder.glob("*/ROOT")))


def check(theories: Mapping[str, str], folder: Path, seconds: float = SECONDS, jobs: int = 0) -> dict[str, str]:
    """What Isabelle says of exported theories, by name: "proven", "not proven: ..." or "not checked: ...".

    A theory whose imports Isabelle does not have is not checked.
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
        folders = [part for place in (base, name) for part in ("-d", str(folder / place))]
        strictly = ["-f", "-o", "quick_and_dirty=false"]
        wrong = _build([isabelle, "build", *strictly, *folders, session(name)], seconds + GRACE)
        return f"not proven: {wrong}" if wrong else "proven"

    with ThreadPoolExecutor(jobs or max(1, len(os.sched_getaffinity(0)) // 2)) as pool:
        return dict(zip(theories, pool.map(verdict, theories), strict=True))


def session(name: str) -> str:
    """The session that checks a theory."""
    return f"check_{name}"


def _header(text: str) -> re.Match[str]:
    header = HEADER.match(text)
    if header is None:
        raise Refused("the problem has no theory header")
    return header


def _split(answer: str) -> tuple[re.Match[str], str]:
    """A record's answer at its header, and its statement."""
    header = _header(answer)
    statement = STATEMENT.search(answer, header.end())
    if statement is None:
        raise Refused("the problem states no theorem")
    return header, answer[statement.start() :]


def _hammered(text: str) -> str:
    """A proof with its hammers replaced; Refused where it must not be checked."""
    tokens = list(_outer(text))
    if not tokens:
        raise Refused("there is no proof")
    if tokens[0][0] not in FIRST:
        raise Refused(f"a proof does not begin with '{tokens[0][0][:40]}'")
    for token, _ in tokens:
        name = QUOTES.sub("", token)  # a name may be quoted
        wrong = CONTROL.search(token) or next(filter(None, map(FORBIDDEN.fullmatch, (name, *name.split(".")))), None)
        if wrong:
            raise Refused(f"it holds '{wrong[0]}'")
    for token, start in reversed(tokens):
        if token in HAMMERS:
            text = text[:start] + HAMMERED + text[start + len(token) :]
    return text


def _outer(text: str) -> Iterator[tuple[str, int]]:
    """The words, signs, strings and cartouches of a text in Isabelle's outer syntax with their places, no comments."""
    place = 0
    while found := TOKEN.match(text, place):
        start, place = found.span()
        if found[0] == "(*":
            place = _closing(text, place, r"\(\*", r"\*\)")
            continue
        if found[0] in ("\\<open>", "‹"):
            place = _closing(text, place, r"\\<open>|‹", r"\\<close>|›")
        elif found[0] in ('"', "`"):
            raise Refused("a string is not closed")
        if not found[0].isspace():
            yield text[start:place], start


def _closing(text: str, place: int, opening: str, closing: str) -> int:
    depth = 1
    for found in re.compile(f"(?P<opening>{opening})|{closing}").finditer(text, place):
        depth += 1 if found["opening"] else -1
        if depth == 0:
            return found.end()
    raise Refused("a comment or cartouche is not closed")


def _base(text: str) -> str:
    """The name of the session that holds a theory's imports: the same for the same imports."""
    names = [name.strip('"') for name in IMPORT.findall(_header(text)["imports"])[1:]]
    return "dsmath_" + re.sub(r"\W", "_", "_".join(sorted(set(names))))


def _sessions(imports: str) -> list[str]:
    """The sessions that imports come from; first the parent, the one that has most of them."""
    names = [name.strip('"').partition(".")[0] for name in IMPORT.findall(imports) if name.startswith('"')]
    parent = next((name for name in PARENTS if name in names), "HOL")
    return [parent, *(name for name in dict.fromkeys(names) if name != parent)]


def _write(
    folder: Path, name: str, text: str, session: str, parent: str, others: Sequence[str], seconds: float
) -> None:
    """A theory and the session that it is alone in; 0 seconds are no limit."""
    options = f"document = false, quick_and_dirty = false, threads = 1, timeout = {seconds:g}"
    sessions = "".join(f'\n    "{other}"' for other in others)
    with atomic_write(folder / name / f"{name}.thy") as file:
        file.write(text)
    with atomic_write(folder / name / "ROOT") as file:
        file.write(f'session {session} = "{parent}" +\n  options [{options}]\n')
        file.write(f"  sessions{sessions}\n" if sessions else "")
        file.write(f"  theories {name}\n")


def _build(command: Sequence[str], seconds: float) -> str:
    """Runs Isabelle; "" where all went well, else what did not."""
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
    """Ends a process and its group; on SIGTERM Isabelle also ends the provers, which it runs in groups of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(ChildProcessError):  # an interrupt that came as it ended has reaped it
        reap(process.pid, grace=5.0)
    process.wait()
    if process.stdout:
        process.stdout.close()
