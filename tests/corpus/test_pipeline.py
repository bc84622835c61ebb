"""The whole pipeline on a small web that these tests write."""

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dsmath_jax.corpus import pages, pipeline
from dsmath_jax.corpus.annotate_page.corpus_files import CorpusFiles
from dsmath_jax.corpus.settings import CorpusSettings, FastTextSettings, MinHashSettings
from dsmath_jax.data import tokenizer
from dsmath_jax.workdir import UserError, write_jsonl

MATH = "prime integer sum root proof angle \\(x^2\\) \\(\\frac{1}{2}\\) divide fraction even odd term limit".split()
OTHER = "weather town shoes goal price film star garden tea bus winter music dress boat hotel river".split()
QUESTION = "Mara buys nine green lamps and sells four of them to her old uncle on Sunday. How many are left?"


def page(words: list[str], random_state: random.Random) -> bytes:
    text = " ".join(random_state.choice(words) + random_state.choice(["", " the", " of a", " and"]) for _ in range(120))
    return f"<html><body><nav>Home</nav><main><h1>Page</h1><p>{text}</p></main></body></html>".encode()


@pytest.fixture
def web(tmp_path: Path, record: Callable, write_warc: Callable) -> Path:
    """Two WARC files: a seed host, a mathematical, a mixed and other hosts, with duplicates and a contaminated page."""
    random_state = random.Random(0)
    pages = [(f"http://seed.test/lessons/{n}", "math", page(MATH, random_state)) for n in range(15)]
    pages += [(f"http://far.test/math/{n}", "math", page(MATH, random_state)) for n in range(15)]
    pages += [(f"http://mixed.test/sums/{n}", "math", page(MATH, random_state)) for n in range(10)]
    pages += [(f"http://mixed.test/news/{n}", "other", page(OTHER, random_state)) for n in range(10)]
    pages += [(f"http://o{n % 4}.test/a/{n}", "other", page(OTHER, random_state)) for n in range(40)]
    planted = page(MATH, random_state).replace(b"</p>", f"</p><p>{QUESTION}</p>".encode())
    pages.append(("http://far.test/math/planted", "math", planted))
    copy, near = pages[15][2], pages[16][2].replace(b"<h1>Page</h1>", b"<h1>Other</h1>")
    pages += [("https://far.test/math/0?utm_source=x", "math", copy), ("http://copy.test/b", "math", near)]
    random_state.shuffle(pages)
    old = {"http://copy.test/b", "https://far.test/math/0?utm_source=x"}
    members = [record(url, body, date="2025" if url in old else "2026") for url, _, body in pages]
    write_warc("data/crawl/a.warc.gz", [*members[:40], b"garbage"])
    write_warc("data/crawl/b.warc.gz", members[40:])
    data = tmp_path / "data"
    (data / "crawl/seeds.txt").write_text("# lessons\nhttp://seed.test/lessons/\n")
    rows = [{"url": url, "label": label, "contaminated": url.endswith("planted")} for url, label, _ in pages]
    write_jsonl(data / "crawl/labels.jsonl", rows)
    write_jsonl(
        data / "problems/test.jsonl", [{"id": "t/0", "question": QUESTION, "solution": "9 - 4 = 5", "answer": "5"}]
    )
    return data


def corpus_settings(**fields) -> CorpusSettings:
    small = FastTextSettings(dim=16, lr=0.5, word_ngrams=2, min_count=1, epochs=25, bucket=20_000)
    # One process: starting more takes longer than the work.
    defaults = {
        "workers": 1,
        "labels": "crawl/labels.jsonl",
        "benchmarks": ("toy/test",),
        "min_score": 0.5,
        "fasttext": small,
    }
    return CorpusSettings(**{"input": "crawl/*.warc.gz", "ablation_tokens": (1_000,), **defaults, **fields})


