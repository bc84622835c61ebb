"""Findings: each kind is found at its step, once, and not in a run that learns."""

import json
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsmath_jax.data import chat as chats
from dsmath_jax.data import chat_template, tokenizer
from dsmath_jax.data.chat import Chat
from dsmath_jax.rl.diagnosis import QUIET_UPDATES, Diagnosis, Finding, logprob_dtype, other_template
from dsmath_jax.rl.findings import Findings, sample_of, shorten
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sampling.dtypes import DecodeDtypes
from dsmath_jax.settings import build
from dsmath_jax.workdir import read_jsonl, write_jsonl

Rows = list[dict[str, float]]
STEPS, SICK = 80, 40  # steps of a run, and the step from which one is not healthy


def healthy(steps: int = STEPS) -> Rows:
    """The metrics of a run that learns, as noisy as those of configs/tiny.py."""
    noise = np.random.default_rng(0)
    return [
        {
            "step": step, "loss": 0.01, "grad_norm": 0.25 * math.exp(noise.normal(0, 0.5)), "step_skipped": 0.0,
            "entropy": 0.05 + 0.05 * math.exp(-step / 50) * math.exp(noise.normal(0, 0.2)),
            "kl": 0.04 * (1 - math.exp(-step / 30)) * math.exp(noise.normal(0, 0.7)),
            "clip_low": 0.0, "clip_high": 0.001, "sampler_logprob_diff": 1e-6 * noise.random(),
            "reward": 0.4 + 0.002 * step, "reward_std": 0.48, "rule_reward": 0.4,
            "frac_reward_zero_std": float(np.clip(noise.normal(0.5, 0.2), 0, 0.9)),
            "frac_truncated": 0.03 * noise.random(), "reward_errors": 0.0, "reward_abstained": 0.0,
        }
        for step in range(steps)
    ]  # fmt: skip


def changed(steps: int = STEPS, start: int = SICK, until: int = STEPS, **fields: Any) -> Rows:
    """The rows of a healthy run with other values from `start` to `until`; None removes a field."""
    rows = healthy(steps)
    for row in rows[start:until]:
        row |= fields
        for name in [name for name, value in row.items() if value is None]:
            del row[name]
    return rows


def found(rows: Rows, dtype: str = "float32", **settings: Any) -> list[tuple[int, Finding]]:
    diagnosis = Diagnosis(build(RLSettings, settings, "rl."), dtype)
    return [(int(row["step"]), finding) for row in rows for finding in diagnosis.add(row)]


EQUAL = {"frac_reward_zero_std": 1.0, "reward_std": 0.0}
KINDS: list[tuple[str, int, dict[str, Any], dict[str, Any], str]] = [  # kind, step, fields, settings, message
    ("all_truncated", SICK, {"frac_truncated": 0.95}, {}, r"^95\.0 % of the 1024 .* at rl\.max_new_tokens=1024 "),
    ("no_reward", SICK, {"reward": None, "reward_errors": 1000.0, "reward_abstained": 24.0}, {},
     r"failed on 1000 of them, and all abstained on 24"),
    ("all_incorrect", SICK + 4, EQUAL | {"reward": 0.0}, {}, r"None of the 80 groups .* last 5 rollouts .* incorrect"),
    ("all_correct", SICK + 4, EQUAL | {"reward": 1.1}, {"reward_fns": (("correct", 1.0), ("format", 0.1))},
     r"all are correct, with a reward of 1\.1; take harder"),
    ("rewards_zero", SICK + 4, EQUAL | {"reward": 0.0}, {"reward_fns": ("mine:brief", "mine:polite")},
     r"mine:brief and mine:polite returned 0 for every completion; call"),
    ("equal_rewards", SICK + 4, {"frac_reward_zero_std": 1.0}, {}, r"the mean reward is 0\.\d+; use rewards"),
    ("equal_rewards", SICK + 4, EQUAL | {"reward": 0.0}, {"method": "grpo_os"}, r"the mean reward is 0; use rewards"),
    ("entropy_collapsed", SICK + 4, {"entropy": 0.004}, {}, r"is 0\.004 nats a token over the last 5 updates, 0\.09"),
    ("kl_exploding", SICK + 2, {"kl": 0.5}, {}, r"is 0\.5 over the last 5 updates, 0\.0\d+ over the \d+ before"),
    ("grad_norm_exploding", SICK + 2, {"grad_norm": 7.0}, {}, r"is 7 over .* clipped to rl\.clip_norm=1: lower"),
    ("sampler_differs", SICK, {"sampler_logprob_diff": 0.01}, {}, r"by 0\.01 nats .* float32 explains \(0\.001\)"),
]  # fmt: skip


