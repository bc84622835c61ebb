"""Tests of the command: a trained checkpoint on real problems, kills, resuming, and bad input."""

import functools
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest

from dsmath_jax.data.tokenizer import encode_after
from dsmath_jax.evaluation import __main__ as command
from dsmath_jax.evaluation import samples
from dsmath_jax.evaluation.policy import Policy, TextCompletion, with_chat_settings
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sampling.turns import Turn
from dsmath_jax.training.model_files import load_model
from dsmath_jax.workdir import UserError, read_json, read_jsonl

Arguments = Callable[..., list[str]]
POLICY_OF = Policy.of


@functools.cache
def policy_of(arguments: tuple, *sampling: Any) -> Policy:
    *load_arguments, chat = arguments
    return POLICY_OF(with_chat_settings(load_model(*load_arguments), dict(chat)), *sampling)


@pytest.fixture
def arguments(real_data: Path) -> Arguments:
    def make(out: Path, *more: str) -> list[str]:
        return [
            f"--checkpoint=hf:{real_data}/checkpoints/stories260k_hf", f"--data_dir={real_data}", f"--out={out}",
            "--limit=3", "--samples=2", "--max_new_tokens=8", "--decode_slots=8", *more,
        ]  # fmt: skip

    return make


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("samples.jsonl"))}


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares one model, since each sampler would compile again."""
    monkeypatch.setattr(command, "load_model", lambda *arguments: arguments)
    monkeypatch.setattr(command, "with_chat_settings", lambda loaded, chat: (*loaded, tuple(chat.items())))
    monkeypatch.setattr(Policy, "of", policy_of)


class Killed(BaseException):
    """Simulates the end of the process."""


@pytest.mark.slow
def test_a_killed_evaluation_resumes_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: Arguments
) -> None:
    more = ("--tasks=gsm8k,sat", "--style=chat", "--template=paper", "--seed=3")
    command.main(arguments(tmp_path / "whole", *more))
    assert "| gsm8k | cot |" in capsys.readouterr().out
    whole = files(tmp_path / "whole")
    assert [*whole] == ["gsm8k-cot/samples.jsonl", "sat-cot/samples.jsonl"]
    append, left = samples.append, [1]

    def dying(path: Path, rows: Any) -> None:
        if not left[0]:
            with open(path, "ab") as file:
                file.write(b'{"id": "gsm8k/te')
            raise Killed
        left[0] -= 1
        append(path, rows)

    monkeypatch.setattr(samples, "append", dying)
    with pytest.raises(Killed):
        command.main(arguments(tmp_path / "killed", *more))
    monkeypatch.setattr(samples, "append", append)
    begun = (tmp_path / "killed" / "gsm8k-cot" / "samples.jsonl").read_bytes()
    assert 0 < begun.count(b"\n") < 9
    assert begun.startswith(whole["gsm8k-cot/samples.jsonl"][: begun.rfind(b"\n")])
    command.main(arguments(tmp_path / "killed", *more))
    assert files(tmp_path / "killed") == whole
    summary = read_json(tmp_path / "killed" / "summary.json")
    ones, others = (read_json(tmp_path / name / "summary.json")["results"] for name in ("killed", "whole"))
    assert [one | {"command": ""} for one in ones] == [one | {"command": ""} for one in others]
    assert [(one["task"], one["n"], one["total"], one["k"]) for one in summary["results"]] == [
        ("gsm8k", 3, 1319, 2), ("sat", 3, 32, 2)
    ]  # fmt: skip
    pooled = summary["pooled"]["cot"]
    assert (pooled["tasks"], pooled["n"], pooled["total"], pooled["k"]) == (["gsm8k", "sat"], 6, 1351, 2)
    assert pooled["greedy"] == sum(one["greedy"] * one["n"] for one in summary["results"]) / 6
    assert "| all 2 tasks | cot |" in (tmp_path / "killed" / "table.md").read_text()
    # A Hugging Face folder without an instruction is asked with the paper's.
    settings = read_json(tmp_path / "killed" / "settings.json")
    assert settings["instruction"] == summary["run"]["instruction"] == "paper"
    assert "with the paper's instruction" in (tmp_path / "killed" / "table.md").read_text()
    # A finished evaluation is reported again, and nothing is drawn.
    monkeypatch.setattr(Policy, "complete", lambda *_, **__: pytest.fail("drew again"))
    command.main(arguments(tmp_path / "killed", *more))
    assert files(tmp_path / "killed") == whole
    with pytest.raises(UserError, match=r"holds samples made with other settings \(seed\); give another --out"):
        command.main(arguments(tmp_path / "killed", *more[:3], "--seed=4"))


def test_programs_and_dialogues_are_graded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments
) -> None:
    """A model with fixed completions, some of which are correct for the first problem (18)."""
    program = "```python\ndef solution():\n    return (16 - 3 - 4) * 2\nprint(solution())\n"
    turns = [[program + "```output"] * 2 + [r"So \boxed{18}."], [r"The answer is $\boxed{18}$."] * 3]

    def complete(self: Policy, prompts: Sequence[str], sampling: SamplingParams, **_: Any) -> Iterator:
        for _ in prompts:
            yield [TextCompletion(program + "```", "stop")] * sampling.samples

    def converse(
        self: Sampler, params: Any, prompts: Sequence[Sequence[int]], sampling: SamplingParams, *, decode: Any, **_: Any
    ) -> Iterator:
        partner, tokenizer, group = sampling.partner, decode.__self__, list[Completion]()
        assert partner is not None
        for prompt, sample in itertools.product(range(len(prompts)), range(sampling.samples)):
            tokens: list[int] = []
            for number, texts in enumerate(turns):
                said = encode_after(tokenizer, texts[sample % 3])
                tokens += said
                partner.ask([Turn(prompt, sample, number, said, "stop" if number == 0 else "eos", False)])
                (reply,) = partner.replies()
                if reply is None:
                    break
                tokens += reply.tokens
            completion = Completion(prompt, sample, tokens, [], [], "eos")
            group.append(completion)
            if len(group) == sampling.samples:
                yield group
                group = []

    monkeypatch.setattr(Policy, "complete", complete)
    for mode in ("pot", "tir"):
        if mode == "tir":
            monkeypatch.setattr(Sampler, "generate", converse)
        command.main(arguments(tmp_path, "--tasks=gsm8k", f"--mode={mode}"))
        lines = list(read_jsonl(tmp_path / f"gsm8k-{mode}" / "samples.jsonl"))
        assert len(lines) == 9
        for line in lines:
            assert line["answer"] == "18"
            assert line["correct"] is (line["id"] == "gsm8k/test/0")
            assert line["sandbox"]
            assert line.get("ran") == ("ok" if mode == "pot" else None)
        if mode == "tir":
            assert lines[0]["completion"].count("```output\n18\n```\n") == 1
    assert [one["mode"] for one in read_json(tmp_path / "summary.json")["results"]] == ["pot", "tir"]
    assert "| gsm8k | tir |" in (tmp_path / "table.md").read_text()


def test_code_is_graded_by_its_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments) -> None:
    def complete(self: Policy, prompts: Sequence[str], sampling: SamplingParams, **_: Any) -> Iterator:
        for prompt in prompts:
            solution = "    return number % 1.0" if "truncate_number" in prompt else "    return None"
            yield [TextCompletion(solution, "eos")] * sampling.samples

    monkeypatch.setattr(Policy, "complete", complete)
    command.main(arguments(tmp_path, "--tasks=humaneval", "--limit=164", "--samples=0"))
    lines = list(read_jsonl(tmp_path / "humaneval-cot" / "samples.jsonl"))
    assert {line["id"]: line["reason"] for line in lines if line["correct"]} == {"humaneval/test/2": "passed"}
    assert all(line["sandbox"] for line in lines)


def test_proofs_are_exported_and_never_counted_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without isabelle
    texts = [TextCompletion("  by simp", "eos"), TextCompletion("  sorry", "eos")]
    monkeypatch.setattr(
        Policy,
        "complete",
        lambda self, prompts, sampling, **_: ((texts * sampling.samples)[: sampling.samples] for _ in prompts),
    )
    command.main(arguments(tmp_path, "--tasks=minif2f"))
    (result,) = read_json(tmp_path / "summary.json")["results"]
    assert (result["greedy"], result["checked"], result["n"]) == (None, False, 3)
    assert "not checked" in (tmp_path / "table.md").read_text()
    names = sorted(path.parent.name for path in (tmp_path / "minif2f-cot" / "theories").rglob("*.thy"))
    assert len([name for name in names if name.endswith(("_greedy", "_0"))]) == 6
    listed = (tmp_path / "minif2f-cot" / "theories" / "ROOTS").read_text().split()
    assert [name for name in listed if name in names] == names


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--tasks=gsm8"], r"Unknown task 'gsm8', did you mean 'gsm8k'"),
        (["--tasks=sat", "--mode=pot"], r"'sat' has no mode pot; use one of cot"),
        (["--tasks=math"], r"'math/test' needs the file .*; unpack the MATH data set's own archive"),
        (["--tasks=sat", "--out=gs://bucket/out"], r"gs://bucket/out is an address, and object storage is not"),
        (["--tasks=sat", "--data_dir=s3://bucket/data"], r"s3://bucket/data is an address, and object storage"),
        (["--tasks=sat", "--temperature=-1"], r"--temperature is -1.0; it must be at least 0"),
        (["--tasks=sat", "--temperature=nan"], r"--temperature is nan; it must be a finite number"),
        (["--tasks=sat", "--top_p=0"], r"--top_p is 0.0; it must be above 0"),
        (["--tasks=sat", "--max_thinking_tokens=1023", "--max_new_tokens=1024"],
         r"--max_thinking_tokens is 1023: with </think> it leaves none of max_new_tokens=1024"),
        (["--tasks=sat", "--cache_dtype=int4"], r"--cache_dtype must be one of '', 'bfloat16', .*, 'int8'; got 'int4'"),
        (["--tasks=sat", "--samples=1001"], r"--samples is 1001; it must be at most 1,000"),
        (["--tasks=sat", "--checkpoint=hf:nowhere"], r"There is no folder nowhere; give that of a stage, hf:"),
        (["--tasks=sat", "--mesh={\"tensor\": 3}"], r"does not multiply to the"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(tmp_path: Path, more: list[str], sentence: str, arguments: Arguments) -> None:
    with pytest.raises(UserError, match=sentence):
        command.main(arguments(tmp_path / "out", *more))
    assert not (tmp_path / "out" / "summary.json").exists()


@pytest.mark.parametrize("mesh", ["{", "[1]", '{"tensr": 1}', '{"tensor": "1"}'])
def test_a_bad_mesh_is_reported(
    mesh: str, tmp_path: Path, arguments: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments(tmp_path / "out", "--tasks=sat", f"--mesh={mesh}"))
    assert "is not a JSON object of integers by axis of replica, fsdp, context, tensor" in capsys.readouterr().err


def test_only_own_results_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments) -> None:
    completions = [TextCompletion("The final answer is (B).", "eos")] * 2
    monkeypatch.setattr(
        Policy, "complete", lambda self, prompts, sampling, **_: (completions[: sampling.samples] for _ in prompts)
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "summary.json").write_text("[]")
    command.main(arguments(tmp_path, "--tasks=mmlu_stem"))
    summary = read_json(tmp_path / "summary.json")
    (result,) = summary["results"]
    assert [*result["groups"]] == ["subject"]
    assert result["command"].startswith("python -m dsmath_jax.evaluation --checkpoint=hf:")
    assert summary["run"]["max_new_tokens"] == 8
    assert "mode" not in summary["run"]
    (tmp_path / "mmlu_stem-cot" / "samples.jsonl").write_text("")
    (tmp_path / "gsm8k-cot").mkdir()
    (tmp_path / "gsm8k-cot" / "summary.json").write_text("{")
    (tmp_path / "gsm8k-cot" / "problems.jsonl").write_text("")
    with pytest.raises(UserError, match=r"gsm8k-cot/summary\.json: not a JSON object; fix or remove the folder"):
        command.main(arguments(tmp_path, "--tasks=mmlu_stem"))


@pytest.mark.slow
def test_results_with_int8_are_not_mixed_with_others(tmp_path: Path, arguments: Arguments) -> None:
    int8 = ("--cache_dtype=int8", "--decode_weight_dtype=int8")
    command.main(arguments(tmp_path, "--tasks=sat", *int8))
    run = read_json(tmp_path / "summary.json")["run"]
    assert (run["cache_dtype"], run["decode_weight_dtype"]) == ("int8", "int8")
    with pytest.raises(UserError, match=r"decode_weight_dtype"):
        command.main(arguments(tmp_path, "--tasks=sat", int8[0]))


def test_a_checkpoint_without_tokenizer_is_reported(tmp_path: Path, real_data: Path, arguments: Arguments) -> None:
    shutil.copytree(real_data / "checkpoints" / "stories260k_hf", tmp_path / "model")
    (tmp_path / "model" / "tokenizer.model").unlink()
    with pytest.raises(UserError, match=r"There is no tokenizer in .*model or next to it; give its \.model"):
        command.main([f"--checkpoint=hf:{tmp_path / 'model'}", *arguments(tmp_path / "out", "--tasks=sat")[1:]])


@pytest.mark.slow
def test_a_killed_process_repeats_no_finished_sample(tmp_path: Path, arguments: Arguments) -> None:
    """50 problems of each task, CoT, PoT and TIR; killed with -9 every few seconds until it is done."""
    names = "gsm8k,ocw,sat,mmlu_stem,mgsm_zh,cmath,gaokao_mathcloze,gaokao_mathqa,mmlu,bbh,humaneval,mbpp"
    environment = os.environ | {"JAX_PLATFORMS": jax.default_backend()}
    for mode, tasks in (("cot", names), ("pot", "gsm8k"), ("tir", "gsm8k")):
        run = [sys.executable, "-m", "dsmath_jax.evaluation"]
        run += arguments(tmp_path / "out", f"--tasks={tasks}", f"--mode={mode}", "--limit=50", "--decode_slots=32")
        seen: dict[str, bytes] = {}
        for pause in (20, 25, 30, 900):
            process = subprocess.Popen(run, env=environment, stdout=subprocess.DEVNULL)
            try:
                code: int | None = process.wait(pause)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                code = process.wait()
                time.sleep(0.5)
            now = files(tmp_path / "out")
            for path, lines in seen.items():
                assert now[path].startswith(lines[: lines.rfind(b"\n") + 1])
            seen = now
            if code == 0:
                break
        assert code == 0
    for result in read_json(tmp_path / "out" / "summary.json")["results"]:
        path = tmp_path / "out" / f"{result['task']}-{result['mode']}" / "samples.jsonl"
        keys = [(line["id"], line["sample"]) for line in read_jsonl(path)]
        assert len(keys) == len({*keys}) == 3 * result["n"]
        assert result["n"] == min(50, result["total"])
        assert result["greedy"] < 0.5
    assert len(json.dumps(read_json(tmp_path / "out" / "summary.json"))) < 200_000


SHARED = """
import sys
import jax
from dsmath_jax.evaluation.run import SharedSandbox
from dsmath_jax.grading.sandbox import Program, Sandbox
from dsmath_jax.processes import initialize_distributed
from dsmath_jax.sharding import broadcast_json

