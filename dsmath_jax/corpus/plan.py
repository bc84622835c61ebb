"""What a corpus run will do and cost, told before it starts: `python -m dsmath_jax.main --config=... --dry_run`.

Core-hours are those of `rates.json`, measured by `python -m benchmarks.corpus` on a small crawl, times the pages to
come: an estimate for work that grows with the pages. What that leaves out is said below the table.
"""

import dataclasses
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from dsmath_jax.corpus import domains, pages
from dsmath_jax.corpus.reading import sources
from dsmath_jax.corpus.settings import CorpusSettings
from dsmath_jax.workdir import read_json

PAGES_PER_SHARD = 35_000  # HTML pages in one of Common Crawl's WARC files, about
PAPER_PAGES = 40_000_000_000
# What is done once for each page read, for each candidate in each iteration, and for each page collected at the end.
ONCE = ("read", "extract", "language", "normalize", "minhash", "files", "duplicates")
EACH_ITERATION = ("score",)
CANDIDATES = 0.9  # of the pages read, after duplicates and stubs
ASSUMPTIONS = f"""\
Assumed: {PAGES_PER_SHARD:,} HTML pages a WARC file; {CANDIDATES:.0%} of the pages are candidates; every page costs what
a page of the measured crawl does. Not counted: the network, start-up, joins and sorts between shards beyond those
measured. Scores were measured with a classifier of dim 64; the paper's 256 takes up to four times as long. Training (a
process for each classifier) and decontamination of what is collected are small beside it."""


def rates() -> dict:
    """Measured CPU seconds per 1,000 pages by step, with the command, the hardware and the commit."""
    return read_json(Path(str(files("dsmath_jax.corpus") / "rates.json")))


def core_hours(read: int, iterations: int, seconds: dict[str, float]) -> dict[str, float]:
    """Core-hours by step for `read` pages; `seconds` are CPU seconds per 1,000 pages."""
    times = dict.fromkeys(ONCE, read) | dict.fromkeys(EACH_ITERATION, round(CANDIDATES * read) * iterations)
    return {step: seconds[step] * count / 1000 / 3600 for step, count in times.items()}


def plan(settings: CorpusSettings, data_dir: Path) -> Iterator[str]:
    """The lines of the plan; reads lists of paths and the names of files, nothing else.

    Raises:
      UserError: the input cannot be found.
    """
    found = sources.find(settings.input, data_dir, settings.input_root)
    made = pages.page_settings(settings, data_dir)
    yield f"input        {len(found):,} shards, {found[0]} first"
    yield f"seeds        {data_dir / settings.seeds}"
    yield f"domain rule  {domains.RULES[bool(settings.annotations)]}"
    counter = pages.token_counter(made)
    yield f"collected    {settings.top_tokens:,} tokens ({counter}) in each of {settings.iterations} iterations at most"
    yield f"fastText     {dataclasses.asdict(settings.fasttext)}"
    yield f"benchmarks   {', '.join(settings.benchmarks)}"
    yield f"engine       {settings.ray_address or 'this machine'}"
    measured = rates()
    seconds = measured["seconds_per_1000_pages"]
    counts = (len(found) * PAGES_PER_SHARD, PAPER_PAGES)
    hours = [core_hours(count, settings.iterations, seconds) for count in counts]
    yield ""
    yield f"{'core-hours':12}{'s per 1,000 pages':>20}" + "".join(f"{count:17,} pages" for count in counts)
    for step in hours[0]:
        yield f"{step:12}{seconds[step]:20.2f}" + "".join(f"{column[step]:23,.1f}" for column in hours)
    yield f"{'all':12}{'':20}" + "".join(f"{sum(column.values()):23,.1f}" for column in hours)
    yield f"Measured by {measured['command']} ({measured['hardware']}, commit {measured['commit']})."
    yield ASSUMPTIONS
