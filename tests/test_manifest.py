"""What a finished stage produced, written last and read back as it was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.errors import WorkspaceError
from prep.manifest import (
    JOURNAL_NAME,
    MANIFEST_NAME,
    Journal,
    Manifest,
    Shard,
    fingerprint,
    read_journal,
    read_manifest,
    remove_manifest,
    write_journal,
    write_manifest,
)

MANIFEST = Manifest(
    "filter",
    (
        Shard("shard-00000.parquet", "t0", 10, 1000, "aa", {"no_url": 1, "aes_cutoff": 2}),
        Shard("tief/ü 图.parquet", "t1", 5, 500, "bb", {"no_url": 3}),
        Shard("part.tar", "t2", None, 7, "cc"),
    ),
    {"rules": {"aes_cutoff": 5.67, "where": "a < 'ü'"}, "columns": ["a"], "revision": None},
)


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write_manifest(tmp_path / "new/folder", MANIFEST)
    assert read_manifest(tmp_path / "new/folder") == MANIFEST
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == [MANIFEST_NAME]


def test_the_same_manifest_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_manifest(tmp_path / name, MANIFEST)
    texts = [(tmp_path / name / MANIFEST_NAME).read_text() for name in ("a", "b")]
    assert texts[0] == texts[1]
    assert "ü 图" in texts[0] and texts[0].endswith("}\n")


def test_totals() -> None:
    assert (MANIFEST.rows, MANIFEST.size_bytes) == (15, 1507)
    assert MANIFEST.counts == {"no_url": 4, "aes_cutoff": 2}
    nothing = Manifest("filter", ())
    assert (nothing.rows, nothing.size_bytes, nothing.counts) == (0, 0, {})


def test_an_unfinished_folder_has_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read_manifest(tmp_path) is None
    assert read_manifest(tmp_path / "missing") is None
    assert read_manifest(tmp_path / "file") is None
    remove_manifest(tmp_path)
    remove_manifest(tmp_path / "missing")


def test_a_folder_about_to_change_is_declared_unfinished(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    remove_manifest(tmp_path)
    assert read_manifest(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


SHARD = {"name": "a", "task": "t", "rows": None, "size_bytes": 7, "sha256": "cc"}
GOOD = {"stage": "filter", "shards": [], "facts": {}}
NO_MANIFESTS: dict[str, Any] = {
    "a list": [],
    "a number": 3,
    "null": None,
    "text": "shards",
    "empty": {},
    "no stage": {"shards": []},
    "shards of nothing": {**GOOD, "shards": None},
    "shards of text": {**GOOD, "shards": "abc"},
    "a shard without fields": {**GOOD, "shards": [{"name": "a"}]},
    "an unknown field": {**GOOD, "times": 3},
    "a stage of no name": {**GOOD, "stage": 3},
    "facts of no keys": {**GOOD, "facts": []},
    **{
        f"a shard whose {field} is {value!r}": {**GOOD, "shards": [{**SHARD, field: value}]}
        for field, value in [
            *(("name", 3), ("name", None), ("task", []), ("rows", "3"), ("rows", True), ("size_bytes", "7")),
            *(("size_bytes", 7.5), ("sha256", None), ("counts", [1]), ("counts", {"a": "b"}), ("beside_bytes", None)),
        ]
    },
}


@pytest.mark.parametrize("data", [json.dumps(data).encode() for data in NO_MANIFESTS.values()], ids=NO_MANIFESTS)
def test_json_that_is_no_manifest_is_said(data: bytes, tmp_path: Path) -> None:
    check_is_said(data, tmp_path)


@pytest.mark.parametrize("data", [b"", b"{", b'{"stage": "fil', b"\xff\xfe", b"\0" * 100, b"[" * 100_000])
def test_bytes_that_are_no_manifest_are_said(data: bytes, tmp_path: Path) -> None:
    check_is_said(data, tmp_path)


def check_is_said(data: bytes, folder: Path) -> None:
    (folder / MANIFEST_NAME).write_bytes(data)
    with pytest.raises(WorkspaceError) as caught:
        read_manifest(folder)
    assert str(caught.value) == (
        f"{folder / MANIFEST_NAME}: not a manifest\n  Delete that file and run the same command again."
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(JSON, JSON)
def test_fingerprints_are_equal_exactly_when_values_are(one: Any, other: Any) -> None:
    assert len(fingerprint(one)) == 32
    assert fingerprint(json.loads(json.dumps(one))) == fingerprint(one)
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint(one) == fingerprint(other)) == same


def test_a_fingerprint_is_of_the_shortest_json_with_sorted_keys() -> None:
    assert fingerprint({"a": 1, "b": [2.5, "ü"]}) == fingerprint({"b": [2.5, "ü"], "a": 1})
    text = '["a",1,null,{"b":true,"ü":5.67}]'
    assert fingerprint(["a", 1, None, {"ü": 5.67, "b": True}]) == hashlib.sha256(text.encode()).hexdigest()[:32]
    assert fingerprint([1]) != fingerprint(["1"]) != fingerprint([[1]])


# -- the journal -------------------------------------------------------------------------------------------------


def test_a_journal_reads_back_what_can_be_read(tmp_path: Path) -> None:
    good = Shard("tief/ü\u2028图.parquet", "t1", None, 500, "bb")
    write_journal(tmp_path, [good])
    path = tmp_path / JOURNAL_NAME
    bad = [b"\xff\xfe", b"[" * 100_000, b"3", b"null", b'{"name": "a"}', json.dumps({**SHARD, "name": 3}).encode()]
    path.write_bytes(b"\n".join([*bad, path.read_bytes(), *bad]))
    assert read_journal(tmp_path) == {good.name: good}
    path.write_bytes(b"\xff" * 100)
    assert read_journal(tmp_path) == {}


def test_no_file_of_ours_is_written_through_a_link(tmp_path: Path) -> None:
    own, folder = tmp_path / "own.json", tmp_path / "raw"
    folder.mkdir()
    for name in (MANIFEST_NAME, JOURNAL_NAME):
        own.write_text("of the user")
        (folder / name).symlink_to(own)
    with pytest.raises(OSError, match="link"), Journal(folder):
        pass
    write_manifest(folder, MANIFEST)
    write_journal(folder, MANIFEST.shards)
    with Journal(folder) as journal:
        journal.add(MANIFEST.shards[0])
    assert own.read_text() == "of the user"
    assert read_manifest(folder) == MANIFEST
