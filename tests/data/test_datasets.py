"""Records of data sets: every format on small rows, the real sets in full, and invalid rows."""

import contextlib
import csv
import dataclasses
import gzip
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from dsmath_jax.data import dataset_formats, datasets
from dsmath_jax.data.datasets import Record
from dsmath_jax.workdir import UserError, write_json, write_jsonl

GSM8K = {"question": " How many?\n", "answer": "He has 48/2 = <<48/2=24>>24.\nThen 1<<1=1>> more.\n#### 1,024"}
TOY = {"id": "t7", "question": "How many?", "solution": "One. The answer is 1.", "answer": "1"}
MATH = {
    "problem": "Find $x$.",
    "level": "Level 5",
    "type": "Algebra",
    "solution": r"So \boxed{1}, no: $\boxed{\frac{1}{2}}$.",
}
OCW = {"problem": "How far?", "solution": r"It is $\boxed{2}$.", "answer": "2", "id": "0"}
SAT = {"id": "0", "question": "Set A?", "options": "A) Zero of A\nB) One", "Answer": "B"}
MMLU = {"question": "Which?", "options": [" one", "two"], "answer": "B", "topic": "astronomy", "id": 0}
CMATH = {"grade": 3, "golden": "18", "reasoning_step": 1, "num_digits": 2}
MGSM = {"id": "0", "messages": [{"role": "user", "content": "多少钱？"}], "answer": "18"}
CLOZE = {
    "passage": None,
    "question": "则 $a=$\\\\\n",
    "options": None,
    "label": None,
    "answer": "2",
    "other": {"source": "卷"},
}
QA = {
    "passage": None,
    "question": "则 $a=$",
    "options": ["(A)$1$", "(B)2", "(C)3"],
    "label": "A C",
    "answer": None,
    "other": None,
}
PASSAGE = {
    "passage": "A story.",
    "question": "Who?",
    "options": ["(A)He", "(B)She"],
    "label": "B",
    "other": {"solution": "So B."},
}
MINIF2F = {
    "problem_name": "imo_1959_p1", "formal_statement": "theorem x:\n  shows", "informal_statement": "Show it.",
    "informal_proof": "Clear.", "header": "theory x imports Main\nbegin\n\n", "id": "test-0",
}  # fmt: skip
HUMANEVAL = {
    "task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": "    return 1\n",
    "test": "\n\ndef check(g):\n    assert g() == 1\n",
}  # fmt: skip
MBPP = {
    "text": "Write f.",
    "code": "def f():\r\n  return n",
    "test_setup_code": "n = 1",
    "test_list": ["assert f() == 1", "assert n"],
}
FORMAL = "theory x imports Main\nbegin\n\ntheorem x:\n  shows"
CHECK = "def check(g):\n    assert g() == 1\n\ncheck(f)"
MBPP_RECORD = Record(
    "mbpp/dev/2", "Write f.", "def f():\n  return n", "n = 1\nassert f() == 1\nassert n", kind="program",
    prompt="Write f. Your code should pass these tests:\n\nn = 1\nassert f() == 1\nassert n",
    instruction="Put the program in a ```python block.",
)  # fmt: skip
PROOF = {
    "prompt": f"(*### Problem\n\nShow it.\n\n### Solution\n\nClear. *)\n\nFormal:\n{FORMAL}",
    "instruction": "Go on with the proof in Isabelle/HOL, from where the statement ends.",
}
FUNCTION = "Complete this function, and put the whole program in a ```python block."
STEPS = 'Think step by step, and end with "So the answer is" and the answer.'


KINDS = {
    "number": ("toy", "gsm8k", "gsm8k_marked", "cmath", "mgsm_zh"),
    "math": ("math", "ocw", "gaokao_mathcloze"),
    "choice": ("sat", "mmlu_stem", "mmlu"),
    "choices": ("gaokao_mathqa", "agieval_sat_math"),
    "program": ("humaneval", "mbpp"),
    "theory": ("minif2f", "minif2f_formal"),
}
KIND_OF: dict[str, Any] = {name: kind for kind, names in KINDS.items() for name in names}


