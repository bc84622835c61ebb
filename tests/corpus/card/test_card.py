"""The data card: its numbers come from the files, the same files give the same bytes, and page text is never markup."""

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmath_jax.corpus.card import card, facts, pictures, samples
from dsmath_jax.corpus.settings import CorpusSettings
from dsmath_jax.settings import fingerprint
from dsmath_jax.workdir import UserError, write_json

HOSTILE = '<script>alert("x")</script> ``` \x00 | & \\ $x<y$ ' + "prose " * 20 + "<img src=https://evil.test/x.png>"
SETTINGS = fingerprint(
    CorpusSettings(
        labels="labels.jsonl",
        annotations="annotations.jsonl",
        benchmarks=("gsm8k/test", "math/test"),
        top_tokens=1_234_567,
    )
) | {"seed": 7}
MEASURED = {
    "precision": 0.75, "recall": 0.5, "f1": 0.6, "average_precision": 0.812, "labeled": 1_200,
    "precision_interval": [0.6, 0.85], "recall_interval": [0.4, 0.6],
}  # fmt: skip
UNMEASURED = dict.fromkeys(MEASURED) | {"labeled": 0}


def summary(**changes) -> dict:
    row = {"positives": 1_000, "negatives": 900, "threshold": 0.59, "pages": 12, "tokens": 4_321, "new_domains": 3}
    return {
        "pages_read": 98_765,
        "documents_kept": 8,
        "contaminated_removed": 4,
        "contaminated_labeled": 5,
        "contaminated_left": 1,
        "funnel": [["pages read", 98_765], ["with text", 20], ["collected", 12], ["after decontamination", 8]],
        "domains": [
            {"host": f"h{n}.test", "pages": 40 - n, "collected": 30 - n, "share": 0.5, "math_related": n < 20}
            for n in range(30)
        ],
        "domain_rule": "annotations",
        "iterations": [row | MEASURED | {"iteration": n, "overlap": 0.4 * n} for n in (1, 2)],
        "unprefixed": MEASURED | {"labeled": 77},
        "ablation": [row | MEASURED | {"top_tokens": 55_555}],
        "languages": {"en": 8},
        "damage": {"wrong checksum": 2},
        "token_counter": "characters / 4",
    } | changes


def write_rows(path: Path, rows: list[dict], columns: dict[str, pa.DataType]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, pa.schema(list(columns.items())))
    pq.write_table(table, path, row_group_size=3)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Twenty candidates, 12 of them collected, of these 4 contaminated; and a duplicate, which has no score."""
    folder = tmp_path / "corpus"
    pages = [
        {
            "id": f"{'0-a' if n < 10 else '1-b'}/{n % 10:06d}",
            "url": f"https://h{n}.test/" + "x" * n,
            "host": f"h{n}.test",
            "language": "zh" if n % 4 == 3 else "en",
            "tokens": 100 * n,
            "duplicate_of": None,
            "score": round(0.99 - n * 0.035, 3),
            "iteration": 1 if n < 12 else None,
            "contaminated_by": f"gsm8k/test/{n}" if n in (0, 3, 6, 9) else None,
            "contaminated_ngram": f"gram {n}" if n in (0, 3, 6, 9) else None,
            "text": f"Title\nThis is page number {n} and it has a line that is long enough to be prose. {HOSTILE}",
        }
        for n in range(20)
    ]
    pages.append(pages[5] | {"id": "1-b/000010", "duplicate_of": pages[5]["id"], "score": None, "iteration": None})
    kinds = {name: pa.string() for name in pages[0]} | {
        "tokens": pa.int64(), "score": pa.float32(), "iteration": pa.int64()
    }  # fmt: skip
    decided = [name for name in kinds if name != "text"]
    write_rows(folder / "decisions.parquet", pages, {name: kinds[name] for name in decided})
    kept = ["id", "url", "host", "text", "language", "tokens", "score", "iteration"]
    for shard in ("0-a", "1-b"):
        mine = [page for page in pages if page["id"].startswith(shard)]
        write_rows(folder / f"pages/{shard}.parquet", mine, {"id": pa.string(), "text": pa.string()})
        documents = [page for page in mine if page["iteration"] and not page["contaminated_by"]]
        write_rows(folder / f"documents/{shard}.parquet", documents, {name: kinds[name] for name in kept})
    write_json(folder / "summary.json", summary())
    return folder


def write_card(out: Path, **changes) -> tuple[str, str]:
    card.write(out, SETTINGS | changes)
    return tuple((out / name).read_text(encoding="utf-8") for name in ("card.md", "card.html"))


class Reader(HTMLParser):
    """Parses a page into its tags, attributes and text."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]


