"""Tests of the Markdown page of an evaluation with the paper's figures."""

from typing import Any

import pytest

from dsmath_jax.data.chat_template import DEEPSEEK_MATH
from dsmath_jax.evaluation.paper import ACCURACIES, published
from dsmath_jax.evaluation.summary import Problem, summarize
from dsmath_jax.evaluation.table import code, escape, markdown, percent

RUN = {
    "checkpoint": "runs/my_run|1/rl", "style": "few_shot", "max_new_tokens": 1024, "max_thinking_tokens": 0,
    "temperature": 0.7, "top_p": 1.0, "seed": 3,
    "grader": "dsmath_jax 0.1, math-verify 0.9.0",
    "sandbox": "namespaces, landlock, seccomp",
}  # fmt: skip
COMMAND = "python -m dsmath_jax.evaluation --tasks=gsm8k"
# Number of problems of each task: published shares are whole numbers of them.
SIZES = {
    "gsm8k": 1319, "math": 5000, "ocw": 272, "sat": 32, "mmlu_stem": 3018, "mgsm_zh": 250, "cmath": 1098,
    "gaokao_mathcloze": 118, "gaokao_mathqa": 351, "mmlu": 14042, "bbh": 6511, "humaneval": 164, "mbpp": 500,
    "minif2f": 244,
}  # fmt: skip


def entry(task: str, mode: str = "cot", samples: int = 0, total: int = 4, **changes: Any) -> dict[str, Any]:
    lines = [{"answer": str(i % 2), "correct": i % 2 == 0, "correct_deepseek": True, "class": i % 2} for i in range(4)]
    levels = ["Level 1", "Level 2"]
    problems = [Problem(str(i), one, lines[:samples], {"level": levels[i % 2]}) for i, one in enumerate(lines)]
    fields = {"task": task, "mode": mode, "shots": 8, "total": total, "command": COMMAND}
    return summarize(problems) | fields | changes