@pytest.mark.parametrize(
    ("name", "file", "row", "record"),
    [
        ("toy/rl", "problems/rl.jsonl", TOY, Record("t7", "How many?", "One. The answer is 1.", "1")),
        ("gsm8k/test", "gsm8k/test.jsonl", GSM8K,
         Record("gsm8k/test/1", "How many?", "He has 48/2 = 24.\nThen 1 more.\nThe answer is 1024.", "1024")),
        ("gsm8k_marked/train", "gsm8k/train.jsonl", GSM8K,
         Record("gsm8k_marked/train/1", "How many?", "He has 48/2 = <<48/2=24>>24.\nThen 1<<1=1>> more.", "1024")),
        ("math/train", "math/train.jsonl", MATH,
         Record("math/train/1", "Find $x$.", MATH["solution"], r"\frac{1}{2}", category="Algebra", level="5")),
        ("math/test", "math/test.jsonl",
         {"problem": "?", "level": 2, "subject": "Geometry", "solution": r"$\boxed 7.$"},
         Record("math/test/1", "?", r"$\boxed 7.$", "7", category="Geometry", level="2")),
        ("ocw/test", "ocw/test.jsonl", OCW, Record("ocw/test/1", "How far?", r"It is $\boxed{2}$.", "2")),
        ("sat/test", "sat/test.jsonl", SAT, Record("sat/test/1", "Set A?", "", "B", ("Zero of A", "One"))),
        ("sat/test", "sat/test.jsonl", SAT | {"options": "A. 1 B. 2 C. f(A) D. 4"},
         Record("sat/test/1", "Set A?", "", "B", ("1", "2", "f(A)", "4"))),
        ("mmlu_stem/test", "mmlu_stem/test.jsonl", MMLU,
         Record("mmlu_stem/test/1", "Which?", "", "B", ("one", "two"), "astronomy")),
        ("mmlu_stem/test", "mmlu_stem/test.jsonl", MMLU | {"options": ["one", float("nan")]},
         Record("mmlu_stem/test/1", "Which?", "", "B", ("one", "None"), "astronomy")),
        ("cmath/test", "cmath/test.jsonl", CMATH | {"question": "多少？"},
         Record("cmath/test/1", "多少？", "", "18", level="3")),
        ("cmath/dev", "cmath/dev.jsonl", CMATH | {"input": "多少？"},
         Record("cmath/dev/1", "多少？", "", "18", level="3")),
        ("mgsm_zh/test", "mgsm_zh/test.jsonl", MGSM, Record("mgsm_zh/test/1", "多少钱？", "", "18")),
        ("gaokao_mathcloze/test", "agieval/gaokao-mathcloze.jsonl", CLOZE,
         Record("gaokao_mathcloze/test/1", "则 $a=$", "", "2", category="卷")),
        ("gaokao_mathqa/test", "agieval/gaokao-mathqa.jsonl", QA,
         Record("gaokao_mathqa/test/1", "则 $a=$", "", "AC", ("$1$", "2", "3"))),
        ("agieval_sat_math/test", "agieval/sat-math.jsonl", PASSAGE,
         Record("agieval_sat_math/test/1", "A story.\nWho?", "So B.", "B", ("He", "She"))),
        ("minif2f/test", "minif2f/test.jsonl", MINIF2F,
         Record("minif2f/test/1", "Show it.", "Clear.", FORMAL, category="imo", **PROOF)),
        ("minif2f_formal/validation", "minif2f/validation.jsonl", MINIF2F,
         Record("minif2f_formal/validation/1", "theorem x:\n  shows", "", FORMAL, category="imo", **PROOF)),
        ("humaneval/test", "humaneval/HumanEval.jsonl.gz", HUMANEVAL,
         Record("humaneval/test/1", "def f():\n", "    return 1\n", CHECK, instruction=FUNCTION)),
    ],
)  # fmt: skip
def test_rows_become_records(tmp_path: Path, name: str, file: str, row: dict, record: Record) -> None:
    lines = json.dumps(row) + "\n\n" + json.dumps(row) + "\n"
    path = tmp_path / file
    path.parent.mkdir()
    path.write_bytes(gzip.compress(lines.encode()) if file.endswith(".gz") else lines.encode())
    records = datasets.load(name, tmp_path)
    assert len(records) == 2
    assert records[1] == dataclasses.replace(record, kind=KIND_OF[name.split("/")[0]])


