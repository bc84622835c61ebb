"""The corpus of the tiny recipe on generated webs, made with other seeds and with templates that it does not use."""

import runpy
from pathlib import Path

import pytest

from dsmath_jax.corpus.pipeline import mine
from dsmath_jax.toy import world

TINY = Path(__file__).parents[2] / "configs" / "tiny.py"


@pytest.mark.parametrize(("templates", "seed"), [("default", 1), ("unseen", 0), ("unseen", 2)])
def test_mathematics_is_found_and_planted_pages_are_removed(tmp_path, templates, seed):
    config = runpy.run_path(str(TINY))["get_config"]()
    config.toy.templates = templates
    world.write(tmp_path / "toy", seed, config.toy)

    summary = mine(config.corpus, seed, tmp_path / "toy", tmp_path / "corpus")

    assert summary["precision"] > 0.9
    assert summary["recall"] > 0.9
    assert summary["contaminated_planted"] >= 10
    assert summary["contaminated_left"] == 0
    assert summary["contaminated_removed"] >= summary["contaminated_planted"]
