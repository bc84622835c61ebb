"""The toy web, read by a WARC reader of another library."""

import collections
import gzip
import html
import itertools
import json
import random
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from dsmath_jax.toy import formulas, grammar, templates_default
from dsmath_jax.toy.held_out import HeldOutNgrams
from dsmath_jax.toy.problems import distinct_problems
from dsmath_jax.toy.quantities import TOPICS
from dsmath_jax.toy.web import make_pages, write_web
from tests.toy import templates_unseen

STYLES = {"default": templates_default.STYLE, "unseen": templates_unseen.STYLE}
PAGES = 240
PROBLEMS = distinct_problems(seed=5, count=150, steps=(1, 2, 3), largest=99)
HELD_OUT = [text for question, solution, _ in PROBLEMS for text in (question, solution)]


def records(folder: Path) -> list[dict]:
    """Returns every record of the WARC files, digests verified; responses with their decoded payload."""
    rows = []
    for path in sorted(folder.glob("crawl/*.warc.gz")):
        for record in ArchiveIterator(str(path), verify_digests=True, auto_decode="all"):
            row = {"type": str(record.record_type), "url": record.headers.get("WARC-Target-URI"), "file": path.name}
            if record.record_type == WarcRecordType.response:
                row |= {
                    "status": record.http_headers.status_code,
                    "kind": record.http_content_type,
                    "charset": record.http_charset,
                    "headers": dict(record.http_headers.asdict()),
                    "date": record.headers["WARC-Date"],
                    "body": record.reader.read(),
                }
            rows.append(row)
    return rows


def html_pages(folder: Path) -> dict[str, dict]:
    responses = [row for row in records(folder) if row["type"] == "response"]
    return {row["url"]: row for row in responses if row["status"] == 200 and row["kind"] == "text/html"}


def source(page: dict) -> str:
    declared = re.search(rb'charset="?([\w-]+)', page["body"])
    return page["body"].decode(page["charset"] or declared[1].decode())


