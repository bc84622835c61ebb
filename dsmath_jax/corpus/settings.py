"""The settings of the corpus; the defaults are the paper's where it gives values (section 2.1)."""

import dataclasses

from dsmath_jax.data.settings import DataSettings
from dsmath_jax.settings import INT32, INT64, Settings, setting
from dsmath_jax.workdir import UserError

REMOVE = ("page", "segment")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinHashSettings(Settings):
    """Detection of near-duplicates by MinHash: two pages are near-duplicates if all rows of one band are equal."""

    bands: int = setting(14, "bands of a page's MinHash signature", ge=1)
    rows: int = setting(8, "hashes in each band", ge=1)
    shingle: int = setting(5, "tokens (English words, Chinese characters) in each hashed n-gram", ge=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastTextSettings(Settings):
    """Training of the fastText classifier; the defaults are the paper's where it gives values (section 2.1)."""

    dim: int = setting(256, "dimensions of the word vectors (section 2.1)", ge=1, le=INT32)
    lr: float = setting(0.1, "learning rate (section 2.1)", gt=0)
    word_ngrams: int = setting(3, "longest word n-gram (section 2.1)", ge=1, le=INT32)
    min_count: int = setting(3, "occurrences below which a word is ignored (section 2.1)", ge=1, le=INT32)
    epochs: int = setting(3, "passes over the examples (section 2.1)", ge=1, le=INT32)
    bucket: int = setting(2_000_000, "hash buckets for the n-grams", ge=0, le=INT32)
    threads: int = setting(1, "threads of the training; several are faster but not reproducible", ge=1, le=INT32)
    quantize: bool = setting(False, "score with the quantized model, a tenth of the size")
    models: int = setting(
        1,
        "classifiers whose scores are averaged, each with its own negatives: more stable with few examples",
        ge=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.word_ngrams > 1 and not self.bucket:
            raise UserError(f"bucket is 0; word_ngrams={self.word_ngrams} needs hash buckets for its n-grams.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusSettings(DataSettings):
    """The stage `corpus`: mines mathematical pages from Common Crawl (section 2.1)."""

    input: str | tuple[str, ...] = setting(
        "crawl",
        "WARC or WET files, or pages extracted before: a folder, glob, list of paths or URL, or several",
        nonempty=True,
    )
    input_root: str = setting(
        "https://data.commoncrawl.org/", "URL or folder that relative paths in lists of paths are relative to"
    )
    seeds: str = setting(
        "crawl/seeds.txt", "file of URL prefixes whose pages are the first positives (section 2.1)", local=True
    )
    labels: str = setting("", "file of page labels, only for measuring; '' measures nothing", local=True)
    annotations: str = setting(
        "", "file of annotated URL prefixes (section 2.1); '' uses the automatic domain rule", local=True
    )
    benchmarks: tuple[str, ...] = setting(
        (), "data sets and your own files whose questions and solutions are removed from the corpus"
    )
    tokenizer: str = setting(
        "",
        "tokenizer (.model or tokenizer.json, below data_dir) that counts tokens; '' counts characters / 4",
        local=True,
    )
    minhash: MinHashSettings = setting(MinHashSettings(), "detection of near-duplicates")
    min_tokens: int = setting(50, "shortest page, in tokens, that can be collected", ge=0)
    iterations: int = setting(4, "maximum number of mining iterations (section 2.1)", ge=1)
    top_tokens: int = setting(
        40_000_000_000, "N: maximum number of tokens that an iteration collects (section 2.1)", ge=1, le=INT64
    )
    ablation_tokens: tuple[int, ...] = setting(
        (40_000_000_000, 80_000_000_000, 120_000_000_000, 160_000_000_000),
        "other values of N, in tokens, that the card compares (section 2.1)",
        ge=1,
        le=INT64,
    )
    min_score: float = setting(0.0, "lowest score, 0 to 1, that is collected, even below N tokens", ge=0, le=1)
    domain_share: float = setting(
        0.1, "collected share of a domain above which it is math-related (section 2.1)", ge=0, le=1
    )
    stop_overlap: float = setting(
        0.98,
        "share of the collected pages that the previous iteration had too, at which mining stops (section 2.1)",
        ge=0,
    )
    max_positives: int = setting(
        500_000, "maximum number of positive examples of the classifier, in pages (section 2.1)", ge=1, le=INT64
    )
    max_negatives: int = setting(
        500_000, "maximum number of negative examples of the classifier, in pages (section 2.1)", ge=1, le=INT64
    )
    negatives: float = setting(1.0, "negative examples per positive one", ge=0)
    fasttext: FastTextSettings = setting(FastTextSettings(), "the classifier (section 2.1)")
    ngram: int = setting(
        10,
        "tokens of an n-gram that makes a page contaminated if a benchmark has it (section 2.1)",
        ge=1,
    )
    min_ngram: int = setting(3, "shortest benchmark text, in tokens, that is matched as a whole (section 2.1)", ge=1)
    remove: str = setting("page", f"what is removed of a contaminated page, one of {', '.join(REMOVE)}", choices=REMOVE)
    workers: int = setting(0, "processes on this machine; 0: one per CPU", ge=0, changes_result=False)
    ray_address: str = setting(
        "", "Ray cluster: 'auto', 'HOST:PORT' or 'ray://...'; '' for this machine", changes_result=False
    )