def table(text: str, caption: str) -> list[list[str]]:
    """Returns the cells of a table of the Markdown card."""
    lines = text.split(f"{caption}:\n\n")[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if "--" not in line]


def test_numbers_come_from_the_files(out):
    text, _ = write_card(out)
    assert "8 web pages with 4,800 tokens" in text
    assert "0.0 % of the 98,765 pages" in text
    assert table(text, "Documents by language")[1:] == [
        ["en", "6", "75.0 %", "3,000"],
        ["zh", "2", "25.0 %", "1,800"],
    ]
    bins = {row[0]: row[1:] for row in table(text, "Candidates by score")[1:]}
    assert len(bins) == 20
    assert [sum(int(row[side]) for row in bins.values()) for side in (0, 1)] == [8, 12]
    assert bins["0.55 to 0.60"] == ["1", "0"]
    assert bins["0.60 to 0.65"] == ["0", "2"]
    lengths = {row[0]: row[1:] for row in table(text, "Quantiles of the documents")[1:]}
    assert lengths["min"][0] == "100"
    assert lengths["median"] == ["500", "21", "0.7450"]
    assert lengths["max"][0] == "1,100"
    assert lengths["mean"][0] == "600"
    assert table(text, "Pages that repeat a benchmark")[1:] == [["gsm8k/test", "4"], ["math/test", "0"]]
    assert [row[2] for row in table(text, "At most 3 pages of each benchmark")[1:]] == ["gram 0", "gram 3", "gram 6"]


def test_the_card_shows_the_summary(out):
    text, page = write_card(out)
    assert table(text, "Pages that each step leaves")[1:3] == [
        ["pages read", "98,765", "100.0 %"],
        ["with text", "20", "0.0 %"],
    ]
    assert table(text, "What each iteration collected")[2] == [
        "2", "1,000", "900", "3", "12", "4,321", "80.0 %", "0.5900"
    ]  # fmt: skip
    measured = table(text, "Against the labels")
    assert measured[1] == ["1", "1,200", "75.0 % (60 to 85)", "50.0 % (40 to 60)", "60.0 %", "81.2 %"]
    assert measured[-1][:2] == ["last, unprefixed", "77"]
    assert table(text, "Other sizes N")[1][:2] == ["55,555", "12"]
    assert len(table(text, "The 20 hosts with the most collected pages")) == 21
    assert table(text, "Records of the input that could not be read")[1] == ["wrong checksum", "2"]
    assert "up to N = 1,234,567 tokens" in text
    assert "The seed of all random choices is 7." in text
    assert "a person annotated as mathematics (annotations.jsonl)" in text
    assert "The labels name 5 contaminated pages; 1 of them are among the documents." in text
    assert page.count("<svg") == 3


def test_samples_are_spread_over_the_scores_and_end_below_the_threshold(out):
    text, _ = write_card(out)
    headings = re.findall(r"\*\*(.+?)\*\*: https\\://h(\d+)\\?\.test", text)
    by_group: dict[str, list[int]] = {}
    for heading, page in headings:
        by_group.setdefault(heading.split(",")[0], []).append(int(page))
    assert by_group == {
        "Lowest quarter": [11, 10],
        "Second quarter": [8, 7],
        "Third quarter": [5, 4],
        "Highest quarter": [2, 1],
        "Just missed": [12, 13, 14, 15, 16],
    }
    assert "This is page number 12 and" in text
    assert "Title" not in text


