"""The iterated mining of paper section 2.1: classify, collect, find math-related domains, enlarge the seeds, repeat.

Below `iterations/N/` an iteration leaves, in this order: `positives/` (what counts as mathematics from the start),
`sample.parquet` (what was trained on), `models/`, `scores/<shard>.parquet`, `hosts/`, `prefixes/` and `result.json`.
What is there is not made again.
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
from dsmath_jax.corpus.measure import Labelled, measure
from dsmath_jax.corpus.normalize import mix
from dsmath_jax.corpus.select import Cut, top_tokens
from dsmath_jax.corpus.settings import CorpusSettings, FastTextSettings
from dsmath_jax.progress import track
from dsmath_jax.workdir import UserError, atomic_path, read_json, write_json

SCORES = CANDIDATES.append(pa.field("score", pa.float32()))


@dataclasses.dataclass(frozen=True)
class Iteration:
    """A finished iteration: its number, folder, the place where its ranking is cut, and its row of the table."""

    number: int
    folder: Path
    cut: Cut
    row: dict

    def scored(self) -> DataFrame:
        """number, canonical_url, host, tokens, first, before, score of all candidates, and `collected`."""
        return daft.read_parquet(f"{self.folder}/scores/*.parquet").with_column("collected", self.cut.before())


def iterate(
    crawl: Crawl,
    seeds: Sequence[str],
    annotations: Sequence[Annotation] | None,
    labelled: Labelled | None,
    settings: CorpusSettings,
    seed: int,
    folder: Path,
) -> list[Iteration]:
    """Mines until an iteration collects hardly anything new, or for `settings.iterations`; returns all of them.

    Args:
      seeds: canonical URL prefixes whose pages are positives from the beginning.
      annotations: judged prefixes; None takes the automatic rule.
      labelled: for the measures in the table, if there are labels.
      folder: keeps the files of each iteration.

    Raises:
      UserError: the seeds or the token limit cover nothing or everything, so that nothing can be told apart.
    """
    done: list[Iteration] = []
    for number in track(range(1, settings.iterations + 1), "mining iterations", settings.iterations):
        here, last = folder / str(number), done[-1] if done else None
        write_frame(here / "positives", more_positives(last, annotations) if last else seed_pages(crawl, seeds))
        candidates = last.scored() if last else crawl.listed()
        draw_sample(candidates, here, settings, seed * 1_000 + number)
        train(crawl, here, settings.fasttext, seed * 1_000 + number)
        score(crawl, here, last)
        done.append(conclude(here, number, done, labelled, settings, seed))
        if done[-1].row["overlap"] >= settings.stop_overlap:
            break
    return done


def seed_pages(crawl: Crawl, prefixes: Sequence[str]) -> DataFrame:
    """number of the candidates below one of the canonical prefixes."""

    @daft.func.batch(return_dtype=DataType.bool())
    def below(canonical_urls: Any) -> list[bool]:
        return inputs.below_any(canonical_urls.to_pylist(), prefixes).tolist()

    return crawl.listed().where(below(col("canonical_url"))).select("number").sort("number")


def more_positives(last: Iteration, annotations: Sequence[Annotation] | None) -> DataFrame:
    """number of an iteration's positives and of the pages that join them."""
    by_host, by_prefix = (daft.read_parquet(f"{last.folder}/{name}/*.parquet") for name in ("hosts", "prefixes"))
    found = domains.joining(last.scored(), by_host, by_prefix, annotations)
    return daft.read_parquet(f"{last.folder}/positives/*.parquet").concat(found).distinct().sort("number")


def draw_sample(candidates: DataFrame, folder: Path, settings: CorpusSettings, seed: int) -> None:
    """Draws positives and `settings.negatives` times as many negatives (the paper: as many) to `sample.parquet`.

    Its columns are model, number, math; sorted. Negatives are random pages, but none of those that the last iteration
    collected: where mathematics is not as rare as in Common Crawl, they would teach that it is none. Each model gets
    negatives of its own.

    Args:
      candidates: number, and `collected` if there was an iteration before.

    Raises:
      UserError: there is no positive, or no page is left for a negative.
    """
    path = folder / "sample.parquet"
    if path.exists():
        return
    positives = daft.read_parquet(f"{folder}/positives/*.parquet")
    chosen = _lowest(positives, settings.max_positives, seed)
    if not len(chosen):
        raise UserError(f"No page read lies below a prefix of {settings.seeds}; fix the prefixes.")
    others = candidates.where(~col("collected")) if "collected" in candidates.column_names else candidates
    others = others.select("number").join(positives, on="number", how="anti")
    count = max(1, min(settings.max_negatives, round(settings.negatives * len(chosen))))
    tables = []
    for model in range(settings.fasttext.models):
        rejected = _lowest(others, count, seed + 500 + model)
        if not len(rejected):
            raise UserError(
                "The seeds cover every page, so that none is left to learn what is not mathematics; give fewer."
            )
        numbers = np.concatenate([chosen, rejected])
        order = np.argsort(numbers)
        math = np.arange(len(numbers)) < len(chosen)
        tables.append(pa.table({"model": np.full(len(numbers), model), "number": numbers[order], "math": math[order]}))
    with atomic_path(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary)


