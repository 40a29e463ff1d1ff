"""A lock file that somebody has edited: what it says is compared, or the key that is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prep.errors import WorkspaceError
from prep.lock.differences import differences
from prep.lock_file import read_lock

TABLE = {
    "dataset": "pets",
    "kind": "text-to-image",
    "definition": "d",
    "columns": ["caption"],
    "rules": {"aes_cutoff": 5.0},
    "samples": 6,
    "kept": 4,
    "dropped": {"no_score": 2},
    "rows": "r",
}
LOCK: dict[str, Any] = {
    "version": 1,
    "made_with": {"normalize": 1},
    "recipe": {"name": "zoo", "weights": {"a": 1}, "entries": {"pets": {"table": "pets"}}, "order": ["pets"]},
    "datasets": {"pets": {"asked": "x", "from": "source (local)", "slice": "looked at elsewhere", "parts": 1}},
    "contents": {"pets": {"sha256": "s", "images": {"ok": 3}, "encode": {"max_side": 300}}},
    "tables": {"pets": {**TABLE, "scores": {"hpsv2": {"scorer": "hpsv2", "passports": [{"dtype": "float32"}]}}}},
    "of a newer prep": [1],
}
WRONG: dict[tuple[str, ...], list[Any]] = {
    ("tables", "pets", "columns"): [5, None, "caption", [[1], {}]],
    ("tables", "pets", "rules"): [[1], None],
    ("tables", "pets", "kept"): ["69", 69.5, -1, True, None],
    **{("tables", "pets", key): [7] for key in ("rows", "dropped", "dataset", "definition", "dedup", "scores")},
    ("tables", "pets", "scores", "hpsv2", "passports"): [[5]],
    ("recipe",): [[], None],
    ("recipe", "entries", "pets"): ["x"],
    ("recipe", "order"): ["x"],
    ("recipe", "weights", "a"): ["heavy"],
    ("made_with",): ["x"],
    **{(section,): [None] for section in ("datasets", "contents", "tables")},
    **{("datasets", "pets", key): [[1]] for key in ("asked", "from", "revision", "repo", "parts", "size_bytes")},
    ("contents", "pets", "images"): ["x"],
    ("version",): [0, -1, True, "1", None],
}


def with_value(value: Any, *keys: str) -> dict[str, Any]:
    lock: dict[str, Any] = json.loads(json.dumps(LOCK))
    facts = lock
    for key in keys[:-1]:
        facts = facts[key]
    facts[keys[-1]] = value
    return lock


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "prep.lock"
    path.write_text(text)
    with pytest.raises(WorkspaceError) as caught:
        read_lock(path)
    assert caught.value.next_step == "Restore it, or delete it to resolve revisions anew."
    return caught.value.message.removeprefix(f"{path}: not a lock file")


def test_what_is_right_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "prep.lock").write_text(json.dumps(LOCK))
    assert read_lock(tmp_path / "prep.lock") == LOCK


@pytest.mark.parametrize(("keys", "value"), [(keys, value) for keys, values in WRONG.items() for value in values])
def test_a_value_of_another_kind_is_named(tmp_path: Path, value: Any, keys: tuple[str, ...]) -> None:
    said = refused(tmp_path, json.dumps(with_value(value, *keys)))
    assert said.startswith(f": {'.'.join(keys)}") and said.count(": ") >= 2


@pytest.mark.parametrize("key", TABLE)
def test_a_table_without_a_key_is_named(tmp_path: Path, key: str) -> None:
    lock = with_value({name: value for name, value in TABLE.items() if name != key}, "tables", "pets")
    assert refused(tmp_path, json.dumps(lock)) == f": tables.pets.{key}: Field required"


def test_what_is_no_json_object_is_said(tmp_path: Path) -> None:
    for text in ("", "null", "[]", "3", '"x"', json.dumps(LOCK)[:50], "[" * 100_000, '{"datasets":' * 5000, "1" * 5000):
        assert refused(tmp_path, text) == ""
    assert refused(tmp_path, '{"datasets": {"a\\u001b[2J": 3}}').startswith(": datasets.a\ufffd[2J: ")


@pytest.mark.parametrize("name", ["from", "asked", "source", "dtype", "libraries"])
def test_a_name_of_the_users_is_compared_whatever_it_is(name: str) -> None:
    cases: list[tuple[tuple[str, ...], str]] = [
        (("recipe", "weights", name), f"recipe weights.{name}"),
        (("recipe", "entries", name), f"recipe entries.{name}"),
        (("tables", "pets", "rules", name), f"table pets rules.{name}"),
        (("tables", "pets", name), f"table pets {name}"),
        (("made_with", name), f"made_with {name}"),
    ]
    for keys, subject in cases:
        found = differences(with_value(1, *keys), with_value(2, *keys))
        assert [str(one) for one in found] == [f"{subject}: 1 -> 2"]


def test_what_tells_how_something_was_come_by_makes_no_difference() -> None:
    for keys in (("asked",), ("from",), ("source",)):
        where = ("datasets", "pets", *keys)
        assert differences(with_value("1", *where), with_value("2", *where)) == []
    passports_at = ("tables", "pets", "scores", "hpsv2", "passports")
    for key in ("dtype", "libraries"):
        for passports in ([{key: 1}], [{"a": 1}, {key: 1}]):
            others = [{**passport, **({key: 2} if key in passport else {})} for passport in passports]
            assert differences(with_value(passports, *passports_at), with_value(others, *passports_at)) == []
    for passport in ({"weights": {"dtype": 1}}, {"weights": 1}):
        found = differences(with_value([passport], *passports_at), with_value([{"weights": 2}], *passports_at))
        assert [one.key for one in found if one.key.startswith("scores.hpsv2.passports.weights")]
