"""The report of a run: its numbers, its page, and missing, hostile and broken input."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dsmath_jax.report import outputs
from dsmath_jax.report.plots import CURVES
from dsmath_jax.report.report import summary_table, write
from dsmath_jax.workdir import UserError, read_jsonl, remove, write_json, write_jsonl

Change = Callable[[str, dict[str, Any]], None]
NO_END_TAG = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in order; keeps tags, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in NO_END_TAG:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))

    def text(self, tag: str) -> list[str]:
        return [text for inside, text in self.texts if inside == tag]

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(workdir: Path) -> Page:
    write(workdir)
    return Page((workdir / "report" / "index.html").read_text(encoding="utf-8"))


def test_report_json_holds_the_numbers_of_the_stages(workdir: Path) -> None:
    report = write(workdir)
    assert report == json.loads((workdir / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["missing"] == []
    corpus = {field: report["corpus"][field] for field in ("pages_read", "documents_kept", "precision", "recall")}
    assert corpus == {"pages_read": 3620, "documents_kept": 931, "precision": 0.968, "recall": 0.947}
    assert report["corpus"]["contaminated_removed"] == report["corpus"]["contaminated_labeled"] == 24
    assert report["corpus"]["funnel"][-1] == ["after decontamination", 931]
    assert [row["overlap"] for row in report["corpus"]["iterations"]] == [0.0, 0.84]
    assert report["evaluate"]["rl"]["greedy"] == 0.65
    assert report["evaluate"]["sft"]["pass_at_k_interval"] == pytest.approx([0.75, 0.87])
    assert (report["evaluate"]["base"]["n"], report["evaluate"]["base"]["k"]) == (240, 8)
    assert {field: report["reward_model"][field] for field in ("accuracy", "auc", "n")} == (
        {"accuracy": 0.83, "auc": 0.9, "n": 320}
    )
    assert (report["process_model"]["n"], report["process_model"]["majority_class"]) == (1030, 0.61)
    assert list(report["seconds"]) == list(outputs.STAGE_LABELS)
    assert report["seconds"]["sft"] == 45.0
    assert report["rl"]["seconds"] == {"sampling": 30.0, "scoring": 7.5, "updates": 30.0}
    assert report["rl"]["reward_errors_max"] == report["rl"]["reward_abstained_max"] == 1
    assert report["rl"]["step_skipped_max"] == 1


def test_first_and_last_are_means_of_a_tenth_of_the_measured_steps(workdir: Path) -> None:
    report = write(workdir)
    rewards = [row["reward"] for row in read_jsonl(workdir / "rl" / "metrics.jsonl") if "reward" in row]
    assert len(rewards) == 120
    assert report["rl"]["reward_first"] == pytest.approx(sum(rewards[:12]) / 12, rel=1e-12)
    assert report["rl"]["reward_last"] == pytest.approx(sum(rewards[-12:]) / 12, rel=1e-12)
    held_out = [row["eval_loss"] for row in read_jsonl(workdir / "sft" / "metrics.jsonl") if "eval_loss" in row]
    assert len(held_out) == 8  # a tenth is at least one
    assert (report["sft"]["eval_loss_first"], report["sft"]["eval_loss_last"]) == (held_out[0], held_out[-1])
    assert report["pretrain"]["loss_first"] > report["pretrain"]["loss_last"]


def test_only_seconds_tells_two_equal_runs_apart(workdir: Path, change: Change) -> None:
    before = write(workdir)
    for stage in before["seconds"]:
        change(f"{stage}/manifest.json", {"seconds": 1.5, "versions": {"jax": "9.9"}})
    after = write(workdir)
    assert before["seconds"] != after["seconds"]
    assert {k: v for k, v in before.items() if k != "seconds"} == {k: v for k, v in after.items() if k != "seconds"}


def test_two_writes_give_equal_bytes(workdir: Path, drawn: None) -> None:
    def contents() -> dict[str, bytes]:
        write(workdir)
        return {path.name: path.read_bytes() for path in (workdir / "report").iterdir()}

    first = contents()
    assert sorted(first) == ["index.html", "report.json"]
    assert first == contents()


def test_page_refers_to_nothing_outside_itself(workdir: Path, drawn: None) -> None:
    seen = page(workdir)
    references = [
        value
        for _, attributes in seen.tags
        for name, value in attributes.items()
        if name in {"src", "href", "xlink:href", "srcset", "data", "action"}
    ]
    assert references
    assert all(reference and reference.startswith("#") for reference in references)
    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in seen.tags}
    html = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)", html)


def test_ids_are_unique_and_every_reference_has_its_target(workdir: Path, drawn: None) -> None:
    seen = page(workdir)
    ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    html = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    targets = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html))
    labels = {name for _, a in seen.tags for name in (a.get("aria-labelledby") or "").split()}
    assert len(targets) > 10
    assert {one or other for one, other in targets} | labels <= set(ids)


def test_text_of_the_run_stays_text(workdir: Path, drawn: None, change: Change) -> None:
    sneaky = "<script>alert(1)</script>"
    host = {"host": sneaky, "pages": 2, "collected": 1, "share": 0.5, "math_related": True}
    change("corpus/summary.json", {"domains": [host], "funnel": [[f"{sneaky} & more", 5]]})
    seen = page(workdir)
    completions = seen.text("pre")
    assert any('<script>alert("no")</script> & 1 < 2' in text for text in completions)
    assert any("<b>bold</b>" in text for text in completions)  # the config
    assert sneaky in seen.text("th")
    assert f"{sneaky} & more: 5" in [text.strip() for text in seen.text("text")]
    assert not {"script", "b", "img"} & {tag for tag, _ in seen.tags}


def test_plots_and_tables_can_be_read_aloud(workdir: Path) -> None:
    seen = page(workdir)
    plots = seen.of("svg")
    titles = ["Accuracy by stage", "Corpus funnel", *(curve.title for curve in CURVES)]
    assert seen.text("figcaption") == titles
    assert len(plots) == len(titles) == 19
    assert all(plot["role"] == "img" for plot in plots)
    assert seen.text("title")[1:] == seen.text("figcaption")
    assert "RL: greedy 65.0 %, maj@k 67.0 %, pass@k 82.0 %" in seen.text("desc")[0]
    assert {header["scope"] for header in seen.of("th")} == {"row", "col"}
    assert seen.of("html")[0]["lang"] == "en"


def test_plots_take_their_colors_from_the_page(workdir: Path, drawn: None) -> None:
    write(workdir)
    html = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "var(--first)" in drawings
    assert "var(--ink)" in drawings
    assert re.findall(r"(?:fill|stroke): ?#\w+", drawings) == []


@pytest.mark.parametrize("stage", ["corpus", "tokenizer", "pretrain", "sft", "rl", "evaluate"])
def test_a_missing_stage_is_left_out_and_named(workdir: Path, stage: str) -> None:
    remove(workdir / stage)
    report = write(workdir)
    assert report["missing"] == [stage]
    assert stage not in report
    assert stage not in report["seconds"]
    paragraphs = Page((workdir / "report" / "index.html").read_text(encoding="utf-8")).text("p")
    assert f"Unfinished in this workdir: {outputs.STAGE_LABELS[stage]}." in paragraphs
    assert "time " in summary_table(report)


def test_problems_that_are_in_the_training_data_are_counted(workdir: Path) -> None:
    assert "in training data" not in page(workdir).text("th")
    path = workdir / "evaluate" / "summary.json"
    summary = json.loads(path.read_text())
    counts = {"base": 0, "sft": None, "rl": 3}
    for model, count in counts.items():
        summary[model]["pooled"]["num_overlapping"] = count
    path.write_text(json.dumps(summary))
    report = write(workdir)
    assert {model: scores["num_overlapping"] for model, scores in report["evaluate"].items()} == counts
    html = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<td>8</td><td>240</td><td>(.*?)</td>", html) == ["0", "not measured", "3"]


@pytest.mark.parametrize("stage", outputs.REWARD_STAGES)
def test_a_stage_that_few_methods_need_is_not_missed(workdir: Path, stage: str) -> None:
    remove(workdir / stage)
    report = write(workdir)
    assert report["missing"] == []
    assert stage not in report
    assert stage not in report["seconds"]


@pytest.mark.parametrize("stage", ["corpus", "evaluate"])
def test_one_finished_stage_is_enough(workdir: Path, stage: str) -> None:
    for other in outputs.STAGE_LABELS:
        if other != stage:
            remove(workdir / other)
    seen = page(workdir)
    assert len(seen.of("svg")) == 1
    targets = {(link["href"] or "").removeprefix("#") for link in seen.of("a")}
    assert targets <= {attributes.get("id") for _, attributes in seen.tags}


def test_an_unfinished_stage_counts_as_missing(workdir: Path) -> None:
    (workdir / "rl" / "manifest.json").unlink()
    assert write(workdir)["missing"] == ["rl"]


def test_training_of_no_steps_is_no_error(workdir: Path) -> None:
    for name in ("metrics.jsonl", "timing.jsonl", "samples.jsonl"):
        write_jsonl(workdir / "rl" / name, [])
    report = write(workdir)
    assert report["rl"] == {"steps": 0}
    assert "reward" not in summary_table(report)


class TestBrokenInput:
    def test_a_broken_line_is_named(self, workdir: Path) -> None:
        path = workdir / "pretrain" / "metrics.jsonl"
        path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo', encoding="utf-8")
        with pytest.raises(UserError, match=r"pretrain/metrics\.jsonl, line 2"):
            write(workdir)
        assert not (workdir / "report").exists()

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"loss": 1.0}, "'step'"),
            ({"step": 2, "loss": "low"}, "'loss'"),
            ({"step": 2, "loss": float("nan")}, "'loss'"),
        ],
    )
    def test_a_metric_that_is_no_number_is_named(self, workdir: Path, row: dict[str, Any], message: str) -> None:
        write_jsonl(workdir / "sft" / "metrics.jsonl", [{"step": 1, "loss": 1.0}, row])
        with pytest.raises(UserError, match=rf"metrics\.jsonl, record 2: {message}.*--overwrite=sft"):
            write(workdir)

    @pytest.mark.parametrize(
        "path",
        ["corpus/summary.json", "evaluate/summary.json", "reward_model/summary.json", "process_model/summary.json"],
    )
    def test_a_summary_that_is_missing_or_cut_short_is_named(self, workdir: Path, path: str) -> None:
        stage = path.split("/")[0]
        (workdir / path).write_text('{"pages_read": 3', encoding="utf-8")
        with pytest.raises(UserError, match=rf"{path} cannot be read as JSON; .*--overwrite={stage}"):
            write(workdir)
        (workdir / path).unlink()
        with pytest.raises(UserError, match=rf"{path} cannot be read as JSON"):
            write(workdir)

    def test_a_missing_field_is_named(self, workdir: Path) -> None:
        write_json(workdir / "corpus" / "summary.json", {"pages_read": 3})
        with pytest.raises(UserError, match=r"corpus/summary\.json: the field 'documents_kept' is missing"):
            write(workdir)

    def test_a_completion_without_its_field_is_named(self, workdir: Path) -> None:
        lines = [{"id": "toy/test/0", "sample": -1, "answer": "1", "correct": True}]
        write_jsonl(workdir / "evaluate" / "sft" / "toy_test-cot" / "samples.jsonl", lines)
        message = r"samples\.jsonl: the field 'completion' is missing; redo the stage with --overwrite=evaluate"
        with pytest.raises(UserError, match=message):
            write(workdir)

    def test_an_empty_workdir_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="No stage has finished"):
            write(tmp_path)


class TestReinforcementLearning:
    """Not all methods measure all, and older runs measured less."""

    @pytest.mark.parametrize("metric", outputs.METRICS["rl"])
    def test_any_metric_may_be_missing(self, workdir: Path, metric: str) -> None:
        path = workdir / "rl" / "metrics.jsonl"
        write_jsonl(path, [{k: v for k, v in row.items() if k != metric} for row in read_jsonl(path)])
        seen = page(workdir)
        alone = [curve.title for curve in CURVES if curve.stage == "rl" and list(curve.metrics) == [metric]]
        assert not set(alone) & set(seen.text("figcaption"))
        assert f"{metric}_last" not in outputs.read(workdir).report["rl"]

    def test_a_run_without_timing_and_samples(self, workdir: Path) -> None:
        for name in ("timing.jsonl", "samples.jsonl"):
            (workdir / "rl" / name).unlink()
        seen = page(workdir)
        assert "Samples of reinforcement learning" not in seen.text("h3")
        assert "Seconds by phase" not in seen.text("figcaption")
        assert "seconds" not in outputs.read(workdir).report["rl"]

    def test_metrics_that_are_always_zero_are_listed_not_drawn(self, workdir: Path) -> None:
        path = workdir / "rl" / "metrics.jsonl"
        zeros = {"clip_low": 0.0, "clip_high": 0.0, "frac_truncated": 0.0}
        write_jsonl(path, [row | (zeros if "reward" in row else {}) for row in read_jsonl(path)])
        seen = page(workdir)
        assert not {"Clipped tokens", "Truncated completions"} & set(seen.text("figcaption"))
        assert "Not drawn, always 0: clipped tokens, truncated completions." in seen.text("p")

    def test_findings_are_listed_with_their_samples(self, workdir: Path) -> None:
        sneaky = "<script>alert(1)</script>"
        sample = {"question": "1 + 1?", "completion": sneaky, "reward": 0.0, "finish": "length"}
        found = [
            (0, "clip_shares_zero", "Clip shares are 0, as they should be.", True),
            (3, "all_truncated", f"All are cut {sneaky}.", False),
            (9, "all_truncated", "All are cut again.", False),
        ]
        rows = [
            {"step": step, "kind": kind, "message": message, "normal": normal, "sample": sample if step else None}
            for step, kind, message, normal in found
        ]
        write_jsonl(workdir / "rl" / "findings.jsonl", rows)
        write_json(workdir / "rl" / "best" / "best.json", {"step": 90, "eval_greedy": 0.59})
        report = write(workdir)
        assert report["rl"]["findings"] == {"all_truncated": 3}
        assert report["rl"]["best"] == {"step": 90, "eval_greedy": 0.59}
        seen = page(workdir)
        assert "Findings" in seen.text("h4")
        assert {"Step 3.", "Step 9."} <= set(seen.text("strong"))
        assert any(f"All are cut {sneaky}." in text for text in seen.text("li"))
        assert sneaky in seen.text("pre")
        assert any("The best greedy accuracy, 59.0 %, is that of step 90" in text for text in seen.text("p"))
        # One that is normal explains the curves that are not drawn.
        assert not any("as they should be" in text for text in (*seen.text("li"), *seen.text("p")))
        path = workdir / "rl" / "metrics.jsonl"
        write_jsonl(path, [row | {"clip_low": 0.0, "clip_high": 0.0} for row in read_jsonl(path)])
        assert "Not drawn, always 0: clipped tokens. Clip shares are 0, as they should be." in page(workdir).text("p")

    def test_a_run_without_findings_lists_none(self, workdir: Path) -> None:
        write_jsonl(workdir / "rl" / "findings.jsonl", [])
        assert not {"findings", "best"} & write(workdir)["rl"].keys()
        assert "Findings" not in page(workdir).text("h4")

    def test_a_rule_that_is_the_reward_is_drawn_once(self, workdir: Path) -> None:
        path = workdir / "rl" / "metrics.jsonl"
        write_jsonl(
            path, [row | ({"rule_reward": row["reward"]} if "reward" in row else {}) for row in read_jsonl(path)]
        )
        assert "Reward" in page(workdir).text("figcaption")
        assert "Rule reward of the samples" not in page(workdir).text("figcaption")

    def test_phases_are_listed_under_their_stage(self, workdir: Path) -> None:
        headers = page(workdir).text("th")
        place = headers.index("of which sampling")
        assert headers[place - 1 : place + 3] == [
            "reinforcement learning", "of which sampling", "of which scoring", "of which updates",
        ]  # fmt: skip

    def test_samples_of_begin_middle_and_end(self, workdir: Path) -> None:
        samples = outputs.read(workdir).samples
        assert [row["step"] for row in samples] == [0, 0, 0, 60, 60, 60, 118, 118, 118]
        assert "a fourth that is not shown" not in [row["completion"] for row in samples]
        seen = page(workdir)
        assert "3 + " * 75 + "…" in seen.text("summary")
        assert "3 + " * 200 in seen.text("pre")
        assert "(empty)" in seen.text("pre")
        assert {"none", "eos", "length"} <= set(seen.text("td"))
        assert any('<script>alert("no")</script>' in text for text in seen.text("pre"))

    @pytest.mark.parametrize("steps", [0, 1, 2])
    def test_samples_of_few_steps(self, workdir: Path, steps: int) -> None:
        row = {"question": "?", "completion": "!", "reward": 1.0}  # as older runs have them
        write_jsonl(workdir / "rl" / "samples.jsonl", [{"step": step} | row for step in range(steps)])
        assert [row["step"] for row in outputs.read(workdir).samples] == list(range(steps))
        page(workdir)

    def test_a_sample_without_its_field_is_named(self, workdir: Path) -> None:
        write_jsonl(workdir / "rl" / "samples.jsonl", [{"step": 0, "question": "?", "reward": 1.0}])
        with pytest.raises(UserError, match=r"rl/samples\.jsonl: the field 'completion' is missing"):
            write(workdir)


def test_a_model_without_correct_completions(workdir: Path) -> None:
    path = workdir / "evaluate" / "rl" / "toy_test-cot" / "samples.jsonl"
    write_jsonl(path, [line for line in read_jsonl(path) if not line["correct"]])
    assert "No greedy completion of this model is correct." in page(workdir).text("p")


def test_several_tasks_are_listed_below_their_model(workdir: Path, change: Change) -> None:
    unknown = dict.fromkeys((*outputs.SCORES, *(f"{score}_interval" for score in outputs.SCORES)))
    change("evaluate/summary.json", {"rl": {"tasks": {"gsm8k": POOLED, "minif2f": unknown | {"n": 244, "k": 8}}}})
    report = write(workdir)
    assert report["evaluate"]["rl"]["tasks"]["gsm8k"]["greedy"] == 0.5
    assert summary_table(report).splitlines()[2:7] == [
        "SFT           47.5 %  41.5 to 53.5 %      52.0 %   81.0 %    8    240",
        "RL            65.0 %  59.0 to 71.0 %      67.0 %   82.0 %    8    240",
        "  toy/test    65.0 %  59.0 to 71.0 %      67.0 %   82.0 %    8    240",
        "  gsm8k       50.0 %  40.0 to 60.0 %      50.0 %   50.0 %    8    200",
        "  minif2f          –                           –        –    8    244",
    ]
    headers = page(workdir).text("th")
    assert headers[headers.index("RL") + 1 :][:3] == ["toy/test", "gsm8k", "minif2f"]
    assert headers[headers.index("SFT") + 1] == "RL"  # a model with a single task has no rows for it


POOLED = {"n": 200, "k": 8} | dict.fromkeys(outputs.SCORES, 0.5)
POOLED |= {f"{score}_interval": [0.4, 0.6] for score in outputs.SCORES}


def test_long_curves_stay_small(workdir: Path, drawn: None) -> None:
    rows = [{"step": step, "reward": (step * 7919 % 101) / 101, "kl": 0.1} for step in range(1, 30_001)]
    write_jsonl(workdir / "rl" / "metrics.jsonl", rows)
    write(workdir)
    assert (workdir / "report" / "index.html").stat().st_size < 400_000


def test_summary_table(workdir: Path) -> None:
    assert summary_table(write(workdir)).splitlines() == [
        "model      greedy  95 % interval        maj@k   pass@k    k      n",
        "Base        2.5 %  0.0 to 8.5 %         3.0 %   14.0 %    8    240",
        "SFT        47.5 %  41.5 to 53.5 %      52.0 %   81.0 %    8    240",
        "RL         65.0 %  59.0 to 71.0 %      67.0 %   82.0 %    8    240",
        "corpus  931 documents kept, precision 96.8 %, recall 94.7 %",
        "reward  0.444 -> 0.666",
        "time    6 min 45 s",
    ]
