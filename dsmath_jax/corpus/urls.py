"""When two addresses are the same page, which host an address belongs to, and what lies below a prefix."""

import re
import string
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlencode, urlsplit

# Parameters that name the visit, not the page: where the visitor came from, or the session.
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
    """The host in lower case, "" where there is none."""
    try:
        return (urlsplit(url.strip()).hostname or "").rstrip(".")
    except ValueError:
        return ""


def canonical(url: str) -> str:
    """The form in which equal pages have equal addresses: `host/path?query`, without scheme, visit and fragment."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        return url.strip()
    place = host(url) + (f":{port}" if port and port != DEFAULT_PORT.get(parts.scheme.lower()) else "")
    path = INDEX_FILE.sub("/", PATH_SESSION.sub("", parts.path))
    path = quote(unquote_to_bytes(path), safe=PATH_CHARACTERS).rstrip("/")
    query = sorted(
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True, errors="surrogateescape")
        if not VISIT.fullmatch(f"{name}={value}")
    )
    return place + path + ("?" + urlencode(query, errors="surrogateescape") if query else "")


def canonical_prefix(prefix: str) -> str:
    """A URL prefix in canonical form. It keeps its last slash, and a bare host gets one, so that names end there."""
    form = canonical(prefix)
    return form + "/" if prefix.rstrip().endswith("/") or "/" not in form else form


def is_below(canonical_url: str, prefix: str) -> bool:
    """Whether a canonical URL begins with a canonical prefix (or is the very folder that it names)."""
    return f"{canonical_url}/".startswith(prefix)


def folders(canonical_url: str) -> list[str]:
    """The prefixes of a canonical URL that end at a slash, the host first: a.b/c/d gives a.b/ and a.b/c/."""
    path = canonical_url.partition("?")[0]
    return [path[: at + 1] for at, letter in enumerate(path) if letter == "/"] or [f"{path}/"]
