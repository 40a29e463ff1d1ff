from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from prep.errors import ConfigError
from prep.yaml_edit import add_keys, append_items, read_exact, render_items, render_keys
from prep.yaml_file import parse_yaml

ITEM = {"name": "new", "columns": ["s3_path", "caption"], "process_fn_kwargs": {"task": "add"}}


def append(text: str, *items: dict[str, Any], key: str = "datasets") -> str:
    return append_items(parse_yaml(text, Path("t.yaml")), key, list(items) or [{"name": "new"}])


def add(text: str, **mapping: Any) -> str:
    return add_keys(parse_yaml(text, Path("t.yaml")), "weights", mapping)


def test_rendering() -> None:
    assert render_items([ITEM, {"list": [{"a": 1}], "empty": [], "text": "yes"}], indent=2) == (
        "  - name: new\n"
        "    columns: [s3_path, caption]\n"
        "    process_fn_kwargs:\n"
        "      task: add\n"
        "  - list:\n"
        "      - a: 1\n"
        "    empty: []\n"
        "    text: 'yes'\n"
    )
    assert render_keys({"b": 1, "a": 0.5}) == "b: 1\na: 0.5\n"


APPENDED = {
    "indented items": (
        "datasets:\n  - name: a\nweights: {}\n",
        "datasets:\n  - name: a\n  - name: new\nweights: {}\n",
    ),
    "items under the key": (
        "datasets:\n- name: a\n  x: 1\nweights: {}\n",
        "datasets:\n- name: a\n  x: 1\n- name: new\nweights: {}\n",
    ),
    "deep indent": ("datasets:\n      - name: a\n", "datasets:\n      - name: a\n      - name: new\n"),
    "no newline at the end": ("datasets:\n  - name: a", "datasets:\n  - name: a\n  - name: new\n"),
    "comment on the last line": (
        "datasets:\n  - name: a # why\n\n# weights\nweights: {}\n",
        "datasets:\n  - name: a # why\n  - name: new\n\n# weights\nweights: {}\n",
    ),
    "comments of the last item stay with it": (
        "datasets:\n  - name: a\n    # aes_cutoff: 5.67\n  # - name: b\n",
        "datasets:\n  - name: a\n    # aes_cutoff: 5.67\n  - name: new\n  # - name: b\n",
    ),
    "CRLF": (
        "datasets:\r\n  - name: a\r\nweights: {}\r\n",
        "datasets:\r\n  - name: a\r\n  - name: new\r\nweights: {}\r\n",
    ),
    "byte order mark": ("\ufeffdatasets:\n- name: a\n", "\ufeffdatasets:\n- name: a\n- name: new\n"),
    "nested end": (
        "datasets:\n  - name: a\n    kw:\n      deep:\n        - 1\n        - {a: 2}\n\n\nweights: {}\n",
        "datasets:\n  - name: a\n    kw:\n      deep:\n        - 1\n        - {a: 2}\n  - name: new\n\n\nweights: {}\n",
    ),
    "flow item": ("datasets:\n  - {name: a}\n", "datasets:\n  - {name: a}\n  - name: new\n"),
    "value missing at the end": ("datasets:\n  - name:\nb: 1\n", "datasets:\n  - name:\n  - name: new\nb: 1\n"),
    "text block at the end": (
        "datasets:\n  - name: |\n      a\n\n# c\nb: 1\n",
        "datasets:\n  - name: |\n      a\n\n  - name: new\n# c\nb: 1\n",
    ),
    "anchors elsewhere": (
        "x: &a [1]\ndatasets:\n  - name: *a\n  - name: b\n",
        "x: &a [1]\ndatasets:\n  - name: *a\n  - name: b\n  - name: new\n",
    ),
    "repeated key": (
        "datasets:\n  - name: a\ndatasets:\n  - name: b\nz: 1\n",
        "datasets:\n  - name: a\ndatasets:\n  - name: b\n  - name: new\nz: 1\n",
    ),
    "empty list": (
        "a: 1\ndatasets: []  # none yet\nb: 2\n",
        "a: 1\ndatasets:  # none yet\n  - name: new\nb: 2\n",
    ),
    "no value": ("datasets:\nb: 2\n", "datasets:\n  - name: new\nb: 2\n"),
    "null": ("datasets: null\nb: 2\n", "datasets:\n  - name: new\nb: 2\n"),
    "no value at the end": ("b: 2\ndatasets:", "b: 2\ndatasets:\n  - name: new\n"),
    "no key": ("b: 2 # c", "b: 2 # c\n\ndatasets:\n  - name: new\n"),
    "empty file": ("", "datasets:\n  - name: new\n"),
    "only comments": ("# nothing", "# nothing\ndatasets:\n  - name: new\n"),
    "indented top level": ("  b: 2\n", "  b: 2\n\n  datasets:\n    - name: new\n"),
    "after a document mark": ("---\ndatasets:\n- name: a\n", "---\ndatasets:\n- name: a\n- name: new\n"),
}


@pytest.mark.parametrize(("before", "after"), APPENDED.values(), ids=APPENDED.keys())
def test_append_items(before: str, after: str) -> None:
    assert append(before) == after


def test_whole_item_is_appended() -> None:
    assert append("datasets:\n- name: a\n", ITEM) == "datasets:\n- name: a\n" + render_items([ITEM])


def test_no_items_change_nothing() -> None:
    assert append_items(parse_yaml("datasets: [1]", Path("t.yaml")), "datasets", []) == "datasets: [1]"


