"""`dsmath doctor`: the checks of a model that works, and what is said of one that does not."""

import contextlib
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dsmath_jax import api, doctor
from dsmath_jax.workdir import UserError

CHECKS = ["import", "logits", "tokenizer", "template", "sampling", "sft", "grpo"]


@pytest.mark.slow
def test_a_model_passes_every_check(checkpoint_hf: Path, capsys: pytest.CaptureFixture) -> None:
    doctor.main([f"--model=hf:{checkpoint_hf}"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line[0] != " "]
    assert [line.split()[0] for line in lines] == CHECKS
    assert {line.split()[1] for line in lines} <= {doctor.PASSED, doctor.SKIPPED}
    assert "300 rows for 300 ids" in lines[0]
    assert "nats a token in 5 steps" in lines[5]


def test_a_model_that_is_not_there_fails(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        doctor.main([f"--model={tmp_path / 'nowhere'}"])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("import     FAILED")
    assert "There is no folder" in line


def test_checks_that_fail_do_not_end_the_others(checkpoint_hf: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint_hf, tmp_path / "broken"))
    (folder / "chat.json").unlink(missing_ok=True)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    lines = {line.check: line for line in doctor.examine(folder, tmp_path / "run")}
    assert [*lines] == CHECKS
    assert {lines[name].outcome for name in ("import", "tokenizer", "sampling")} == {doctor.PASSED}
    for name in ("template", "sft", "grpo"):
        assert lines[name].outcome == doctor.FAILED
        assert "chat.template must end the assistant's turn" in lines[name].finding


def test_logits_that_differ_from_transformers_fail(checkpoint_hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = api.load_model(f"hf:{checkpoint_hf}", dtype="float32")

    def peer(tokens: np.ndarray) -> Any:
        return SimpleNamespace(logits=SimpleNamespace(numpy=lambda: np.ones((*tokens.shape, 300), np.float32)))

    torch = SimpleNamespace(
        float32="float32", long="long", tensor=lambda values, dtype: values, no_grad=contextlib.nullcontext
    )
    loader = SimpleNamespace(from_pretrained=lambda folder, dtype: peer)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(doctor, "_transformers", lambda: SimpleNamespace(AutoModelForCausalLM=loader))
    with pytest.raises(UserError, match=r"the logits differ from transformers' by \d\.\de[+-]\d\d of the largest"):
        doctor.compare_logits(model, checkpoint_hf)
