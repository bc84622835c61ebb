"""Serves the annotation page over HTTP, for browsers on this machine only.

Crawled text is untrusted: it is sent as JSON strings and trees of known MathML elements, and the content security
policy of every response allows only this folder's scripts and styles. Requests of other sites are refused by the Host
header (against DNS rebinding) and, for changes, by Origin and content type.
"""

import json
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dsmath_jax.corpus.annotate_page.session import Session, Unknown
from dsmath_jax.workdir import UserError

FOLDER = Path(__file__).parent
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/tree.js": ("tree.js", "text/javascript; charset=utf-8"),
    "/samples.js": ("samples.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LARGEST_BODY = 65_536
LARGEST_NOTE = 2_000


class Refused(Exception):
    """A request that is refused with an HTTP status."""

    def __init__(self, status: HTTPStatus, message: str):
        super().__init__(message)
        self.status = status


class Server(ThreadingHTTPServer):
    """An HTTP server on 127.0.0.1; port 0 is a free one."""

    daemon_threads = True

    def __init__(self, session: Session, port: int):
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            raise UserError(f"Port {port} cannot be used ({error.strerror}); give another --port.") from None
        self.session = session

    @property
    def hosts(self) -> list[str]:
        """The Host headers that are accepted."""
        return [f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")]

    @property
    def url(self) -> str:
        """The URL of the page."""
        return f"http://{self.hosts[0]}/"


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of the page in JSON; errors are {"error": message}."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._answer(lambda _: self._get())

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""

    def _get(self) -> tuple[str, bytes]:
        session = self.server.session
        url = urlsplit(self.path)
        if url.path in FILES:
            name, kind = FILES[url.path]
            return kind, (FOLDER / name).read_bytes()
        fields = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        match url.path:
            case "/api/changes":
                return _json(session.changes())
            case "/api/domains":
                return _json(session.domains())
            case "/api/domain":
                return _json(session.domain(_text(fields, "host")))
            case "/api/tree":
                return _json(session.tree(_text(fields, "host"), _text(fields, "prefix"), _number(fields, "offset")))
            case "/api/samples":
                return _json(session.samples(_text(fields, "host"), _text(fields, "prefix"), _number(fields, "number")))
            case "/api/page":
                return _json(session.page(_text(fields, "id")))
        raise Refused(HTTPStatus.NOT_FOUND, "There is nothing at this URL; open / instead.")

    def _post(self, content: bytes) -> tuple[str, bytes]:
        session = self.server.session
        body = self._object(content)
        match self.path:
            case "/api/mark":
                math, note = body.get("math"), body.get("note")
                if "math" not in body or not (math is None or isinstance(math, bool)):
                    raise Refused(HTTPStatus.BAD_REQUEST, "A mark needs true, false or null in 'math'; fix it.")
                if not (note is None or (isinstance(note, str) and len(note) <= LARGEST_NOTE)):
                    raise Refused(
                        HTTPStatus.BAD_REQUEST, f"A note is text of at most {LARGEST_NOTE} characters; shorten it."
                    )
                return _json(session.mark(_text(body, "host"), _text(body, "prefix"), math, note))
            case "/api/undo":
                return _json(session.undo())
        raise Refused(HTTPStatus.NOT_FOUND, "There is nothing at this URL; open / instead.")

    def _answer(self, respond: Callable[[bytes], tuple[str, bytes]]) -> None:
        try:
            content = self._content()
            if self.headers.get("Host") not in self.server.hosts:
                raise Refused(HTTPStatus.FORBIDDEN, f"This page is for this machine only; open {self.server.url}")
            self._send(HTTPStatus.OK, *respond(content))
        except Refused as error:
            self._fail(error.status, error)
        except Unknown as error:
            self._fail(HTTPStatus.NOT_FOUND, error)
        except UserError as error:
            self._fail(HTTPStatus.CONFLICT, error)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the browser went away
        except OSError as error:
            self._fail(
                HTTPStatus.INTERNAL_SERVER_ERROR, f"The files of the corpus cannot be read ({error}); check them."
            )

    def _content(self) -> bytes:
        """Reads the body of the request, before any response: an unread body could abort the response."""
        length = self.headers.get("Content-Length", "0" if self.command == "GET" else "")
        if not (length.isascii() and length.isdigit()):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "The request has no length; fix it.")
        if int(length) > LARGEST_BODY:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A body has at most {LARGEST_BODY} bytes; shorten it.")
        return self.rfile.read(int(length))

    def _object(self, content: bytes) -> dict:
        """Parses the JSON object in a request of the page."""
        if self.headers.get("Origin") not in [f"http://{host}" for host in self.server.hosts]:
            raise Refused(HTTPStatus.FORBIDDEN, "Only the annotation page itself may change something.")
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body must be application/json; fix the request.")
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise Refused(HTTPStatus.BAD_REQUEST, "The body is no JSON object; fix the request.")
        return body

    def _fail(self, status: HTTPStatus, error: object) -> None:
        self.close_connection = True  # an oversized body is unread
        self._send(status, *_json({"error": str(error)}))

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)


def _json(value: dict) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()


def _text(fields: dict, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise Refused(HTTPStatus.BAD_REQUEST, f"The request lacks '{name}'; fix it.")
    return value


def _number(fields: dict, name: str) -> int:
    value = fields.get(name, "0")
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise Refused(HTTPStatus.BAD_REQUEST, f"'{name}' is not a number; fix the request.")
    return int(value)