def test_texts_that_are_with_the_input_are_not_needed(out):
    for file in (out / "pages").iterdir():
        file.unlink()
    text, _ = write_card(out)
    assert text.count("The text is with the input.") == 5


def test_the_same_input_gives_the_same_bytes_however_it_is_read(out, monkeypatch):
    first = write_card(out)
    monkeypatch.setattr(facts, "ROWS_PER_READ", 2)
    assert write_card(out) == first
    assert not list(out.glob(".*"))


def test_no_text_of_a_page_is_markup(out):
    rows = summary()["domains"]
    rows[0]["host"] = "<b>|`host`"
    write_json(out / "summary.json", summary(domains=rows, damage={"<i>\nreason|": 1}))
    text, page = write_card(out)
    assert {tag for tag, _ in Reader(page).tags} <= set(
        "html head meta title style body header h1 nav ul li a main section h2 p figure figcaption svg desc rect text "
        "line circle polyline div table caption thead tbody tr th td article h3".split()
    )
    read = Reader(page).text
    assert '<script>alert("x")</script>' in read
    assert "<b>|`host`" in read
    assert "\x00" not in read + text
    rows = text.split("The 20 hosts with the most collected pages:\n\n")[1].split("\n\n")[0].splitlines()
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {7}
    assert r"\<b\>\|\`host\`" in text
    fences = re.findall(r"^(`{3,})(\w*)$", text, re.MULTILINE)
    assert {fence for fence, _ in fences} == {"````"}
    assert [kind for _, kind in fences] == ["text", ""] * (len(fences) // 2)


def test_the_page_loads_nothing_and_its_links_and_labels_resolve(out):
    _, page = write_card(out)
    reader = Reader(page)
    assert not reader.all("src")
    assert all(link.startswith("#") for link in reader.all("href"))
    ids = reader.all("id")
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in reader.all("href")} <= set(ids)
    assert {name for names in reader.all("aria-labelledby") for name in names.split()} <= set(ids)
    assert page.count("<table>") == page.count("<caption>") == page.count('role="region"') > 0
    assert 'lang="en"' in page
    assert "prefers-color-scheme: dark" in page


def test_what_was_not_measured_is_not_on_the_card(out):
    bare = [row | UNMEASURED for row in summary()["iterations"]]
    write_json(
        out / "summary.json",
        summary(
            iterations=bare, unprefixed=UNMEASURED, ablation=[], damage={}, domain_rule="automatic: by folder",
            contaminated_labeled=None, contaminated_left=None,
        ),
    )  # fmt: skip
    text, _ = write_card(out, benchmarks=(), annotations="", labels="")
    assert "Precision and recall were not measured" in text
    assert "Measured on" not in text
    assert "## Other sizes" not in text
    assert "The input has no damaged record" in text
    assert "No benchmark was named" in text
    assert "automatic: by folder" in text
    assert "No person looked at the domains" in text
    assert "None" not in text.partition("## Settings")[0]


def test_a_corpus_without_documents(out):
    for file in (out / "documents").iterdir():
        pq.write_table(pq.read_table(file).slice(0, 0), file)
    iterations = [row | UNMEASURED | {"threshold": None} for row in summary()["iterations"]]
    write_json(out / "summary.json", summary(iterations=iterations))
    text, _ = write_card(out)
    assert "0 web pages with 0 tokens" in text
    assert "## Lengths" not in text


def test_the_command_writes_the_card_again(out, capsys):
    expected = write_card(out)
    fields = {f"corpus.{name}": value for name, value in SETTINGS.items() if name != "seed"}
    write_json(out / "manifest.json", {"config": fields | {"seed": 7, "data_dir": "data"}})
    for name in ("card.md", "card.html"):
        (out / name).unlink()
    card.main([f"--workdir={out.parent}"])
    assert str(out / "card.html") in capsys.readouterr().out
    assert (out / "card.md").read_text(encoding="utf-8") == expected[0]
    assert (out / "card.html").read_text(encoding="utf-8") == expected[1]