def test_a_run_that_learns_has_no_findings() -> None:
    assert found(healthy(400)) == []
    assert found(healthy(400), num_updates=2) == []
    assert found(healthy(400), method="online_rft") == []


@pytest.mark.parametrize(("kind", "step", "fields", "settings", "message"), KINDS)
def test_a_kind_is_found_once(kind: str, step: int, fields: dict, settings: dict, message: str) -> None:
    [(at, finding)] = found(changed(**fields), **settings)
    assert (at, finding.kind) == (step, kind)
    assert not finding.normal
    assert re.search(message, finding.message)


def test_no_eos_needs_rollouts_that_are_all_cut_from_the_start() -> None:
    cut = found(changed(start=0, frac_truncated=1.0))
    assert [(step, finding.kind) for step, finding in cut] == [(0, "all_truncated"), (4, "no_eos")]
    assert cut[1][1].message.startswith("None of the completions of this run, in 5 rollouts, has ended by EOS")
    assert [finding.kind for _, finding in found(changed(start=1, frac_truncated=1.0))] == ["all_truncated"]


def test_thresholds_are_absolute_at_the_start_of_a_run() -> None:
    """There is no running median yet."""
    for fields, kind in (
        ({"kl": 1.5}, "kl_exploding"), ({"grad_norm": 150.0}, "grad_norm_exploding"),
        ({"entropy": 0.005}, "entropy_collapsed"),
    ):  # fmt: skip
        [(step, finding)] = found(changed(start=0, **fields))
        assert (step, finding.kind) == (4, kind)
    # A KL that grows from 0 to a usual size, one spike, and an entropy that falls by half are no findings.
    rows = healthy()
    for row in rows:
        row |= {"kl": min(0.15, 0.01 * row["step"]), "entropy": max(0.3, 0.6 - 0.01 * row["step"])}
    rows[30] |= {"kl": 30.0, "grad_norm": 400.0}
    assert found(rows) == []