def tables(text: str) -> list[list[list[str]]]:
    """Returns the cells of each table of a page."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def test_figures_are_next_to_the_papers() -> None:
    text = markdown(RUN, [entry("gsm8k", total=1319), entry("math", "tir"), entry("toy")])
    (head, _, *rows), *_ = tables(text)
    assert head == ["task", "mode", "shots", "problems", "greedy", "DeepSeek's grader", "paper: Base",
                    "paper: Instruct", "paper: RL"]  # fmt: skip
    assert rows == [
        ["gsm8k", "cot", "8", "4 of 1,319", "50.0 (15.0–85.0)", "100.0 (51.0–100.0)", "64.2", "82.9", "88.2"],
        ["math", "tir", "8", "4", "50.0 (15.0–85.0)", "100.0 (51.0–100.0)", "–", "57.4", "58.8"],
        ["toy", "cot", "8", "4", "50.0 (15.0–85.0)", "100.0 (51.0–100.0)", "–", "–", "–"],
    ]
    assert text.endswith(
        "\n- Checkpoint: `runs/my_run|1/rl`\n"
        "- Asked: style few\\_shot, at most 1,024 new tokens; problems of incomplete tasks drawn evenly over "
        "their parts\n"
        "- Grader: dsmath\\_jax 0.1, math-verify 0.9.0\n- Sandbox: namespaces, landlock, seccomp\n"
        "- Command: `python -m dsmath_jax.evaluation --tasks=gsm8k`\n\n## Greedy answers by subject, task or level"
        + text.split("subject, task or level")[1]
    )
    assert "By number of samples" not in text


def test_settings_are_below_the_table() -> None:
    text = markdown(RUN | {"sandbox": ""}, [entry("gsm8k", samples=4), entry("gsm8k", "tir", command="other")])
    assert "at most 1,024 new tokens; samples at temperature 0.7, top\\_p 1.0, seed 3\n" in text
    assert "- Sandbox: no program was run\n" in text
    assert "at most 1,024 new tokens, 512 of them in a thought" in markdown(
        RUN | {"max_thinking_tokens": 512}, [entry("gsm8k")]
    )
    assert f"- Command: `{COMMAND}`\n- Command: `other`\n" in text


@pytest.mark.parametrize(
    ("template", "instruction", "description"),
    [
        (DEEPSEEK_MATH, "paper", "the paper's template with the paper's instruction"),
        (DEEPSEEK_MATH, "", "the paper's template with no instruction"),
        ("{{ x }}", "Be brief.", 'its own template (settings.json) with the instruction "Be brief."'),
    ],
)
def test_template_and_instruction_of_a_chat_are_reported(template: str, instruction: str, description: str) -> None:
    run = RUN | {"style": "chat", "template": template, "instruction": instruction, "system": ""}
    assert f"- Asked: style chat in {escape(description)}, at most 1,024 new tokens" in markdown(run, [entry("gsm8k")])


def test_several_tasks_have_a_row_together() -> None:
    both = {"cot": entry("", total=1591) | {"tasks": ["gsm8k", "ocw"]}, "tir": entry("") | {"tasks": ["gsm8k"]}}
    text = markdown(RUN, [entry("gsm8k"), entry("ocw"), entry("gsm8k", "tir")], both)
    rows = tables(text)[0][2:]
    assert [row[:2] for row in rows] == [["gsm8k", "cot"], ["ocw", "cot"], ["gsm8k", "tir"], ["all 2 tasks", "cot"]]
    assert rows[-1][2:5] == ["–", "4 of 1,591", "50.0 (15.0–85.0)"]


def test_votes_are_reported_where_there_are_samples() -> None:
    text = markdown(RUN | {"sandbox": ""}, [entry("math", samples=4), entry("ocw")])
    (head, _, first, second), (curve_head, _, votes, chances), (_, _, *groups) = tables(text)
    assert head[6:10] == ["k", "mean of k", "maj@k", "pass@k"]
    assert first[6:7] == ["4"]
    assert [cell.split()[0] for cell in first[7:10]] == ["50.0", "50.0", "100.0"]
    assert first[-1] == "51.7 (maj@64: 60.9)"
    assert second[6:10] == ["–"] * 4
    assert curve_head == ["task", "", "k = 1", "k = 2", "k = 4"]
    assert votes[:2] == ["math, cot", "maj@k"]
    assert [cell.split()[0] for cell in chances[2:]] == ["50.0", "83.3", "100.0"]
    assert groups[0] == ["math, cot", "level", "Level 1", "2", "100.0 (34.2–100.0)"]
    assert "Sandbox: no program was run\n" in text


def test_unchecked_proofs_have_no_accuracy() -> None:
    unknown = {"answer": "by auto", "correct": False, "reason": "not checked: there is no isabelle"}
    fields = {"task": "minif2f", "mode": "cot", "shots": 0, "total": 244, "command": ""}
    text = markdown(RUN, [summarize([Problem("a", unknown)]) | fields])
    assert tables(text)[0][2][3:] == ["1 of 244", "not checked", "–", "24.6", "–", "–"]
    assert "- minif2f, cot: of 1 completions 1 not checked." in text


def test_further_counts_are_below_the_table() -> None:
    counts = {"completions": 1300, "no_answer": 1200, "cut": 3, "lost": 1, "not_checked": 0, "programs": {"ok": 9}}
    macro = {"subject": {"of": 57, "greedy": 0.25, "greedy_interval": [0.2, 0.3]}}
    text = markdown(RUN, [entry("mmlu", counts=counts, macro=macro)])
    assert (
        "- mmlu, cot: of 1,300 completions 1,200 without an answer, 3 truncated at a limit of length or rounds, "
        "1 not graded in time, counted as incorrect; programs: 9 ok; mean over the 57 subjects: 25.0 (20.0–30.0)."
        in text
    )


def test_names_are_escaped_in_markdown() -> None:
    assert escape("a|b_c*\n`d` <e> [f]") == "a\\|b\\_c\\* \\`d\\` \\<e\\> \\[f\\]"
    assert code("a `b` | c") == "`` a `b` | c ``"
    assert code("plain") == "`plain`"
    assert percent(None) == "–"


def test_published_figures_are_shares_of_whole_tasks() -> None:
    for (task, mode), figures in ACCURACIES.items():
        size = SIZES[task]
        for figure in filter(None, figures):
            assert round(100 * round(figure / 100 * size) / size, 1) == pytest.approx(figure), (task, mode)


def test_published_figures_are_found_by_task_and_mode() -> None:
    assert published("gsm8k", "cot") == (64.2, 82.9, 88.2)
    assert published("gsm8k", "pot") == (66.9, None, None)
    assert published("cmath", "tir") == (None, 84.3, 87.6)
    assert published("minif2f", "cot") == (24.6, None, None)
    assert published("toy", "cot") == (None, None, None)
