"""The tasks of `benchmarks.corpus` on our side: functions of a JSON file, each run in a new process.

python -m benchmarks.corpus_tasks TASK ARGUMENTS.json OUT.json
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.resources import Meter
from dsmath_jax.corpus import classifier, crawl, dedup, mining, pages, pipeline
from dsmath_jax.corpus.decontaminate import Benchmarks
from dsmath_jax.corpus.normalize import normalize
from dsmath_jax.corpus.settings import CorpusSettings, FastTextSettings
from dsmath_jax.data.datasets import Record
from dsmath_jax.workdir import read_json, write_json

# As in the small recipes; the table's seconds of scoring grow with `dim`.
FASTTEXT = FastTextSettings(dim=64, lr=0.5, epochs=5, bucket=200_000)


def prepare(files: list[str], folder: str) -> dict:
    """Writes the inputs of both sides: the texts of all pages as `texts.json`, a fastText model as `models/0`.

    The model separates pages with LaTeX commands from pages without: its speed does not depend on what it learned.
    """
    here = Path(folder)
    shards = pages.take_shards(files, here / "pages", pages.page_settings(CorpusSettings(), here))
    rows = [row for shard in shards for row in pq.read_table(shard, columns=["text", "normal"]).to_pylist()]
    write_json(here / "texts.json", [row["text"] for row in rows if row["text"]])
    examples = (("\\" in row["normal"], row["normal"]) for row in rows if row["normal"])
    (here / "models").mkdir()
    classifier.train(examples, FASTTEXT, 0, here / "training").rename(here / "models" / "0")
    return {}


def whole(files: list[str], models: str, folder: str) -> dict:
    """Turns WARC files into scored pages as the corpus does; returns counts of pages."""
    here = Path(folder)
    shards = pages.take_shards(files, here / "pages", pages.page_settings(CorpusSettings(), here))
    crawled = crawl.read_crawl(shards, here)
    (here / "models").symlink_to(models)
    mining.score(crawled, here, None)
    return {
        "pages": sum(pq.read_metadata(shard).num_rows for shard in shards),
        "documents": sum(pq.read_metadata(path).num_rows for path in (here / "scores").iterdir()),
    }


def steps(files: list[str], models: str, folder: str) -> dict:
    """Turns WARC files into scored pages in this one process; returns CPU seconds by step."""
    meter, here = Meter(), Path(folder)
    _count(meter, pages, {"html_to_text": "extract", "normalize": "normalize", "language": "language"})
    _count(meter, dedup, {"bands": "minhash"})
    _count(meter, pages, {"Spans": "minhash"})
    read_pages = pages.read_pages
    vars(pages)["read_pages"] = lambda *args: meter.items("read", read_pages(*args))
    made = json.dumps(pages.page_settings(CorpusSettings(), here), sort_keys=True)
    shards = [here / "pages" / f"{number:06d}.parquet" for number in range(len(files))]
    for number, (shard, file) in enumerate(zip(shards, files, strict=True)):
        meter.call("files", pages.write_shard, str(shard), file, str(number), made)
    crawled = meter.call("duplicates", crawl.read_crawl, shards, here)
    for shard, candidates in zip(shards, crawled.candidates, strict=True):
        target = here / "scores" / shard.name
        meter.call("score", mining.write_scores, str(target), str(shard), str(candidates), models, "null")
    return {"seconds": dict(meter.seconds)}


def _count(meter: Meter, module: Any, names: dict[str, str]) -> None:
    """Makes the calls of some functions of a module count as parts of steps."""
    for name, step in names.items():
        vars(module)[name] = meter.function(step, getattr(module, name))


def decontaminate(texts: str, records: str, ngram: int) -> dict:
    """Returns CPU seconds of searching texts, as they are and normalized, for data sets; how many are contaminated."""
    known = Benchmarks((Record(**row) for row in read_json(records)), ngram)
    raw = read_json(texts)
    normals = [normalize(text) for text in raw]
    contaminated, seconds = _timed(lambda: sum(any(known.matches(normalize(text))) for text in raw))
    _, from_normal = _timed(lambda: sum(any(known.matches(normal)) for normal in normals))
    return {"seconds": seconds, "seconds_from_normal": from_normal, "contaminated": contaminated}


def _timed(work: Callable[[], int]) -> tuple[int, float]:
    start = time.process_time()
    return work(), time.process_time() - start


def mine(files: list[str], seeds: str, top_tokens: int, folder: str) -> dict:
    """Runs two iterations of the whole corpus without decontamination; returns counts of its pages and documents."""
    settings = CorpusSettings(
        input=tuple(files), seeds=seeds, iterations=2, top_tokens=top_tokens, ablation_tokens=(), fasttext=FASTTEXT
    )
    summary = pipeline.mine(settings, 0, Path(folder), Path(folder))
    return {name: summary[name] for name in ("pages_read", "documents_kept", "funnel")}


TASKS: dict[str, Callable[..., dict]] = {
    task.__name__: task for task in (prepare, whole, steps, decontaminate, mine)
}  # fmt: skip

if __name__ == "__main__":
    write_json(sys.argv[3], TASKS[sys.argv[1]](**read_json(sys.argv[2])))