def test_mbpp_splits_share_a_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "mbpp" / "mbpp.jsonl", [MBPP | {"task_id": number} for number in (2, 10, 11, 510, 511, 974)])
    assert datasets.load("mbpp/dev", tmp_path)[0] == MBPP_RECORD
    found = {split: [r.id for r in datasets.load(split, tmp_path)] for split in datasets.available(tmp_path)}
    assert found == {
        "mbpp/dev": ["mbpp/dev/2", "mbpp/dev/10"],
        "mbpp/test": ["mbpp/test/11", "mbpp/test/510"],
        "mbpp/validation": ["mbpp/validation/511"],
        "mbpp/train": ["mbpp/train/974"],
    }


def test_mmlu_is_a_table_per_subject(tmp_path: Path) -> None:
    for subject in ("virology", "us_foreign_policy"):
        path = tmp_path / "mmlu" / "dev" / f"{subject}_dev.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([["1, 2 or\n3?", "0,1", "2", "B"], [f"{subject}?", "x", "None", "A"]])
    records = datasets.load("mmlu/dev", tmp_path)
    assert [record.category for record in records] == ["us_foreign_policy"] * 2 + ["virology"] * 2
    assert records[0] == Record(
        "mmlu/dev/us_foreign_policy/0", "1, 2 or\n3?", "", "B", ("0,1", "2"), "us_foreign_policy", kind="choice"
    )
    assert records[3] == Record("mmlu/dev/virology/1", "virology?", "", "A", ("x", "None"), "virology", kind="choice")


def test_bbh_is_a_file_per_task(tmp_path: Path) -> None:
    examples = [
        {"input": "Which day?\nOptions:\n(A) Monday\n(B) Sunday", "target": "(B)"},
        {"input": "Back?\nOptions:\n- Yes\n- No ", "target": "No"},
        {"input": "not ( True ) is", "target": "False"},
        {"input": "Film?\nOptions:\n(A) Monsters\n(B) Inc", "target": "Monsters, Inc"},
    ]
    write_json(tmp_path / "bbh" / "tasks" / "mixed.json", {"canary": "", "examples": examples})
    assert datasets.load("bbh/test", tmp_path) == [
        Record(
            "bbh/test/mixed/0", "Which day?", "", "B", ("Monday", "Sunday"), "mixed", kind="choice", instruction=STEPS
        ),
        Record("bbh/test/mixed/1", "Back?", "", "No", ("Yes", "No"), "mixed", kind="text", instruction=STEPS),
        Record("bbh/test/mixed/2", "not ( True ) is", "", "False", (), "mixed", kind="text", instruction=STEPS),
        Record(
            "bbh/test/mixed/3",
            "Film?",
            "",
            "Monsters, Inc",
            ("Monsters", "Inc"),
            "mixed",
            kind="text",
            instruction=STEPS,
        ),
    ]


def test_bbh_prompts_are_worked_examples(tmp_path: Path) -> None:
    path = tmp_path / "bbh" / "cot-prompts" / "date.txt"
    path.parent.mkdir(parents=True)
    solution = "Let us see.\n\nIt was B. So the answer is (B)."
    first = f"Q: Which day?\nOptions:\n(A) Monday\n(B) Sunday\nA: {solution}"
    path.write_text(f"Canary\n-----\nTell dates.\n\n{first}\n\nQ: And then?\nA: So the answer is No.\n")
    fields: dict[str, Any] = {"category": "date", "heading": "Tell dates.", "instruction": STEPS}
    assert datasets.load("bbh/dev", tmp_path) == [
        Record("bbh/dev/date/0", "Which day?", solution, "B", ("Monday", "Sunday"), kind="choice", **fields),
        Record("bbh/dev/date/1", "And then?", "So the answer is No.", "No", (), kind="text", **fields),
    ]  # fmt: skip


def write_few_shots(data_dir: Path, sample: str) -> None:
    path = data_dir / "agieval" / "few_shot_prompts.csv"
    path.parent.mkdir()
    with open(path, "w", newline="") as file:
        header = ["", "aqua-rat", "gaokao-mathqa"]
        csv.writer(file).writerows([header, ["sample 1", "", sample], ["explanation 1", "", "Since A and C."]])