if __name__ == "__main__":
    initialize_distributed(sys.argv[1], 2, int(sys.argv[2]))
    first = jax.process_index() == 0
    shared = SharedSandbox(Sandbox(1) if first else None)
    print("result:", [(ran.status, ran.output) for ran in shared.run([Program("print(6 * 7)"), Program("1 / 0")])])
    print("result:", broadcast_json({"done": 3, "text": "三" * 1000} if first else None))
"""


def in_two_processes(command: Sequence[str], address: Callable[[str, int], list[str]], folder: Path) -> list[str]:
    """Runs a command in two connected processes; returns what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])}
    logs, running = [folder / f"{process}.log" for process in range(2)], []
    for process, log in enumerate(logs):
        with open(log, "w", encoding="utf-8") as file:
            whole = [sys.executable, *command, *address(coordinator, process)]
            running.append(subprocess.Popen(whole, env=environment, stdout=file, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout=600) for process in running]
    finally:
        for process in running:
            process.kill()
    printed = [log.read_text(encoding="utf-8") for log in logs]
    assert codes == [0, 0], "\n".join(text[-2000:] for text in printed)
    return printed


@pytest.mark.slow
def test_two_processes_give_the_answers_of_one(tmp_path: Path, arguments: Arguments) -> None:
    more = ("--tasks=sat", "--style=chat", "--template=paper", "--dtype=float32")
    command.main(arguments(tmp_path / "one", *more))

    def address(coordinator: str, process: int) -> list[str]:
        return [f"--coordinator={coordinator}", "--processes=2", f"--process={process}"]

    run = ["-m", "dsmath_jax.evaluation", *arguments(tmp_path / "two", *more)]
    printed = in_two_processes(run, address, tmp_path)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert ["| sat | cot |" in text for text in printed] == [True, False]


@pytest.mark.slow
def test_all_processes_get_the_results_of_programs(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text(SHARED)
    printed = in_two_processes([str(tmp_path / "shared.py")], lambda at, process: [at, str(process)], tmp_path)
    results = [[line for line in text.splitlines() if line.startswith("result:")] for text in printed]
    assert results[0] == results[1]
    assert results[0][0] == "result: [('ok', '42\\n'), ('raised', '')]"
