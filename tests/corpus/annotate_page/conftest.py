"""A small finished corpus with a hostile page, its server, and a function that sends requests."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsmath_jax.corpus import annotate, urls
from dsmath_jax.workdir import write_json

HOSTILE = (
    "<script>window.hacked = 1</script> <img src=x onerror='window.hacked = 1'> <img src='https://evil.example/a.png'>\n"
    "$x < \\text{<img src=y onerror='window.hacked = 1'>}$ and $\\href{javascript:hacked}{y}$ cost \\$5, $6 and $7\n"
    "&lt;script src='https://evil.example/b.js'&gt; <math><mtext><script>window.hacked = 1</script></mtext></math>"
)
TEXT = "The roots are $$x = \\frac{-b \\pm \\sqrt{b^2 - 4ac}}{2a}$$ where $a \\ne 0$.\n" * 40


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A finished corpus stage of 3 hosts in 2 shards; shop.example is not math-related."""
    pages = [(f"https://math.example/algebra/{n}.html", TEXT, n < 6) for n in range(9)]
    pages += [(f"https://math.example/blog/{n}?utm_source=x", HOSTILE, False) for n in range(4)]
    pages += [(f"http://old.example:8080/notes/{n}", "Old notes.", n == 0) for n in range(3)]
    pages += [(f"https://shop.example/{n}", "Buy it.", n == 0) for n in range(20)]
    write_corpus(tmp_path / "corpus", pages)
    return tmp_path


def write_corpus(folder: Path, pages: list[tuple[str, str, bool]]) -> None:
    """Writes pages (url, text, collected), and a duplicate of the last one without a score."""
    rows, counts, hosts = [], {}, {}
    for number, (url, text, collected) in enumerate([*pages, (pages[-1][0], pages[-1][1], None)]):
        rows.append(
            {
                "id": f"shard-{number % 2}/{number // 2:06d}", "url": url, "host": urls.host(url), "language": "en",
                "tokens": len(text) // 4, "text": text, "score": None if collected is None else 0.25 + collected / 2,
                "iteration": 1 if collected else None,
            }
        )  # fmt: skip
        if collected is None:
            continue
        for prefix in urls.folders(urls.canonical(url)):
            old = counts.get((urls.host(url), prefix), (0, 0))
            counts[urls.host(url), prefix] = old[0] + 1, old[1] + collected
        old = hosts.get(urls.host(url), (0, 0))
        hosts[urls.host(url)] = old[0] + 1, old[1] + collected
    (folder / "pages").mkdir(parents=True)
    for shard in ("shard-0", "shard-1"):
        table = pa.Table.from_pylist([row for row in rows if row["id"].startswith(shard)]).select(["id", "url", "text"])
        pq.write_table(table, folder / "pages" / f"{shard}.parquet", row_group_size=2)
    pq.write_table(pa.Table.from_pylist(rows).drop_columns("text"), folder / "decisions.parquet", row_group_size=5)
    prefixes = [
        {"host": host, "prefix": prefix, "pages": pages, "collected": collected}
        for (host, prefix), (pages, collected) in counts.items()
    ]
    pq.write_table(pa.Table.from_pylist(prefixes), folder / "prefixes.parquet")
    domains = [
        {"host": host, "pages": n, "collected": k, "share": k / n, "math_related": k > 0.1 * n}
        for host, (n, k) in hosts.items()
    ]
    write_json(folder / "summary.json", {"domains": domains})


@pytest.fixture
def server(workdir: Path) -> Iterator[Any]:
    server = annotate.open_server(workdir, 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def ask(server: Any) -> Callable[..., tuple[int, Any]]:
    """Sends one request; with a body, a POST like the page's, with other `headers`."""

    def request(path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        origin = server.url.rstrip("/")
        sent = {"Host": origin.removeprefix("http://")}
        if body is not None:
            sent |= {"Origin": origin, "Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", path, content, sent)
        response = connection.getresponse()
        answer = response.status, json.loads(response.read())
        connection.close()
        return answer

    return request
