"""The annotation file: which prefix decides, and that no line is lost between the page and an editor."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmath_jax.corpus.annotations import Annotation, Store, annotated_pages, outermost, parse_lines, read_annotations
from dsmath_jax.workdir import UserError

BY_HAND = (
    b'{"prefix": "http://WWW.a.org/b",  "math":true, "by": "Ann", "note": "seen"}\r\n'
    b"\n"
    b'{"math": false, "prefix": "https://c.org/", "why": [1, 2]}\n'
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "annotations.jsonl"
    path.write_bytes(BY_HAND)
    return path


def test_annotations_are_read_in_canonical_form(path):
    assert read_annotations(path) == [Annotation("www.a.org/b", True), Annotation("c.org/", False)]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"{", "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b"\xff\xfe", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b'{"math": true}', "needs a URL in 'prefix'"),
        (b'{"prefix": "a.org/b/", "math": true}', "needs a URL in 'prefix'"),
        (b'{"prefix": 7, "math": true}', "needs a URL in 'prefix'"),
        (b'{"prefix": "https://a.org/", "math": "yes"}', "true or false in 'math'"),
    ],
)
def test_the_error_of_an_invalid_line_has_its_number(path, line, sentence):
    path.write_bytes(BY_HAND + line)
    with pytest.raises(UserError, match=f"annotations.jsonl, line 4: .*{sentence}"):
        read_annotations(path)


def test_a_missing_file_is_a_one_sentence_error(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl cannot be read"):
        read_annotations(tmp_path / "none.jsonl")


@pytest.mark.parametrize("turn", [1, -1])
def test_the_longest_annotated_prefix_decides_in_any_order(turn):
    annotations = [Annotation("a.org/", True), Annotation("a.org/b/", False), Annotation("a.org/b/c", True)][::turn]
    pages = ["a.org/x/", "a.org/b/x/", "a.org/b/cd/", "d.org/"]
    assert annotated_pages(pages, annotations).tolist() == [True, False, True, False]


def test_outermost_prefixes_cover_the_others():
    assert outermost(["a.org/b/c/", "a.org/b/", "a.org/bc/", "d.org/", "a.org/b/c"]) == [
        "a.org/b/",
        "a.org/bc/",
        "d.org/",
    ]


def test_a_mark_is_saved_as_a_line(tmp_path):
    store = Store(tmp_path / "new.jsonl")
    store.mark("https://a.org/b/", True, "good")
    assert store.path.read_text() == '{"prefix": "https://a.org/b/", "math": true, "note": "good"}\n'
    assert read_annotations(store.path) == [Annotation("a.org/b/", True)]


def test_a_changed_mark_keeps_its_position_spelling_and_fields(path):
    store = Store(path)
    store.mark("https://www.a.org/b", False)
    first, *rest = path.read_bytes().splitlines(keepends=True)
    assert json.loads(first) == {"prefix": "http://WWW.a.org/b", "math": False, "by": "Ann", "note": "seen"}
    assert first.endswith(b"\r\n")
    assert b"".join(rest) == BY_HAND.split(b"\n", 1)[1]


def test_a_note_alone_may_change(path):
    store = Store(path)
    store.mark("https://c.org/", False, "a shop")
    assert store.marks()["c.org/"].note == "a shop"
    assert json.loads(path.read_bytes().splitlines()[2])["why"] == [1, 2]


def test_removing_a_mark_removes_only_its_line(path):
    Store(path).mark("https://c.org/", None)
    assert path.read_bytes() == BY_HAND[: BY_HAND.index(b'{"math": false')]


def test_a_missing_last_line_end_is_added(path):
    path.write_bytes(BY_HAND.rstrip())
    Store(path).mark("https://d.org/", True)
    assert [annotation.prefix for annotation in read_annotations(path)] == ["www.a.org/b", "c.org/", "d.org/"]


def test_of_lines_with_one_prefix_the_last_decides_and_is_changed(path):
    path.write_bytes(b'{"prefix": "https://a.org/", "math": true}\n{"prefix": "http://a.org/", "math": false}\n')
    store = Store(path)
    assert store.marks()["a.org/"].annotation == Annotation("a.org/", False)
    store.mark("https://a.org/", True)
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [
        {"prefix": "https://a.org/", "math": True},
        {"prefix": "http://a.org/", "math": True},
    ]
    store.mark("https://a.org/", None)
    assert path.read_bytes() == b""


def test_an_edit_by_hand_is_read_and_kept(path):
    store = Store(path)
    assert set(store.marks()) == {"www.a.org/b", "c.org/"}
    version = store.version
    edited = BY_HAND.replace(b"c.org", b"d.org")  # of the same size
    path.write_bytes(edited)
    assert set(store.marks()) == {"www.a.org/b", "d.org/"}
    assert store.version != version
    store.mark("https://e.org/", True)
    assert path.read_bytes().startswith(edited)


def test_nothing_is_written_while_a_line_is_invalid(path):
    store = Store(path)
    store.mark("https://d.org/", True)
    broken = path.read_bytes() + b'{"prefix": "https://e.org/", "mat'
    path.write_bytes(broken)
    for change in (lambda: store.mark("https://f.org/", True), store.undo):
        with pytest.raises(UserError, match=r"Nothing was saved, so that no line is lost: .*line 5"):
            change()
    assert path.read_bytes() == broken
    assert store.errors() == [f"{path}, line 5: not a JSON object; fix or remove that line."]
    path.write_bytes(broken + b'h": true}\n')
    store.mark("https://f.org/", True)
    assert set(store.marks()) == {"www.a.org/b", "c.org/", "d.org/", "e.org/", "f.org/"}


@pytest.mark.parametrize(
    ("prefix", "math"), [("https://d.org/", True), ("https://c.org/", True), ("https://c.org/", None)]
)
def test_undo_restores_the_file_byte_for_byte(path, prefix, math):
    store = Store(path)
    store.mark(prefix, math)
    assert path.read_bytes() != BY_HAND
    store.undo()
    assert path.read_bytes() == BY_HAND
    with pytest.raises(UserError, match="no mark of this session to undo"):
        store.undo()


def test_undo_keeps_edits_of_other_lines(path):
    store = Store(path)
    store.mark("https://c.org/", True)
    line = b'{"prefix": "https://d.org/", "math": true}\n'
    path.write_bytes(path.read_bytes() + line)
    assert store.undo().prefix == "c.org/"
    assert path.read_bytes() == BY_HAND + line


def test_undo_does_not_revert_an_edit_by_hand(path):
    store = Store(path)
    store.mark("https://c.org/", True)
    path.write_bytes(BY_HAND)
    with pytest.raises(UserError, match=r"c\.org/ was changed elsewhere"):
        store.undo()
    assert path.read_bytes() == BY_HAND
    assert not store.can_undo()


def test_undo_skips_marks_that_changed_nothing(path):
    store = Store(path)
    store.mark("https://e.org/", None)
    store.mark("https://e.org/", True)
    store.mark("https://e.org/", True)
    store.undo()
    assert path.read_bytes() == BY_HAND


def test_a_link_stays_a_link(path, tmp_path):
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    Store(link).mark("https://d.org/", True)
    assert link.is_symlink()
    assert len(read_annotations(path)) == 3


def test_a_folder_instead_of_the_file_is_a_one_sentence_error(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        Store(tmp_path).mark("https://d.org/", True)


def test_a_lone_surrogate_is_kept(path):
    path.write_bytes(b'{"prefix": "https://a.org/", "math": true, "note": "\\ud800"}\n')
    Store(path).mark("https://a.org/", False)
    assert parse_lines(path.read_bytes(), path)[0].note == "\ud800"


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([True, False, None]), st.none() | st.text(max_size=3)))
)
def test_marks_in_any_order_are_in_the_file_and_can_all_be_undone(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("store") / "annotations.jsonl"
    path.write_bytes(BY_HAND)
    store = Store(path)
    expected = {"www.a.org/b": True, "c.org/": False}
    for letter, math, note in steps:
        store.mark(f"https://{letter}.org/", math, note)
        expected[f"{letter}.org/"] = math
    marked = {prefix: math for prefix, math in expected.items() if math is not None}
    assert {annotation.prefix: annotation.math for annotation in read_annotations(path)} == marked
    while store.can_undo():
        store.undo()
    assert path.read_bytes() == BY_HAND
