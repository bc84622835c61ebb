"""The settings of the corpus, with the paper's values (section 2.1) where it gives some."""

from typing import Any

DEFAULTS: dict[str, Any] = {
    "input": "crawl",  # WARC or WET files, or pages made before: a folder, glob, list of paths or address (sources.py)
    "input_root": "https://data.commoncrawl.org/",  # what relative paths in lists lie below: an address or a folder
    "seeds": "crawl/seeds.txt",  # URL prefixes whose pages are the first positives
    "labels": "",  # page labels, for measuring only
    "annotations": "",  # judged URL prefixes; "" takes the automatic rule of domains.py
    "benchmarks": (),  # names of data/benchmarks.py whose texts must not be in the corpus
    "benchmark_files": (),  # more of them: JSON lines with "question" and perhaps "solution"
    "tokenizer": "",  # counts tokens (a `.model` or `tokenizer.json` below data_dir); "" counts characters / 4
    "minhash": {"bands": 14, "rows": 8, "shingle": 5},
    "min_tokens": 50,  # shorter pages are no candidates
    "iterations": 4,
    "top_tokens": 40_000_000_000,  # N, per iteration
    "ablation_tokens": (40_000_000_000, 80_000_000_000, 120_000_000_000, 160_000_000_000),  # other N, for a table
    "min_score": 0.0,  # pages that score less are not collected, even where N has room
    "domain_share": 0.1,  # a domain of which more is collected is math-related
    "stop_overlap": 0.98,
    "max_positives": 500_000,
    "max_negatives": 500_000,
    "negatives": 1.0,  # per positive
    "fasttext": {
        "dim": 256, "lr": 0.1, "word_ngrams": 3, "min_count": 3, "epochs": 3, "bucket": 2_000_000,
        "threads": 1,  # more are faster and not reproducible
        "quantize": False,  # score with the quantised model, which is a tenth of the size
        "models": 1,  # more, each with negatives of its own, are averaged: steadier where examples are few
    },
    "ngram": 10,
    "min_ngram": 3,
    "remove": "page",  # or "segment": what of a page that repeats a benchmark goes
    "workers": 0,  # processes on this machine; 0: as many as it has CPUs
    "ray_address": "",  # "" runs on this machine; "auto", "HOST:PORT" or "ray://..." on a Ray cluster
}  # fmt: skip

CHOICES = {"remove": ("page", "segment")}


def corpus(**changes: Any) -> dict[str, Any]:
    """The settings with some changed; those of `minhash` and `fasttext` may be given in part.

    Raises:
      KeyError: there is no such setting.
    """
    settings = {name: dict(value) if isinstance(value, dict) else value for name, value in DEFAULTS.items()}
    for name, value in changes.items():
        if isinstance(settings[name], dict):
            unknown = set(value) - set(settings[name])
            if unknown:
                raise KeyError(f"{name} has no setting {sorted(unknown)}")
            settings[name] |= value
        else:
            settings[name] = value
    return settings
