"""The annotation page in headless Chromium."""

import base64
import fcntl
import io
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


class Browser:
    """Headless Chromium over the DevTools protocol on two pipes: messages are JSON, ended by a zero byte."""

    SECONDS = 30

    def __init__(self, program: str, profile: Path):
        down, self._write = os.pipe()
        self._read, up = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in (down, up)]  # other numbers than 3 and 4
        flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
        arguments = [program, *flags.split(), "--disable-sync", "--no-first-run", "--remote-debugging-pipe"]
        output = os.open(profile.with_suffix(".log"), os.O_WRONLY | os.O_CREAT)
        self._pid = os.posix_spawn(
            program,
            [*arguments, f"--user-data-dir={profile}", "about:blank"],
            os.environ,
            setpgroup=0,
            file_actions=[(os.POSIX_SPAWN_DUP2, end, number) for end, number in ((output, 1), (output, 2))]
            + [(os.POSIX_SPAWN_DUP2, end, place) for end, place in zip(ends, (3, 4), strict=True)],
        )
        for end in (down, up, output, *ends):
            os.close(end)
        self._buffer = b""
        self._number = 0
        self._session: dict[str, str] = {}
        self.events: list[dict] = []
        page = next(target for target in self.call("Target.getTargets")["targetInfos"] if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session.pop("targetId", None)
        size = {"width": 1200, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str, expected: Any = True) -> None:
        """Waits until an expression has a value."""
        end = time.monotonic() + self.SECONDS
        while (value := self.evaluate(expression)) != expected:
            assert time.monotonic() < end, f"{expression} is {value!r}, not {expected!r}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def requests(self) -> list[str]:
        return [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]

    def close(self) -> None:
        os.close(self._write)  # the browser exits with its pipe
        os.close(self._read)
        end = time.monotonic() + 5
        while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.killpg(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                return
            time.sleep(0.05)

    def _receive(self) -> dict:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], self.SECONDS)
            assert ready, "the browser does not answer"
            piece = os.read(self._read, 1 << 16)
            assert piece, "the browser has ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"no browser here ({', '.join(names)}); install Debian's chromium to test the annotation page")
    browser = Browser(program, tmp_path / "profile")
    yield browser
    browser.close()


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

    image = base64.b64decode(browser.call("Page.captureScreenshot", format="png")["data"])
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
    browser.call("Emulation.setDeviceMetricsOverride", width=800, height=700, deviceScaleFactor=1, mobile=False)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.call("Page.navigate", url=server.url)
    browser.until("document.querySelectorAll('#sample-list article').length", 8)
    assert browser.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [
        800,
        700,
    ]
    overflowing = "[...document.querySelectorAll('main, nav, aside, #tree, #domain-list, #sample-list, article')]"
    assert browser.evaluate(f"{overflowing}.filter(node => node.scrollWidth > node.clientWidth).length") == 0
    image = base64.b64decode(browser.call("Page.captureScreenshot", format="png")["data"])
    with Image.open(io.BytesIO(image)) as shot:
        assert max(shot.convert("RGB").getpixel((790, 690))) < 60
