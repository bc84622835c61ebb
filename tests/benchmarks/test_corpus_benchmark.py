"""The corpus benchmark on a tiny generated crawl, and the measurements below its numbers."""

import gzip
import re
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from benchmarks import copies, corpus, resources
from dsmath_jax.corpus.normalize import normalize
from dsmath_jax.corpus.reading.warc import read_pages
from dsmath_jax.workdir import read_json

WORDS = (
    "sum prime graph river stone paper cloud angle table metal field wheel paint grass smoke glass bread light".split()
)
MEGABYTE = 1 << 20


def html(number: int) -> str:
    random = Random(number)
    paragraphs = "".join(f"<p>{' '.join(random.choices(WORDS, k=60))}.</p>" for _ in range(8))
    formula = r"<p>Here \(\frac{a}{b} = c\) holds.</p>" if number % 2 else ""
    return f'<html><head><title>Page</title></head><body class="some-page">{paragraphs}{formula}</body></html>'


def response(url: str, body: str, kind: str = "text/html; charset=utf-8") -> bytes:
    block = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n{body}".encode()
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{url}>\r\nWARC-Target-URI: {url}\r\n"
        "WARC-Date: 2026-01-01T00:00:00Z\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + block + b"\r\n\r\n")


@pytest.fixture
def data_dir(tmp_path):
    """Two WARC files with 21 pages, of which 20 are different, and a picture; and the questions of a data set."""
    pages = [response(f"https://host{number}.org/", html(number)) for number in range(20)]
    picture = response("https://host0.org/picture", "no page", "image/png")
    (tmp_path / "a.warc.gz").write_bytes(b"".join([*pages[:10], picture]))
    (tmp_path / "b.warc.gz").write_bytes(b"".join([*pages[10:], response("https://again.org/", html(3))]))
    question = " ".join(re.findall(r"\w+", re.sub("<.*?>", " ", html(5)))[5:25])
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text(f'{{"question": "{question}", "answer": "It is 1.\\n#### 1"}}\n')
    return tmp_path


def run(data_dir: Path, peer: Path | str) -> dict:
    out = data_dir / "out" / "corpus.json"
    arguments = {"input": "*.warc.gz", "data_dir": data_dir, "peer": peer, "out": out, "repetitions": 1}
    corpus.main([f"--{name}={value}" for name, value in arguments.items()])
    return read_json(out)


@pytest.mark.slow
def test_ours_alone_measures_every_step_and_reports_that_the_peer_is_missing(data_dir, capsys):
    result = run(data_dir, data_dir / "no" / "python")
    printed = capsys.readouterr()
    assert "no/python" in printed.err
    assert "make peers" in printed.err
    scoring = result["scoring"]
    assert scoring["ours"] == {"pages": 21, "documents": 20}
    assert [row["step"] for row in scoring["steps"]] == list(corpus.STEPS)
    for row in [*scoring["steps"], scoring["total"]]:
        assert row["cpu_seconds"] > 0, row
        assert row["cpu_seconds_per_1000_pages"] == pytest.approx(1000 * row["cpu_seconds"] / 21)
        assert row["pages_per_second"] == pytest.approx(21 / row["cpu_seconds"])
        assert row["peer_cpu_seconds"] is None
        assert row["ratio"] is None
    assert sum(row["cpu_seconds"] for row in scoring["steps"]) == pytest.approx(scoring["total"]["cpu_seconds"])
    decontamination = result["decontamination"]
    assert decontamination["benchmarks"] == ["gsm8k/test"]
    assert decontamination["contaminated"] == 1
    assert decontamination["megabytes_per_second_from_normal"] > decontamination["megabytes_per_second"] > 0
    table = (data_dir / "out" / "corpus.md").read_text(encoding="utf-8")
    assert table == printed.out.rstrip("\n") + "\n"
    assert all(f"| {name} | " in table for name in [*corpus.STEPS.values(), "total", "from text"])


@pytest.mark.oracle
def test_the_peer_does_the_same_work(peer_with, data_dir):
    result = run(data_dir, peer_with("datatrove"))
    assert result["scoring"]["peer"] == {"pages": 21, "scored": 21, "documents": 20}
    rows = {row["step"]: row for row in result["scoring"]["steps"]}
    assert {step for step, row in rows.items() if not row["peer_cpu_seconds"]} == {"language", "normalize"}
    assert result["scoring"]["total"]["ratio"] > 0
    assert result["decontamination"]["peer_contaminated"] == 1
    assert result["decontamination"]["ratio"] > 1


def test_a_run_counts_orphans_and_the_memory_of_all_its_processes(tmp_path):
    burn = "import time\ndata = bytearray(b'1') * (60 << 20)\nwhile time.process_time() < 0.4: pass"
    leave = f"import subprocess, sys\nfor _ in range(2): subprocess.Popen([sys.executable, '-c', {burn!r}])"
    wait = f"{leave}\nimport time\ntime.sleep(0.5)"
    orphaned = resources.run([sys.executable, "-c", leave], tmp_path / "log")
    assert orphaned.cpu_seconds > 0.8
    waiting = resources.run([sys.executable, "-c", wait], tmp_path / "log")
    assert waiting.cpu_seconds > 0.8
    assert waiting.peak_bytes > 60 * MEGABYTE


def test_a_failing_command_is_an_error_with_its_output(tmp_path):
    with pytest.raises(RuntimeError, match=r"code 3: about the failure"):
        resources.run([sys.executable, "-c", "print('about the failure'); exit(3)"], tmp_path / "log")


def test_a_meter_counts_inner_steps_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: now[0])
    meter = resources.Meter()

    def spend(seconds: float) -> float:
        now[0] += seconds
        return seconds

    def numbers():
        for number in (1.0, 2.0):
            spend(number)
            yield number

    inner = meter.function("inner", spend)
    assert (
        meter.call("outer", lambda: [inner(10 * number) for number in meter.items("made", numbers())] and spend(5)) == 5
    )
    assert meter.seconds == {"made": 3, "inner": 30, "outer": 5}


def test_copies_are_changed_pages_under_other_hosts(data_dir, tmp_path):
    sources, target = [str(data_dir / "a.warc.gz")], tmp_path / "copy.warc.gz"
    copies.write_copy(sources, 7, target)
    before, after = (list(read_pages(source, Counter())) for source in (sources[0], str(target)))
    assert [page.url for page in after] == [f"https://copy7.host{number}.org/" for number in range(10)]
    for old, new in zip(before, after, strict=True):
        assert re.findall("<.*?>", old.body) == re.findall("<.*?>", new.body)
        assert (r"\frac{a}{b} = c" in old.body) == (r"\frac{a}{b} = c" in new.body)
        words, others = normalize(old.body).split(), normalize(new.body).split()
        assert set(others) <= set(words)
        assert 0.1 < sum(word != other for word, other in zip(words, others, strict=True)) / len(words) < 0.4
