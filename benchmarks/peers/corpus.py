"""The datatrove side of `benchmarks.corpus`.

python -m benchmarks.peers.corpus score FILES.json MODEL SCRATCH OUT.json
python -m benchmarks.peers.corpus decontaminate TEXTS.json KNOWN.json SCRATCH OUT.json
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
NONE = [("math", 2.0)]  # no score is as high: no document is removed
EXTRACTION_SECONDS = 60.0  # long enough that a crowded machine skips no page


class Metered:
    """A step of a pipeline with a meter for its CPU seconds, without other steps', and a count of its documents."""

    def __init__(self, name: str, step: Any, meter: Meter, counts: dict[str, int]) -> None:
        self.name, self.step, self.meter, self.counts = name, step, meter, counts

    def __deepcopy__(self, memo: dict) -> "Metered":
        return self  # the executor copies its steps, and the numbers would stay with the copy

    def __call__(self, data: Iterable[Any] | None, rank: int, world_size: int) -> Iterator[Any]:
        documents = self.meter.call(self.name, self.step, data, rank, world_size)
        self.counts.setdefault(self.name, 0)
        for document in self.meter.items(self.name, iter(documents or ())):
            self.counts[self.name] += 1
            yield document


def score(files: list[str], model: str, scratch: Path) -> dict:
    """Turns WARC files into scored documents without near-duplicates; returns CPU seconds and documents by step."""
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
    meter.seconds["extract"] += children_seconds() - before  # the extractor works in its own process
    return {
        "seconds": dict(meter.seconds),
        "pages": counts["read"],
        "scored": counts["score"],
        "documents": counts["duplicates"],
    }


def decontaminate(texts: list[str], known: list[str], scratch: Path) -> dict:
    """Returns CPU seconds of filtering texts, without loading them or the index, and how many are contaminated."""
    config = NGramsDecontConfig(n_grams=NGRAM, find_query_ngrams=True, find_overlap_ngrams=False)
    step = NGramsDecontFilter(str(scratch), config)
    hashes = {
        step.hash_func(" ".join(run))
        for text in known
        for run in ngrams(step.tokenizer.word_tokenize(simplify_text(text, config.norm_config)), NGRAM)
    }
    np.array(sorted(hashes), config.hash_config.np_descr).tofile(scratch / "benchmarks.index.hashes")
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
    step.filter(Document(text="It loads its index and its tokenizer here.", id=""))
    start = time.process_time()
    clean = sum(step.filter(document) is True for document in documents)
    return {"seconds": time.process_time() - start, "contaminated": len(documents) - clean}


def main(task: str, inputs: str, known: str, scratch: str, out: str) -> None:
    """Runs a task and writes its result to a file."""
    logger.remove()
    folder = Path(scratch)
    folder.mkdir(parents=True)
    values = json.loads(Path(inputs).read_text("utf-8"))
    if task == "score":
        result = score(values, known, folder)
    else:
        result = decontaminate(values, json.loads(Path(known).read_text("utf-8")), folder)
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
