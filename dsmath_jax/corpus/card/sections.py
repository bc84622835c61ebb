"""The sections of the data card, from the facts of a corpus and the settings that it was made with."""

from collections.abc import Mapping
from typing import Any

from dsmath_jax.corpus.card import samples, tables
from dsmath_jax.corpus.card.blocks import Block, Points, Section, Table
from dsmath_jax.corpus.card.facts import Facts
from dsmath_jax.corpus.card.words import measure
from dsmath_jax.formatting import number, percent

TITLE = "Data card: mathematics mined from web pages"
LICENSE = (
    "The documents keep the licenses of their authors; most pages state none. What you may do with them depends on "
    "these and on your local law. The URL of each document is in its field url."
)
REMOVED = {"page": "each page", "segment": "each line of a page"}
Settings = Mapping[str, Any]  # by full name, such as fasttext.dim


def sections(facts: Facts, settings: Settings) -> list[Section]:
    """Returns the contents of the card, in the order in which a reader asks; sections without a block are left out."""
    contents: dict[str, list[Block]] = {
        "What it is": overview(facts, settings),
        "How it was made": method(facts, settings),
        "From pages to documents": tables.funnel(facts),
        "Languages": tables.languages(facts),
        "Iterations": tables.iterations(facts),
        "Scores": tables.scores(facts),
        "Other sizes": tables.ablation(facts),
        "Domains": tables.domains(facts, settings["domain_share"]),
        "Lengths": tables.lengths(facts),
        "Benchmark texts": tables.contamination(facts, settings["benchmarks"]),
        "Damaged records": tables.damage(facts),
        "Samples": samples.samples(facts),
        "Known limits": limits(facts),
        "License": [LICENSE],
        "Settings": all_settings(settings),
    }
    return [Section(title, blocks) for title, blocks in contents.items() if blocks]


def overview(facts: Facts, settings: Settings) -> list[Block]:
    """Size, origin and quality of the corpus in a paragraph or two."""
    summary, last = facts.summary, facts.summary["iterations"][-1]
    hosts = sum(row["collected"] > 0 for row in summary["domains"])
    blocks: list[Block] = [
        f"{number(len(facts.scores))} web pages with {number(int(facts.tokens.sum()))} tokens (counted as "
        f"{summary['token_counter']}) that a classifier recognizes as mathematics, from {number(hosts)} hosts: "
        f"{percent(len(facts.scores) / max(summary['pages_read'], 1))} of the {number(summary['pages_read'])} pages "
        f"read from {settings['input']}. They were found as in section 2.1 of the DeepSeekMath paper (arXiv "
        "2402.03300): by a classifier that is trained again on what its last iteration found. The texts are meant for "
        "the pre-training of language models."
    ]
    if last.get("labeled"):
        blocks.append(
            f"Measured on {number(last['labeled'])} labeled pages: precision {measure(last, 'precision')}, recall "
            f"{measure(last, 'recall')}, with 95 % intervals."
        )
    return blocks


def method(facts: Facts, settings: Settings) -> list[Block]:
    """The steps of the mining with their settings."""
    floor = f" and a score of at least {settings['min_score']:g}" if settings["min_score"] else ""
    quantized = ", quantized" if settings["fasttext.quantize"] else ""
    joining = (
        f"Uncollected pages below a URL prefix that a person annotated as mathematics ({settings['annotations']})"
        if facts.summary["domain_rule"] == "annotations"
        else f"Those of its uncollected pages that an automatic rule selects ({facts.summary['domain_rule']})"
    )
    models = settings["fasttext.models"]
    averaged = f", {models} classifiers averaged" if models > 1 else ""
    sample = "as many" if settings["negatives"] == 1 else f"{settings['negatives']:g} times as many"
    seed = f" The seed of all random choices is {settings['seed']}." if "seed" in settings else ""
    benchmarks = ", ".join(settings["benchmarks"])
    least, most = settings["min_ngram"], settings["ngram"]
    return [
        "Pages were converted to text with formulas as LaTeX. Of pages with the same URL, and of pages with "
        f"nearly the same text (MinHash, {settings['minhash.bands']} bands of {settings['minhash.rows']} rows over "
        f"{settings['minhash.shingle']}-grams), one was kept before anything was scored; pages of fewer than "
        f"{settings['min_tokens']} tokens were dropped.",
        f"In each of {len(facts.summary['iterations'])} iterations (at most {settings['iterations']}; they end "
        f"once {percent(settings['stop_overlap'])} of the collected pages were collected before) fastText (dimension "
        f"{settings['fasttext.dim']}, learning rate {settings['fasttext.lr']:g}, word n-grams to "
        f"{settings['fasttext.word_ngrams']}, minimum count {settings['fasttext.min_count']}, "
        f"{settings['fasttext.epochs']} epochs, {number(settings['fasttext.bucket'])} buckets{quantized}{averaged}) "
        f"learned to separate positives from {sample} random pages (at most {number(settings['max_positives'])} and "
        f"{number(settings['max_negatives'])}) and scored all pages; the best-scored ones were collected, up to N = "
        f"{number(settings['top_tokens'])} tokens{floor}.{seed}",
        f"The first positives are the pages below the prefixes of {settings['seeds']}. A host of which more than "
        f"{percent(settings['domain_share'])} was collected counts as math-related. {joining} "
        "join the positives of the next iteration.",
        f"At the end, {REMOVED[settings['remove']]} that repeats a benchmark was removed: that holds any {most} tokens "
        f"in a row (English by word, Chinese by character) of a question or worked solution, or the whole of one that "
        f"has {least} to {most - 1} tokens. Benchmarks: {benchmarks}."
        if benchmarks
        else "No benchmark was named, so nothing was removed as contaminated.",
    ]


def limits(facts: Facts) -> list[Block]:
    """The known limits of the corpus."""
    summary = facts.summary
    labeled = summary["iterations"][-1].get("labeled")
    annotated = summary["domain_rule"] == "annotations"
    return [
        Points(
            [
                f"Only {number(labeled)} pages are labeled: precision and recall are known no better than their "
                "intervals say."
                if labeled
                else "Nothing was measured against labels: how much of this is mathematics is unknown.",
                "Near-duplicates were removed before anything was scored: each group is represented by its newest "
                "page, not by its best one. Those that MinHash misses are still there.",
                "The annotated prefixes are one person's judgment of folders, not of pages."
                if annotated
                else "No person looked at the domains: the automatic rule knows what was collected, not what is "
                "mathematics, and can reinforce the classifier's errors.",
                "Words alone decide whether a page is mathematics. Pages that read like mathematics (prices, "
                "programs, physics) get in, and mathematics in unusual words or rare languages stays out.",
                "Formulas that a page shows as pictures without a text, or draws by a script, are lost.",
                f"Tokens are counted as {summary['token_counter']}; another tokenizer counts differently.",
                "Nothing was done about personal data, offensive or false content.",
            ]
        )
    ]


def all_settings(settings: Settings) -> list[Block]:
    """The settings of the corpus."""
    values = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in settings.items()
    }
    rows = [(name, str(value)) for name, value in sorted(values.items())]
    return [Table("All settings of the corpus", ("setting", "value"), rows, left=2)]
