"""The page of a run's rollouts: what it holds, in Python; what it shows, in headless Chromium."""

import base64
import gzip
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dsmath_jax.report.rollouts import BLOCK_ROWS, main, write
from dsmath_jax.workdir import UserError, write_jsonl
from tests.browser import Browser

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> &amp; \u2028 {{ 7 * 7 }}"


def row(step: int, prompt: int, sample: int, **changes: Any) -> dict[str, Any]:
    """A row of `rl.log_samples=all`: two tokens of a step, one without loss, and EOS."""
    return {
        "step": step, "prompt": prompt, "sample": sample, "id": f"toy/train/{prompt}", "question": "What is $1 + 1$?",
        "answer": "2", "completion": "So $x = 2$.\nThe 😀 answer is 2.", "reward": sample / 2,
        "rule_reward": sample / 2, "finish": "eos", "num_tokens": 4, "advantages": [[2, 1.5], [1, None], [1, -0.75]],
        "token_lengths": [3, 9, 17, 0],
    } | changes  # fmt: skip


def make_run(workdir: Path, rows: list[dict[str, Any]], tail: str = "") -> Path:
    path = workdir / "rl" / "samples.jsonl"
    write_jsonl(path, rows)
    with open(path, "a", encoding="utf-8") as file:
        file.write(tail)
    return workdir


def page(workdir: Path) -> str:
    return (workdir / "rl" / "rollouts.html").read_text(encoding="utf-8")


def blocks_of(html: str) -> list[dict[str, Any]]:
    found = re.findall(r'<script type="application/octet-stream" class="rows">([A-Za-z0-9+/=]*)</script>', html)
    return [json.loads(gzip.decompress(base64.b64decode(each))) for each in found]


def test_the_page_holds_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [row(step, prompt, sample) for step in range(3) for prompt in range(2) for sample in range(3)]
    rows[0] |= {"reward": None, "step_rewards": [0.5, float("nan")]}
    main([f"--workdir={make_run(tmp_path, rows)}"])
    about = rf"{tmp_path}/rl/rollouts\.html: 18 completions of 6 prompts, steps 0 to 2, \d\d kB\n"
    assert re.fullmatch(about, capsys.readouterr().out)
    [block] = blocks_of(page(tmp_path))
    assert [(one["step"], one["prompt"], one["sample"]) for one in block["rows"]] == [
        (one["step"], one["prompt"], one["sample"]) for one in rows
    ]
    assert block["rows"][0]["step_rewards"] == [0.5, None]
    [text, [[start, end, index]]] = block["rows"][0]["completion"]
    assert (text, text[start:end]) == (rows[0]["completion"], "$x = 2$")
    assert block["formulas"][index][0] == "math"
    assert len(block["formulas"]) == 2


def test_nothing_of_a_run_is_markup_of_the_page(tmp_path: Path) -> None:
    fields = dict.fromkeys(("id", "question", "answer", "completion", "finish"), HOSTILE)
    workdir = make_run(tmp_path / HOSTILE[2:8], [row(0, 0, 0, **fields)])
    write(workdir)
    html = page(workdir)
    assert html.count("<script") == html.count("</script") == 2
    assert "hacked" not in html
    assert blocks_of(html)[0]["rows"][0]["completion"] == [HOSTILE, []]
    assert "default-src 'none'" in html
    assert not re.search(r"(?:src|href)=|url\(|@import", html)


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    make_run(tmp_path, [row(0, 0, 0)], tail='{"step": 1, "ques')
    lines = write(tmp_path, tmp_path / "page.html").splitlines()
    assert lines[0].startswith(f"{tmp_path}/page.html: 1 completion of 1 prompt, steps 0 to 0, ")
    assert lines[1:] == ["The last line of the samples is incomplete, as after a kill, and is left out."]


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("not JSON\n{}\n", r"samples\.jsonl, line 2: not a JSON object; fix or remove that line"),
        ('{"step": 1, "question": "?", "reward": 1}\n', r"line 2: 'completion' must be text; got None\."),
        ('{"step": 1, "question": "?", "completion": "", "reward": "1"}\n', r"'reward' must be a number; got '1'"),
    ],
)
def test_a_damaged_line_is_named(tail: str, message: str, tmp_path: Path) -> None:
    make_run(tmp_path, [row(0, 0, 0)], tail)
    with pytest.raises(UserError, match=message):
        write(tmp_path)
    assert not (tmp_path / "rl" / "rollouts.html").exists()


def test_a_run_without_samples_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rl/samples\.jsonl is missing; give the workdir of a run"):
        write(tmp_path)
    make_run(tmp_path, [], tail='{"step": 0')
    with pytest.raises(UserError, match="has no complete row yet; wait for the first step"):
        write(tmp_path)


def test_formulas_stay_text_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "latex2mathml.converter", None)
    monkeypatch.delitem(sys.modules, "dsmath_jax.mathml", raising=False)
    lines = write(make_run(tmp_path, [row(0, 0, 0)])).splitlines()
    assert lines[1:] == [
        "Formulas stay text. The rendering of formulas needs the package latex2mathml: pip install "
        "'dsmath-jax[corpus]'."
    ]
    assert blocks_of(page(tmp_path))[0]["rows"][0]["completion"][1] == []


# --- in the browser ---


def opened(browser: Browser, workdir: Path, fragment: str = "") -> None:
    write(workdir)
    browser.call("Page.navigate", url=f"file://{workdir}/rl/rollouts.html{fragment}")
    browser.until("document.querySelector('article .text')?.childNodes.length > 0")


