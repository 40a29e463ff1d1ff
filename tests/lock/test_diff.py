"""`prep diff` tells which rows moved where what is in them changed, and pairs those that are alike as they became."""

from __future__ import annotations

import shutil
from pathlib import Path

from lock_worlds import FIRST, Rows, edit, make, pair, run, write_part
from prep.cli.lock_report import compare
from prep.lock.moves import Move, find_moves
from prep.workspace import LOCK_NAME, Workspace


def test_a_changed_caption_is_a_row_gone_and_a_row_new(tmp_path: Path) -> None:
    one, two = pair(tmp_path, {"a": FIRST}, {"a": [("a cat", 6.0), ("a dogs", 5.2), *FIRST[2:]]}, ("5", "5"))
    found = compare(one.root, two.root, (None, None), None, 5)
    assert [(difference.what, difference.key) for difference in found.differences] == [
        ("dataset", "size_bytes"),
        ("dataset", "sha256"),
    ]
    assert found.moves == (
        Move("pets", None, "kept", 1, ("a.parquet#1",)),
        Move("pets", "kept", None, 1, ("a.parquet#1",)),
    )


def test_a_table_that_is_defined_otherwise_is_compared_row_by_row(tmp_path: Path) -> None:
    one, two = run(make(tmp_path / "one")), make(tmp_path / "two")
    edit(two.root / "datasets/pets.yaml", "caption: text", "caption: \"replace(text, 'owl', 'oaf')\"")
    found = compare(one.root, run(two).root, (None, None), None, 5)
    assert [difference.key for difference in found.differences] == ["definition"]
    assert [(move.before, move.after, move.keys) for move in found.moves] == [
        (None, "kept", ("a.parquet#3",)),
        ("kept", None, ("a.parquet#3",)),
    ]


def test_rows_whose_texts_changed_since_the_lock_are_not_taken_for_its(tmp_path: Path) -> None:
    workspace = run(make(tmp_path / "one"))
    lock = tmp_path / "old.lock"
    shutil.copy(workspace.root / LOCK_NAME, lock)
    write_part(tmp_path / "one/pets", "a", [("a cat", 6.0), ("a dogs", 5.2), *FIRST[2:]])
    run(workspace)
    found = compare(lock, workspace.root, (workspace.root, None), None, 5)
    assert found.moves == () and found.notes == (
        f"which rows of pets moved is not told: the files in {workspace.root} are not those that {lock} describes",
    )


def test_rows_that_are_alike_are_the_same_where_they_became_the_same(tmp_path: Path) -> None:
    """One more of a row, that is dropped, moves none of the others."""
    twins: Rows = [("twin", 6.0), ("twin", 7.0), ("a bee", 6.0)]
    one, two = pair(tmp_path, {"a": twins}, {"a": [("twin", 1.0), *twins]}, ("5", "5"))
    assert find_moves(one, two, "pets") == [Move("pets", None, "aes_cutoff", 1, ("a.parquet#0",))]
    assert find_moves(two, one, "pets") == [Move("pets", "aes_cutoff", None, 1, ("a.parquet#0",))]


def test_rules_that_are_not_applied_yet_are_a_note(tmp_path: Path) -> None:
    workspace = run(make(tmp_path / "w"))
    lock = tmp_path / "old.lock"
    shutil.copy(workspace.root / LOCK_NAME, lock)
    edit(workspace.root / "recipe.yaml", "aes_cutoff: 5", "aes_cutoff: 6")
    found = compare(lock, None, (None, None), Workspace(workspace.root), 5)
    assert found.differences == ()
    assert found.notes == ("table pets is not up to date: filter has work to do",)


def test_samples_that_are_gone_are_a_note(tmp_path: Path) -> None:
    one, two = pair(tmp_path, {"a": FIRST}, {"a": FIRST}, ("5", "6.2"))
    shutil.rmtree(two.root / "normalized")
    found = compare(one.root, two.root, (None, None), None, 5)
    assert found.moves == () and found.notes == (
        f"which rows of pets moved is not told: its samples in {two.root} are gone, or others",
    )