def test_agieval_prompts_are_worked_examples(tmp_path: Path) -> None:
    write_few_shots(tmp_path, repr(QA))
    options = ("$1$", "2", "3")
    assert datasets.load("gaokao_mathqa/dev", tmp_path) == [
        Record("gaokao_mathqa/dev/1", "则 $a=$", "Since A and C.", "AC", options, kind="choices")
    ]
    with pytest.raises(UserError, match=r"few_shot_prompts\.csv has no column 'sat-math'"):
        datasets.load("agieval_sat_math/dev", tmp_path)


def test_a_cell_of_the_prompts_is_data_and_never_run(tmp_path: Path) -> None:
    write_few_shots(tmp_path, "dict(a=1)")
    with pytest.raises(UserError, match=r"csv, sample 1, column 'gaokao-mathqa': not a Python dictionary"):
        datasets.load("gaokao_mathqa/dev", tmp_path)


def test_math_as_published(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"needs the file .*MATH/test/\*/\*\.json or .*math/test\.jsonl, .* unpack the MATH"
    ):
        datasets.load("math/test", tmp_path)
    write_jsonl(tmp_path / "math" / "test.jsonl", [MATH])
    write_json(tmp_path / "MATH" / "test" / "prealgebra" / "12.json", MATH)
    write_json(tmp_path / "MATH" / "test" / "algebra" / "3.json", MATH | {"level": "Level ?"})
    records = datasets.load("math/test", tmp_path)
    assert [(record.id, record.level) for record in records] == [
        ("math/test/algebra/3", "?"), ("math/test/prealgebra/12", "5"),
    ]  # fmt: skip
    (tmp_path / "MATH" / "test" / "algebra" / "3.json").write_text('{"problem": ')
    with pytest.raises(UserError, match=r"algebra/3\.json: not a JSON object"):
        datasets.load("math/test", tmp_path)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"$\boxed{1}$ or rather $\boxed{\{x : x^{2} > 1\}}$.", r"\{x : x^{2} > 1\}"),
        (r"is \fbox{2}.", "2"),
        (r"$\boxed{3}$ at first; $x = \boxed{1}$, \boxed{\frac{1}{2}} \text{ and } \boxed 4.", r"1, \frac{1}{2}, 4"),
        (r"is $\boxed 3$.", "3"),
        (r"is \boxed{never closed", ""),
        ("is not there", ""),
    ],
)
def test_the_last_box_holds_the_answer(solution: str, answer: str) -> None:
    assert dataset_formats.boxed(solution) == answer


REAL_SETS = {
    "gsm8k/train": 7473, "gsm8k/test": 1319, "ocw/test": 272, "sat/test": 32, "mmlu_stem/test": 3018, "mmlu/dev": 285,
    "mmlu/test": 14042, "cmath/dev": 600, "cmath/test": 1098, "mgsm_zh/test": 250, "gaokao_mathcloze/dev": 5,
    "gaokao_mathcloze/test": 118, "gaokao_mathqa/dev": 5, "gaokao_mathqa/test": 351, "agieval_sat_math/dev": 5,
    "agieval_sat_math/test": 220, "minif2f/validation": 244, "minif2f/test": 244, "minif2f_formal/validation": 244,
    "minif2f_formal/test": 244, "bbh/dev": 81, "bbh/test": 6511, "humaneval/test": 164, "mbpp/dev": 10,
    "mbpp/test": 500, "mbpp/validation": 90, "mbpp/train": 374,
}  # fmt: skip
WORKED = re.compile(r"gsm8k|ocw|agieval_sat_math|minif2f/|humaneval|mbpp|(bbh|gaokao_.*)/dev")


