"""The plan of a corpus run and its core-hours."""

import pytest

from dsmath_jax.corpus.plan import core_hours, plan, rates
from dsmath_jax.corpus.settings import CorpusSettings
from dsmath_jax.workdir import UserError


def test_core_hours_are_rates_times_pages():
    seconds = {"read": 1.0, "extract": 4.0, "language": 0.5, "normalize": 0.5, "minhash": 1.0, "files": 1.0,
               "duplicates": 2.0, "score": 2.0}  # fmt: skip
    hours = core_hours(3_600_000, 4, seconds)
    assert hours["extract"] == 4.0
    assert hours["score"] == pytest.approx(2.0 * 0.9 * 4)


def test_the_plan_has_shards_and_pages(tmp_path):
    (tmp_path / "warc.paths").write_text("crawl-data/a.warc.gz\ncrawl-data/b.warc.gz\n")
    settings = CorpusSettings(input="warc.paths", seeds="seeds.txt", benchmarks=("gsm8k/test",))
    lines = "\n".join(plan(settings, tmp_path))
    assert "2 shards, https://data.commoncrawl.org/crawl-data/a.warc.gz first" in lines
    assert "gsm8k/test" in lines
    assert "40,000,000,000 pages" in lines
    with pytest.raises(UserError, match="No input file"):
        list(plan(CorpusSettings(input="none/*.warc.gz"), tmp_path))


def test_the_rates_have_their_origin():
    assert set(rates()) == {"command", "hardware", "commit", "seconds_per_1000_pages"}
    assert all(seconds > 0 for seconds in rates()["seconds_per_1000_pages"].values())
