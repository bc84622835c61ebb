"""The annotation page in headless Chromium."""

import io
import json
import time

from PIL import Image

ROW = "document.querySelector('[role=treeitem][aria-selected=true] {}').textContent"
PROBLEM = "document.getElementById('problem').textContent"


def test_the_page_is_used_with_keys(browser, server, workdir, tmp_path):
    path = workdir / "annotations.jsonl"
    line = '{"prefix": "https://math.example/algebra/", "math": true, "note": ""}\n'
    browser.call("Page.navigate", url=server.url)
    browser.until(f"document.querySelector('[role=treeitem]') && {ROW.format('.label')}", "math.example/")
    browser.press("j")
    browser.until(ROW.format(".label"), "algebra/")
    browser.until("document.querySelectorAll('#sample-list article').length", 8)
    assert browser.evaluate("document.querySelector('#sample-list mfrac msqrt').namespaceURI.endsWith('MathML')")
    assert browser.evaluate("document.querySelector('#sample-list mfrac').getBoundingClientRect().height") > 20

    browser.press("m")
    browser.until(ROW.format(".badge"), "mathematics")
    browser.until("document.getElementById('status').textContent.startsWith('Saved')")
    assert path.read_text() == line
    browser.press("ArrowRight")
    browser.until(
        "[...document.querySelectorAll('.badge.inherited')].map(badge => badge.textContent).join()",
        ",".join(["mathematics"] * 9),
    )
    assert browser.evaluate("document.querySelector('#domain-list [aria-current]').textContent").endswith("4 to decide")
    browser.press("z")
    browser.until(ROW.format(".badge"), "undecided")
    assert path.read_text() == ""

    path.write_text('{"prefix": "https://math.example/blog/", "math": false, "by": "hand"}\n')
    browser.until("document.querySelector('.badge.not')?.parentNode.querySelector('.label').textContent", "blog/")
    path.write_text(path.read_text() + "not JSON\n")
    browser.until(f"{PROBLEM}.includes('annotations.jsonl, line 2: not a JSON object')")
    browser.press("m")
    browser.until(f"{PROBLEM}.includes('Nothing was saved')")
    assert path.read_text().endswith('"by": "hand"}\nnot JSON\n')
    path.write_text(path.read_text().replace("not JSON\n", ""))
    browser.until(PROBLEM, "")

    browser.press("ArrowLeft")
    browser.press("j")
    browser.until(ROW.format(".label"), "blog/")
    browser.until("document.querySelectorAll('#sample-list article').length", 4)
    browser.press("n")
    browser.press("e")
    browser.until("document.activeElement.id", "note")
    browser.call("Input.insertText", text="a blog: j m u")
    browser.press("Enter")
    browser.until("document.activeElement.id", "tree")
    browser.until(PROBLEM, "")
    deadline = time.monotonic() + browser.SECONDS
    while "a blog" not in path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert json.loads(path.read_text()) == {
        "prefix": "https://math.example/blog/", "math": False, "by": "hand", "note": "a blog: j m u",
    }  # fmt: skip

    hostile = browser.evaluate("document.querySelector('#sample-list .text').textContent")
    assert "<script>window.hacked = 1</script>" in hostile
    assert "<img src='https://evil.example/a.png'>" in hostile
    assert browser.evaluate("document.querySelectorAll('img, iframe, script:not([src]), [onerror]').length") == 0
    link = "document.querySelector('#sample-list a')"
    assert (
        browser.evaluate(f"{link}.rel + ' ' + {link}.href.slice(0, 26)")
        == "noopener noreferrer https://math.example/blog/"
    )

    image = browser.screenshot()
    (tmp_path / "page.png").write_bytes(image)
    with Image.open(io.BytesIO(image)) as shot:
        assert shot.size == (1200, 800)
        colors = shot.convert("RGB").getcolors(1 << 20)
    assert max(count for count, _ in colors) < 0.9 * 1200 * 800
    assert len(colors) > 100
    assert browser.evaluate("document.documentElement.scrollWidth") == 1200

    browser.press("]")
    browser.until(ROW.format(".label"), "old.example:8080/")
    assert browser.evaluate("window.hacked === undefined && document.getElementById('progress').textContent") == (
        "2 of 2 domains looked at"
    )
    foreign = [url for url in browser.requests() if not url.startswith((server.url, "data:,", "about:"))]
    assert foreign == []
    assert [event for event in browser.events if event["method"] == "Runtime.exceptionThrown"] == []


def test_the_page_fits_a_narrow_window_in_the_dark(browser, server, tmp_path):
    browser.window(800, 700, "dark")
    browser.call("Page.navigate", url=server.url)
    browser.until("document.querySelectorAll('#sample-list article').length", 8)
    assert browser.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [
        800,
        700,
    ]
    overflowing = "[...document.querySelectorAll('main, nav, aside, #tree, #domain-list, #sample-list, article')]"
    assert browser.evaluate(f"{overflowing}.filter(node => node.scrollWidth > node.clientWidth).length") == 0
    image = browser.screenshot()
    with Image.open(io.BytesIO(image)) as shot:
        assert max(shot.convert("RGB").getpixel((790, 690))) < 60
