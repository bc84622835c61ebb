"""Collects the facts of the data card from a finished corpus, with a bounded number of rows in memory."""

import dataclasses
import heapq
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dsmath_jax.workdir import UserError, read_json

ROWS_PER_READ = 1 << 16
BINS = 20  # of the score histogram, 0 to 1
QUANTILES = {"min": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "max": 1.0}
QUARTERS, SAMPLES = 4, 5  # quarters of the documents by score; samples of each
EXAMPLES = 3  # contaminated pages shown for each data set


@dataclasses.dataclass(frozen=True)
class Facts:
    """Counts, scores and sample texts of a finished corpus; arrays are over the documents in the order of their ids.

    Attributes:
      languages: language -> (documents, tokens), most documents first.
      histogram: int64 [2, BINS], candidates by score: left out by the last iteration, collected by it.
      contaminated: data set -> contaminated pages.
      contaminated_examples: rows of decisions.parquet.
      quarters: sample documents of each quarter by score, lowest first: rows with id, url, score, tokens and text.
      missed: uncollected pages of the highest scores: the same, but text is None where it is with the input.
    """

    summary: dict[str, Any]
    tokens: np.ndarray
    url_lengths: np.ndarray
    scores: np.ndarray
    languages: dict[str, tuple[int, int]]
    histogram: np.ndarray
    contaminated: dict[str, int]
    contaminated_examples: list[dict]
    quarters: list[list[dict]]
    missed: list[dict]


def read(out: Path) -> Facts:
    """Reads summary.json, decisions.parquet, documents/*.parquet and a few texts of pages/*.parquet below `out`.

    Raises:
      UserError: one of them is missing.
    """
    decisions, files = out / "decisions.parquet", sorted((out / "documents").glob("[!.]*.parquet"))
    for path in (out / "summary.json", decisions):
        if not path.is_file():
            raise UserError(f"{path} is missing: the corpus stage has not finished there; run it first.")
    if not files:
        raise UserError(f"There are no documents in {out / 'documents'}; run the corpus stage again.")
    tokens, url_lengths, scores, languages = _documents(files)
    histogram, contaminated, examples, missed = _decisions(decisions)
    return Facts(
        summary=read_json(out / "summary.json"),
        tokens=tokens,
        url_lengths=url_lengths,
        scores=scores,
        languages=languages,
        histogram=histogram,
        contaminated=contaminated,
        contaminated_examples=examples,
        quarters=[rows_at(files, indices) for indices in spread(scores)],
        missed=[row | {"text": page_text(out / "pages", row["id"])} for row in missed],
    )


def _open(path: Path) -> pq.ParquetFile:
    """Opens a file for reading in pieces; without these options Arrow prefetches all columns."""
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


def _documents(files: Sequence[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, tuple[int, int]]]:
    """Returns tokens, URL lengths and scores of all documents (16 bytes each), and the languages."""
    tokens, lengths, scores = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
    languages: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for file in files:
        with _open(file) as parquet:
            for batch in parquet.iter_batches(ROWS_PER_READ, columns=["tokens", "url", "score", "language"]):
                tokens.append(batch.column("tokens").to_numpy())
                lengths.append(pc.utf8_length(batch.column("url")).to_numpy())
                scores.append(batch.column("score").to_numpy())
                names = batch.column("language").dictionary_encode()
                codes = names.indices.to_numpy()
                for name, documents, total in zip(
                    names.dictionary.to_pylist(), np.bincount(codes), np.bincount(codes, tokens[-1]), strict=True
                ):
                    languages[name][0] += int(documents)
                    languages[name][1] += int(total)
    ordered = sorted(languages.items(), key=lambda item: (-item[1][0], item[0]))
    by_language = {name: (documents, total) for name, (documents, total) in ordered}
    return np.concatenate(tokens), np.concatenate(lengths), np.concatenate(scores), by_language


def _decisions(path: Path) -> tuple[np.ndarray, dict[str, int], list[dict], list[dict]]:
    """Returns the histogram, the contaminated pages by data set with examples, and the best uncollected pages."""
    histogram = np.zeros((2, BINS), np.int64)
    contaminated: Counter[str] = Counter()
    examples: list[dict] = []
    missed: list[dict] = []
    columns = ["id", "url", "tokens", "score", "iteration", "contaminated_by", "contaminated_ngram"]
    with _open(path) as parquet:
        for batch in parquet.iter_batches(ROWS_PER_READ, columns=columns):
            candidates = batch.filter(pc.is_valid(batch.column("score")))
            scores = candidates.column("score").to_numpy()
            collected = pc.is_valid(candidates.column("iteration")).to_numpy(zero_copy_only=False)
            bins = np.clip((scores * BINS).astype(np.int64), 0, BINS - 1)
            np.add.at(histogram, (collected.astype(np.int64), bins), 1)
            out = np.flatnonzero(~collected)
            nearest = candidates.take(out[np.argsort(-scores[out], kind="stable")[:SAMPLES]])
            missed += nearest.select(["id", "url", "tokens", "score"]).to_pylist()
            missed = heapq.nsmallest(SAMPLES, missed, key=lambda row: (-row["score"], row["id"]))
            for row in batch.filter(pc.is_valid(batch.column("contaminated_by"))).to_pylist():
                name = row["contaminated_by"].rpartition("/")[0] or row["contaminated_by"]
                contaminated[name] += 1
                if contaminated[name] <= EXAMPLES:
                    examples.append(row)
    return histogram, dict(sorted(contaminated.items(), key=lambda item: (-item[1], item[0]))), examples, missed


def spread(scores: np.ndarray) -> list[np.ndarray]:
    """Returns the indices of the sample documents: of each quarter by score, lowest first, some evenly spaced by rank.

    Ties are ranked by index, so that the choice is the same in every run.
    """
    quarters = np.array_split(np.argsort(scores, kind="stable"), QUARTERS)
    return [
        quarter[((np.arange(SAMPLES) + 0.5) * len(quarter) / SAMPLES).astype(np.int64)]
        if len(quarter) > SAMPLES
        else quarter
        for quarter in quarters
        if len(quarter)
    ]


def rows_at(files: Sequence[Path], indices: np.ndarray) -> list[dict]:
    """Returns the documents at some indices, in the order given; reads only their row groups."""
    rows_by_index: dict[int, dict] = {}
    start = 0
    for file in files:
        with _open(file) as parquet:
            for group in range(parquet.num_row_groups):
                end = start + parquet.metadata.row_group(group).num_rows
                here = [index for index in indices.tolist() if start <= index < end]
                if here:
                    table = parquet.read_row_group(group, columns=["id", "url", "score", "tokens", "text"])
                    rows = table.take([index - start for index in here]).to_pylist()
                    rows_by_index |= dict(zip(here, rows, strict=True))
                start = end
    return [rows_by_index[index] for index in indices.tolist()]


def page_text(folder: Path, page: str) -> str | None:
    """Returns the text of a page by its id `<shard>/<number>`, or None where the shard is not in the folder."""
    file = folder / f"{page.rpartition('/')[0]}.parquet"
    if not file.is_file():
        return None
    texts = pq.read_table(file, columns=["text"], filters=[("id", "=", page)]).column("text").to_pylist()
    return texts[0] if texts else None


def quantiles(values: np.ndarray) -> list[float]:
    """Returns the `QUANTILES` of some values, without interpolation."""
    return [value.item() for value in np.quantile(values, list(QUANTILES.values()), method="inverted_cdf")]
