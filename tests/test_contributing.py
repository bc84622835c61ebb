"""CONTRIBUTING.md: each of its examples runs as it stands and prints what the page shows."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTION = re.compile(r"^## (Add .*?)\n.*?```python\n(.*?)```\n\n```\n(.*?)```", re.DOTALL | re.MULTILINE)
EXAMPLES = {title: rest for title, *rest in SECTION.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))}


def test_four_examples_of_at_most_25_lines() -> None:
    assert [*EXAMPLES] == ["Add an RL method", "Add a data set", "Add a task", "Add a model family"]
    assert max(len(code.splitlines()) for code, _ in EXAMPLES.values()) <= 25


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_prints_what_the_page_shows(title: str, tmp_path: Path, checkpoint_hf: Path) -> None:
    gemma = tmp_path / "models" / "gemma"
    for folder in (tmp_path / "models" / "mine", gemma):
        shutil.copytree(checkpoint_hf, folder)
    stated = json.loads((gemma / "config.json").read_text()) | {"architectures": ["GemmaForCausalLM"]}
    (gemma / "config.json").write_text(json.dumps(stated))
    code, printed = EXAMPLES[title]
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "example.py"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip().startswith(printed.strip())
