"""The iterative mining of paper section 2.1: classify, collect, find math-related domains, extend the seeds, repeat.

An iteration writes below `iterations/N/`, in this order: `positives/` (pages taken as mathematics), `sample.parquet`
(the training examples), `models/`, `scores/<shard>.parquet`, `hosts/`, `prefixes/` and `result.json`. A resumed run
reuses the files that exist.
"""

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import daft
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from daft import DataFrame, DataType, col

from dsmath_jax.corpus import classifier, domains, engine, inputs, pages
from dsmath_jax.corpus.annotations import Annotation
from dsmath_jax.corpus.crawl import CANDIDATES, Crawl, write_frame
from dsmath_jax.corpus.measure import Labeled, measure
from dsmath_jax.corpus.normalize import mix
from dsmath_jax.corpus.select import Cut, top_tokens
from dsmath_jax.corpus.settings import CorpusSettings, FastTextSettings
from dsmath_jax.progress import track
from dsmath_jax.workdir import UserError, atomic_path, read_json, write_json

SCORES = CANDIDATES.append(pa.field("score", pa.float32()))


@dataclasses.dataclass(frozen=True)
class Iteration:
    """A finished iteration: its number and folder, the cut of its ranking, and its row in `summary.json`."""

    number: int
    folder: Path
    cut: Cut
    row: dict

    def scored(self) -> DataFrame:
        """Returns all candidates with number, canonical_url, host, tokens, first, before, score and collected."""
        return daft.read_parquet(f"{self.folder}/scores/*.parquet").with_column("collected", self.cut.collected())


def iterate(
    crawl: Crawl,
    seeds: Sequence[str],
    annotations: Sequence[Annotation] | None,
    labeled: Labeled | None,
    settings: CorpusSettings,
    seed: int,
    folder: Path,
) -> list[Iteration]:
    """Mines until an iteration collects hardly anything new, or for `settings.iterations`; returns the iterations.

    Args:
      crawl: the candidates.
      seeds: canonical URL prefixes of the first positives.
      annotations: annotated prefixes; None for the automatic rule.
      labeled: the labeled pages to measure on, if there are any.
      settings: the settings of the corpus.
      seed: the seed of all random choices.
      folder: receives the files of each iteration.

    Raises:
      UserError: the seeds or the token limit cover no page or every page.
    """
    finished: list[Iteration] = []
    for number in track(range(1, settings.iterations + 1), "mining iterations", settings.iterations):
        here, last = folder / str(number), finished[-1] if finished else None
        write_frame(here / "positives", extend_positives(last, annotations) if last else seed_pages(crawl, seeds))
        candidates = last.scored() if last else crawl.read_candidates()
        draw_sample(candidates, here, settings, seed * 1_000 + number)
        train(crawl, here, settings.fasttext, seed * 1_000 + number)
        score(crawl, here, last)
        finished.append(collect(here, number, last, labeled, settings, seed))
        if finished[-1].row["overlap"] >= settings.stop_overlap:
            break
    return finished


def seed_pages(crawl: Crawl, prefixes: Sequence[str]) -> DataFrame:
    """Returns the page numbers of the candidates below one of the canonical prefixes."""

    @daft.func.batch(return_dtype=DataType.bool())
    def below(canonical_urls: Any) -> list[bool]:
        return inputs.below_any(canonical_urls.to_pylist(), prefixes).tolist()

    return crawl.read_candidates().where(below(col("canonical_url"))).select("number").sort("number")


def extend_positives(last: Iteration, annotations: Sequence[Annotation] | None) -> DataFrame:
    """Returns the page numbers of an iteration's positives and of the pages that join them."""
    by_host, by_prefix = (daft.read_parquet(f"{last.folder}/{name}/*.parquet") for name in ("hosts", "prefixes"))
    joining = domains.new_positives(last.scored(), by_host, by_prefix, annotations)
    return daft.read_parquet(f"{last.folder}/positives/*.parquet").concat(joining).distinct().sort("number")


