"""The corpus of the tiny recipe on generated webs of other seeds and of a style that the package does not have."""

import runpy
from pathlib import Path

import pytest

from dsmath_jax.corpus.pipeline import mine
from dsmath_jax.corpus.settings import CorpusSettings
from dsmath_jax.settings import build
from dsmath_jax.toy import templates_default, world
from dsmath_jax.toy.settings import ToySettings
from tests.toy import templates_unseen

TINY = Path(__file__).parents[2] / "configs" / "tiny.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("style", "seed"),
    [
        (templates_unseen.STYLE, 0),
        (templates_unseen.STYLE, 2),
        (templates_default.STYLE, 1),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_mathematics_is_found_and_planted_pages_are_removed(tmp_path, style, seed):
    config = runpy.run_path(str(TINY))["get_config"]()
    world.write(tmp_path / "toy", seed, build(ToySettings, config.toy.to_dict()), style)

    summary = mine(build(CorpusSettings, config.corpus.to_dict()), seed, tmp_path / "toy", tmp_path / "corpus")

    assert summary["precision"] > 0.9
    assert summary["recall"] > 0.9
    assert summary["contaminated_labeled"] >= 10
    assert summary["contaminated_left"] == 0
    assert summary["contaminated_removed"] >= summary["contaminated_labeled"]