def about(browser: Browser) -> str:
    return browser.evaluate("document.getElementById('about').textContent")


def set_filter(browser: Browser, name: str, value: str) -> None:
    field = f"document.forms[0].elements.{name}"
    browser.evaluate(
        f"{field}.value = {json.dumps(value)}; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))"
    )


def test_rollouts_are_read_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    rows = [row(step, prompt, sample) for step in range(3) for prompt in range(2) for sample in range(3)]
    rows[4] |= {"completion": HOSTILE, "advantages": [], "token_lengths": [], "finish": "length", "question": HOSTILE}
    rows[3] |= {"question": HOSTILE, "answer": HOSTILE, "id": HOSTILE}
    browser.window(1200, 5000)  # all is near the visible part
    opened(browser, make_run(tmp_path, rows))
    assert about(browser) == "18 completions, 6 prompts"
    browser.until("document.querySelectorAll('article .text:empty').length", 0)
    assert browser.evaluate("document.querySelectorAll('math').length") == 6 - 1 + 18 - 1
    assert browser.evaluate("document.querySelector('math').namespaceURI.endsWith('MathML')")

    # Tokens: two runs and EOS of the first completion, with their advantages.
    runs = "[...document.querySelector('article').querySelectorAll('.run')]"
    assert browser.evaluate(f"{runs}.map(run => run.className + ': ' + run.title)") == [
        "run positive: tokens 1 to 2: advantage +1.5", "run masked: token 3: no loss",
        "run negative: token 4: advantage −0.75",
    ]  # fmt: skip
    assert browser.evaluate(f"{runs}[1].textContent") == "he 😀 answer is 2."[:17]
    assert browser.evaluate(f"{runs}[2].textContent") == "end"
    background = f"getComputedStyle({runs}[0]).backgroundColor"
    assert browser.evaluate(background) != browser.evaluate(f"getComputedStyle({runs}[1]).backgroundColor")

    # Nothing of the run is markup or leaves the page.
    assert HOSTILE in browser.evaluate("document.getElementById('groups').textContent")
    assert browser.evaluate("document.querySelectorAll('#groups script, #groups img').length") == 0
    assert browser.evaluate("window.hacked === undefined")
    assert {url.split(":")[0] for url in browser.requests()} <= {"file", "about"}
    assert [event for event in browser.events if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")] == []

    for name, value, expected in (
        ("step_from", "1", "12 completions, 4 prompts"), ("step_to", "1", "6 completions, 2 prompts"),
        ("reward_from", "0.5", "4 completions, 2 prompts"), ("step_from", "0", "8 completions, 4 prompts"),
        ("finish", "length", "1 completion, 1 prompt"), ("finish", "", "8 completions, 4 prompts"),
        ("id", "TRAIN/1", "4 completions, 2 prompts"), ("id", "", "8 completions, 4 prompts"),
        ("text", "{{ 7 * 7 }}", "1 completion, 1 prompt"), ("text", "nowhere", "0 completions, 0 prompts"),
    ):  # fmt: skip
        set_filter(browser, name, value)
        of_all = expected.replace(" completion", " of 18 completions").replace("completionss", "completions")
        browser.until("document.getElementById('about').textContent", of_all)
    assert browser.evaluate("document.getElementById('end').textContent") == "No completion matches the filters."
    assert browser.evaluate("location.hash") == "#step_from=0&step_to=1&reward_from=0.5&text=nowhere"
    browser.evaluate("document.querySelector('[type=reset]').click()")
    browser.until("document.getElementById('about').textContent", "18 completions, 6 prompts")

    # A group with some of its completions, then with all.
    set_filter(browser, "reward_from", "0.7")
    browser.until("document.querySelectorAll('article').length", 6)
    browser.evaluate("document.querySelector('.facts button').click()")
    browser.until("document.querySelector('.samples').children.length", 3)


def test_many_rollouts_are_drawn_as_they_are_scrolled_to(browser: Browser, tmp_path: Path) -> None:
    rows = [row(step, 0, sample) for step in range(60) for sample in range(20)]
    opened(browser, make_run(tmp_path, rows))
    assert len(blocks_of(page(tmp_path))) == -(-len(rows) // BLOCK_ROWS) == 3
    assert about(browser) == "1,200 completions, 60 prompts"
    sections = "document.querySelectorAll('section').length"
    first = browser.evaluate(sections)
    assert first < 60
    browser.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    browser.until(f"{sections} > {first}")


def test_the_page_fits_a_narrow_window_in_the_dark(browser: Browser, tmp_path: Path) -> None:
    long = row(0, 1, 1, completion="wide" * 200, question=f"$${'x + ' * 60}x$$", token_lengths=[200, 200, 200, 200])
    rows = [{"step": 0, "question": "?", "completion": "", "reward": 1.0}, row(0, 0, 0), long]  # the first is old
    browser.window(360, 700, "dark")
    opened(browser, make_run(tmp_path, rows), "#tokens=on&order=best")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    assert browser.evaluate("document.querySelectorAll('article .text')[0].textContent") == "(empty)"
    browser.until("document.querySelectorAll('article')[1].querySelectorAll('.run').length", 4)
    assert browser.evaluate("document.querySelectorAll('article math').length") == 0  # tokens: formulas as source
    with Image.open(io.BytesIO(browser.screenshot())) as shot:
        assert max(shot.convert("RGB").getpixel((3, 3))) < 60