def outputs(out: Path) -> dict[str, object]:
    tables = [*out.glob("*.parquet"), *out.glob("documents/*.parquet"), *out.glob("matches/*.parquet")]
    summary = json.loads((out / "summary.json").read_text())
    return {str(path.relative_to(out)): pq.read_table(path).to_pydict() for path in tables} | summary


def test_from_warc_to_documents(web, tmp_path):
    out = tmp_path / "corpus"
    summary = pipeline.mine(corpus_settings(), 0, web, out)
    assert summary == json.loads((out / "summary.json").read_text())
    assert [count for _, count in summary["funnel"]] == [93, 92, 91, 91, 41, 40]
    assert summary["pages_read"] == 93
    assert summary["precision"] == summary["recall"] == 1.0
    planted = [summary[f"contaminated_{name}"] for name in ("labeled", "removed", "left")]
    assert planted == [1, 1, 0]
    assert summary["damage"] == {"bytes between records": 1}
    assert summary["languages"] == {"en": 40}

    hosts = {row["host"]: row for row in summary["domains"]}
    assert hosts["mixed.test"] == {
        "host": "mixed.test", "pages": 20, "collected": 10, "share": 0.5, "math_related": True
    }  # fmt: skip
    assert not hosts["o1.test"]["math_related"]
    assert summary["iterations"][0]["positives"] == summary["iterations"][0]["negatives"] == 15
    assert summary["iterations"][-1]["overlap"] >= 0.98

    documents = [
        row for path in sorted((out / "documents").glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    assert len(documents) == summary["documents_kept"] == 40
    assert all("\\frac" in row["text"] and "Home" not in row["text"] and row["iteration"] >= 1 for row in documents)

    decisions = {row["url"]: row for row in pq.read_table(out / "decisions.parquet").to_pylist()}
    assert len(decisions) == 93
    assert (
        decisions["https://far.test/math/0?utm_source=x"]["duplicate_of"] == decisions["http://far.test/math/0"]["id"]
    )
    assert decisions["http://copy.test/b"]["duplicate_of"] == decisions["http://far.test/math/1"]["id"]
    assert decisions["http://copy.test/b"]["score"] is None
    assert decisions["http://far.test/math/planted"]["contaminated_by"] == "t/0"
    assert decisions["http://far.test/math/planted"]["contaminated_ngram"].startswith("mara buys nine green lamps")
    assert decisions["http://o1.test/a/1"]["iteration"] is None
    assert decisions["http://o1.test/a/1"]["score"] < 0.5


def test_uncollected_annotated_pages_become_positives(web, tmp_path):
    write_jsonl(web / "crawl/annotations.jsonl", [{"prefix": "http://far.test/math/", "math": True, "note": ""}])
    settings = corpus_settings(
        annotations="crawl/annotations.jsonl", top_tokens=3_000, min_score=0.0, iterations=2, domain_share=0.01
    )
    summary = pipeline.mine(settings, 0, web, tmp_path / "corpus")
    first, second = summary["iterations"]
    decisions = pq.read_table(tmp_path / "corpus/decisions.parquet").to_pylist()
    assert 15 < second["positives"] <= 31
    assert first["tokens"] <= 3_000
    assert second["tokens"] <= 3_000
    assert sum(row["tokens"] for row in decisions if row["iteration"]) == second["tokens"]
    assert summary["domain_rule"] == "annotations"


@pytest.mark.slow
def test_extracted_pages_give_the_same_corpus(web, tmp_path, capsys):
    folder = tmp_path / "made"
    pages.main([f"--input={web}/crawl/*.warc.gz", f"--output={folder}"])
    assert "93 pages in 2 files" in capsys.readouterr().out
    rows = pq.read_table(sorted(folder.glob("*.parquet"))[0]).to_pylist()
    assert {"url", "text", "language", "tokens", "date", "host"} <= set(rows[0])

    summary = pipeline.mine(corpus_settings(input=str(folder)), 0, web, tmp_path / "corpus")
    assert summary == pipeline.mine(corpus_settings(), 0, web, tmp_path / "other")
    assert all(path.is_symlink() for path in (tmp_path / "corpus/pages").iterdir())
    page = pq.read_table(tmp_path / "corpus/decisions.parquet").to_pylist()[0]["id"]
    assert CorpusFiles(tmp_path).text(page)  # what the annotation page shows
    with pytest.raises(UserError, match="was made with"):
        pipeline.mine(corpus_settings(input=str(folder), minhash=MinHashSettings(rows=4)), 0, web, tmp_path / "third")
    with pytest.raises(UserError, match="mixes files of pages"):
        pipeline.mine(corpus_settings(input=(str(folder), "crawl/a.warc.gz")), 0, web, tmp_path / "third")
    (folder / "0.parquet").write_bytes((tmp_path / "corpus/prefixes.parquet").read_bytes())
    with pytest.raises(UserError, match="is not a file of pages"):
        pipeline.mine(corpus_settings(input=str(folder)), 0, web, tmp_path / "third")


@pytest.mark.slow
def test_segments_several_models_and_a_quantized_classifier(web, tmp_path):
    fasttext = dataclasses.replace(corpus_settings().fasttext, models=2, quantize=True)
    out = tmp_path / "corpus"
    summary = pipeline.mine(corpus_settings(remove="segment", fasttext=fasttext, iterations=1), 0, web, out)
    assert summary["contaminated_removed"] == 1
    assert summary["documents_kept"] == summary["iterations"][0]["pages"]
    planted = next(row for row in pq.read_table(out / "decisions.parquet").to_pylist() if row["contaminated_by"])
    rows = {row["id"]: row for path in out.glob("documents/*") for row in pq.read_table(path).to_pylist()}
    text = rows[planted["id"]]["text"]
    assert "lamps" not in text
    assert len(text) > 200
    assert rows[planted["id"]]["tokens"] == -(-len(text) // 4) < planted["tokens"]
    sample = pq.read_table(out / "iterations/1/sample.parquet").to_pylist()
    negatives = [{row["number"] for row in sample if row["model"] == model and not row["math"]} for model in (0, 1)]
    assert negatives[0] != negatives[1]
    assert len(list((out / "iterations/1/models").iterdir())) == 2


def test_a_tokenizer_counts_the_tokens(web, tmp_path):
    path = web / "tokenizer.model"
    tokenizer.train_sentencepiece((f"{word} " * 9 for word in MATH + OTHER), path, 400, ())
    pages.main([f"--input={web}/crawl/a.warc.gz", f"--output={tmp_path}", f"--tokenizer={path}"])
    row = pq.read_table(next(tmp_path.glob("*.parquet"))).to_pylist()[0]
    assert row["tokens"] == len(tokenizer.load(path).encode(row["text"]))


def run(data: Path, out: Path) -> None:
    os.setsid()
    pipeline.mine(corpus_settings(), 0, data, out)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_documents(web, tmp_path):
    pipeline.mine(corpus_settings(), 0, web, tmp_path / "uninterrupted")
    out = tmp_path / "killed"
    landmarks = ("pages/*.parquet", "duplicates", "iterations/1/models/.*", "iterations/1/scores/*", "documents/*")
    for landmark in landmarks:
        process = multiprocessing.get_context("spawn").Process(target=run, args=(web, out))
        process.start()
        while process.is_alive() and not list(out.glob(landmark)):
            time.sleep(0.002)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    stamps = {path: path.stat().st_mtime_ns for path in [*out.glob("pages/*"), *out.glob("iterations/1/scores/*")]}
    pipeline.mine(corpus_settings(), 0, web, out)
    assert outputs(out) == outputs(tmp_path / "uninterrupted")
    assert stamps
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        (None, {"input": "crawl/*.gone"}, "No input file matches"),
        (("crawl/b.warc.gz", "text"), {}, "not a WARC file"),
        (("crawl/b.warc.gz", ""), {}, "is empty"),
        (("crawl/seeds.txt", "# none\n"), {}, "holds no URL prefix"),
        (None, {"seeds": "crawl/none.txt"}, "is missing"),
        (("crawl/seeds.txt", "http://nowhere.test/\n"), {}, "No page read is below"),
        (("crawl/seeds.txt", "http://\nseed.test\n"), {}, "is not a URL prefix"),
        (("crawl/labels.jsonl", '{"url": "http://far.test/", "label": "maths"}\n'), {}, "line 1"),
        (("crawl/labels.jsonl", "no json\n"), {}, "line 1"),
        (("crawl/labels.jsonl", '{"url": "http://nowhere.test/", "label": "math"}\n'), {}, "None of the labeled URLs"),
        (None, {"min_score": 0.0}, "collected every page"),
        (None, {"benchmarks": ("toy/none",)}, "Unknown data set"),
        (None, {"benchmarks": ("own.jsonl",)}, "own.jsonl"),
        (("crawl/annotations.jsonl", "{}\n"), {"annotations": "crawl/annotations.jsonl"}, "line 1"),
        (None, {"remove": "line"}, "remove must be one of 'page', 'segment'; got 'line'"),
        (None, {"iterations": 0}, "iterations is 0; it must be at least 1"),
        (None, {"tokenizer": "none.model"}, "none.model"),
        (None, {"min_tokens": 10_000}, "No page of the"),
        (None, {"top_tokens": 1}, "collected no page"),
    ],
)
def test_bad_input_is_a_one_sentence_error(web, tmp_path, file, fields, message):
    if file:
        (web / file[0]).write_text(file[1])
    with pytest.raises(UserError, match=message) as error:
        pipeline.mine(corpus_settings(**fields), 0, web, tmp_path / "corpus")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "corpus/summary.json").exists()
    assert not (tmp_path / "corpus/documents").exists()


