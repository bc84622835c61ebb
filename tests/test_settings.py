"""Typed settings: built from mappings with errors that name the field, and turned into mappings and descriptions."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pytest

from dsmath_jax.corpus.settings import CorpusSettings, FastTextSettings
from dsmath_jax.data.settings import TokenizerSettings
from dsmath_jax.evaluation.settings import EvaluateSettings
from dsmath_jax.settings import Settings, build, check_choice, field_values, fingerprint, nearest, setting, to_dict
from dsmath_jax.toy.settings import ToySettings
from dsmath_jax.workdir import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner(Settings):
    size: int = setting(3, "a size", ge=1)
    rate: float = setting(0.5, "a rate", gt=0, le=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sgd(Settings):
    momentum: float = setting(0.9, "decay of the momentum", ge=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam(Settings):
    beta: float = setting(0.99, "decay of the second moment", changes_result=False)


def algorithm_of(given: Mapping[str, Any]) -> type:
    return {"sgd": Sgd, "adam": Adam}[given.get("method", "sgd")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer(Settings):
    name: str = setting(help="a name that has to be given")
    method: str = setting("sgd", "the algorithm")
    on: bool = setting(False, "a switch")
    sizes: tuple[int, ...] = setting((1, 2), "several sizes")
    pair: tuple[str, float] = setting(("a", 1.0), "a name and a weight")
    counts: dict[str, int] = setting({"a": 1}, "counts by name")
    where: str | tuple[str, ...] = setting("here", "one place or several")
    inner: Inner = setting(Inner(), "a part")
    devices: Inner = setting(Inner(), "a part that changes no result", changes_result=False)
    maybe: Inner | None = setting(None, "a part that may be absent")
    algorithm: Sgd | Adam = setting(Sgd(), "the method's own fields", fields_of=algorithm_of)


def test_defaults_fill_what_is_not_given() -> None:
    assert build(Outer, {"name": "x"}) == Outer(name="x")


def test_values_take_the_types_of_their_fields() -> None:
    built = build(Outer, {"name": "x", "sizes": [4, 5], "pair": ["b", 2], "inner": {"rate": 1}, "counts": {"b": 2}})
    assert built == Outer(name="x", sizes=(4, 5), pair=("b", 2.0), inner=Inner(rate=1.0), counts={"b": 2})
    assert [type(value) for value in (built.sizes, built.pair[1], built.inner.rate)] == [tuple, float, float]


def test_a_union_takes_the_first_type_that_fits() -> None:
    assert build(Outer, {"name": "x", "where": "there"}).where == "there"
    assert build(Outer, {"name": "x", "where": ["a", "b"]}).where == ("a", "b")
    assert build(Outer, {"name": "x", "maybe": {"size": 7}}).maybe == Inner(size=7)
    assert build(Outer, {"name": "x", "maybe": None}).maybe is None


def test_fields_that_stand_flat_are_those_of_the_chosen_class() -> None:
    assert build(Outer, {"name": "x", "momentum": 0.5}).algorithm == Sgd(momentum=0.5)
    adam = build(Outer, {"name": "x", "method": "adam", "beta": 0.5})
    assert adam.algorithm == Adam(beta=0.5)
    assert to_dict(adam)["beta"] == 0.5
    assert "algorithm" not in to_dict(adam)
    with pytest.raises(UserError, match=r"^rl\.momentum is not a setting"):
        build(Outer, {"name": "x", "method": "adam", "momentum": 0.5}, "rl.")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, r"^part\.name is missing; give it a value\.$"),
        (
            {"name": "x", "szies": (1,)},
            r"^part\.szies is not a setting \(the nearest is 'sizes'\); remove it or correct",
        ),
        ({"name": "x", "qqqq": 1}, r"^part\.qqqq is not a setting; remove it"),
        ({"name": "x", "algorithm": {}}, r"^part\.algorithm is not a setting"),
        ({"name": "x", "inner": {"siz": 1}}, r"^part\.inner\.siz is not a setting \(the nearest is 'size'\)"),
        ({"name": 1}, r"^part\.name is 1; it must be of the type str\.$"),
        ({"name": "x", "on": 1}, r"^part\.on is 1; it must be of the type bool\.$"),
        ({"name": "x", "inner": {"size": True}}, r"^part\.inner\.size is True; it must be of the type int\.$"),
        ({"name": "x", "inner": {"size": 1.0}}, r"^part\.inner\.size is 1\.0; it must be of the type int\.$"),
        ({"name": "x", "inner": {"rate": True}}, r"^part\.inner\.rate is True; it must be of the type float\.$"),
        ({"name": "x", "inner": 3}, r"^part\.inner is 3; it must be of the type Inner\.$"),
        ({"name": "x", "sizes": 3}, r"^part\.sizes is 3; it must be of the type tuple"),
        ({"name": "x", "sizes": (1, "b")}, r"^part\.sizes\[1\] is 'b'; it must be of the type int\.$"),
        ({"name": "x", "pair": ("b",)}, r"^part\.pair is \('b',\); it must be of the type tuple"),
        ({"name": "x", "counts": {"b": "c"}}, r"^part\.counts\.b is 'c'; it must be of the type int\.$"),
        ({"name": "x", "where": 3}, r"^part\.where is 3; it must be of the type str \| tuple\[str, \.\.\.\]\.$"),
        ({"name": "x", "where": None}, r"^part\.where is None; it must be of the type str \| tuple\[str, \.\.\.\]\.$"),
        ({"name": "x", "inner": {"size": 0}}, r"^part\.inner\.size is 0; it must be at least 1\.$"),
        ({"name": "x", "maybe": {"size": 0}}, r"^part\.maybe\.size is 0; it must be at least 1\.$"),
        ({"name": "x", "momentum": -1}, r"^part\.momentum is -1\.0; it must be at least 0\.$"),
    ],
)
def test_errors_begin_with_the_full_name_of_the_field(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build(Outer, given, "part.")


def test_checks_of_values() -> None:
    check_choice("color", "red", ("red", "blue"))
    with pytest.raises(UserError, match=r"^color must be one of 'red', 'blue'; got 'green'\.$"):
        check_choice("color", "green", ("red", "blue"))
    assert nearest("colour", ("color", "size")) == " (the nearest is 'color')"
    assert nearest("qqqq", ("color", "size")) == ""


def test_mutable_defaults_are_not_shared() -> None:
    one, two = Outer(name="x"), Outer(name="y")
    one.counts["b"] = 2
    assert two.counts == {"a": 1}


def test_a_mapping_of_the_settings_builds_them_again() -> None:
    settings = Outer(name="x", sizes=(7,), maybe=Inner(size=9))
    assert build(Outer, to_dict(settings)) == settings
    assert "maybe" not in to_dict(Outer(name="x"))


def test_every_field_is_described_by_its_full_name() -> None:
    found = {one.name: one for one in field_values(Outer(name="x"), "part.")}
    assert found["part.inner.size"] == ("part.inner.size", 3, "a size", True)
    assert found["part.maybe"].value is None
    assert found["part.momentum"].help == "decay of the momentum"
    assert {"part.inner", "part.algorithm"}.isdisjoint(found)


def test_the_fingerprint_has_what_changes_a_result_as_json_has_it() -> None:
    adam = Outer(name="x", method="adam", algorithm=Adam(), pair=("b", 2.0))
    found = fingerprint(adam, "part.")
    assert found == json.loads(json.dumps(found))
    assert found["part.pair"] == ["b", 2.0]
    assert "part.inner.size" in found
    assert {"part.devices.size", "part.devices.rate", "part.beta"}.isdisjoint(found)
    assert not fingerprint(adam, changes_result=False)


@pytest.mark.parametrize(
    "settings",
    [CorpusSettings(), ToySettings(), TokenizerSettings(), EvaluateSettings(tasks=("toy/test",))],
    ids=lambda settings: type(settings).__name__,
)
def test_the_parts_of_a_recipe_are_described_and_built_again(settings: Any) -> None:
    assert all(one.help for one in field_values(settings))
    assert build(type(settings), json.loads(json.dumps(to_dict(settings)))) == settings


@pytest.mark.parametrize(
    ("part", "given", "sentence"),
    [
        (CorpusSettings, {"remove": "line"}, r"^p\.remove must be one of 'page', 'segment'; got 'line'"),
        (CorpusSettings, {"input": 3}, r"^p\.input is 3; it must be of the type str \| tuple"),
        (CorpusSettings, {"fasttext": {"epochs": 0}}, r"^p\.fasttext\.epochs is 0; it must be at least 1"),
        (CorpusSettings, {"minhash": {"band": 2}}, r"^p\.minhash\.band is not a setting \(the nearest is 'bands'\)"),
        (ToySettings, {"problems": {"rl": -1}}, r"^p\.problems\.rl is -1; it must be at least 0"),
        (ToySettings, {"steps": ()}, r"^p\.steps is empty; give it at least one value\."),
        (TokenizerSettings, {"vocab_size": 0}, r"^p\.vocab_size is 0; it must be at least 1"),
        (EvaluateSettings, {}, r"^p\.tasks is missing"),
        (EvaluateSettings, {"tasks": ("toy/test",), "decode_slots": 0}, r"^p\.decode_slots is 0; it must be at least"),
        (
            EvaluateSettings,
            {"tasks": ("toy/test",), "models": ("dpo",)},
            r"^p\.models\[0\] must be one of .*; got 'dpo'",
        ),
    ],
)
def test_invalid_values_in_a_part(part: type, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build(part, given, "p.")


def test_where_the_corpus_is_computed_changes_no_result() -> None:
    there = CorpusSettings(workers=5, ray_address="auto")
    assert fingerprint(there) == fingerprint(CorpusSettings())
    assert fingerprint(CorpusSettings(fasttext=FastTextSettings(dim=8))) != fingerprint(CorpusSettings())


def test_a_given_tokenizer_needs_no_vocabulary_size() -> None:
    assert TokenizerSettings(path="tokenizer.model", vocab_size=0).path == "tokenizer.model"