def test_real_sets_are_whole(real_data: Path) -> None:
    names = [name for name in datasets.available(real_data) if not name.startswith(("math/", "toy/"))]
    sets = {name: datasets.load(name, real_data) for name in names}
    assert {name: len(records) for name, records in sets.items()} == REAL_SETS
    assert len({record.id for records in sets.values() for record in records}) == sum(REAL_SETS.values())
    for name, records in sets.items():
        assert all(record.id.startswith(f"{name}/") and record.question.strip() for record in records)
        assert all(record.answer for record in records)
        assert all(bool(record.solution) == bool(WORKED.match(name)) for record in records)
        assert all(all(record.options) for record in records)
    for record in sets["gsm8k/train"] + sets["gsm8k/test"]:
        assert "<<" not in record.solution
        assert record.solution.endswith(f"\nThe answer is {record.answer}.")
    chosen = [record for record in sets["bbh/test"] if record.options]
    letters = [set("ABCDEFGHIJKLMNOPQR"[: len(record.options)]) for record in chosen]
    broken = [r.id for r, known in zip(chosen, letters, strict=True) if r.answer not in known.union(r.options)]
    assert broken == [f"bbh/test/{task}" for task in ("movie_recommendation/163", "ruin_names/99", "ruin_names/144")]
    assert {len({record.category for record in sets[name]}) for name in ("mmlu/dev", "mmlu/test")} == {57}


def test_all_is_every_available_data_set(real_data: Path, tmp_path: Path) -> None:
    before = time.process_time()
    records = datasets.load("all", real_data)
    assert time.process_time() - before < 3
    assert len(records) >= sum(REAL_SETS.values())

    with pytest.raises(UserError, match=r"There is no data set in .*; set --config\.data_dir, or remove 'all'"):
        datasets.load("all", tmp_path)
    write_jsonl(tmp_path / "problems" / "train.jsonl", [TOY])
    write_jsonl(tmp_path / "gsm8k" / "test.jsonl", [GSM8K])
    assert datasets.available(tmp_path) == ["toy/train", "gsm8k/test"]
    assert [record.id for record in datasets.load("all", tmp_path)] == ["t7", "gsm8k/test/0"]


def test_real_records(real_data: Path) -> None:
    first = datasets.load("gsm8k/test", real_data)[0]
    assert first.question.startswith("Janet’s ducks lay 16 eggs per day.")
    assert first.solution.startswith("Janet sells 16 - 3 - 4 = 9 duck eggs a day.")
    assert first.answer == "18"
    assert datasets.load("mgsm_zh/test", real_data)[0].question.startswith("珍妮特的鸭子每天下 16 颗蛋。")
    assert datasets.load("sat/test", real_data)[17].options[3] == "$435(100 b)$"  # lettered "A." instead of "A)"
    assert datasets.load("mmlu_stem/test", real_data)[108].options == ("None", "I only", "II only", "III only")
    assert datasets.load("minif2f/test", real_data)[0].answer.split("theory ")[1].startswith("mathd_numbertheory_277")


@pytest.mark.filterwarnings("ignore:(invalid escape|.* is an invalid escape)")  # in the published code
@pytest.mark.parametrize("name", ["humaneval/test", "mbpp/dev", "mbpp/test", "mbpp/validation", "mbpp/train"])
def test_published_programs_pass_their_answers(real_data: Path, name: str) -> None:
    for record in datasets.load(name, real_data)[:40]:
        program = record.question + record.solution if name.startswith("humaneval") else record.solution
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(f"{program}\n{record.answer}", record.id, "exec"), {"__name__": record.id})


def without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize(
    ("name", "file", "row", "message"),
    [
        ("gsm8k/test", "gsm8k/test.jsonl", without(GSM8K, "answer"), "the field 'answer' is missing"),
        ("gsm8k/test", "gsm8k/test.jsonl", GSM8K | {"answer": "24"}, "the field 'answer' has no '####'"),
        ("gsm8k/test", "gsm8k/test.jsonl", GSM8K | {"question": ["?"]}, "the field 'question' is not text"),
        ("gsm8k/test", "gsm8k/test.jsonl", GSM8K | {"question": " "}, "the field 'question' is empty"),
        ("math/test", "math/test.jsonl", MATH | {"solution": "1"}, "the field 'solution' boxes no answer"),
        ("mgsm_zh/test", "mgsm_zh/test.jsonl", MGSM | {"messages": []}, r"the field 'messages\.0\.content' is missing"),
        ("sat/test", "sat/test.jsonl", SAT | {"options": "A) 1 C) 2"}, "the field 'options' is not lettered A, B, C"),
        ("sat/test", "sat/test.jsonl", SAT | {"Answer": "E"}, "the field 'Answer' names none of the options AB"),
        ("mmlu_stem/test", "mmlu_stem/test.jsonl", MMLU | {"options": "A) 1"}, "the field 'options' is not a list of"),
        ("gaokao_mathqa/test", "agieval/gaokao-mathqa.jsonl", QA | {"label": None}, "the field 'label' is not text"),
        (
            "gaokao_mathqa/test",
            "agieval/gaokao-mathqa.jsonl",
            QA | {"other": "卷"},
            "the field 'other' is not an object",
        ),
        ("mbpp/dev", "mbpp/mbpp.jsonl", MBPP | {"task_id": "2"}, "the field 'task_id' is not a number"),
    ],
)
def test_invalid_rows_are_named(tmp_path: Path, name: str, file: str, row: dict, message: str) -> None:
    good = {"gsm8k": GSM8K, "math": MATH, "mgsm_zh": MGSM, "sat": SAT, "mmlu_stem": MMLU, "gaokao_mathqa": QA}
    first = good.get(name.split("/")[0], MBPP | {"task_id": 1})
    write_jsonl(tmp_path / file, [first, row])
    with pytest.raises(UserError, match=rf"{Path(file).name}, line 2: {message}.*; fix or remove it\.$"):
        datasets.load(name, tmp_path)


