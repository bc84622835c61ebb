"""The data of the annotation page: domains, the path tree, samples, and the undecided pages."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsmath_jax.corpus.annotate_page import corpus_files, session
from dsmath_jax.corpus.annotate_page.corpus_files import CorpusFiles
from dsmath_jax.workdir import UserError

MARK = {"host": "math.example", "prefix": "math.example/algebra/", "math": True}


def test_domains_are_the_math_related_ones_most_uncollected_pages_first(ask):
    _, answer = ask("/api/domains")
    assert [(row["host"], row["pages"], row["collected"], row["undecided"]) for row in answer["domains"]] == [
        ("math.example", 13, 6, 7),
        ("old.example", 3, 1, 2),
    ]


def test_the_tree_counts_pages_and_children_most_pages_first(ask):
    _, answer = ask("/api/domain?host=math.example")
    assert answer["tree"] == {
        "rows": [{"prefix": "math.example/", "pages": 13, "collected": 6, "children": 2}],
        "left": 0,
    }
    _, answer = ask("/api/tree?host=math.example&prefix=math.example/")
    assert [(row["prefix"], row["pages"], row["collected"], row["children"]) for row in answer["rows"]] == [
        ("math.example/algebra/", 9, 6, 9),
        ("math.example/blog/", 4, 0, 4),
    ]


def test_a_wide_level_is_loaded_in_pieces(ask, monkeypatch):
    monkeypatch.setattr(session, "TREE_ROWS", 5)
    _, first = ask("/api/tree?host=math.example&prefix=math.example/algebra/")
    _, rest = ask("/api/tree?host=math.example&prefix=math.example/algebra/&offset=5")
    assert (first["left"], rest["left"]) == (4, 0)
    assert [row["prefix"][-7:] for row in first["rows"] + rest["rows"]] == [f"{n}.html/" for n in range(9)]


def test_a_sample_shows_both_kinds_and_the_next_one_other_pages(ask):
    path = "/api/samples?host=math.example&prefix=math.example/algebra/"
    first, again, other = (ask(f"{path}&number={number}")[1] for number in (0, 0, 1))
    assert [len(first["uncollected"]), len(first["collected"]), first["pages"]] == [3, 5, 9]
    assert first == again
    assert {page["id"] for page in first["collected"]} != {page["id"] for page in other["collected"]}
    page = first["collected"][0]
    assert (page["language"], page["tokens"], page["score"]) == ("en", 740, 0.75)
    assert page["left"] > 0
    assert ask(f"/api/page?id={page['id']}")[1]["left"] == 0


def test_pages_that_are_no_candidates_are_no_samples(workdir):
    sample = CorpusFiles(workdir).samples("shop.example", "shop.example/", 0, 50)
    assert sample["pages"] == 20


def test_samples_of_a_large_host_are_from_its_first_pages(workdir, monkeypatch):
    monkeypatch.setattr(corpus_files, "HOST_PAGES", 7)
    sample = CorpusFiles(workdir).samples("math.example", "math.example/", 0, 50)
    assert (sample["pages"], sample["complete"]) == (7, False)


def test_undecided_pages_are_those_below_no_marked_prefix(ask, server):
    def undecided() -> int:
        return ask("/api/domains")[1]["domains"][0]["undecided"]

    ask("/api/mark", {**MARK, "prefix": "math.example/blog/", "math": False})
    assert undecided() == 3
    ask("/api/mark", {**MARK, "prefix": "math.example/blog/1/"})
    assert undecided() == 3
    server.session.store.mark("https://math.example/alg", True)  # a prefix that ends within a name
    assert undecided() == 0


def test_a_domain_is_visited_once_opened_or_marked(ask):
    def looked() -> list[bool]:
        return [row["looked"] for row in ask("/api/domains")[1]["domains"]]

    assert looked() == [False, False]
    ask("/api/domain?host=old.example")
    ask("/api/mark", MARK)
    assert looked() == [True, True]


@pytest.mark.parametrize("name", ["prefixes.parquet", "decisions.parquet", "summary.json"])
def test_an_unfinished_corpus_is_refused(workdir, name):
    (workdir / "corpus" / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing; run the corpus stage first"):
        CorpusFiles(workdir)


def test_invalid_files_are_refused(workdir):
    pq.write_table(pa.table({"host": ["a"]}), workdir / "corpus/prefixes.parquet")
    with pytest.raises(UserError, match="lacks the column 'prefix'"):
        CorpusFiles(workdir)
    (workdir / "corpus/prefixes.parquet").write_text("no Parquet")
    with pytest.raises(UserError, match="is not a valid Parquet file"):
        CorpusFiles(workdir)