def test_labels_of_unknown_urls_are_counted(web, tmp_path, capsys):
    with open(web / "crawl/labels.jsonl", "a") as file:
        file.write('{"url": "http://nowhere.test/", "label": "math"}\n')
    summary = pipeline.mine(corpus_settings(iterations=1), 0, web, tmp_path / "corpus")
    assert summary["labels_unknown"] == 1
    assert "1 labels are of URLs that were not read" in capsys.readouterr().err


def test_without_labels_nothing_is_measured(web, tmp_path):
    summary = pipeline.mine(corpus_settings(labels="", iterations=1), 0, web, tmp_path / "corpus")
    assert [summary[name] for name in ("precision", "f1", "labels_unknown", "contaminated_labeled")] == [None] * 4
    assert summary["documents_kept"] == 40
    assert (tmp_path / "corpus/card.html").is_file()


def test_a_users_questions_are_removed_too(web, tmp_path):
    write_jsonl(web / "own.jsonl", [{"asked": QUESTION}])
    settings = corpus_settings(benchmarks=("own.jsonl",), columns={"question": "asked"}, iterations=1)
    assert pipeline.mine(settings, 0, web, tmp_path / "corpus")["contaminated_removed"] == 1


def test_seeds_that_cover_every_page_are_refused(web, tmp_path):
    hosts = ["seed", "far", "mixed", "copy", *(f"o{n}" for n in range(4))]
    (web / "crawl/seeds.txt").write_text("\n".join(f"http://{host}.test/" for host in hosts))
    with pytest.raises(UserError, match="seeds cover every page"):
        pipeline.mine(corpus_settings(), 0, web, tmp_path / "corpus")


def test_a_crawl_without_html_is_refused(web, tmp_path, record, write_warc):
    write_warc(
        "data/only/a.warc.gz", [record("http://a.test/", b"GIF89a", head="HTTP/1.1 200 OK\r\nContent-Type: image/gif")]
    )
    with pytest.raises(UserError, match="No page of the"):
        pipeline.mine(corpus_settings(input="only/*"), 0, web, tmp_path / "corpus")
