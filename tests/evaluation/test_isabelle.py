"""Tests of theories from completions, checked by a fake Isabelle."""

import os
import re
import stat
import time
from pathlib import Path

import pytest

from dsmath_jax.data import datasets
from dsmath_jax.evaluation import isabelle
from dsmath_jax.evaluation.isabelle import Attempt, Refused
from dsmath_jax.evaluation.summary import NOT_CHECKED
from dsmath_jax.grading.grades import Grade

STATEMENT = 'theorem imo_1959_p1:\n  fixes n :: nat\n  assumes "n > 0"\n  shows "gcd n (n + 1) = 1"'
HEADER = (
    '(*\n  Authors: nobody\n*)\n\ntheory imo_1959_p1 \n  imports Complex_Main\n  "HOL-Number_Theory.Number_Theory"\n'
    '  "HOL-Computational_Algebra.Computational_Algebra"\nbegin'
)
ANSWER = f"{HEADER}\n\n{STATEMENT}"
# Comments in the proof make it slow, or fail.
FAKE = """#!/bin/sh
echo "$@" >> {log}
for last; do :; done
file=$(find {folder} -path "*/${{last#check_}}/${{last#check_}}.thy")
case "$last" in check_*) ;; *) grep -q AFP "$file" && {{ echo "*** Undefined session(s): AFP"; exit 2; }} ;; esac
grep -q SLOW "$file" && {{ sleep 600 & echo $! > {log}.child; wait; }}
grep -q WRONG "$file" && {{ echo "check FAILED"; echo "*** Failed to finish proof (line 9)"; exit 1; }}
exit 0
"""