@daft.func.batch(return_dtype=DataType.uint64())
def _shuffled(numbers: Any, seed: int) -> Any:
    """A pseudo-random key of each page number."""
    start = mix(np.array([seed], np.uint64))
    return mix(numbers.to_arrow().to_numpy(zero_copy_only=False).astype(np.uint64) ^ start)


def _lowest(frame: DataFrame, count: int, seed: int) -> np.ndarray:
    """`count` page numbers drawn from a dataframe, or all where there are fewer: int64 [drawn].

    A page's place in the draw depends on its number and the seed alone, so that no order of work matters.
    """
    keyed = frame.select("number", _shuffled(col("number"), seed).alias("key"))
    return np.array(keyed.sort(["key", "number"]).limit(count).to_pydict()["number"], np.int64)


def train(crawl: Crawl, folder: Path, settings: FastTextSettings, seed: int) -> None:
    """Trains the iteration's classifiers on its sample and leaves them as `models/N`."""
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
    # A folder of our own: the training process of a killed run may live on and write into its folder.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as scratch:
        chosen = examples([Path(shards).parent / shard for shard in read_json(shards)], table, number)
        classifier.train(chosen, FastTextSettings(**json.loads(settings)), number, Path(scratch)).replace(path)


def examples(shards: Sequence[Path], sample: pa.Table, seed: int) -> Iterator[tuple[bool, str]]:
    """The sampled pages in mixed order: shards in random order, and each one's pages too."""
    numbers, math = (sample.column(name).to_numpy() for name in ("number", "math"))
    random = np.random.default_rng(seed)
    for shard in random.permutation(len(shards)).tolist():
        bodies = list(pages.bodies(shards[shard], "normal", numbers))
        for place in random.permutation(len(bodies)).tolist():
            number, normal = bodies[place]
            yield bool(math[np.searchsorted(numbers, number)]), normal


def score(crawl: Crawl, folder: Path, last: Iteration | None) -> None:
    """Scores all candidates, shard by shard; each file also tells what the iteration before it collected."""
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
      candidates: their list, or their scores in the iteration before.
      last: as JSON the cut and the number of that iteration, or null.
    """
    table = pq.read_table(candidates)
    numbers, first = (table.column(name).to_numpy() for name in ("number", "first"))
    before = table.column("before").to_numpy()
    cut = json.loads(last)
    if cut:
        iteration = cut.pop("iteration")
        before = Cut(**cut).is_before(table.column("score").to_numpy(), numbers)
        first = np.where(before & (first == 0), iteration, first)
    total, paths = np.zeros(len(numbers)), sorted(path for path in Path(models).iterdir() if path.name.isdigit())
    for path in paths:
        normals = (normal for _, normal in pages.bodies(Path(shard), "normal", numbers))
        total += np.fromiter(classifier.scores(classifier.load(path), normals), np.float32, len(numbers))
    scores = (total / len(paths)).astype(np.float32)
    columns = [*(table.column(name) for name in ("number", "canonical_url", "host", "tokens")), first, before, scores]
    with atomic_path(target) as temporary:
        pq.write_table(pa.table(columns, schema=SCORES), temporary, compression="zstd")


def conclude(
    folder: Path, number: int, done: Sequence[Iteration], labelled: Labelled | None, settings: CorpusSettings, seed: int
) -> Iteration:
    """Collects the best-scored pages, counts domains and prefixes, and writes the iteration's row of the table.

    Raises:
      UserError: nothing or everything was collected.
    """
    if (folder / "result.json").exists():
        result = read_json(folder / "result.json")
        return Iteration(number, folder, Cut(**result["cut"]), result["row"])
    scored = daft.read_parquet(f"{folder}/scores/*.parquet")
    cut = top_tokens(scored, settings.top_tokens, settings.min_score)
    scored = scored.with_column("collected", cut.before())
    counts = _counts(scored)
    if not counts["left"]:
        raise UserError(
            f"Iteration {number} collected every page: all {counts['pages']} together have {counts['tokens']} tokens; "
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
    if done:
        known = daft.read_parquet(f"{done[-1].folder}/hosts/*.parquet").where(col("math_related")).select("host")
        new = new.join(known, on="host", how="anti")
    sample = pq.read_table(folder / "sample.parquet", filters=[("model", "=", 0)]).column("math").to_numpy()
    row = measure(labelled, scored, cut, seed) | {
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
    """Collected pages, their tokens and lowest score; how many were collected before too; how many pages are left."""
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
    last: Iteration, limits: Sequence[int], labelled: Labelled | None, settings: CorpusSettings, seed: int
) -> list[dict]:
    """What other token limits than N would collect from the scores of one iteration, a row for each."""
    rows = []
    for limit in limits:
        cut = top_tokens(last.scored(), limit, settings.min_score)
        counts = _counts(last.scored().with_column("collected", cut.before()))
        row = {"top_tokens": limit} | {name: counts[name] for name in ("pages", "tokens", "threshold")}
        rows.append(row | measure(labelled, last.scored(), cut, seed))
    return rows