def test_other_invalid_files_are_named(tmp_path: Path) -> None:
    write_json(tmp_path / "bbh" / "tasks" / "x.json", {"examples": [{"input": "?", "target": "1"}, {"target": "1"}]})
    with pytest.raises(UserError, match=r"x\.json, example 2: the field 'input' is missing"):
        datasets.load("bbh/test", tmp_path)
    write_json(tmp_path / "bbh" / "tasks" / "x.json", {"examples": ["?"]})
    with pytest.raises(UserError, match=r"x\.json: the field 'examples' is not a list of objects"):
        datasets.load("bbh/test", tmp_path)
    table = tmp_path / "mmlu" / "test" / "x_test.csv"
    table.parent.mkdir(parents=True)
    table.write_text("?,1,2,B\n?,A\n")
    with pytest.raises(UserError, match=r"x_test\.csv, row 2: 2 columns where a question"):
        datasets.load("mmlu/test", tmp_path)
    table.write_bytes("?,é,2,B\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"x_test\.csv is not UTF-8 text \(byte 2\)"):
        datasets.load("mmlu/test", tmp_path)
    packed = tmp_path / "humaneval" / "HumanEval.jsonl.gz"
    packed.parent.mkdir()
    for damaged in (gzip.compress(json.dumps(HUMANEVAL).encode())[:-9], b"not packed"):
        packed.write_bytes(damaged)
        with pytest.raises(UserError, match=r"HumanEval\.jsonl\.gz cannot be read \(.+\); check the path"):
            datasets.load("humaneval/test", tmp_path)


def test_unknown_names_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"Unknown data set 'gsm9k/test', did you mean 'gsm8k/test'; known ones are agieval_sat"
    ):
        datasets.load("gsm9k/test", tmp_path)
    with pytest.raises(
        UserError, match=r"'toy/rl' needs the file .*problems/rl\.jsonl, which is missing; set --config"
    ):
        datasets.load("toy/rl", tmp_path)
    write_jsonl(tmp_path / "gsm8k" / "test.jsonl", [])
    with pytest.raises(UserError, match=r"test\.jsonl has no records"):
        datasets.load("gsm8k/test", tmp_path)
    (tmp_path / "gsm8k" / "test.jsonl").write_text(json.dumps(GSM8K) + "\n\nnot json\n")
    with pytest.raises(UserError, match=r"test\.jsonl, line 3: not a JSON object; fix or remove that line"):
        datasets.load("gsm8k/test", tmp_path)


