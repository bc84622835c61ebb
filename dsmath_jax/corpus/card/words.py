"""The words of the data card, from the numbers of a corpus and the settings that it was made with."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from dsmath_jax.corpus.card import facts, pictures
from dsmath_jax.corpus.card.blocks import Block, Picture, Points, Sample, Samples, Section, Table
from dsmath_jax.corpus.card.facts import BINS, QUANTILES, Numbers
from dsmath_jax.formatting import interval, number, percent

TITLE = "Data card: mathematics mined from web pages"
DOMAINS_SHOWN = 20
EXCERPT, LINE_OF_PROSE = 420, 60  # characters: of a sample; of the first line that is taken for the text itself
Settings = Mapping[str, Any]


def sections(numbers: Numbers, settings: Settings) -> list[Section]:
    """The card's contents, in the order in which a researcher asks."""
    tell: dict[str, Callable[[Numbers, Settings], list[Block]]] = {
        "What it is": what_it_is,
        "How it was made": how_it_was_made,
        "From pages to documents": the_funnel,
        "Languages": languages,
        "Iterations": iterations,
        "Scores": scores,
        "Other sizes": ablation,
        "Domains": domains,
        "Lengths": lengths,
        "Benchmark texts": contamination,
        "Damaged records": damage,
        "Samples": samples,
        "Known limits": limits,
        "Licence": licence,
        "Settings": all_settings,
    }
    return [Section(title, blocks) for title, say in tell.items() if (blocks := say(numbers, settings))]


def score(value: float | None) -> str:
    """A classifier's score, which mostly differs from 1 far behind the point; a dash where nothing was collected."""
    return "–" if value is None else f"{value:.4f}"


def numbers_of(row: Mapping[str, Any], names: str) -> list[str]:
    """Some fields of a row, named in one string, as words."""
    return [number(row[name]) for name in names.split()]


def measure(row: Mapping[str, Any], name: str) -> str:
    """A fraction with its 95 % interval, if it has one."""
    ends = row.get(f"{name}_interval")
    return percent(row.get(name)) + (f" ({interval(ends, spec='.0f')})" if ends else "")


def what_it_is(numbers: Numbers, settings: Settings) -> list[Block]:
    summary, last = numbers.summary, numbers.summary["iterations"][-1]
    hosts = sum(row["collected"] > 0 for row in summary["domains"])
    blocks: list[Block] = [
        f"{number(len(numbers.scores))} web pages with {number(int(numbers.tokens.sum()))} tokens (counted as "
        f"{summary['token_counter']}) that a classifier takes for mathematics, from {number(hosts)} hosts: "
        f"{percent(len(numbers.scores) / max(summary['pages_read'], 1))} of the {number(summary['pages_read'])} pages "
        f"read from {settings['input']}. They were found as in section 2.1 of the DeepSeekMath paper (arXiv "
        "2402.03300): by a classifier that is trained again on what its last round has turned up. The texts are meant "
        "for the pre-training of language models."
    ]
    if last.get("labelled"):
        blocks.append(
            f"Measured on {number(last['labelled'])} labelled pages: precision {measure(last, 'precision')}, recall "
            f"{measure(last, 'recall')}, with 95 % intervals."
        )
    return blocks