def draw_sample(candidates: DataFrame, folder: Path, settings: CorpusSettings, seed: int) -> None:
    """Draws positives and `settings.negatives` times as many negatives (paper: as many) and writes `sample.parquet`.

    Its columns are model, number, math; sorted. Negatives are random pages that the last iteration did not collect:
    where mathematics is less rare than in Common Crawl, collected pages would be false negatives. Each model gets its
    own negatives.

    Args:
      candidates: number, and `collected` after the first iteration.
      folder: the folder of the iteration, with `positives/`.
      settings: the settings of the corpus.
      seed: the seed of the draw.

    Raises:
      UserError: there is no positive, or no page is left for a negative.
    """
    path = folder / "sample.parquet"
    if path.exists():
        return
    positives = daft.read_parquet(f"{folder}/positives/*.parquet")
    positive = _draw(positives, settings.max_positives, seed)
    if not len(positive):
        raise UserError(f"No page read is below a prefix of {settings.seeds}; fix the prefixes.")
    others = candidates.where(~col("collected")) if "collected" in candidates.column_names else candidates
    others = others.select("number").join(positives, on="number", how="anti")
    count = max(1, min(settings.max_negatives, round(settings.negatives * len(positive))))
    tables = []
    for model in range(settings.fasttext.models):
        negative = _draw(others, count, seed + 500 + model)
        if not len(negative):
            raise UserError("The seeds cover every page, so that none is left as a negative example; give fewer.")
        numbers = np.concatenate([positive, negative])
        order = np.argsort(numbers)
        math = np.arange(len(numbers)) < len(positive)
        tables.append(pa.table({"model": np.full(len(numbers), model), "number": numbers[order], "math": math[order]}))
    with atomic_path(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary)


@daft.func.batch(return_dtype=DataType.uint64())
def _random_keys(numbers: Any, seed: int) -> Any:
    """Returns a pseudo-random key of each page number."""
    start = mix(np.array([seed], np.uint64))
    return mix(numbers.to_arrow().to_numpy(zero_copy_only=False).astype(np.uint64) ^ start)


def _draw(frame: DataFrame, count: int, seed: int) -> np.ndarray:
    """Draws `count` page numbers from a dataframe, or all where there are fewer: int64 [drawn].

    The key of a page depends on its number and the seed alone, so that the order of work does not matter.
    """
    keyed = frame.select("number", _random_keys(col("number"), seed).alias("key"))
    return np.array(keyed.sort(["key", "number"]).limit(count).to_pydict()["number"], np.int64)


def train(crawl: Crawl, folder: Path, settings: FastTextSettings, seed: int) -> None:
    """Trains the classifiers of an iteration on its sample and writes them to `models/N`."""
    fields = json.dumps(dataclasses.asdict(settings))
    tasks = [
        (str(folder / "models" / str(model)), str(crawl.names), str(folder / "sample.parquet"), fields,
         str(model), str(seed))
        for model in range(settings.models)
    ]  # fmt: skip
    engine.run_tasks(write_model, tasks, "training classifiers")