@pytest.mark.parametrize(
    ("fields", "record"),
    [
        ({"options": ["3", "4"], "answer": "B"}, Record("mine/0", "?", "", "B", ("3", "4"), kind="choice")),
        ({"options": ["A) 3", "B) 4"], "answer": "(B)"}, Record("mine/0", "?", "", "B", ("3", "4"), kind="choice")),
        ({"options": ["3", "4", "5"], "answer": "A, C"},
         Record("mine/0", "?", "", "AC", ("3", "4", "5"), kind="choices")),
        ({"options": ["Yes", "No"], "answer": "No"}, Record("mine/0", "?", "", "No", ("Yes", "No"), kind="text")),
        ({"options": ["3", "4"]}, Record("mine/0", "?", options=("3", "4"))),
        ({"options": None, "answer": "x^2"}, Record("mine/0", "?", "", "x^2")),
        ({"answer": "48/2=<<48/2=24>>24.\n#### 1,024"},
         Record("mine/0", "?", "48/2=24.\nThe answer is 1024.", "1024", kind="number")),
        ({"answer": "So:\n#### 1st way\nSort it."}, Record("mine/0", "?", "", "So:\n#### 1st way\nSort it.")),
        ({"answer": float("nan")}, Record("mine/0", "?", "", "")),
        ({"answer": 4, "kind": "number", "level": 3, "category": "sums"},
         Record("mine/0", "?", "", "4", (), "sums", "3", "number")),
        ({"prompt": "Do it.", "instruction": "Be brief."},
         Record("mine/0", "?", prompt="Do it.", instruction="Be brief.")),
    ],
)  # fmt: skip
def test_a_users_row_may_have_the_fields_of_a_record(tmp_path: Path, fields: dict, record: Record) -> None:
    write_jsonl(tmp_path / "mine.jsonl", [{"question": "?"} | fields])
    assert datasets.load("mine.jsonl", tmp_path) == [record]
    write_jsonl(tmp_path / "mine.jsonl", [dataclasses.asdict(record)])
    assert datasets.load("mine.jsonl", tmp_path) == [record]


def test_a_users_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.v2.jsonl"
    full = {"id": 7, "question": " Why? ", "solution": "So.", "answer": 4, "note": []}
    write_jsonl(path, [full, {"question": "What?", "solution": None}])
    expected = [Record("7", "Why?", "So.", "4", extra={"note": []}), Record("mine.v2/1", "What?", "", "")]
    assert datasets.load("mine.v2.jsonl", tmp_path) == expected
    assert datasets.load(str(path), "elsewhere")[0] == expected[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "?"}\n\n{"solution": "?"}\n', r"mine\.jsonl, line 3: the field 'question' is missing"),
        ('{"question": null}', r"mine\.jsonl, line 1: the field 'question' is not text"),
        ('{"question": ""}', r"mine\.jsonl, line 1: the field 'question' is empty"),
        ('{"question": NaN}', r"mine\.jsonl, line 1: the field 'question' is nan, which is not a finite number"),
        ('{"question": "?", "answer": Infinity}', r"line 1: the field 'answer' is inf, which is not a finite number"),
        ('{"question": "?", "solution": ["?"]}', r"mine\.jsonl, line 1: the field 'solution' is not text"),
        ('"question"', r"mine\.jsonl, line 1: not a JSON object"),
        ('{"question": "?", "options": "3"}', r"line 1: the field 'options' is not a list of texts"),
        (
            '{"question": "?", "options": ["3"], "answer": "4"}',
            r"line 1: the field 'answer' names none of the options A",
        ),
        ('{"question": "?", "kind": "sum"}', r"line 1: the field 'kind' must be one of number, math, choice, choices"),
        ("\n", r"mine\.jsonl has no records"),
        (None, r"There is no file or folder .*mine\.jsonl; correct the name, or set data_dir"),
    ],
)
def test_an_invalid_users_file_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "mine.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        datasets.load("mine.jsonl", tmp_path)


def test_a_users_rows_may_state_what_a_record_has(tmp_path: Path) -> None:
    rows = [
        {"question": "Which?", "options": ["one", "two"], "answer": "(B)"},
        {"question": "How many?", "answer": "2", "kind": "number", "instruction": "In one word."},
        {"question": "Yes?", "options": ["Yes", "No"], "answer": "No", "kind": "text"},
    ]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    assert datasets.load("mine.jsonl", tmp_path) == [
        Record("mine/0", "Which?", answer="B", options=("one", "two"), kind="choice"),
        Record("mine/1", "How many?", answer="2", kind="number", instruction="In one word."),
        Record("mine/2", "Yes?", answer="No", options=("Yes", "No"), kind="text"),
    ]
    rows[1]["kind"] = "numeral"
    write_jsonl(tmp_path / "mine.jsonl", rows)
    with pytest.raises(UserError, match=r"mine.jsonl, line 2: the field 'kind' must be one of number, math, choice"):
        datasets.load("mine.jsonl", tmp_path)
