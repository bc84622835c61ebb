"""Fixtures: a server that cuts and lies, and repositories of the Hub on it, for what is fetched from the web."""

import contextlib
import hashlib
import http.server
import json
import os
import socketserver
import threading
from collections.abc import Iterator
from typing import TypeVar

import pytest

from dsmath_jax.data import web

S = TypeVar("S", bound=socketserver.BaseServer)


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by path; answers as `behaviors` say, one a request, and well when there is none left.

    `asked` are the requests: (path, Range header); `tokens` are their Authorization headers.
    """

    files: dict[str, bytes]
    behaviors: list[dict]
    asked: list[tuple[str, str | None]]
    tokens: list[str | None]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        self.server.tokens.append(self.headers.get("Authorization"))
        behavior = self.server.behaviors.pop(0) if self.server.behaviors else {}
        content = behavior.get("content", self.server.files.get(self.path))
        status = behavior.get("status", 200 if content is not None else 404)
        if status != 200:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            for name, value in behavior.get("headers", {}).items():
                self.send_header(name, value)
            self.end_headers()
            return
        start = int(asked[len("bytes=") : -1]) if asked else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : behavior.get("until", len(content))])
        self.close_connection = True


@contextlib.contextmanager
def serving(server: S, monkeypatch: pytest.MonkeyPatch) -> Iterator[S]:
    """Serves in a thread, to downloads that have no proxy and wait little between tries."""
    monkeypatch.setattr(web, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(web, "MAX_DELAY", 0.002)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(Server(("127.0.0.1", 0), Handler), monkeypatch) as running:
        running.files, running.behaviors, running.asked, running.tokens = {}, [], [], []
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        yield running


@pytest.fixture
def hub(server: Server):
    """Puts a repository onto the server as Hugging Face has it: (name, {path: content}) -> None."""

    def publish(
        repository: str, files: dict[str, bytes], commit: str = "c0ffee", kind: str = "datasets", revision: str = "main"
    ) -> None:
        siblings = [
            {
                "rfilename": path,
                "size": len(content),
                "lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)},
            }
            for path, content in files.items()
        ]
        listing = {"id": repository, "sha": commit, "siblings": [{"rfilename": "README.md", "size": 3}, *siblings]}
        server.files[f"/api/{kind}/{repository}/revision/{revision}?blobs=true"] = json.dumps(listing).encode()
        for path, content in files.items():
            folder = repository if kind == "models" else f"{kind}/{repository}"
            server.files[f"/{folder}/resolve/{commit}/{path}"] = content

    return publish