def how_it_was_made(numbers: Numbers, settings: Settings) -> list[Block]:
    fasttext, minhash = settings["fasttext"], settings["minhash"]
    floor = f" and a score of at least {settings['min_score']:g}" if settings["min_score"] else ""
    quantised = ", quantised" if fasttext["quantize"] else ""
    joining = (
        f"Uncollected pages below a URL prefix that a person annotated as mathematics ({settings['annotations']})"
        if numbers.summary["domain_rule"] == "annotations"
        else "Those of its uncollected pages that a rule takes for mathematics in a person's place "
        f"({numbers.summary['domain_rule']})"
    )
    models = fasttext["models"]
    averaged = f", {models} classifiers averaged" if models > 1 else ""
    sample = "as many" if settings["negatives"] == 1 else f"{settings['negatives']:g} times as many"
    seed = f" The seed of all random choices is {settings['seed']}." if "seed" in settings else ""
    known = ", ".join([*settings["benchmarks"], *settings["benchmark_files"]])
    least, most = settings["min_ngram"], settings["ngram"]
    return [
        "Pages were turned into text with formulas as LaTeX. Of pages with the same address, and of pages with nearly "
        f"the same text (MinHash, {minhash['bands']} bands of {minhash['rows']} rows over {minhash['shingle']}-grams), "
        "one was kept, before anything was scored; pages of fewer than "
        f"{settings['min_tokens']} tokens were left out.",
        f"In each of {len(numbers.summary['iterations'])} iterations (at most {settings['iterations']}; they end "
        f"once {percent(settings['stop_overlap'])} of what is collected was collected before) fastText (dimension "
        f"{fasttext['dim']}, learning rate {fasttext['lr']:g}, word n-grams to {fasttext['word_ngrams']}, minimum "
        f"count {fasttext['min_count']}, {fasttext['epochs']} epochs, {number(fasttext['bucket'])} "
        f"buckets{quantised}{averaged}) learned to tell positives from {sample} random pages (at most "
        f"{number(settings['max_positives'])} and "
        f"{number(settings['max_negatives'])}) and scored all pages; the best-scored ones were collected, up to N = "
        f"{number(settings['top_tokens'])} tokens{floor}.{seed}",
        f"The first positives are the pages below the prefixes of {settings['seeds']}. A host of which more than "
        f"{percent(settings['domain_share'])} was collected counts as math-related. {joining} "
        "join the positives of the next iteration.",
        f"At the end, {SCOPE[settings['remove']]} that repeats a benchmark was removed: that holds any {most} tokens "
        f"in a row (English by word, Chinese by character) of a question or worked solution, or the whole of one that "
        f"has {least} to {most - 1} tokens. Benchmarks: {known}."
        if known
        else "No benchmark was named, so nothing was removed as contaminated.",
    ]


SCOPE = {"page": "each page", "segment": "each line of a page"}


def the_funnel(numbers: Numbers, settings: Settings) -> list[Block]:
    steps = [(name, count) for name, count in numbers.summary["funnel"]]
    read = max(steps[0][1], 1)
    told = ", ".join(f"{number(count)} {name}" for name, count in steps)
    rows = [(name, number(count), percent(count / read)) for name, count in steps]
    picture = pictures.funnel("funnel", "Pages that each step leaves", told, steps)
    return [
        Picture("Pages that each step leaves", picture),
        Table("Pages that each step leaves", ("step", "pages", "of all read"), rows),
    ]


def languages(numbers: Numbers, settings: Settings) -> list[Block]:
    total = max(len(numbers.scores), 1)
    rows = [
        (name, number(documents), percent(documents / total), number(tokens))
        for name, (documents, tokens) in numbers.languages.items()
    ]
    return [
        "As detected in the text; short pages full of formulas are often mistaken.",
        Table("Documents by language", ("language", "documents", "share", "tokens"), rows),
    ]


def iterations(numbers: Numbers, settings: Settings) -> list[Block]:
    table = numbers.summary["iterations"]
    fields = "iteration positives negatives new_domains pages tokens"
    mined = [[*numbers_of(row, fields), percent(row["overlap"]), score(row["threshold"])] for row in table]
    columns = ("iteration", "positives", "negatives", "new domains", "pages", "tokens", "overlap", "threshold")
    blocks: list[Block] = [
        "Overlap is the share of the collected pages that the iteration before had collected too; the threshold is the "
        "lowest score that was collected.",
        Table("What each iteration collected", columns, mined),
    ]
    if not table[-1].get("labelled"):
        return [*blocks, "Precision and recall were not measured, for want of page labels."]
    rows = [_measures(number(row["iteration"]), row) for row in table]
    unprefixed = numbers.summary["unprefixed"]
    if unprefixed and unprefixed.get("labelled"):
        rows.append(_measures("last, unprefixed", unprefixed))
    measured = [row for row in table if row["precision"] is not None and row["recall"] is not None]
    if measured:
        series = {
            name: [(row[name], row.get(f"{name}_interval")) for row in measured] for name in ("precision", "recall")
        }
        told = "; ".join(
            f"iteration {row['iteration']}: precision {percent(row['precision'])}, recall {percent(row['recall'])}"
            for row in measured
        )
        places = [row["iteration"] for row in measured]
        title = "Precision and recall, with 95 % intervals"
        blocks.append(Picture(title, pictures.curves("measured", title, told, places, series)))
    return [
        *blocks,
        "Against the page labels, which the mining never sees; in brackets 95 % intervals. Unprefixed: only "
        "labelled pages that lie below no seed or annotated prefix, so that nobody had named their folder before.",
        Table(
            "Against the labels",
            ("iteration", "labelled pages", "precision", "recall", "F1", "average precision"),
            rows,
        ),
    ]