def write_model(target: str, shards: str, sample: str, settings: str, model: str, seed: str) -> None:
    """Trains one classifier on its part of a sample."""
    path, number = Path(target), int(seed) + 100 * int(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(sample, filters=[("model", "=", int(model))])
    # A new folder: the training process of a killed run may survive and write into its folder.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as scratch:
        training = examples([Path(shards).parent / shard for shard in read_json(shards)], table, number)
        classifier.train(training, FastTextSettings(**json.loads(settings)), number, Path(scratch)).replace(path)


def examples(shards: Sequence[Path], sample: pa.Table, seed: int) -> Iterator[tuple[bool, str]]:
    """Yields the sampled pages shuffled: shards in random order, and the pages within each shard."""
    numbers, math = (sample.column(name).to_numpy() for name in ("number", "math"))
    random = np.random.default_rng(seed)
    for shard in random.permutation(len(shards)).tolist():
        bodies = list(pages.bodies(shards[shard], "normal", numbers))
        for index in random.permutation(len(bodies)).tolist():
            number, normal = bodies[index]
            yield bool(math[np.searchsorted(numbers, number)]), normal


def score(crawl: Crawl, folder: Path, last: Iteration | None) -> None:
    """Scores all candidates, shard by shard; each file also says which pages the previous iteration collected."""
    before = [last.folder / "scores" / shard.name for shard in crawl.shards] if last else crawl.candidates
    cut = json.dumps(dataclasses.asdict(last.cut) | {"iteration": last.number} if last else None)
    tasks = [
        (str(folder / "scores" / shard.name), str(shard), str(candidates), str(folder / "models"), cut)
        for shard, candidates in zip(crawl.shards, before, strict=True)
    ]
    engine.run_tasks(write_scores, tasks, "scoring pages")


def write_scores(target: str, shard: str, candidates: str, models: str, last: str) -> None:
    """Writes the candidates of one shard with their scores, averaged over the models of a folder.

    Args:
      target: the file to write.
      shard: the file of their pages.
      candidates: the file of candidates, or of their scores in the previous iteration.
      models: the folder of the classifiers.
      last: the cut and the number of the previous iteration as JSON, or null.
    """
    table = pq.read_table(candidates)
    numbers, first = (table.column(name).to_numpy() for name in ("number", "first"))
    before = table.column("before").to_numpy()
    cut = json.loads(last)
    if cut:
        iteration = cut.pop("iteration")
        before = Cut(**cut).is_collected(table.column("score").to_numpy(), numbers)
        first = np.where(before & (first == 0), iteration, first)
    total, paths = np.zeros(len(numbers)), sorted(path for path in Path(models).iterdir() if path.name.isdigit())
    for path in paths:
        normals = (normal for _, normal in pages.bodies(Path(shard), "normal", numbers))
        total += np.fromiter(classifier.scores(classifier.load(path), normals), np.float32, len(numbers))
    scores = (total / len(paths)).astype(np.float32)
    columns = [*(table.column(name) for name in ("number", "canonical_url", "host", "tokens")), first, before, scores]
    with atomic_path(target) as temporary:
        pq.write_table(pa.table(columns, schema=SCORES), temporary, compression="zstd")


def collect(
    folder: Path, number: int, last: Iteration | None, labeled: Labeled | None, settings: CorpusSettings, seed: int
) -> Iteration:
    """Collects the best-scored pages, counts domains and prefixes, and writes the row of the iteration.

    Raises:
      UserError: nothing or everything was collected.
    """
    if (folder / "result.json").exists():
        result = read_json(folder / "result.json")
        return Iteration(number, folder, Cut(**result["cut"]), result["row"])
    scored = daft.read_parquet(f"{folder}/scores/*.parquet")
    cut = top_tokens(scored, settings.top_tokens, settings.min_score)
    scored = scored.with_column("collected", cut.collected())
    counts = _counts(scored)
    if not counts["left"]:
        raise UserError(
            f"Iteration {number} collected every page: all {counts['pages']} have only {counts['tokens']} tokens; "
            "give --config.corpus.top_tokens a smaller number."
        )
    if not counts["pages"]:
        raise UserError(
            f"Iteration {number} collected no page: none scored {settings.min_score} within {settings.top_tokens} "
            "tokens; fix --config.corpus.min_score, top_tokens or the seeds."
        )
    write_frame(folder / "hosts", domains.hosts(scored, settings.domain_share))
    by_host = daft.read_parquet(f"{folder}/hosts/*.parquet")
    write_frame(folder / "prefixes", domains.prefixes(scored, by_host))
    new = by_host.where(col("math_related")).select("host")
    if last:
        known = daft.read_parquet(f"{last.folder}/hosts/*.parquet").where(col("math_related")).select("host")
        new = new.join(known, on="host", how="anti")
    sample = pq.read_table(folder / "sample.parquet", filters=[("model", "=", 0)]).column("math").to_numpy()
    row = measure(labeled, scored, cut, seed) | {
        "iteration": number,
        "positives": int(sample.sum()),
        "negatives": int((~sample).sum()),
        "threshold": counts["threshold"],
        "pages": counts["pages"],
        "tokens": counts["tokens"],
        "overlap": counts["again"] / counts["pages"],
        "new_domains": new.count_rows(),
    }
    write_json(folder / "result.json", {"cut": dataclasses.asdict(cut), "row": row})
    return Iteration(number, folder, cut, row)


def _counts(scored: DataFrame) -> dict:
    """Counts pages and tokens collected, pages collected again and pages left; `threshold` is the lowest score."""
    integer = DataType.int64()
    counts = scored.agg(
        col("collected").cast(integer).sum().alias("pages"),
        (~col("collected")).cast(integer).sum().alias("left"),
        (col("collected") & col("before")).cast(integer).sum().alias("again"),
    ).to_pylist()[0]
    collected = scored.where(col("collected"))
    sums = collected.agg(col("tokens").sum().alias("tokens"), col("score").min().alias("threshold")).to_pylist()[0]
    return counts | {"tokens": sums["tokens"] or 0, "threshold": sums["threshold"]}


def ablation(
    last: Iteration, limits: Sequence[int], labeled: Labeled | None, settings: CorpusSettings, seed: int
) -> list[dict]:
    """Returns a row for each token limit in `limits`: what it would collect from the scores of one iteration."""
    rows = []
    for limit in limits:
        cut = top_tokens(last.scored(), limit, settings.min_score)
        counts = _counts(last.scored().with_column("collected", cut.collected()))
        row = {"top_tokens": limit} | {name: counts[name] for name in ("pages", "tokens", "threshold")}
        rows.append(row | measure(labeled, last.scored(), cut, seed))
    return rows
