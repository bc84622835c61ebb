"""HTTP downloads with retries, resumed after lost connections."""

import http.client
import logging
import random
import re
import ssl
import time
import urllib.error
import urllib.request

from dsmath_jax.workdir import UserError

TRIES = 8  # of a request or a resumed read, without a byte in between
FIRST_DELAY = 1.0  # seconds, doubled from try to try
MAX_DELAY = 60.0  # seconds
TIMEOUT = 60.0  # seconds without a byte
RETRY_CODES = {403, 408, 425, 429, 500, 502, 503, 504}  # Common Crawl also answers 403 for too many requests
HUB_REASON = "X-Error-Message"  # header of the Hugging Face Hub
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
READ_BYTES = 1 << 16  # of a read


class HttpStream:
    """A sequential stream of a URL, resumed by Range requests after lost connections."""

    def __init__(self, url: str, position: int = 0, token: str | None = None) -> None:
        """Sends the request for everything after the first `position` bytes; raises as `read`.

        `token` is the user's at this host; a host that it redirects to does not get it.
        """
        self._url, self._token = url, token
        self._position = position
        self._total: int | None = None  # bytes, where the server says so
        self._response: http.client.HTTPResponse | None = None
        self._read_some(0)

    def close(self) -> None:
        """Closes the connection."""
        if self._response:
            self._response.close()
        self._response = None

    def read(self, size: int) -> bytes:
        """Returns the next `size` bytes, fewer at the end.

        Raises:
          UserError: the server refuses, or all tries fail.
        """
        pieces = []
        while size and (piece := self._read_some(min(size, READ_BYTES))):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _read_some(self, size: int) -> bytes:
        """Returns up to `size` bytes; none at the end, or for a size of 0."""
        if self._position == self._total:
            return b""
        for number in range(TRIES):
            retry_after = 0.0
            try:
                self._response = self._response or self._request()
                piece = self._response.read1(size) if size else b""
                self._position += len(piece)
                if piece or not size or self._total is None:
                    return piece
                cause = f"cut after {self._position} of {self._total} bytes"
            except urllib.error.HTTPError as error:
                cause = f"{error.code} {error.reason}"
                if (refusal := error.headers.get(HUB_REASON)) and error.code in (401, 403):
                    raise UserError(
                        f"{self._url} answers {cause} ({refusal}); check the name, or ask for access on the Hub and "
                        "set HF_TOKEN."
                    ) from None
                if error.code not in RETRY_CODES:
                    raise UserError(f"{self._url} answers {cause}; check the URL.") from None
                after = error.headers.get("Retry-After", "")
                retry_after = min(float(after), MAX_DELAY) if after.isascii() and after.isdigit() else 0.0
            except (ValueError, http.client.InvalidURL) as error:
                raise UserError(f"{self._url} is not a valid URL ({error}); fix it.") from None
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                if isinstance(reason, ssl.SSLCertVerificationError):
                    raise UserError(f"{self._url} shows no valid certificate ({reason}); check the URL.") from None
                cause = str(reason) or type(reason).__name__
            self.close()
            if number + 1 < TRIES:
                delay = max(retry_after, min(MAX_DELAY, FIRST_DELAY * 2**number) * random.uniform(0.5, 1))
                logging.getLogger(__name__).warning("%s: %s; trying again in %.1f s", self._url, cause, delay)
                time.sleep(delay)
        raise UserError(f"{self._url} cannot be read ({cause}, {TRIES} times in a row); try again later.")

    def _request(self) -> http.client.HTTPResponse:
        """Requests everything after the position; skips what a server without ranges sends before it."""
        headers = {"User-Agent": "dsmath-jax"} | ({"Range": f"bytes={self._position}-"} if self._position else {})
        request = urllib.request.Request(self._url, headers=headers)
        if self._token:
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
        partial = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "")) if response.status == 206 else None
        length = partial[2] if partial else response.headers.get("Content-Length", "")
        total = int(length) if length.isascii() and length.isdigit() else self._total
        if self._total not in (None, total):
            raise UserError(f"{self._url} has changed while it was read; run again.")
        self._total = total
        skip = self._position - (int(partial[1]) if partial else 0)
        while skip > 0 and (piece := response.read1(min(skip, READ_BYTES))):
            skip -= len(piece)
        if skip:
            raise http.client.HTTPException(f"no byte {self._position} in the answer")
        return response
