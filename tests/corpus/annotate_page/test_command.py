"""`python -m dsmath_jax.corpus.annotate`."""

import signal
import subprocess
import sys

import pytest

from dsmath_jax.corpus import annotate
from dsmath_jax.workdir import UserError


def test_the_command_prints_the_address_and_the_next_step(workdir):
    (workdir / "annotations.jsonl").write_text("not JSON\n")
    command = [sys.executable, "-m", "dsmath_jax.corpus.annotate", f"--workdir={workdir}", "--port=0", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("annotation page: http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert output.splitlines()[-1] == f"--config.corpus.annotations={workdir / 'annotations.jsonl'}"
    assert f"{workdir / 'annotations.jsonl'}, line 1: not a JSON object" in errors


def test_a_workdir_without_a_corpus_and_a_port_in_use_are_refused(tmp_path, server):
    with pytest.raises(UserError, match="run the corpus stage first"):
        annotate.main([f"--workdir={tmp_path / 'none'}", "--no-browser"])
    with pytest.raises(UserError, match="give another --port"):
        annotate.main([f"--workdir={tmp_path}", f"--port={server.server_port}", "--no-browser"])
