"""The datatrove side of `benchmarks.corpus`, run by the interpreter of an environment of its own.

    python -m benchmarks.corpus_peer score FILES.json MODEL SCRATCH OUT.json
    python -m benchmarks.corpus_peer decontaminate TEXTS.json BENCHMARKS.json SCRATCH OUT.json

`constraints-peers.txt` pins that environment. Of this project only `resources` is imported, which needs nothing.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document  # type: ignore[import-not-found]
from datatrove.executor import LocalPipelineExecutor  # type: ignore[import-not-found]
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter  # type: ignore[import-not-found]
from datatrove.pipeline.dedup import (  # type: ignore[import-not-found]
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.extractors import Trafilatura  # type: ignore[import-not-found]
from datatrove.pipeline.filters import FastTextClassifierFilter  # type: ignore[import-not-found]
from datatrove.pipeline.readers import JsonlReader, WarcReader  # type: ignore[import-not-found]
from datatrove.pipeline.writers import JsonlWriter  # type: ignore[import-not-found]
from datatrove.utils.text import ngrams, simplify_text  # type: ignore[import-not-found]
from loguru import logger  # type: ignore[import-not-found]

from benchmarks.resources import Meter, children_seconds

BANDS, ROWS, SHINGLE = 14, 8, 5
NGRAM = 10
NONE = [("math", 2.0)]  # no score is as high: all documents keep their scores and none goes
# The clock of a crowded machine must not decide which pages are given up.
EXTRACTION_SECONDS = 60.0


class Metered:
    """A step of a pipeline whose work, and only its own, is counted by a meter; counts the documents it yields."""

    def __init__(self, name: str, step: Any, meter: Meter, counts: dict[str, int]) -> None:
        self.name, self.step, self.meter, self.counts = name, step, meter, counts

    def __deepcopy__(self, memo: dict) -> "Metered":
        return self  # the executor copies its steps, and the numbers would stay with the copy

    def __call__(self, data: Iterable[Any] | None, rank: int, world_size: int) -> Iterator[Any]:
        made = self.meter.call(self.name, self.step, data, rank, world_size)
        self.counts.setdefault(self.name, 0)
        for document in self.meter.items(self.name, iter(made or ())):
            self.counts[self.name] += 1
            yield document


def score(files: list[str], model: str, scratch: Path) -> dict:
    """WARC files to scored documents without near-duplicates; CPU seconds and documents yielded, by step."""
    meter, counts = Meter(), dict[str, int]()
    listed = scratch / "files.txt"
    listed.write_text("".join(f"{Path(file).relative_to('/')}\n" for file in files))
    minhash = MinhashConfig(n_grams=SHINGLE, num_buckets=BANDS, hashes_per_bucket=ROWS)
    scored, signatures, pairs, removed = (str(scratch / name) for name in ("scored", "signatures", "pairs", "removed"))
    stages: list[tuple[int, list[tuple[str, Any]]]] = [
        (
            1,
            [
                ("read", WarcReader("/", paths_file=str(listed))),
                ("extract", Trafilatura(timeout=EXTRACTION_SECONDS)),
                ("score", FastTextClassifierFilter(model, remove_labels=NONE, newline_replacement=" ")),
                ("files", JsonlWriter(scored)),
            ],
        ),
        (1, [("files again", JsonlReader(scored)), ("minhash", MinhashDedupSignature(signatures, minhash))]),
        (BANDS, [("duplicates", MinhashDedupBuckets(signatures, pairs, config=minhash))]),
        (1, [("duplicates", MinhashDedupCluster(pairs, removed, config=minhash))]),
        (
            1,
            [
                ("files again", JsonlReader(scored)),
                ("duplicates", MinhashDedupFilter(removed)),
                ("files", JsonlWriter(str(scratch / "kept"))),
            ],
        ),
    ]
    before = children_seconds()
    for number, (tasks, steps) in enumerate(stages):
        pipeline = [Metered(name, step, meter, counts) for name, step in steps]
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(scratch / f"logs-{number}")).run()
    meter.seconds["files"] += meter.seconds.pop("files again")
    meter.seconds["extract"] += children_seconds() - before  # the extractor works in a process of its own
    return {
        "seconds": dict(meter.seconds),
        "pages": counts["read"],
        "scored": counts["score"],
        "documents": counts["duplicates"],
    }


def decontaminate(texts: list[str], benchmarks: list[str], scratch: Path) -> dict:
    """CPU seconds of filtering the texts, without reading them or the index, and how many were contaminated."""
    config = NGramsDecontConfig(n_grams=NGRAM, find_query_ngrams=True, find_overlap_ngrams=False)
    step = NGramsDecontFilter(str(scratch), config)
    hashes = {
        step.hash_func(" ".join(run))
        for text in benchmarks
        for run in ngrams(step.tokenizer.word_tokenize(simplify_text(text, config.norm_config)), NGRAM)
    }
    np.array(sorted(hashes), config.hash_config.np_descr).tofile(scratch / "benchmarks.index.hashes")
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
    step.filter(Document(text="It loads its index and its tokenizer here.", id=""))
    start = time.process_time()
    clean = sum(step.filter(document) is True for document in documents)
    return {"seconds": time.process_time() - start, "contaminated": len(documents) - clean}


def main(what: str, given: str, known: str, scratch: str, out: str) -> None:
    logger.remove()
    folder = Path(scratch)
    folder.mkdir(parents=True)
    if what == "score":
        result = score(json.loads(Path(given).read_text()), known, folder)
    else:
        texts, benchmarks = (json.loads(Path(path).read_text("utf-8")) for path in (given, known))
        result = decontaminate(texts, benchmarks, folder)
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