@pytest.mark.parametrize("missing", ["summary.json", "decisions.parquet", "documents/*", "manifest.json"])
def test_an_unfinished_stage_is_a_one_sentence_error(out, missing):
    write_json(out / "manifest.json", {"config": {f"corpus.{name}": value for name, value in SETTINGS.items()}})
    for path in out.glob(missing):
        path.unlink()
    with pytest.raises(UserError, match="the corpus stage") as error:
        card.main([f"--workdir={out.parent}"])
    assert "\n" not in str(error.value)
    assert not list(out.glob("card.*"))


def test_write_raises_for_the_caller(tmp_path):
    with pytest.raises(UserError, match=r"summary\.json is missing"):
        card.write(tmp_path, SETTINGS)


@given(st.lists(st.floats(0, 1, width=32), max_size=60))
def test_samples_are_distinct_and_rise_by_quarter(values):
    scores = np.array(values, np.float32)
    groups = facts.spread(scores)
    places = [place for group in groups for place in group.tolist()]
    assert len(set(places)) == len(places)
    assert len(places) >= min(len(values), 4)
    assert all(len(group) <= facts.SAMPLES for group in groups)
    assert scores[places].tolist() == sorted(scores[places].tolist())


@given(st.text())
def test_markdown_without_escapes_is_the_text(text):
    shown = card.markdown(text)
    assert "\n" not in shown
    assert re.sub(r"\\([^\w\s]|_)", r"\1", shown) == " ".join(text.split())
    assert not re.search(r"(?<!\\)(?:\\\\)*[<|`*\[]", shown)


@given(st.text(alphabet="`ab\n"))
def test_a_fence_is_longer_than_what_it_encloses(text):
    assert card.fence(text) not in text
    assert len(card.fence(text)) >= 3


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("Menu\nHome\n" + "A line of prose. " * 5, "A line of prose."),
        ("only\nshort\tlines", "only short lines"),
        ("", ""),
    ],
)
def test_an_excerpt_begins_with_the_prose(text, start):
    assert samples.excerpt(text).startswith(start)
    assert len(samples.excerpt(text * 100)) <= samples.EXCERPT + 2


@pytest.mark.parametrize(
    "picture",
    [
        pictures.funnel("f", "a < b", "c & d", [("<read>", 0)]),
        pictures.funnel("f", "a", "b", [("read", 1_000), ("kept", 10)]),
        pictures.histogram("h", "a", "b", {"one": np.array([0, 0]), "two": np.array([0, 0])}, None),
        pictures.histogram("h", "a", "b", {"one": np.array([5, 12_000]), "two": np.array([7, 0])}, 0.7),
        pictures.curves("c", "a", "b", [1], {"one": [(0.5, None)], "two": [(1.0, (0.9, 1.0))]}),
    ],
)
def test_a_picture_is_well_formed_and_stays_within_its_frame(picture):
    drawing = ElementTree.fromstring(picture)
    _, _, width, height = map(float, drawing.attrib["viewBox"].split())
    for bar in drawing.iter("rect"):
        x, y, wide, tall = (float(bar.attrib[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= width + 0.1
        assert 0 <= y <= y + tall <= height + 0.1
    for dot in drawing.iter("circle"):
        assert 0 <= float(dot.attrib["cx"]) <= width
        assert 0 <= float(dot.attrib["cy"]) <= height


def test_bars_are_as_long_as_their_counts():
    drawing = ElementTree.fromstring(pictures.funnel("f", "a", "b", [("read", 1_000), ("kept", 250)]))
    assert [float(bar.attrib["width"]) for bar in drawing.iter("rect")] == [400, 100]
    assert [text.text for text in drawing.iter("text")] == ["read: 1,000", "kept: 250"]


def test_the_settings_are_read_back_from_the_manifest(out):
    write_json(out / "manifest.json", {"config": {"seed": 3, "corpus.ngram": 9, "corpus.fasttext.dim": 8, "x.y": 1}})
    assert card.stage_settings(out) == {"seed": 3, "ngram": 9, "fasttext.dim": 8}
