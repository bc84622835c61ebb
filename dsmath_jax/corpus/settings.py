"""The settings of the corpus, with the paper's values (section 2.1) where it gives some."""

import dataclasses

from dsmath_jax.settings import check_choice, check_least, setting

REMOVE = ("page", "segment")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinHashSettings:
    """How near-duplicates are found: two pages are near-duplicates where all rows of one band are equal."""

    bands: int = setting(14, "bands of a page's MinHash signature")
    rows: int = setting(8, "hashes in each band")
    shingle: int = setting(5, "tokens (English words, Chinese characters) in each hashed n-gram")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_least(field.name, getattr(self, field.name), 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastTextSettings:
    """How the fastText classifier is trained; the defaults are the paper's (section 2.1) where it gives some."""

    dim: int = setting(256, "dimensions of the word vectors (section 2.1)")
    lr: float = setting(0.1, "learning rate (section 2.1)")
    word_ngrams: int = setting(3, "longest word n-gram (section 2.1)")
    min_count: int = setting(3, "occurrences below which a word is ignored (section 2.1)")
    epochs: int = setting(3, "passes over the examples (section 2.1)")
    bucket: int = setting(2_000_000, "hash buckets for the n-grams")
    threads: int = setting(1, "threads of the training; more are faster but not reproducible")
    quantize: bool = setting(False, "score with the quantized model, which has a tenth of the size")
    models: int = setting(
        1, "classifiers whose scores are averaged, each with its own negatives: steadier where examples are few"
    )

    def __post_init__(self) -> None:
        for name in ("dim", "word_ngrams", "min_count", "epochs", "threads", "models"):
            check_least(name, getattr(self, name), 1)
        check_least("bucket", self.bucket, 0)
        check_least("lr", self.lr, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """The stage `corpus`: mining mathematical pages from Common Crawl (section 2.1)."""

    input: str | tuple[str, ...] = setting(
        "crawl", "WARC or WET files, or pages extracted before: a folder, glob, list of paths or address, or several"
    )
    input_root: str = setting(
        "https://data.commoncrawl.org/", "address or folder that relative paths in lists of paths refer to"
    )
    seeds: str = setting("crawl/seeds.txt", "file of URL prefixes whose pages are the first positives (section 2.1)")
    labels: str = setting("", "file of page labels, used for measuring only; '' measures nothing")
    annotations: str = setting("", "file of annotated URL prefixes (section 2.1); '' takes the automatic domain rule")
    benchmarks: tuple[str, ...] = setting((), "names of the benchmarks whose texts must not be in the corpus")
    benchmark_files: tuple[str, ...] = setting(
        (), "JSON lines files of further benchmark texts: 'question' and optionally 'solution'"
    )
    tokenizer: str = setting(
        "", "tokenizer (.model or tokenizer.json, below data_dir) that counts tokens; '' counts characters / 4"
    )
    minhash: MinHashSettings = setting(MinHashSettings(), "detection of near-duplicates")
    min_tokens: int = setting(50, "shortest page, in tokens, that can be collected")
    iterations: int = setting(4, "iterations of mining at most (section 2.1)")
    top_tokens: int = setting(40_000_000_000, "N: tokens that an iteration collects at most (section 2.1)")
    ablation_tokens: tuple[int, ...] = setting(
        (40_000_000_000, 80_000_000_000, 120_000_000_000, 160_000_000_000),
        "other values of N, in tokens, that the card compares (section 2.1)",
    )
    min_score: float = setting(0.0, "lowest score, 0 to 1, that is collected, even where N has room")
    domain_share: float = setting(0.1, "collected share of a domain above which it is math-related (section 2.1)")
    stop_overlap: float = setting(
        0.98, "share of the collected pages that the previous iteration had too, at which mining stops (section 2.1)"
    )
    max_positives: int = setting(500_000, "positive examples of the classifier at most, in pages (section 2.1)")
    max_negatives: int = setting(500_000, "negative examples of the classifier at most, in pages (section 2.1)")
    negatives: float = setting(1.0, "negative examples per positive one")
    fasttext: FastTextSettings = setting(FastTextSettings(), "the classifier (section 2.1)")
    ngram: int = setting(10, "tokens in a row shared with a benchmark that make a page contaminated (section 2.1)")
    min_ngram: int = setting(3, "shortest benchmark text, in tokens, that is matched as a whole (section 2.1)")
    remove: str = setting("page", f"what of a contaminated page is removed, one of {', '.join(REMOVE)}")
    workers: int = setting(0, "processes on this machine; 0: one for each CPU", changes_result=False)
    ray_address: str = setting(
        "", "Ray cluster: 'auto', 'HOST:PORT' or 'ray://...'; '' runs on this machine", changes_result=False
    )

    def __post_init__(self) -> None:
        check_choice("remove", self.remove, REMOVE)
        for name in ("iterations", "top_tokens", "max_positives", "max_negatives", "ngram", "min_ngram"):
            check_least(name, getattr(self, name), 1)
        for name in ("min_tokens", "domain_share", "stop_overlap", "negatives", "workers"):
            check_least(name, getattr(self, name), 0)