def attempts(*completions: str, answer: str = ANSWER) -> list[Attempt]:
    return [Attempt(isabelle.theory_name(answer, n), answer, text) for n, text in enumerate(completions)]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake `isabelle` on the PATH; returns the file that its calls are written to."""
    script, log = tmp_path / "bin" / "isabelle", tmp_path / "calls"
    script.parent.mkdir()
    script.write_text(FAKE.format(log=log, folder=tmp_path / "theories"))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return log


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_theory_is_the_data_sets_header_and_statement_with_the_proof() -> None:
    (attempt,) = attempts("\n  using assms by simp\n")
    assert isabelle.theory(attempt) == (
        'theory imo_1959_p1_0 \n  imports Complex_Main\n  "HOL-Number_Theory.Number_Theory"\n'
        f'  "HOL-Computational_Algebra.Computational_Algebra"\nbegin\n\n{STATEMENT}\nusing assms by simp\n\nend\n'
    )


def test_theories_are_named_after_problem_and_sample() -> None:
    assert isabelle.theory_name(ANSWER, 3) == "imo_1959_p1_3"
    assert isabelle.theory_name(ANSWER, -1) == "imo_1959_p1_greedy"


def test_what_a_header_defines_stays() -> None:
    answer = f'theory t imports Complex_Main\nbegin\n\ndefinition d where "d = 1"\n\n{STATEMENT}'
    assert 'begin\n\ndefinition d where "d = 1"\n\ntheorem imo' in isabelle.theory(Attempt("t_0", answer, "by simp"))


@pytest.mark.parametrize(
    ("completion", "proof"),
    [
        ("by simp", "by simp"),
        ("proof -\n  show ?thesis by simp\nqed\n\nInformal:\nnext", "proof -\n  show ?thesis by simp\nqed"),
        ("by simp\n\ntheorem other:\n  shows True\n  sorry", "by simp"),  # a base model continues
        (f"{STATEMENT}\n  by simp", "by simp"),
        (f"```isabelle\n{STATEMENT.replace(chr(10), '  ')}\n  by simp\n```\nDone.", "by simp"),
        (f"Here:\n```isabelle\n{HEADER}\n\n{STATEMENT}\n  by simp\n\nend\n```", "by simp"),
        ("```\nby simp\n```", "by simp"),
        (
            "(* It (* really *) is sorry, a theorem *)\n  by simp",
            "(* It (* really *) is sorry, a theorem *)\n  by simp",
        ),
        ('using assms by (metis "gcd.commute")', 'using assms by (metis "gcd.commute")'),
        ('have "x\\<^sub>1 = y" by simp', None),
        ('proof -\n  have "x\\<^sub>1 = y" by simp\nqed', 'proof -\n  have "x\\<^sub>1 = y" by simp\nqed'),
        ("proof -\n  note \\<open>n > 0\\<close>\n  show ?thesis ..\nqed", None),
        (".", "."),
    ],
)
def test_the_proof_of_a_completion(completion: str, proof: str | None) -> None:
    if proof is None and not completion.startswith("proof"):
        with pytest.raises(Refused, match="does not begin"):
            isabelle.proof(completion, STATEMENT)
    else:
        assert isabelle.proof(completion, STATEMENT) == (proof or completion)


def test_a_hammer_becomes_a_list_of_methods_that_must_prove_the_goal() -> None:
    steps = '(* sledgehammer *)\n  have "normalhammer = 1" sledgehammer\n  show ?thesis using assms normalhammer'
    text = f"proof -\n  {steps}\nqed"
    found = isabelle.proof(text, STATEMENT)
    assert found.count(isabelle.HAMMERED) == 2
    assert "(* sledgehammer *)" in found
    assert '"normalhammer = 1"' in found
    assert isabelle.HAMMERED.startswith("by ((auto; fail) | (simp; fail) | ")


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("", "there is no proof"),
        ("(* nothing *)", "there is no proof"),
        ("sorry", "does not begin with 'sorry'"),
        ("oops", "does not begin with 'oops'"),
        ('if "False" by simp', "does not begin with 'if'"),  # it would weaken the statement
        ("and True by simp", "does not begin with 'and'"),
        ("The proof is easy.", "does not begin with 'The'"),
        ("apply simp sorry", "'sorry'"),
        ("apply simp oops", "'oops'"),
        ("proof -\n  show ?thesis \\<proof>\nqed", "<proof>"),
        ("using [[quick_and_dirty]] by simp", "'quick_and_dirty'"),
        ("using [[smt_oracle = true]] by smt", "'smt_oracle'"),
        ('by simp\nend\naxiomatization where false: "False"', "'end'"),
        ('by simp\nML \\<open>OS.Process.system "id"\\<close>', "'ML'"),
        ("by (tactic \\<open>all_tac\\<close>)", "'tactic'"),
        ('by ("tactic" ‹all_tac›)', "'tactic'"),
        ('by ("\\116actic" ‹all_tac›)', "it holds"),
        ("by (\\<open>tactic\\<close> ‹all_tac›)", "'tactic'"),
        ("by (Pure.raw_tactic ‹all_tac›)", "'raw_tactic'"),
        ("proof -\n  ML_prf ‹val x = 1›\nqed", "'ML_prf'"),
        ("by simp\nsetup ‹I›", "'setup'"),
        ("by simp\nmethod_setup m = ‹x›", "'method_setup'"),
        ("by simp\nparse_translation ‹[]›", "'parse_translation'"),
        ("by simp\ndeclaration ‹K I›", "'declaration'"),
        ('by simp\nML_file "x.ML"', "'ML_file'"),
        ("by simp\ncode_printing constant f", "'code_printing'"),
        ("by simp\ntext ‹@{ML ‹1›}›", "'@{'"),
        ("by simp\ntext {* old *}", "'{\\*'"),
        ("by simp\ntext \\<open>\\<^ML>\\<open>1\\<close>\\<close>", "<\\^ML>"),
        ('by (metis "unclosed)', "a string is not closed"),
        ("by simp (* unclosed", "is not closed"),
        ("by simp \\<open>unclosed", "is not closed"),
        (STATEMENT.replace("= 1", "= gcd n (n + 1)") + "\n  by simp", "the statement was changed"),
        (f"{HEADER}\n\nlemma imo_1959_p1: True\n  by simp\nend", "the statement was changed"),
    ],
)
def test_forbidden_proofs_are_refused(completion: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        isabelle.theory(attempts(completion)[0])


@pytest.mark.usefixtures("nowhere")
def test_without_isabelle_proofs_are_neither_proven_nor_refuted(tmp_path: Path) -> None:
    grades = isabelle.grade_theories(attempts("by simp", "sorry"), tmp_path / "theories")
    assert [grade.correct for grade in grades] == [False, False]
    assert grades[0].reason == "not checked: no isabelle on the PATH"
    assert grades[0].reason.startswith(NOT_CHECKED)
    reason = "not checked: no isabelle on the PATH; refused: a proof does not begin with 'sorry'"
    assert grades[1] == Grade(None, False, reason)
    exported = tmp_path / "theories" / "imo_1959_p1_0" / "imo_1959_p1_0.thy"
    assert exported.read_text() == grades[0].answer
    assert not (tmp_path / "theories" / "imo_1959_p1_1").exists()


def test_the_layout_of_sessions(tmp_path: Path) -> None:
    theories = {each.name: isabelle.theory(each) for each in attempts("by simp", "by auto")}
    isabelle.export(theories, tmp_path, seconds=30)
    base = "dsmath_Complex_Main_HOL_Computational_Algebra_Computational_Algebra_HOL_Number_Theory_Number_Theory"
    assert (tmp_path / "ROOTS").read_text().split() == [base, "imo_1959_p1_0", "imo_1959_p1_1"]
    assert (tmp_path / base / "ROOT").read_text() == (
        f'session {base} = "HOL-Number_Theory" +\n'
        "  options [document = false, quick_and_dirty = false, threads = 1, timeout = 0]\n"
        '  sessions\n    "HOL-Computational_Algebra"\n'
        f"  theories {base}\n"
    )
    assert (tmp_path / base / f"{base}.thy").read_text().startswith(f"theory {base} \n  imports Complex_Main\n")
    assert (tmp_path / "imo_1959_p1_1" / "ROOT").read_text() == (
        f'session check_imo_1959_p1_1 = "{base}" +\n'
        "  options [document = false, quick_and_dirty = false, threads = 1, timeout = 30]\n"
        "  theories imo_1959_p1_1\n"
    )
    assert re.match(r"theory imo_1959_p1_1\s", (tmp_path / "imo_1959_p1_1" / "imo_1959_p1_1.thy").read_text())


def test_isabelle_decides(tmp_path: Path, fake: Path) -> None:
    found = isabelle.grade_theories(attempts("by simp", "by (* WRONG *) simp", "sorry"), tmp_path / "theories")
    assert [(grade.correct, grade.reason) for grade in found] == [
        (True, "proven"),
        (False, "not proven: Failed to finish proof (line 9)"),
        (False, "refused: a proof does not begin with 'sorry'"),
    ]
    assert not any(grade.reason.startswith(NOT_CHECKED) for grade in found)
    first, *others = fake.read_text().splitlines()
    assert first.startswith("build -b -d ")
    assert len(others) == 2
    assert all(call.startswith("build -f -o quick_and_dirty=false -d ") for call in others)


def test_a_proof_with_missing_imports_is_not_checked(tmp_path: Path, fake: Path) -> None:
    answer = ANSWER.replace("HOL-Number_Theory.Number_Theory", "AFP.Vieta")
    (grade,) = isabelle.grade_theories(attempts("by simp", answer=answer), tmp_path / "theories")
    assert grade.reason == "not checked: its imports: Undefined session(s): AFP"
    assert grade.reason.startswith(NOT_CHECKED)


def test_a_hanging_proof_is_killed_with_its_children(
    tmp_path: Path, fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isabelle, "GRACE", 0.5)
    found = isabelle.grade_theories(
        attempts("by (* SLOW *) simp", "by simp"), tmp_path / "theories", seconds=0.5, jobs=2
    )
    assert [(grade.correct, grade.reason) for grade in found] == [
        (False, "not proven: timed out after 1 s"),
        (True, "proven"),
    ]
    child = int(fake.with_suffix(".child").read_text())
    until = time.monotonic() + 10
    while _runs(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not _runs(child)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_problem_of_minif2f_makes_a_theory(real_data: Path) -> None:
    for split in ("minif2f/test", "minif2f/validation"):
        for record in datasets.load(split, real_data):
            name = isabelle.theory_name(record.answer, 0)
            assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)
            text = isabelle.theory(Attempt(name, record.answer, "by auto"))
            assert text.startswith(f"theory {name}")
            assert text.endswith("\nby auto\n\nend\n")
            assert record.answer.split("begin", 1)[1].strip() in text
