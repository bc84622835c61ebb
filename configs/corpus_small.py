"""Only the corpus, on a real crawl of 3,700 pages: four iterations of mining with manual URL annotations.

Paper: section 2.1. Command, with a mirror folder as data_dir:
`python -m dsmath_jax.main --config=configs/corpus_small.py --workdir=runs/corpus_small --config.data_dir=data`.
Hardware: 2 CPU cores, 2 GB. Time: below 10 minutes. Expected: README, Results;
see `runs/corpus_small/corpus/card.html`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "../shared/data"
    config.corpus = {
        "input": "crawl/crawl-0*.warc.gz",
        "seeds": "crawl/seeds.txt",
        "labels": "crawl/labels-public.jsonl",
        "annotations": "crawl/annotations.jsonl",
        "benchmarks": ("all",),
        "top_tokens": 1_500_000,  # a third of all tokens, as in configs/gsm8k_small.py
        "ablation_tokens": (500_000, 1_000_000, 2_000_000, 3_000_000),
        # About 150 seed pages instead of 500,000: more negatives and epochs, a higher rate, five classifiers.
        "negatives": 3.0,
        "fasttext": {"dim": 32, "lr": 0.5, "epochs": 25, "bucket": 200_000, "models": 5},
    }
    return config
