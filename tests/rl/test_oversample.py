"""Rollouts of the first completions to end: groups stay whole, and killed runs end the same."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dsmath_jax.rl.rollout_files import read_rollout
from dsmath_jax.sharding import Layout
from dsmath_jax.workdir import write_json
from tests.rl.trainer_runs import RLRun, assert_same_results


def test_the_last_completions_to_end_are_dropped(
    recipe: Callable[..., RLRun], workdir: Callable[[str], Path], start: Path, layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Completions of a few tokens up to 120: the same policy samples shorter ones with `oversample`."""
    folders = [workdir(name) for name in ("plain", "whole", "cut")]
    for folder in folders:
        (folder / "tokenizer").unlink()
        shutil.copytree(start / "tokenizer", folder / "tokenizer")
        write_json(folder / "tokenizer" / "generation_config.json", {"eos_token_id": [2, *range(20, 32)]})
    plain, whole, cut = folders
    fields = {"steps": 2, "max_new_tokens": 120, "checkpoint_every": 1, "log_samples": "all"}
    recipe("grpo_rule", **fields).run(plain)
    rl = recipe("grpo_rule", oversample=4, **fields)
    assert rl.settings.num_decode_slots == 16
    rl.run(whole)
    lengths = []
    for folder in (plain, whole):
        (sequences, _), log = read_rollout(folder / "rl" / "rollouts" / "00000000.npz")
        lengths.append(sequences.completion_lengths)
        assert [row["prompt"] for row in log["samples"]] == [0] * 4 + [1] * 4
    assert max(row["sample"] for row in log["samples"]) >= 4
    assert np.mean(lengths[1]) < 0.8 * np.mean(lengths[0])
    rl.interrupt(cut, monkeypatch, 1)
    rl.run(cut)
    assert_same_results(whole, cut, layout)