def _measures(name: str, row: Mapping[str, Any]) -> list[str]:
    exact = [measure(row, "precision"), measure(row, "recall"), percent(row["f1"]), percent(row["average_precision"])]
    return [name, number(row["labelled"]), *exact]


def scores(numbers: Numbers, settings: Settings) -> list[Block]:
    left_out, collected = numbers.histogram
    threshold = numbers.summary["iterations"][-1]["threshold"]
    rows = [
        (f"{place / BINS:.2f} to {(place + 1) / BINS:.2f}", number(int(left_out[place])), number(int(collected[place])))
        for place in range(BINS)
    ]
    title = "Candidates by score (logarithmic)"
    told = (
        f"{number(int(collected.sum()))} pages were collected, {number(int(left_out.sum()))} left out; see the table."
    )
    series = {"collected": collected, "left out": left_out}
    return [
        "The last iteration's scores of all candidates (pages with text that are no duplicates); those above the "
        f"threshold of {score(threshold)} were collected. A score orders pages; it is no probability to rely on.",
        Picture(title, pictures.histogram("scores", title, told, series, threshold)),
        Table("Candidates by score", ("score", "left out", "collected"), rows),
    ]


def ablation(numbers: Numbers, settings: Settings) -> list[Block]:
    rows = [
        [
            *numbers_of(row, "top_tokens pages tokens"),
            score(row["threshold"]),
            percent(row["precision"]),
            percent(row["recall"]),
            percent(row["f1"]),
        ]
        for row in numbers.summary["ablation"]
    ]
    if not rows:
        return []
    columns = ("N", "pages", "tokens", "threshold", "precision", "recall", "F1")
    return ["What other sizes would have collected from the same scores.", Table("Other sizes N", columns, rows)]


def domains(numbers: Numbers, settings: Settings) -> list[Block]:
    hosts = numbers.summary["domains"]
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
        f"{percent(settings['domain_share'])} of their pages was collected.",
        Table(
            f"The {len(rows)} hosts with most collected pages",
            ("host", "pages", "collected", "share", "math-related"),
            rows,
        ),
    ]


def lengths(numbers: Numbers, settings: Settings) -> list[Block]:
    if not len(numbers.scores):
        return []
    columns = [facts.quantiles(values) for values in (numbers.tokens, numbers.url_lengths, numbers.scores)]
    means = [float(values.mean()) for values in (numbers.tokens, numbers.url_lengths, numbers.scores)]
    by_share = [*zip(QUANTILES, *columns, strict=True), ("mean", *means)]
    rows = [
        (name, number(tokens), number(characters), score(reached)) for name, tokens, characters, reached in by_share
    ]
    return [
        "Of all documents: how many tokens they have, how many characters their addresses, and how they score. The row "
        "25 % means that a quarter of the documents has this value or a lower one.",
        Table(
            "Quantiles of the documents",
            ("share", "tokens", "characters of the address", "score"),
            rows,
        ),
    ]


def contamination(numbers: Numbers, settings: Settings) -> list[Block]:
    summary = numbers.summary
    names = [*settings["benchmarks"], *settings["benchmark_files"]]
    if not names:
        return ["No benchmark was named in the settings: the documents may hold benchmark texts."]
    blocks: list[Block] = [
        f"Collected pages that repeat a benchmark: {number(sum(numbers.contaminated.values()))}. What differs from it "
        "by a word in every ten, a translation or a paraphrase is not found."
    ]
    if summary["contaminated_planted"] is not None:
        blocks.append(
            f"The labels name {number(summary['contaminated_planted'])} contaminated pages; "
            f"{number(summary['contaminated_left'])} of them are among the documents."
        )
    named = {name: numbers.contaminated.get(name, 0) for name in names if name != "all"}
    counts = named | numbers.contaminated
    rows = [(name, number(count)) for name, count in counts.items()]
    blocks.append(Table("Pages that repeat a benchmark", ("benchmark", "pages"), rows))
    if numbers.contaminated_examples:
        blocks.append(
            Table(
                f"At most {facts.EXAMPLES} pages of each benchmark",
                ("record", "page", "what both have"),
                [
                    (row["contaminated_by"], row["url"], row["contaminated_ngram"])
                    for row in numbers.contaminated_examples
                ],
                left=3,
            )
        )
    return blocks


