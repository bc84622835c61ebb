"""The corpus at the paper's size: Common Crawl with the paper's numbers.

Paper: section 2.1. Command: start with `--dry_run`, which reads only the lists of paths and prints the plan:
`python -m dsmath_jax.main --config=configs/corpus.py --workdir=runs/corpus --config.data_dir=data --dry_run`.
Hardware: a Ray cluster (launch/ray_cluster.sh, `--config.corpus.ray_address=auto`) with a shared file system.
`data` contains `seeds.txt` (URL prefixes; the paper's seeds are the pages of OpenWebMath), later the
`annotations.jsonl` of `python -m dsmath_jax.corpus.annotate`, and the test sets for decontamination. The paper reads
40 billion pages and keeps 35.5 million with 120 billion tokens after four iterations.
"""

from ml_collections import ConfigDict

from dsmath_jax.data import datasets

# Monthly crawls up to the paper's time (all: https://data.commoncrawl.org/crawl-data/index.html).
CRAWLS = ("2022-49", "2023-06", "2023-14", "2023-23", "2023-40", "2023-50")


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "data"
    config.corpus = {
        "input": tuple(f"https://data.commoncrawl.org/crawl-data/CC-MAIN-{crawl}/warc.paths.gz" for crawl in CRAWLS),
        "seeds": "seeds.txt",
        "benchmarks": datasets.TEST_SPLITS,
        "fasttext": {"threads": 16},
    }
    return config
