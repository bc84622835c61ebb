"""Describes what a corpus run will do and cost, for `python -m dsmath_jax.main --config=... --dry_run`.

The rates in `rates.json` are measured on a small crawl; core-hours are rates times pages. The text below the table says
what this estimate leaves out.
"""

import dataclasses
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from dsmath_jax.corpus import domains, pages
from dsmath_jax.corpus.reading import sources
from dsmath_jax.corpus.settings import CorpusSettings
from dsmath_jax.workdir import read_json

PAGES_PER_SHARD = 35_000  # approximate number of HTML pages in a WARC file of Common Crawl
PAPER_PAGES = 40_000_000_000
# The steps for each page read, and for each candidate in each iteration.
ONCE = ("read", "extract", "language", "normalize", "minhash", "files", "duplicates")
EACH_ITERATION = ("score",)
CANDIDATES = 0.9  # share of the pages read, without duplicates and stubs
ASSUMPTIONS = f"""\
Assumed: {PAGES_PER_SHARD:,} HTML pages per WARC file; {CANDIDATES:.0%} of the pages are candidates; every page costs as
much as a page of the measured crawl. Not counted: the network, start-up, joins and sorts between shards beyond those
measured. Scores were measured with a classifier of dim 64; the paper's 256 takes up to four times as long. Training (a
process for each classifier) and decontamination of the collected pages are small in comparison."""


def rates() -> dict:
    """Reads the measured CPU seconds per 1,000 pages by step, with the command, the hardware and the commit."""
    return read_json(Path(str(files("dsmath_jax.corpus") / "rates.json")))


def core_hours(read: int, iterations: int, seconds: dict[str, float]) -> dict[str, float]:
    """Returns the core-hours by step for `read` pages; `seconds` are CPU seconds per 1,000 pages."""
    counts = dict.fromkeys(ONCE, read) | dict.fromkeys(EACH_ITERATION, round(CANDIDATES * read) * iterations)
    return {step: seconds[step] * count / 1000 / 3600 for step, count in counts.items()}


def plan(settings: CorpusSettings, data_dir: Path) -> Iterator[str]:
    """Yields the lines of the plan; reads only lists of paths and file names.

    Raises:
      UserError: the input cannot be found.
    """
    shards = sources.find(settings.input, data_dir, settings.input_root)
    yield f"input        {len(shards):,} shards, {shards[0]} first"
    yield f"seeds        {data_dir / settings.seeds}"
    yield f"domain rule  {domains.RULES[bool(settings.annotations)]}"
    counter = pages.token_counter(pages.page_settings(settings, data_dir))
    yield f"collected    {settings.top_tokens:,} tokens ({counter}) in each of {settings.iterations} iterations at most"
    yield f"fastText     {dataclasses.asdict(settings.fasttext)}"
    yield f"benchmarks   {', '.join(settings.benchmarks)}"
    yield f"engine       {settings.ray_address or 'this machine'}"
    measured = rates()
    seconds = measured["seconds_per_1000_pages"]
    counts = (len(shards) * PAGES_PER_SHARD, PAPER_PAGES)
    hours = [core_hours(count, settings.iterations, seconds) for count in counts]
    yield ""
    yield f"{'core-hours':12}{'s per 1,000 pages':>20}" + "".join(f"{count:17,} pages" for count in counts)
    for step in hours[0]:
        yield f"{step:12}{seconds[step]:20.2f}" + "".join(f"{column[step]:23,.1f}" for column in hours)
    yield f"{'all':12}{'':20}" + "".join(f"{sum(column.values()):23,.1f}" for column in hours)
    yield f"Measured by {measured['command']} ({measured['hardware']}, commit {measured['commit']})."
    yield ASSUMPTIONS
