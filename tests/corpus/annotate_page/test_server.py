"""The annotation page over HTTP: marks are saved, and other sites are refused."""

import http.client

import pytest

MARK = {"host": "math.example", "prefix": "math.example/algebra/", "math": True}


def test_a_mark_is_saved_with_the_scheme_of_a_page_below_it(ask, workdir):
    status, answer = ask("/api/mark", {**MARK, "note": "clean"})
    assert status == 200
    assert answer["marks"] == [{"prefix": "math.example/algebra/", "math": True, "note": "clean"}]
    ask("/api/mark", {"host": "old.example", "prefix": "old.example:8080/notes/", "math": False})
    assert (workdir / "annotations.jsonl").read_text().splitlines() == [
        '{"prefix": "https://math.example/algebra/", "math": true, "note": "clean"}',
        '{"prefix": "http://old.example:8080/notes/", "math": false, "note": ""}',
    ]


def test_a_mark_is_removed_and_restored(ask):
    ask("/api/mark", MARK)
    assert ask("/api/mark", {**MARK, "math": None})[1]["marks"] == []
    _, answer = ask("/api/undo", {})
    assert (answer["prefix"], answer["marks"][0]["math"], answer["undo"]) == ("math.example/algebra/", True, True)
    assert ask("/api/undo", {})[1]["marks"] == []
    status, answer = ask("/api/undo", {})
    assert (status, "no mark of this session" in answer["error"]) == (409, True)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example"])
@pytest.mark.parametrize(("path", "body"), [("/", None), ("/api/domains", None), ("/api/mark", MARK)])
def test_another_host_name_is_refused(ask, workdir, host, path, body):
    status, answer = ask(path, body, Host=host)
    assert (status, answer["error"][:37]) == (403, "This page is for this machine only; o")
    assert not (workdir / "annotations.jsonl").exists()


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (MARK, {"Origin": "https://evil.example"}, 403, "Only the annotation page itself"),
        (MARK, {"Origin": "null"}, 403, "Only the annotation page itself"),
        (MARK, {"Content_Type": "text/plain"}, 415, "must be application/json"),
        (b'{"host": ', {}, 400, "no JSON object"),
        (b"[]", {}, 400, "no JSON object"),
        (b"[" * 60_000, {}, 400, "no JSON object"),
        (b" " * 70_000, {}, 413, "at most 65536 bytes"),
        (MARK, {"Content_Length": "-1"}, 411, "no length"),
        ({**MARK, "math": "yes"}, {}, 400, "true, false or null"),
        ({"host": "math.example", "prefix": "math.example/"}, {}, 400, "true, false or null"),
        ({**MARK, "note": 7}, {}, 400, "A note is text"),
        ({**MARK, "prefix": None}, {}, 400, "lacks 'prefix'"),
        ({**MARK, "prefix": "math.example/none/"}, {}, 404, "No page of math.example is below"),
        ({**MARK, "prefix": "old.example:8080/notes/"}, {}, 404, "No page of math.example is below"),
        ({**MARK, "host": "shop.example"}, {}, 404, "is not a math-related domain"),
    ],
)
def test_an_invalid_mark_is_refused(ask, workdir, body, headers, status, message):
    response, answer = ask("/api/mark", body, **headers)
    assert (response, message in answer["error"]) == (status, True), answer
    assert not (workdir / "annotations.jsonl").exists()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/../annotate.py", 404),
        ("/api/domain?host=none.example", 404),
        ("/api/domain", 400),
        ("/api/samples?host=math.example&prefix=math.example/&number=x", 400),
        ("/api/page?id=shard-0/999999", 404),
        ("/api/page?id=../decisions/000000", 404),
        ("/api/page?id=none", 404),
    ],
)
def test_unknown_addresses_are_errors(ask, path, status):
    response, answer = ask(path)
    assert (response, len(answer["error"]) > 20) == (status, True)


def test_an_invalid_line_is_reported_and_nothing_is_written(ask, workdir):
    path = workdir / "annotations.jsonl"
    path.write_text('{"prefix": "https://math.example/blog/", "math": false}\nnot JSON\n')
    _, answer = ask("/api/domains")
    assert answer["errors"] == [f"{path}, line 2: not a JSON object; fix or remove that line."]
    assert answer["domains"][0]["marks"] == 1
    status, answer = ask("/api/mark", MARK)
    assert (status, "line 2" in answer["error"]) == (409, True)
    assert path.read_text().endswith("not JSON\n")


def test_every_response_has_the_policy(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    for path in ("/", "/page.js", "/tree.js", "/samples.js", "/page.css", "/api/domains", "/none"):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert "default-src 'none'; script-src 'self'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        if response.headers["Connection"] == "close":
            connection.close()
    connection.close()