def test_a_finding_that_has_gone_away_is_found_again() -> None:
    again = changed(until=SICK + 3, frac_truncated=1.0)
    for row in again[SICK + 20 :]:
        row["frac_truncated"] = 1.0
    assert [step for step, _ in found(again)] == [SICK, SICK + 20]
    flickering = changed(frac_truncated=1.0)
    for row in flickering[SICK :: QUIET_UPDATES // 2]:
        row["frac_truncated"] = 0.5
    assert [step for step, _ in found(flickering)] == [SICK + 1]


def test_skipped_updates_do_not_collapse_the_entropy() -> None:
    zeros = {"step_skipped": 1.0, "entropy": 0.0, "kl": 0.0, "grad_norm": 0.0, "sampler_logprob_diff": 0.0}
    assert found(changed(**zeros)) == []


def test_a_sampler_is_compared_before_the_updates_on_its_rollout() -> None:
    rows = healthy()
    for row in rows:
        row["sampler_logprob_diff"] = 0.05 if row["step"] % 4 else 1e-6  # the policy moves within a rollout
    assert found(rows, num_updates=4) == []
    assert [finding.kind for _, finding in found(rows, num_updates=1)] == ["sampler_differs"]
    assert found(rows, "bfloat16") == []


def test_the_dtype_of_log_probabilities() -> None:
    assert logprob_dtype("float32", DecodeDtypes(), "cpu") == "float32"
    assert logprob_dtype("float32", DecodeDtypes(cache_dtype="bfloat16"), "cpu") == "bfloat16"
    assert logprob_dtype("bfloat16", DecodeDtypes(cache_dtype="float32"), "gpu") == "bfloat16"
    assert logprob_dtype("float32", DecodeDtypes(), "tpu") == "bfloat16"
    for quantized in (DecodeDtypes(cache_dtype="int8"), DecodeDtypes(decode_weight_dtype="int8")):
        assert logprob_dtype("bfloat16", quantized, "tpu") == "int8"


def test_clip_shares_of_0_are_explained_once() -> None:
    zero = {"start": 0, "clip_high": 0.0}
    [(step, finding)] = found(changed(**zero))
    assert (step, finding.kind, finding.normal) == (0, "clip_shares_zero", True)
    assert found(changed(**zero), num_updates=2) == []
    assert found(changed(**zero), old_logprobs="sampler") == []


def test_methods_without_rollouts_have_the_findings_of_their_metrics() -> None:
    rows = [{name: row[name] for name in ("step", "loss", "grad_norm", "entropy")} for row in changed(grad_norm=20.0)]
    for row in rows:
        row["entropy"] = 0.001  # SFT is to make the data certain
    assert [finding.kind for _, finding in found(rows, method="sft")] == ["grad_norm_exploding"]


# --- the model's chat template ---


def test_a_template_other_than_the_models_is_found(start: Path, tmp_path: Path) -> None:
    text_tokenizer = tokenizer.load(start / "tokenizer")
    chat = Chat(text_tokenizer)
    assert other_template(chat, tmp_path) == []  # a base model has none
    chat_template.write(tmp_path, chat.template)
    assert other_template(chat, tmp_path) == []
    chat_template.write(tmp_path, "{{ messages }}")
    [finding] = other_template(chat, tmp_path)
    assert finding.kind == "other_template"
    assert finding.message.startswith("config.chat.template of this run differs from that of the model in ")
    chats.export(Chat(text_tokenizer, system="Be brief.", instruction="paper"), tmp_path)
    [finding] = other_template(chat, tmp_path)
    assert finding.message.startswith("config.chat.instruction and config.chat.system of this run differ from that of ")


# --- the log ---


def observe(folder: Path, rows: Rows, first_step: int, make: Callable[[], Diagnosis]) -> None:
    with Findings(folder, make(), first_step, 2) as findings:
        for row in rows[first_step:]:
            findings.observe(row)


def test_findings_are_logged_with_a_sample_and_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = changed(frac_truncated=1.0, kl=0.5)
    rows[0] |= {"clip_low": 0.0, "clip_high": 0.0}
    samples = [
        {"step": step, "id": f"q{step}", "question": "1 + 1?", "completion": f"{step} " + "so " * 200, "reward": reward}
        | {"answer": "2", "finish": "length"}
        for step in range(0, STEPS, 2)
        for reward in (None, -1.0)
    ]
    once = Finding("clip_shares_zero", "This is as it should be.", normal=True)
    make = lambda: Diagnosis(build(RLSettings, {"num_updates": 2}, "rl."), "float32", [once])  # noqa: E731
    folders = [tmp_path / name for name in ("whole", "cut")]
    for folder in folders:
        write_jsonl(folder / "samples.jsonl", samples)
        write_jsonl(folder / "metrics.jsonl", rows)
    with caplog.at_level(logging.WARNING):
        observe(folders[0], rows, 0, make)
    assert [record.message.split(":")[1] for record in caplog.records] == [" step 40", " step 42"]
    assert re.search(
        r"raise .* A sample \(no reward, ended by length, the record's answer is '2'\): '40 so .* \[\.\.\.\] ",
        caplog.messages[0],
    )
    assert capsys.readouterr().out == "rl: step 0: This is as it should be.\n"
    written = list(read_jsonl(folders[0] / "findings.jsonl"))
    assert [(row["step"], row["kind"], row["normal"]) for row in written] == [
        (0, "clip_shares_zero", True), (40, "all_truncated", False), (42, "kl_exploding", False)
    ]  # fmt: skip
    assert written[2]["sample"]["id"] == "q42"
    assert len(written[2]["sample"]["completion"]) < 320

    for first_step in (0, 30, 41, 60):
        observe(folders[1], rows[: first_step + 15], first_step, make)
    observe(folders[1], rows, 60, make)
    whole, cut = ((folder / "findings.jsonl").read_bytes() for folder in folders)
    assert whole == cut


def test_the_sample_of_a_step_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    assert sample_of(path, 3) is None
    path.write_text(json.dumps({"step": 2, "completion": "x"}) + "\n", encoding="utf-8")
    assert sample_of(path, 3) is None
    assert sample_of(path, 2) == {"completion": "x"}
    assert shorten("a" * 300) == "a" * 300
    assert shorten("a" * 200 + "b" * 200, 20) == "a" * 10 + " [...] " + "b" * 10
