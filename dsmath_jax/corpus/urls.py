"""Canonical URLs and URL prefixes, and the host of a URL."""

import re
import string
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlencode, urlsplit

# Parameters that identify the visit, not the page: tracking and sessions.
VISIT = re.compile(
    r"(?:utm_\w+|fbclid|gclid|dclid|msclkid|yclid|igshid|mc_[ce]id|_ga|_gl|ref|ref_src|spm)=.*|"
    r"(?:php|j|asp)?sess(?:ion)?_?id=.*|(?:cftoken|zenid|oscsid|sid)=[0-9a-z]{8,}",
    re.IGNORECASE,
)
PATH_SESSION = re.compile(r";(?:jsessionid|sid|phpsessid)=[^/?]*", re.IGNORECASE)
INDEX_FILE = re.compile(r"/(?:index|default)\.(?:html?|php|aspx?|jsp)$", re.IGNORECASE)
DEFAULT_PORT = {"http": 80, "https": 443}
PATH_CHARACTERS = string.punctuation.replace("%", "").replace("?", "").replace("#", "")


def host(url: str) -> str:
    """Returns the host in lower case, "" where there is none."""
    try:
        return (urlsplit(url.strip()).hostname or "").rstrip(".")
    except ValueError:
        return ""


def canonical(url: str) -> str:
    """Returns `host/path/?query` without scheme, tracking parameters, session and fragment: equal for equal pages.

    The path always ends in a slash, so that the prefix of a folder covers its own page (`/a`, `/a/`, `/a/index.html`),
    its queries (`/a?page=2`) and the files in it.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        return url.strip()
    authority = host(url) + (f":{port}" if port and port != DEFAULT_PORT.get(parts.scheme.lower()) else "")
    path = INDEX_FILE.sub("/", PATH_SESSION.sub("", parts.path))
    path = quote(unquote_to_bytes(path), safe=PATH_CHARACTERS).rstrip("/") + "/"
    query = sorted(
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True, errors="surrogateescape")
        if not VISIT.fullmatch(f"{name}={value}")
    )
    return authority + path + ("?" + urlencode(query, errors="surrogateescape") if query else "")


def canonical_prefix(prefix: str) -> str:
    """Returns a URL prefix in canonical form: it covers `url` if `canonical(url).startswith(canonical_prefix(prefix))`.

    A last name without a slash covers all names that begin with it (`/part` covers `/part1/`), except for a bare host.
    """
    form = canonical(prefix)
    names_folder = prefix.rstrip().endswith("/") or form.count("/") == 1 or "?" in form
    return form if names_folder else form.rstrip("/")


def folders(canonical_url: str) -> list[str]:
    """Returns the prefixes of a canonical URL that end at a slash, the host first: a.b/c/?q=1 gives a.b/ and a.b/c/."""
    path = canonical_url.partition("?")[0]
    return [path[: i + 1] for i, letter in enumerate(path) if letter == "/"]