def visible(page: dict) -> str:
    """Returns the text of a page with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", source(page))).split())


def plain_words(text: str) -> list[str]:
    """Returns lower-case words without punctuation; each Chinese character is a word."""
    return re.sub(r"([\u4e00-\u9fff])", r" \1 ", re.sub(r"[^\w\s]", " ", text.lower())).split()


def ngrams(text: str, n: int = 10) -> set[tuple[str, ...]]:
    tokens = plain_words(text)
    return set(zip(*(tokens[start:] for start in range(n)), strict=False))


def read_labels(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "crawl/labels.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module", params=sorted(STYLES))
def style(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def web(style, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(style)
    write_web(folder, 3, HELD_OUT, PAGES, STYLES[style])
    return folder


@pytest.fixture(scope="module")
def pages(web) -> dict[str, dict]:
    return html_pages(web)


@pytest.fixture(scope="module")
def labels(web) -> list[dict]:
    return read_labels(web)


def test_same_arguments_write_the_same_bytes(web, style, tmp_path):
    write_web(tmp_path, 3, HELD_OUT, PAGES, STYLES[style])
    first, second = ({file.name: file.read_bytes() for file in (at / "crawl").iterdir()} for at in (web, tmp_path))
    assert first == second


def test_another_seed_writes_other_pages(pages, style, tmp_path):
    write_web(tmp_path, 4, HELD_OUT, PAGES, STYLES[style])
    other = html_pages(tmp_path)
    assert not {page["body"] for page in pages.values()} & {page["body"] for page in other.values()}


def test_warc_files_have_complete_captures(web):
    files = sorted(web.glob("crawl/*.warc.gz"))
    count = collections.Counter(row["type"] for row in records(web))
    assert len(files) >= 2
    assert count["warcinfo"] == len(files)
    assert count["request"] == count["response"] == count["metadata"] > PAGES
    for file in files:
        text = gzip.decompress(file.read_bytes())
        assert text.count(b"WARC/1.1\r\n") == sum(row["file"] == file.name for row in records(web))


def test_responses_have_many_statuses_and_types(web):
    responses = [row for row in records(web) if row["type"] == "response"]
    assert {row["status"] for row in responses} >= {200, 301, 404}
    assert {row["kind"] for row in responses} >= {"text/html", "application/pdf", "image/png"}
    assert {row["headers"].get("Content-Encoding") for row in responses} == {None, "gzip"}
    assert {row["headers"].get("Transfer-Encoding") for row in responses} == {None, "chunked"}
    assert all("Location" in row["headers"] for row in responses if row["status"] in (301, 302))


def test_every_html_page_has_a_label(pages, labels):
    assert len(labels) == len(pages) == PAGES
    assert {row["url"] for row in labels} == set(pages)
    assert {row["label"] for row in labels} == {"math", "other"}
    assert all(row["label"] == "math" for row in labels if row["contaminated"])


def test_contaminated_pages_contain_a_whole_problem(pages, labels):
    contaminated = [pages[row["url"]] for row in labels if row["contaminated"]]
    mathematical = sum(row["label"] == "math" for row in labels)
    assert 0.02 < len(contaminated) / mathematical < 0.12
    texts = [" ".join(text.split()) for text in HELD_OUT]
    wrapped = 0
    for page in contaminated:
        held = [text for text in texts if len(plain_words(text)) >= 10 and text in visible(page)]
        assert held
        wrapped += not any(html.escape(text, quote=False) in source(page) for text in held)
    assert 0 < wrapped < len(contaminated)


def test_other_pages_share_nothing_with_held_out_problems(pages, labels):
    forbidden = set().union(*map(ngrams, HELD_OUT))
    short = {text for text in HELD_OUT if 3 <= len(plain_words(text)) < 10}
    assert forbidden
    assert short
    endings = {n: {tuple(plain_words(text)) for text in short if len(plain_words(text)) == n} for n in range(3, 10)}
    for row in labels:
        if not row["contaminated"]:
            text = visible(pages[row["url"]])
            assert not ngrams(text) & forbidden
            assert not any(ngrams(text, n) & endings[n] for n in range(3, 10))


def test_text_that_is_held_out_is_regenerated(style):
    unguarded = make_pages(STYLES[style], (), 60, random.Random(1))
    mathematical = [page for page in unguarded if page.label == "math"]
    taken = [line for page in mathematical for line in page.text.plain().splitlines() if len(plain_words(line)) > 14]
    numbers = [line for line in taken if sum(character.isdigit() for character in line) > 5][:40]
    assert numbers
    guarded = make_pages(STYLES[style], numbers, 60, random.Random(1))
    ngrams = HeldOutNgrams(numbers)
    assert any(ngrams.occur_in(page.text.plain()) for page in unguarded)
    assert not any(ngrams.occur_in(page.text.plain()) for page in guarded if not page.contaminated)


def test_a_style_that_cannot_avoid_held_out_text_raises(style):
    everywhere = " ".join(str(number) for number in range(3))
    unavoidable = [title.split("@")[0] for title in STYLES[style].math["zh"].rules["intro_calculus"]]
    with pytest.raises(ValueError, match="share words with held-out"):
        make_pages(STYLES[style], [everywhere, *unavoidable], 400, random.Random(0))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("He has 12 apples, and then he gets (exactly) SEVEN more", True),
        ("he has 12 apples and then he gets exactly eight more", False),
        ("so: 12 + 7 = 19, and the answer is 19", False),
        (r"so 12 \times 7 = 84. The answer is 84!", True),
        ("so 12 × 7 = 84. The answer is 84!", True),
    ],
)
def test_overlap(text, found):
    held_out = ["Now he has 12 apples and then he gets exactly seven more.", "12 * 7 = 84\nThe answer is 84."]
    assert HeldOutNgrams(held_out).occur_in(text) == found


def test_no_held_out_problems_no_contamination(style):
    assert not any(page.contaminated for page in make_pages(STYLES[style], (), 80, random.Random(0)))


def test_duplicates_are_the_same_bytes_at_older_dates(pages):
    same = collections.defaultdict(list)
    for page in pages.values():
        same[page["body"]].append(page)
    groups = [group for group in same.values() if len(group) > 1]
    assert len(groups) == round(0.07 * PAGES)
    for group in groups:
        newest = max(group, key=lambda page: page["date"])
        assert not re.search(r"utm_|#|index\.html|http:", newest["url"])
    addresses = " ".join(page["url"] for group in groups for page in group)
    assert all(mark in addresses for mark in ("utm_source=", "#part-", "http://"))


def test_near_duplicates_are_similar_and_all_others_are_not(style):
    made = make_pages(STYLES[style], HELD_OUT, 200, random.Random(2))
    shingles = {page.url: ngrams(page.text.plain(), 5) for page in made}
    texts = {page.text: page for page in made}
    close = 0
    for one, two in itertools.combinations(texts.values(), 2):
        a, b = shingles[one.url], shingles[two.url]
        alike = len(a & b) / len(a | b)
        assert alike < 0.6 or alike > 0.8
        close += alike > 0.8
    assert close == round(0.04 * 200)


def test_charsets(pages):
    declared = collections.Counter(page["charset"] for page in pages.values())
    assert declared["utf-8"] > 0
    assert declared["gb18030"] > 0
    in_meta = [page for page in pages.values() if page["charset"] is None]
    assert any(b'charset="gb18030"' in page["body"] for page in in_meta)
    assert all(re.search(r"[a-z\u4e00-\u9fff]{2}", visible(page)) for page in pages.values())


def test_seeds_cover_part_of_the_mathematics_in_both_languages(web, pages, labels):
    seeds = tuple((web / "crawl/seeds.txt").read_text().split())
    seeded = [row for row in labels if row["url"].startswith(seeds)]
    mathematical = [row for row in labels if row["label"] == "math"]
    assert all(row["label"] == "math" for row in seeded)
    assert 0.2 < len(seeded) / len(mathematical) < 0.6
    chinese = [bool(re.search(r"[\u4e00-\u9fff]{5}", visible(pages[row["url"]]))) for row in seeded]
    assert any(chinese)
    assert not all(chinese)


def test_there_are_hosts_of_every_kind(style):
    kinds = {}
    for host in STYLES[style].hosts:
        sections = [(set(section.topics) <= set(TOPICS), section.seeded) for section in host.sections]
        kinds[host.name] = frozenset(sections)
    math = {frozenset({(True, True)}), frozenset({(True, False)}), frozenset({(True, False), (False, False)})}
    assert 10 <= len(kinds) <= 16
    assert set(kinds.values()) >= math | {frozenset({(False, False)})}


def test_styles_share_no_host_and_no_class(tmp_path):
    hosts, classes = [], []
    for name, style in STYLES.items():
        write_web(tmp_path / name, 0, HELD_OUT, 150, style)
        hosts.append({host.name for host in style.hosts})
        pages = html_pages(tmp_path / name).values()
        used = {
            word for page in pages for names in re.findall(r'class="([^"]*)"', source(page)) for word in names.split()
        }
        classes.append(used)
    assert all(classes)
    assert not hosts[0] & hosts[1]
    assert not classes[0] & classes[1]


def test_styles_share_few_sentence_patterns():
    for kind, language in itertools.product(("math", "other"), ("en", "zh")):
        one, two = (getattr(STYLES[name], kind)[language].rules for name in ("default", "unseen"))
        long = [{pattern for rule in rules.values() for pattern in rule if len(pattern) > 25} for rules in (one, two)]
        assert not long[0] & long[1]


def test_equations_in_plain_text_are_correct(style):
    operations = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        **dict.fromkeys("*×x·", lambda a, b: a * b),
        **dict.fromkeys("/÷:", lambda a, b: a / b),
    }
    checked = 0
    for page in make_pages(STYLES[style], HELD_OUT, 120, random.Random(0)):
        if page.label == "math" and not page.contaminated:
            prose = re.sub(r"«[^»]*»|⟪[^⟫]*⟫", " ", page.text.plain())
            for a, sign, b, result in re.findall(r"\b(\d+) ([-+*×x·/÷:]) (\d+) = (\d+)\b", prose):
                assert operations[sign](int(a), int(b)) == int(result)
                checked += 1
    assert checked > 500


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_pattern_can_be_expanded(style, language):
    rng = random.Random(0)
    bound = {"start": 5, "phrases": "x", "equations": "y", "count": 4}
    for table in (STYLES[style].math[language], STYLES[style].other[language]):
        numbers = {kind.__name__: kind for kinds in TOPICS.values() for kind in kinds}
        for name, patterns in table.rules.items():
            kind = numbers.get(name.removeprefix("solve_").removeprefix("drill_"))
            drawn = kind(rng.randint) if kind else {"r": 3, "n": 2}
            for pattern in patterns:
                line = table.expand(rng, pattern, **bound, **drawn)
                assert not re.search(r"@[A-Za-z0-9]", line)
                assert line.count("«") == line.count("»")


def test_formulas_are_well_formed_markup(style):
    seen = collections.Counter()
    for page in make_pages(STYLES[style], (), 150, random.Random(0)):
        for inline, displayed in re.findall(r"«([^»]*)»|⟪([^⟫]*)⟫", page.text.plain()):
            tex = inline or displayed
            root = ElementTree.fromstring(formulas.mathml_annotated(tex, bool(displayed)))
            annotation = root.find(".//{*}annotation")
            assert annotation is not None
            assert annotation.text == tex
            seen.update(element.tag.rpartition("}")[2] for element in root.iter())
    assert seen.keys() >= {"mfrac", "msup", "msqrt", "mn", "mi", "mo"}


def test_formula_markups_of_each_style_appear(style, pages):
    text = "".join(source(page) for page in pages.values())
    marks = {
        "default": ("math/tex", 'class="katex-html"', r"\(", "application/x-tex", "mode=display", "$$", "<math"),
        "unseen": ("mjx-assistive-mml", "alttext=", "math/tex", r"\(", "<img class=", "application/x-tex"),
    }
    assert all(mark in text for mark in marks[style])


def test_grammar_keeps_capitalized_names_and_polishes():
    table = grammar.parse("who = Ann, Bob, Cid, Dan\nstory\n  @Who met @Who; 7 < @8to9\n  @Who left,\n    as @Who said")
    rng = random.Random(0)
    stories = {table.expand(rng, "@story") for _ in range(50)}
    assert all(re.fullmatch(r"(\w+) met \1; 7 < [89]|(\w+) left, as \2 said", story) for story in stories)
    assert len(stories) > 4
    assert grammar.polish("a orange is a useful thing. it is round") == "An orange is a useful thing. It is round"
    with pytest.raises(ValueError, match="defined twice"):
        grammar.parse("a = x\na = y")
    with pytest.raises(ValueError, match="follows no name"):
        grammar.parse("  pattern")