BY_HAND = {
    "list in brackets": "datasets: [{name: a}]\n",
    "brackets over lines": "datasets: [\n  {name: a},\n]\n",
    "top level in braces": "{datasets: []}\n",
    "last item an alias": "x: &a {name: a}\ndatasets:\n  - name: b\n  - *a\n",
    "only item an alias": "x: &a {name: a}\ndatasets:\n  - *a\n",
    "last value an alias": "x: &a [1]\ndatasets:\n  - name: b\n    columns: *a\n",
    "list anchored": "datasets: &a\n  - name: b\nmore: *a\n",
    "list tagged": "datasets: !!seq\n  - name: b\n",
    "list is an alias": "x: &a\n  - name: b\ndatasets: *a\n",
    "empty list anchored": "datasets: &a []\nmore: *a\n",
    "comment in an empty list": "datasets: [ # none\n]\n",
    "text that would get a newline": "datasets:\n  - name: |\n      a",
    "end of document": "b: 1\n...\n",
}


@pytest.mark.parametrize("text", BY_HAND.values(), ids=BY_HAND.keys())
def test_what_cannot_be_placed_is_handed_to_the_user(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        append(text)
    assert caught.value.message == (
        "t.yaml: 'datasets' is written in a way that cannot be extended without risk to the rest of the file"
    )
    assert caught.value.next_step == "Put this at the end of 'datasets' by hand:\n  - name: new\n"


@pytest.mark.parametrize("text", ["datasets: {a: 1}\n", "datasets: text\n", "- a\n", "text\n"])
def test_not_a_list(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a list|must be a mapping"):
        append(text)


ADDED = {
    "block": ("weights:\n  a: 1  # c\n\nb: 2\n", "weights:\n  a: 1  # c\n  t2i: 250\n\nb: 2\n"),
    "deep": ("weights:\n    a: 1", "weights:\n    a: 1\n    t2i: 250\n"),
    "empty": ("weights: {}\nb: 2\n", "weights:\n  t2i: 250\nb: 2\n"),
    "no value": ("weights:\n", "weights:\n  t2i: 250\n"),
    "no key": ("b: 2\n", "b: 2\n\nweights:\n  t2i: 250\n"),
    "same value there": ("weights: {t2i: 250.0}\n", "weights: {t2i: 250.0}\n"),
}


@pytest.mark.parametrize(("before", "after"), ADDED.values(), ids=ADDED.keys())
def test_add_keys(before: str, after: str) -> None:
    assert add(before, t2i=250) == after


@pytest.mark.parametrize(
    ("text", "message", "next_step"),
    [
        ("a: 1\nweights:\n  t2i: 1\n", "t.yaml: weights.t2i is 1, to become 250", "Change it by hand, on line 3."),
        (
            "weights: {a: 1}\n",
            "t.yaml: 'weights' is written in a way that cannot be extended without risk to the rest of the file",
            "Put this at the end of 'weights' by hand:\n  t2i: 250\n",
        ),
        ("weights: [1]\n", "t.yaml: 'weights' is not a mapping", "Mend the file first."),
    ],
)
def test_keys_that_cannot_be_added(text: str, message: str, next_step: str) -> None:
    with pytest.raises(ConfigError) as caught:
        add(text, t2i=250)
    assert (caught.value.message, caught.value.next_step) == (message, next_step)


def test_keys_merged_from_elsewhere_are_not_extended() -> None:
    with pytest.raises(ConfigError, match="without risk"):
        add("x: &a {b: 1}\nweights:\n  <<: *a\n", t2i=250)


def test_read_exact_keeps_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_bytes("datasets:\r\n- name: é\r\n".encode())
    assert append_items(read_exact(path), "datasets", [{"name": "b"}]) == "datasets:\r\n- name: é\r\n- name: b\r\n"
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_exact(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_exact(tmp_path / "none.yaml")


# -- any file ------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), NAMES)
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))
ITEMS = st.lists(st.dictionaries(NAMES, VALUES, min_size=1, max_size=3), min_size=1, max_size=3)


class Indented(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


@settings(max_examples=60, deadline=None)
@given(
    items=ITEMS,
    new=ITEMS,
    after=st.sampled_from(["", "weights: {a: 1}\n", "\n# the end\n", "  # deeper\n# less\nweights:\n  a: 1\n"]),
    style=st.sampled_from([None, "|", '"', "'"]),
    dumper=st.sampled_from([yaml.SafeDumper, Indented]),
    newline=st.sampled_from(["\n", "\r\n"]),
    cut=st.booleans(),
)
def test_round_trip(
    items: list[dict[str, Any]],
    new: list[dict[str, Any]],
    after: str,
    style: str | None,
    dumper: Any,
    newline: str,
    cut: bool,
) -> None:
    body = yaml.dump({"datasets": items}, Dumper=dumper, default_style=style, default_flow_style=False)
    text = ("# first\n" + body + after).replace("\n", newline)
    text = text.rstrip("\r\n") if cut else text
    before = yaml.safe_load(text)
    try:
        edited = append(text, *new)
    except ConfigError as error:
        assert "without risk" in error.message
        # Only a text block that ends the file without a line end has no safe place after it.
        assert cut and style == "|" and not after
        return
    assert repr(yaml.safe_load(edited)) == repr({**before, "datasets": before["datasets"] + new})
    place = len(text)
    while not (edited.startswith(text[:place]) and edited.endswith(text[place:])):
        place -= 1
        assert place >= 0, "the old text is not whole in the new one"


@settings(max_examples=60, deadline=None)
@given(new=ITEMS, newline=st.sampled_from(["\n", "\r\n"]))
def test_new_lists_hold_what_was_given(new: list[dict[str, Any]], newline: str) -> None:
    for text in ("", "a: 1", "datasets:", "datasets: []\n# c\n"):
        edited = append(text.replace("\n", newline), *new)
        assert repr(yaml.safe_load(edited)["datasets"]) == repr(new)