def damage(numbers: Numbers, settings: Settings) -> list[Block]:
    reasons = numbers.summary["damage"]
    if not reasons:
        return ["No damaged record was met in the input."]
    rows = [(reason, number(count)) for reason, count in reasons.items()]
    return [Table("Records of the input that could not be read", ("reason", "records"), rows)]


def samples(numbers: Numbers, settings: Settings) -> list[Block]:
    blocks: list[Block] = [
        "The beginning of some documents of each quarter by score, at even distances of rank, and of the pages that "
        "missed the threshold by least. No one picked them."
    ]
    names = ("Lowest quarter", "Second quarter", "Third quarter", "Highest quarter")
    for name, rows in zip(names, numbers.quarters, strict=False):
        blocks.append(Samples([_sample(f"{name}, {place} of {len(rows)}", row) for place, row in enumerate(rows, 1)]))
    if numbers.missed:
        blocks.append(Samples([_sample(f"Just missed, {place}", row) for place, row in enumerate(numbers.missed, 1)]))
    return blocks


def _sample(heading: str, row: Mapping[str, Any]) -> Sample:
    about = f"{row['url']} · score {score(row['score'])} · {number(row['tokens'])} tokens"
    return Sample(heading, about, excerpt(row["text"]) if row["text"] is not None else "The text lies with the input.")


def excerpt(text: str) -> str:
    """Where the prose begins (titles and menus come before it), in one line."""
    lines = text.splitlines()
    first = next((place for place, line in enumerate(lines) if len(line) >= LINE_OF_PROSE), 0)
    words = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", "\n".join(lines[first:])).strip()
    return words if len(words) <= EXCERPT else words[:EXCERPT].rstrip() + " …"


def limits(numbers: Numbers, settings: Settings) -> list[Block]:
    summary = numbers.summary
    labelled = summary["iterations"][-1].get("labelled")
    annotated = summary["domain_rule"] == "annotations"
    return [
        Points(
            [
                f"The labels are few: {number(labelled)} pages, so that precision and recall are known no better than "
                "their intervals say; pages that went as duplicates or without text are not among them."
                if labelled
                else "Nothing was measured against labels: how much of this is mathematics is not known.",
                "Near-duplicates were removed before anything was scored: what was kept of a group is its newest page, "
                "not its best. Those that MinHash does not find are still there.",
                "The annotated prefixes are one person's judgement of folders, not of pages."
                if annotated
                else "No person looked at the domains: the rule that stands in for one knows what was collected, not "
                "what is mathematics, and can confirm the classifier in its errors.",
                "Whether a page is mathematics is decided by its words. Pages that speak like mathematics (prices, "
                "programs, physics) get in, and mathematics in unusual words or rare languages stays out.",
                "Formulas that a page shows as pictures without a text, or draws by a script, are lost.",
                f"Tokens are counted as {summary['token_counter']}; another tokenizer counts differently.",
                "Nothing was done about personal data, offensive or wrong content: it is the web's.",
            ]
        )
    ]


def licence(numbers: Numbers, settings: Settings) -> list[Block]:
    return [
        "The documents keep the licences of their authors; most pages state none. What you may do with them depends on "
        "these and on the law where you are. The address of each document is in its field url."
    ]


def all_settings(numbers: Numbers, settings: Settings) -> list[Block]:
    rows = [(name, str(value)) for name, value in sorted(_flat(settings).items())]
    return [Table("All settings of the corpus", ("setting", "value"), rows, left=2)]


def _flat(settings: Settings, prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in settings.items():
        if hasattr(value, "items"):
            fields |= _flat(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return fields
