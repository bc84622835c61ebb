"""The statistics of the data card as tables and pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

from dsmath_jax.corpus.card import pictures
from dsmath_jax.corpus.card.blocks import Block, Picture, Table
from dsmath_jax.corpus.card.facts import BINS, EXAMPLES, QUANTILES, Facts, quantiles
from dsmath_jax.corpus.card.words import measure, numbers_of, score
from dsmath_jax.formatting import number, percent

DOMAINS_SHOWN = 20


def funnel(facts: Facts) -> list[Block]:
    """The pages that each step leaves."""
    steps = [(name, count) for name, count in facts.summary["funnel"]]
    read = max(steps[0][1], 1)
    description = ", ".join(f"{number(count)} {name}" for name, count in steps)
    rows = [(name, number(count), percent(count / read)) for name, count in steps]
    picture = pictures.funnel("funnel", "Pages that each step leaves", description, steps)
    return [
        Picture("Pages that each step leaves", picture),
        Table("Pages that each step leaves", ("step", "pages", "of all read"), rows),
    ]


def languages(facts: Facts) -> list[Block]:
    """Documents and tokens by language."""
    total = max(len(facts.scores), 1)
    rows = [
        (name, number(documents), percent(documents / total), number(tokens))
        for name, (documents, tokens) in facts.languages.items()
    ]
    return [
        "As detected in the text; short pages full of formulas are often mistaken.",
        Table("Documents by language", ("language", "documents", "share", "tokens"), rows),
    ]


def iterations(facts: Facts) -> list[Block]:
    """Tables of the pages that each iteration collected, with precision and recall where pages are labeled."""
    table = facts.summary["iterations"]
    fields = "iteration positives negatives new_domains pages tokens"
    mined = [[*numbers_of(row, fields), percent(row["overlap"]), score(row["threshold"])] for row in table]
    columns = ("iteration", "positives", "negatives", "new domains", "pages", "tokens", "overlap", "threshold")
    blocks: list[Block] = [
        "Overlap is the share of the collected pages that the previous iteration had collected too; the threshold is "
        "the lowest collected score.",
        Table("What each iteration collected", columns, mined),
    ]
    if not table[-1].get("labeled"):
        return [*blocks, "Precision and recall were not measured: there are no page labels."]
    rows = [_measures(number(row["iteration"]), row) for row in table]
    unprefixed = facts.summary["unprefixed"]
    if unprefixed and unprefixed.get("labeled"):
        rows.append(_measures("last, unprefixed", unprefixed))
    measured = [row for row in table if row["precision"] is not None and row["recall"] is not None]
    if measured:
        series = {
            name: [(row[name], row.get(f"{name}_interval")) for row in measured] for name in ("precision", "recall")
        }
        description = "; ".join(
            f"iteration {row['iteration']}: precision {percent(row['precision'])}, recall {percent(row['recall'])}"
            for row in measured
        )
        title = "Precision and recall, with 95 % intervals"
        numbers = [row["iteration"] for row in measured]
        blocks.append(Picture(title, pictures.curves("measured", title, description, numbers, series)))
    return [
        *blocks,
        "Measured against the page labels, which the mining never sees; in parentheses 95 % intervals. Unprefixed: "
        "only labeled pages below no seed or annotated prefix.",
        Table(
            "Against the labels",
            ("iteration", "labeled pages", "precision", "recall", "F1", "average precision"),
            rows,
        ),
    ]


def _measures(name: str, row: Mapping[str, Any]) -> list[str]:
    exact = [measure(row, "precision"), measure(row, "recall"), percent(row["f1"]), percent(row["average_precision"])]
    return [name, number(row["labeled"]), *exact]


def scores(facts: Facts) -> list[Block]:
    """The candidates by score, collected and left out."""
    left_out, collected = facts.histogram
    threshold = facts.summary["iterations"][-1]["threshold"]
    rows = [
        (f"{i / BINS:.2f} to {(i + 1) / BINS:.2f}", number(int(left_out[i])), number(int(collected[i])))
        for i in range(BINS)
    ]
    title = "Candidates by score (logarithmic)"
    description = f"{number(int(collected.sum()))} pages were collected, {number(int(left_out.sum()))} left out."
    series = {"collected": collected, "left out": left_out}
    return [
        "The last iteration's scores of all candidates (long enough, and no duplicates); those at or above "
        f"{score(threshold)} were collected. Scores rank pages; they are not calibrated probabilities.",
        Picture(title, pictures.histogram("scores", title, description, series, threshold)),
        Table("Candidates by score", ("score", "left out", "collected"), rows),
    ]


def ablation(facts: Facts) -> list[Block]:
    """A table of the pages that other token limits would have collected."""
    rows = [
        [
            *numbers_of(row, "top_tokens pages tokens"),
            score(row["threshold"]),
            percent(row["precision"]),
            percent(row["recall"]),
            percent(row["f1"]),
        ]
        for row in facts.summary["ablation"]
    ]
    if not rows:
        return []
    columns = ("N", "pages", "tokens", "threshold", "precision", "recall", "F1")
    return ["What other values of N would have collected from the same scores.", Table("Other sizes N", columns, rows)]


def domains(facts: Facts, math_share: float) -> list[Block]:
    """The hosts with the most collected pages; more than `math_share` of a math-related one is collected."""
    hosts = facts.summary["domains"]
    rows = [
        [
            row["host"],
            *numbers_of(row, "pages collected"),
            percent(row["share"]),
            "yes" if row["math_related"] else "no",
        ]
        for row in hosts[:DOMAINS_SHOWN]
    ]
    related = sum(row["math_related"] for row in hosts)
    return [
        f"{number(related)} of {number(len(hosts))} hosts are math-related: more than "
        f"{percent(math_share)} of their pages were collected.",
        Table(
            f"The {len(rows)} hosts with the most collected pages",
            ("host", "pages", "collected", "share", "math-related"),
            rows,
        ),
    ]


def lengths(facts: Facts) -> list[Block]:
    """Quantiles of the tokens, the URL lengths and the scores of the documents."""
    if not len(facts.scores):
        return []
    columns = [quantiles(values) for values in (facts.tokens, facts.url_lengths, facts.scores)]
    means = [float(values.mean()) for values in (facts.tokens, facts.url_lengths, facts.scores)]
    by_share = [*zip(QUANTILES, *columns, strict=True), ("mean", *means)]
    rows = [
        (name, number(tokens), number(characters), score(reached)) for name, tokens, characters, reached in by_share
    ]
    return [
        "Tokens, characters of the URL and score over all documents. The row 25 % means that a quarter of the "
        "documents has this value or a lower one.",
        Table(
            "Quantiles of the documents",
            ("share", "tokens", "characters of the URL", "score"),
            rows,
        ),
    ]


def contamination(facts: Facts, benchmarks: Sequence[str]) -> list[Block]:
    """Contaminated pages by data set; `benchmarks` are the names in the settings."""
    summary = facts.summary
    if not benchmarks:
        return ["No benchmark was named in the settings: the documents may contain benchmark texts."]
    blocks: list[Block] = [
        f"Collected pages that repeat a benchmark: {number(sum(facts.contaminated.values()))}. Text that "
        "differs from it by a word in every ten, translations and paraphrases are not found."
    ]
    if summary["contaminated_labeled"] is not None:
        blocks.append(
            f"The labels name {number(summary['contaminated_labeled'])} contaminated pages; "
            f"{number(summary['contaminated_left'])} of them are among the documents."
        )
    counts = {name: 0 for name in benchmarks if name != "all"} | facts.contaminated
    rows = [(name, number(count)) for name, count in counts.items()]
    blocks.append(Table("Pages that repeat a benchmark", ("benchmark", "pages"), rows))
    if facts.contaminated_examples:
        blocks.append(
            Table(
                f"At most {EXAMPLES} pages of each benchmark",
                ("record", "page", "shared n-gram"),
                [
                    (row["contaminated_by"], row["url"], row["contaminated_ngram"])
                    for row in facts.contaminated_examples
                ],
                left=3,
            )
        )
    return blocks


def damage(facts: Facts) -> list[Block]:
    """Damaged records by reason."""
    reasons = facts.summary["damage"]
    if not reasons:
        return ["The input has no damaged record."]
    rows = [(reason, number(count)) for reason, count in reasons.items()]
    return [Table("Records of the input that could not be read", ("reason", "records"), rows)]
