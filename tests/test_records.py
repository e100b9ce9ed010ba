"""What is read as text: configurations and JSON records, in bounded depth and size, each fault in one sentence."""

from __future__ import annotations

import json
import os
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrodict import InputError
from retrodict._check import read_json, visible
from retrodict.bases.curve import Curve
from retrodict.tasks.config_file import Strict, read_config
from retrodict.tasks.fit_config import load_config

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
HEAD = "name: x\nspacing: [1.0, 1.0]\nprocess: {name: fourier}\ndata: {simulated: {}}\n"


class Anything(Strict):
    """A configuration of one field."""

    value: object = None


def refused(path, *parts):
    with pytest.raises(InputError) as caught:
        load_config(path)
    said = str(caught.value)
    assert str(path) in said
    assert said.isprintable()
    assert len(said) < 2000
    for part in parts:
        assert part in said, said


# ---- YAML ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (HEAD + "bands: !!int abc", "no int in line 5"),
        (HEAD + "bands: !!int ''", "no int"),
        (HEAD + "bands: !!bool x", "no bool"),
        (HEAD + "bands: " + "9" * 5000, "no int"),
        (HEAD + "bands: .nan", "not finite"),
        (HEAD + "bands: 2020-13-45", "bands"),
        (HEAD + "card: " + "[" * 20_000, "levels"),
        (HEAD + "card: " + "{a: " * 20_000, "levels"),
        (HEAD + BOMB, "values"),
        (HEAD + "card: &a {b: *a}", "inside itself"),
        (HEAD + "card: !!python/object/apply:os.system [id]", "tag"),
        (HEAD + "card: !!map [1]", "no mapping"),
        (HEAD + "bands: 1\nbands: 2", "'bands' twice"),
        (HEAD + "card: {1: 2}", "no text"),
        (HEAD + "bands: [1", "line 5"),
        ("x: 1\n---\ny: 1", "another document"),
        ("- 1", "list"),
        ("", "nothing"),
        ("a: '\x07'", "unacceptable"),
    ],
)
def test_yaml_that_cannot_be_meant_is_one_sentence_with_its_place(tmp_path, text, part):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    refused(path, part)


def test_what_is_no_yaml_file_is_said(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00name")
    refused(tmp_path / "binary.yaml", "UTF-8")
    (tmp_path / "long.yaml").write_text("# x\n" * 50_000)
    refused(tmp_path / "long.yaml", "MB")
    refused(tmp_path, "a folder")
    os.mkfifo(tmp_path / "pipe.yaml")
    refused(tmp_path / "pipe.yaml", "pipe")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    refused(tmp_path / "loop.yaml")


def test_a_bomb_of_aliases_takes_no_memory(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(BOMB)
    tracemalloc.start()
    refused(path, "values")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_aliases_and_merge_keys_work_where_they_are_meant(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("value: {a: &a {x: 1, y: 2}, b: *a, c: {<<: *a, y: 3}}")
    found = read_config(Anything, path, "thing").value
    assert found == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}, "c": {"x": 1, "y": 3}}


def test_a_date_is_the_text_it_is(tmp_path):
    """A card with a date has to become JSON at the end of the training."""
    path = tmp_path / "c.yaml"
    path.write_text(HEAD + "card: {date: 2020-01-31}")
    assert json.loads(json.dumps(load_config(path).card)) == {"date": "2020-01-31"}


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("bands=[1", "unreadable YAML"),
        ("bands=2020-13-45", "bands"),
        ("bands=!!int abc", "no int"),
        ("bands=" + "[" * 20_000, "levels"),
        ("card=" + BOMB, "YAML"),
        ("bands", "a.b=value"),
        ("=1", "no path"),
        ("a..b=1", "no path"),
        (".".join("a" * 3000) + "=1", "no path"),
        ("name.x=1", "no mapping"),
        ("training.steps=.inf", "not finite"),
        ("intensity.scale=-200", "intensity.scale"),
        ("name=../../x", "name"),
        ("name=x.json", "extension"),
        ("data.patch=[8]", "data.patch"),
        ("data.patch=[4096, 4095, 17]", "data.patch"),
        ("training.steps=10000000000000000000", "training.steps"),
    ],
)
def test_an_override_that_cannot_be_meant_is_one_sentence(tmp_path, word, part):
    path = tmp_path / "c.yaml"
    path.write_text(HEAD)
    with pytest.raises(InputError) as caught:
        load_config(path, [word])
    assert part in str(caught.value)
    assert len(str(caught.value)) < 6000


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="abc:[]{}&*!|>'\"#%@`-?, \n\t0.<=~", max_size=40))
def test_any_text_is_a_value_or_one_sentence(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(HEAD + "card:\n  x: " + text.replace("\n", "\n  "))
    try:
        json.dumps(load_config(path).card, allow_nan=False)
    except InputError as error:
        assert str(error).isprintable()  # noqa: PT017


# ---- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[" * 200_000, "deeply"),
        ('{"a":' * 200_000, "deeply"),
        ('{"a": ' + "[" * 40 + "]" * 40 + "}", "deeply"),
        ('{"a": ' + "9" * 5000 + "}", "unreadable JSON"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": 1e999}', "too large"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        ('{"a": 1', "unreadable JSON"),
        ("[]", "list"),
        ("null", "NoneType"),
        ("", "unreadable JSON"),
    ],
)
def test_json_that_cannot_be_meant_is_one_sentence(tmp_path, text, part):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(InputError, match=part) as caught:
        read_json(path, "a record")
    assert str(path) in str(caught.value)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "r.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="MB"):
        read_json(path, "a record")
    with pytest.raises(InputError, match="mtf"):
        Curve.parse(path, "mtf")


@pytest.mark.parametrize(
    "change",
    [
        {"frequency": "abc"},
        {"frequency": [0, None, 1]},
        {"frequency": [[0, 1], [0, 1], [0, 1]], "value": [1] * 8},
        {"frequency": {"a": 1}},
        {"value": [[["x"]]]},
        {"value": 3},
        {"value": [1, 0.5, 10**400]},
        {"unit": []},
        {"frequency": []},
    ],
)
def test_a_curve_of_other_things_than_numbers_is_refused(tmp_path, change):
    record = {"frequency": [0.0, 0.3, 0.6], "value": [1.0, 0.5, 0.2], "unit": "1", "frequency_unit": "cycles/mm"}
    path = tmp_path / "mtf.json"
    path.write_text(json.dumps({**record, **change}))
    with pytest.raises(InputError, match="mtf"):
        Curve.parse(path, "mtf")


# ---- words -----------------------------------------------------------------------------------------------------------


def test_an_error_is_one_line_whatever_a_file_says():
    said = str(InputError("a\x1b[31m/b\nc", "x\r\n\n y\u202e" + "z" * 5000, "w\0", "h\x07"))
    assert said.isprintable()
    assert len(said) < 1000
    assert "\\x1b[31m/b\\nc" in said
    assert "x y" in said


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([*map(chr, range(200)), *"\u200c\u202e\u2028\u3000\udcff\ufeff日ö"]), max_size=20).map(
        "".join
    )
)
def test_what_is_visible_is_printable_and_keeps_what_was(text):
    shown = visible(text)
    assert all(c.isprintable() or c in "\u200c\u200d" for c in shown)
    if text.isprintable():
        assert shown == text
