"""prep.lock: what it says, what `prep run --locked` refuses, and what `prep diff` tells of two of them."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lock_worlds import FIRST, SECOND, Rows, edit, lock_of, make, pair, refusal, run
from prep.cli.lock_report import check_lock, compare, lock_workspace
from prep.errors import WorkspaceError
from prep.lock import moves
from prep.lock.contents import Judged, describe
from prep.lock.differences import Difference, differences, shown
from prep.lock.held import hold
from prep.lock.moves import Move, find_moves
from prep.manifest import fingerprint
from prep.publishers import World
from prep.schema import KINDS
from prep.stages import filter as filter_stage
from prep.stages import normalize
from prep.stages.download import download
from prep.workspace import LOCK_NAME, Workspace
from worlds import make_workspace, prep, snapshot


def digest(rows: list[int]) -> str:
    return hashlib.sha256(struct.pack(f"<{len(rows)}q", *rows)).hexdigest()


# -- what it says ------------------------------------------------------------------------------------------------


def test_the_whole_lock_of_a_small_workspace(tmp_path: Path) -> None:
    workspace = run(make(tmp_path / "w"))
    lock = lock_of(workspace)
    raw = {path.name: path.stat().st_size for path in (tmp_path / "w/pets").iterdir()}
    assert len(lock["datasets"]["pets"].pop("asked")) == 32  # it holds a path of this machine
    assert len(lock["contents"]["pets"].pop("sha256")) == 64  # of files that pyarrow wrote
    definition = lock["tables"]["pets"].pop("definition")  # it holds the picture's path
    assert lock == {
        "version": 1,
        "made_with": {"filter": filter_stage.VERSION, "normalize": normalize.VERSION},
        "recipe": {"name": "zoo", "weights": {"a": 2.0}, "entries": {"pets": {"table": "pets"}}, "order": ["pets"]},
        "datasets": {
            "pets": {
                "from": "source (local)",
                "source": {"kind": "local"},
                "parts": 2,
                "size_bytes": sum(raw.values()),
            }
        },
        "contents": {"pets": {}},
        "tables": {
            "pets": {
                "dataset": "pets",
                "kind": "text-to-image",
                "columns": ["s3_path", "caption", "fltLaionAesthScore"],
                "rules": {"aes_cutoff": 5.0},
                "samples": 6,
                "kept": 4,
                "dropped": {"aes_cutoff": 1, "no_score": 1},
                "rows": fingerprint(
                    {
                        "a.parquet": fingerprint([[digest([0, 1, 3])], {"no_score": digest([2])}]),
                        "b.parquet": fingerprint([[digest([1])], {"aes_cutoff": digest([0])}]),
                    }
                ),
            }
        },
    }
    assert len(definition) == 32
    before = snapshot(workspace.root)
    run(workspace)
    assert not lock_workspace(Workspace(workspace.root)).is_new
    assert snapshot(workspace.root) == before


def test_another_folder_gives_the_same_lock(tmp_path: Path) -> None:
    one, other = (run(make(tmp_path / name)) for name in ("one", "other"))
    assert differences(lock_of(one), lock_of(other)) == []
    parts = [{key: value for key, value in lock_of(each).items() if key != "datasets"} for each in (one, other)]
    assert parts[0] == parts[1]  # only `asked` has where the files were
    assert compare(one.root, other.root, (None, None), None, 5).as_json() == {
        "differences": [],
        "moves": [],
        "notes": [],
    }


def test_entries_that_share_a_name_are_numbered(tmp_path: Path) -> None:
    entries = "[{table: pets, group: a}, {table: pets, sampling: 'dup:2', note: ours}, {table: pets, name: z}]"
    workspace = make(tmp_path / "w", recipe=f"name: zoo\ntitle: Zoo\nentries: {entries}\n")
    assert describe(workspace, {}).data["recipe"] == {
        "name": "zoo",
        "entries": {
            "pets": {"table": "pets", "group": "a"},
            "pets #2": {"table": "pets", "sampling": "dup:2"},
            "z": {"table": "pets"},
        },
        "order": ["pets", "pets #2", "z"],
    }


def test_what_is_not_up_to_date_stays_as_it_was_and_what_left_the_recipe_goes(tmp_path: Path) -> None:
    workspace = run(make(tmp_path / "w"))
    before = lock_of(workspace)
    edit(workspace.root / "recipe.yaml", "aes_cutoff: 5}", "aes_cutoff: 6.2}, {table: toads}")
    text = (workspace.root / "datasets/pets.yaml").read_text()
    (workspace.root / "datasets/toads.yaml").write_text(text.replace("pets:", "toads:").replace(": pets", ": toads"))
    written = lock_workspace(Workspace(workspace.root))
    assert written.is_new and written.left == {"pets": "filter has work to do", "toads": "not filtered yet"}
    after = lock_of(workspace)
    assert after["recipe"]["entries"] == {"pets": {"table": "pets"}, "toads": {"table": "toads"}}
    assert {k: v for k, v in after.items() if k != "recipe"} == {k: v for k, v in before.items() if k != "recipe"}

    (workspace.root / "recipe.yaml").write_text("name: zoo\nentries: [{table: toads}]\n")
    run(workspace)
    assert [*lock_of(workspace)["tables"]] == [*lock_of(workspace)["contents"]] == ["toads"]
    assert [*lock_of(workspace)["datasets"]] == ["pets", "toads"]  # it may be pinned for another recipe


def test_a_dataset_resolved_to_something_else_takes_its_tables_along(tmp_path: Path) -> None:
    workspace = run(make(tmp_path / "w"))
    before, pinned = lock_of(workspace), workspace.locked("pets")
    workspace.lock("pets", {key: pinned[key] for key in ("asked", "from")})  # as at the start of a download
    assert lock_of(workspace)["tables"] == before["tables"]
    workspace.lock("pets", {**pinned, "slice": {"only": ("a*",), "of": 2}})
    workspace.lock("pets", {**pinned, "slice": {"only": ["a*"], "of": 2}})
    assert lock_of(workspace)["tables"] == lock_of(workspace)["contents"] == {}
    assert lock_of(workspace)["recipe"] == before["recipe"]


def test_lock_files_of_before_and_of_later(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w")
    path = workspace.root / LOCK_NAME
    path.write_text('{"datasets": {"pets": {"revision": "abc"}}}')
    assert workspace.locked("pets") == {"revision": "abc"}
    workspace.lock("toads", {"revision": "def"})
    assert lock_of(workspace) == {
        "version": 1,
        "datasets": {"pets": {"revision": "abc"}, "toads": {"revision": "def"}},
    }
    path.write_text('{"version": 2, "datasets": {}}')
    with pytest.raises(WorkspaceError) as caught:
        workspace.locked("pets")
    assert str(caught.value) == f"{path}: a lock file of version 2, and this prep knows 1\n  Use a newer prep."


def test_rows_are_read_once_and_again_when_they_are_others(tmp_path: Path) -> None:
    workspace = run(make(tmp_path / "w"))
    before = lock_of(workspace)["tables"]["pets"]
    note, dropped = workspace.known_rows, workspace.dropped("pets") / "shard-00000.parquet"
    assert json.loads(note.read_text())["pets"]["rows"] == before["rows"]
    whole = dropped.read_bytes()
    dropped.write_bytes(b"not looked at")
    assert describe(workspace, {}).data["tables"]["pets"] == before
    dropped.write_bytes(whole)
    for damage in ("", "{", "[]", '{"pets": 3}', '{"pets": {"of": "x", "rows": "y"}}'):
        note.write_text(damage)
        assert describe(workspace, {}).data["tables"]["pets"] == before
    edit(workspace.root / "recipe.yaml", "aes_cutoff: 5", "aes_cutoff: 6.2")
    assert lock_of(run(workspace))["tables"]["pets"]["rows"] != before["rows"]


# -- prep run --locked -------------------------------------------------------------------------------------------


def test_a_fresh_folder_is_made_as_the_lock_says_at_its_revision(tmp_path: Path, world: World) -> None:
    recipe = {"name": "x", "entries": [{"table": "coyo-700m"}]}
    first = make_workspace(tmp_path / "first", recipe, world)
    done = prep(first, "run", world=world)
    assert done.returncode == 0, done.stderr
    second = make_workspace(tmp_path / "second", recipe, world)
    shutil.copy(first / LOCK_NAME, second)
    world.requests.clear()
    done = prep(second, "run", "--locked", world=world)
    assert done.returncode == 0, done.stderr
    revision = json.loads((first / LOCK_NAME).read_text())["datasets"]["coyo-700m"]["revision"]
    asked = [path for _, path in world.requests if path.startswith("/api/")]
    assert asked and all(f"/tree/{revision}" in path for path in asked)
    assert (second / LOCK_NAME).read_bytes() == (first / LOCK_NAME).read_bytes()
    same = prep(second, "diff", first, second)
    assert (same.returncode, same.stdout) == (0, "No difference.\n")
    again = prep(second, "run", "--locked")
    assert again.returncode == 0 and again.stdout.startswith("Nothing to do"), again.stderr


def test_everything_configured_otherwise_is_named_before_anything_is_done(tmp_path: Path) -> None:
    workspace = run(make(tmp_path / "w"))
    edit(workspace.root / "recipe.yaml", "aes_cutoff: 5}", "aes_cutoff: 6, sampling: 'dup:2'}")
    edit(workspace.root / "recipe.yaml", "weights: {a: 2}", "weights: {a: 3}")
    edit(workspace.root / "datasets/pets.yaml", "caption: text", "caption: upper(text)")
    edit(workspace.root / LOCK_NAME, f'"normalize": {normalize.VERSION}', '"normalize": 1')
    edit(workspace.root / LOCK_NAME, '"from": "source (local)"', '"repo": "zoo/pets", "revision": "abc"')
    old = lock_of(workspace)["tables"]["pets"]["definition"]
    new = describe(Workspace(workspace.root), {}).data["tables"]["pets"]["definition"]
    before = snapshot(workspace.root / "filtered")
    error = refusal(workspace)
    assert error.message == (
        f"--locked: what is configured, or in raw/, differs from {workspace.root}/prep.lock (there -> here):\n"
        f"    made_with normalize: 1 -> {normalize.VERSION}\n"
        "    recipe weights.a: 2.0 -> 3.0\n"
        "    recipe entries.pets.sampling: - -> dup:2\n"
        f"    table pets definition: {old} -> {new}\n"
        "    table pets rules.aes_cutoff: 5.0 -> 6.0\n"
        "    dataset pets repo: zoo/pets -> -\n"
        "    dataset pets revision: abc -> -"
    )
    assert error.next_step == (
        "Nothing was done. Take the change back (of raw/: remove the dataset's folder); or `prep run` without "
        "--locked writes a new prep.lock."
    )
    assert snapshot(workspace.root / "filtered") == before


def test_tables_and_sources_that_only_one_has(tmp_path: Path) -> None:
    workspace = run(make(tmp_path / "w"))
    text = (workspace.root / "datasets/pets.yaml").read_text()
    (workspace.root / "datasets/toads.yaml").write_text(text.replace("pets:", "toads:").replace(": pets", ": toads"))
    (workspace.root / "recipe.yaml").write_text("name: zoo\nentries: [{table: toads}]\nweights: {a: 2}\n")
    assert refusal(workspace).message.splitlines()[1:] == [
        "    recipe entries.pets.table: pets -> -",
        "    recipe entries.toads.table: - -> toads",
        "    table pets: there -> -",
        "    table toads: - -> there",
        "    dataset toads: - -> there",
    ]


def test_another_source_and_other_files_are_named(tmp_path: Path) -> None:
    workspace = run(make(tmp_path / "w"))
    sha256 = lock_of(workspace)["contents"]["pets"]["sha256"]
    edit(workspace.root / LOCK_NAME, sha256, "0" * 64)
    (line,) = refusal(workspace).message.splitlines()[1:]
    assert line == f"    dataset pets sha256: {'0' * 64} -> {sha256}"

    source = '{kind: http, files: [{url: "https://pets.example/a.parquet"}]}'
    (workspace.root / "prep.yaml").write_text(f"workers: 1\nsources:\n  pets: {source}\n")
    shutil.rmtree(workspace.root / "raw")
    (line,) = refusal(workspace).message.splitlines()[1:]
    assert line.startswith("    dataset pets source: local -> http, files ") and len(line.split()[-1]) == 32


def test_a_result_that_differs_is_not_written_for_the_trainer(tmp_path: Path) -> None:
    """Elsewhere a part has as many bytes, and another score in them."""
    old = lock_of(run(make(tmp_path / "w")))
    workspace = make(tmp_path / "x", {"a": FIRST, "b": [("a carp", 5.5), ("a hare", 6.5)]})
    shutil.copy(tmp_path / "w/workspace" / LOCK_NAME, workspace.root)
    error = refusal(workspace)
    new = describe(Workspace(workspace.root), {}).data
    (old_rows, old_sha), (new_rows, new_sha) = (
        (one["tables"]["pets"]["rows"], one["contents"]["pets"]["sha256"]) for one in (old, new)
    )
    assert error.message == (
        f"--locked: the result differs from {workspace.root}/prep.lock (there -> here):\n"
        f"    dataset pets sha256: {old_sha} -> {new_sha}\n"
        "    table pets dropped.aes_cutoff: 1 -> -\n"
        "    table pets kept: 4 -> 5\n"
        f"    table pets rows: {old_rows} -> {new_rows}"
    )
    assert error.next_step.startswith("Nothing was written for the trainer.")


def test_a_source_that_gives_another_revision_is_refused_before_any_byte(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w")
    workspace.lock("pets", {"asked": "x", "from": "source (huggingface)", "revision": "abc", "parts": 9})
    workspace.is_held = True
    with pytest.raises(WorkspaceError) as caught:
        download(workspace, workspace.catalogue.dataset("pets"))
    assert caught.value.message == "pets: prep.lock has revision abc, and source (local) gives None"
    assert not (workspace.root / "raw").exists()


def test_without_enough_of_a_lock_nothing_is_begun(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w")
    path = workspace.root / LOCK_NAME
    with pytest.raises(WorkspaceError) as caught:
        hold(workspace)
    assert str(caught.value) == f"there is no {path}\n  `prep run` without --locked writes one."
    download(workspace, workspace.catalogue.dataset("pets"))
    with pytest.raises(WorkspaceError) as caught:
        hold(workspace)
    assert caught.value.message == f"{path} says which files were brought, and nothing of tables"


# -- prep diff ---------------------------------------------------------------------------------------------------


def test_what_differs_is_told_by_recipe_dataset_and_table() -> None:
    passport = {"scorer": "hpsv2", "weights": {"w.pt": "1"}, "dtype": "float32", "libraries": {"torch": "2"}}
    before = {
        "version": 1,
        "recipe": {"name": "x", "weights": {"a": 1.0}},
        "datasets": {
            "kept": {"asked": "1", "from": "source (http)", "revision": "r1"},
            "old": {"revision": "r"},
        },
        "contents": {"old": {"sha256": "1"}, "kept": {"images": {"ok": 5}}},
        "tables": {
            "t": {"columns": ["a"], "rules": {"min_size": 1}, "scores": {"hpsv2": {"passports": [passport]}}, "kept": 1}
        },
    }
    other = {**passport, "weights": {"w.pt": "2"}, "dtype": "float16", "libraries": {}}
    after = {
        "version": 1,
        "recipe": {"name": "x"},
        "datasets": {"kept": {"asked": "2", "from": "mirror 1 (s3)", "revision": "r2"}},
        "contents": {"kept": {"images": {"ok": 4, "http_404": 1}}},
        "tables": {
            "new": {"columns": []},
            "t": {"columns": ["a", "b"], "rules": {}, "scores": {"hpsv2": {"passports": [other]}}, "kept": 2_000},
        },
    }
    assert [str(one) for one in differences(before, after)] == [
        "recipe weights.a: 1.0 -> -",
        "dataset kept revision: r1 -> r2",
        "dataset kept images.ok: 5 -> 4",
        "dataset kept images.http_404: - -> 1",
        "dataset old: there -> -",
        "table new: - -> there",
        'table t columns: ["a"] -> ["a", "b"]',
        "table t rules.min_size: 1 -> -",
        "table t scores.hpsv2.passports.weights.w.pt: 1 -> 2",
        "table t kept: 1 -> 2,000",
    ]
    assert differences(before, before) == differences(after, after) == []


def test_a_value_is_shown_on_one_line() -> None:
    assert shown(None) == "-" and shown(True) == "true" and shown(1234) == "1,234"
    assert shown("a\x1b[2Jb\n") == '"a\\u001b[2Jb\\n"'
    assert len(shown(["column"] * 100)) == 100


def test_rows_that_another_rule_moves_are_told_by_their_keys(tmp_path: Path) -> None:
    parts = {"a": FIRST, "b": SECOND}
    one, two = pair(tmp_path, parts, parts, ("5", "6.2"))
    done = prep(tmp_path, "diff", one.root / LOCK_NAME, two.root)
    rows = [lock_of(each)["tables"]["pets"]["rows"] for each in (one, two)]
    assert done.returncode == 1 and done.stderr.count("Note") == 0
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["what", "name", "fact", "before", "after"],
        ["table", "pets", "dropped.aes_cutoff", "1", "3"],
        ["table", "pets", "kept", "4", "2"],
        ["table", "pets", "rows", *rows],
        ["table", "pets", "rules.aes_cutoff", "5.0", "6.2"],
        [],
        ["rows", "of", "pets"],
        ["2", "kept", "->", "aes_cutoff"],
        ["a.parquet#0"],
        ["a.parquet#1"],
    ]


def test_rows_of_a_part_that_changed_are_told_by_image_and_text(tmp_path: Path) -> None:
    """Its rows have moved up by one, and only what is in them tells which is which; another part is the same."""
    before: Rows = [("a fox", 9.0), ("twin", 6.0), ("twin", 6.0), ("twin", 1.0), ("a bee", 6.0), ("a gnu", 1.0)]
    after: Rows = [*before[1:4], ("a bee", 2.0), ("a gnu", 8.0), ("an elk", 8.0), ("an ox", None)]
    one, two = pair(tmp_path, {"a": FIRST, "z": before}, {"a": FIRST, "z": after}, ("5", "5.5"))
    assert find_moves(one, two, "pets") == [
        Move("pets", "kept", "aes_cutoff", 2, ("a.parquet#1", "z.parquet#4")),
        Move("pets", None, "kept", 1, ("z.parquet#5",)),
        Move("pets", None, "no_score", 1, ("z.parquet#6",)),
        Move("pets", "aes_cutoff", "kept", 1, ("z.parquet#5",)),
        Move("pets", "kept", None, 1, ("z.parquet#0",)),
    ]


def test_a_part_that_only_one_has_is_new_or_gone(tmp_path: Path) -> None:
    one, two = pair(tmp_path, {"a": FIRST, "b": SECOND}, {"a": FIRST}, ("5", "5"))
    gone = [("kept", 1, ("b.parquet#1",)), ("aes_cutoff", 1, ("b.parquet#0",))]
    assert find_moves(one, two, "pets") == [Move("pets", state, None, rows, keys) for state, rows, keys in gone[::-1]]
    assert find_moves(two, one, "pets") == [Move("pets", None, state, rows, keys) for state, rows, keys in gone[::-1]]


def test_no_workspaces_no_rows(tmp_path: Path) -> None:
    one, two = pair(tmp_path, {"a": FIRST}, {"a": FIRST}, ("5", "6.2"))
    for name, workspace in (("one", one), ("two", two)):
        shutil.copy(workspace.root / LOCK_NAME, tmp_path / f"{name}.lock")
    locks = tmp_path / "one.lock", tmp_path / "two.lock"
    expected = Move("pets", "kept", "aes_cutoff", 2, ("a.parquet#0",))
    assert compare(*locks, (None, None), None, 5).notes == (
        f"which rows of pets moved is not told: the workspace of {locks[0]} is not named (--a, --b)",
    )
    assert compare(*locks, (one.root, two.root), None, 1).moves == (expected,)
    assert compare(locks[0], None, (one.root, None), two, 1).moves == (expected,)
    assert compare(*locks, (two.root, two.root), None, 5).notes == (
        f"which rows of pets moved is not told: the files in {two.root} are not those that {locks[0]} describes",
    )
    assert compare(locks[0], None, (None, None), one, 5).differences == ()
    for path, folder, message in (
        (tmp_path / "no.lock", None, f"there is no {tmp_path}/no.lock"),
        (locks[0], tmp_path, f"{tmp_path} is no workspace (no prep.yaml)"),
    ):
        with pytest.raises(WorkspaceError) as caught:
            compare(path, None, (folder, None), one, 5)
        assert caught.value.message == message


def test_check_compares_with_what_is_there_and_writes_nothing(tmp_path: Path) -> None:
    workspace = run(make(tmp_path / "w"))
    assert check_lock(workspace).as_json() == {"differences": [], "moves": [], "notes": []}
    edit(workspace.root / LOCK_NAME, '"kept": 4', '"kept": 5')
    before = snapshot(workspace.root)
    assert check_lock(workspace).differences == (Difference("table", "pets", "kept", 5, 4),)
    done = prep(workspace.root, "lock", "--check", "--json")
    assert done.returncode == 1 and json.loads(done.stdout) == {
        "differences": [{"what": "table", "name": "pets", "key": "kept", "before": 5, "after": 4}],
        "moves": [],
        "notes": [],
    }
    assert snapshot(workspace.root) == before
    edit(workspace.root / "recipe.yaml", "aes_cutoff: 5", "aes_cutoff: 6")
    found = check_lock(Workspace(workspace.root))
    assert found.differences == (Difference("table", "pets", "", "there", None),)
    assert found.notes == ("table pets is not up to date: filter has work to do",)
    done = prep(workspace.root, "lock")
    assert (done.returncode, done.stdout) == (0, f"{workspace.root}/prep.lock is up to date\n")
    assert done.stderr.startswith("Note: table pets: what it said before stays (filter has work to do)")


def test_a_key_cannot_steer_the_terminal(tmp_path: Path) -> None:
    parts = {"a\x1b[2J": FIRST}
    one, two = pair(tmp_path, parts, parts, ("5", "6.2"))
    done = prep(tmp_path, "diff", one.root, two.root)
    assert done.returncode == 1 and "\x1b" not in done.stdout and "a\ufffd[2J.parquet#0" in done.stdout


# -- against a plain statement of it -----------------------------------------------------------------------------

states = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["kept", "min_size", "where"])), max_size=8)


def judged(folder: Path, part: str, rows: list[tuple[str, str]]) -> Judged:
    """Files as filter writes them: captions, and what became of each."""
    files = []
    captions = {
        "row": pa.array(range(len(rows)), pa.int64()),
        "caption": pa.array([row[0] for row in rows], pa.string()),
    }
    captions["image_key"] = pa.nulls(len(rows), pa.string())
    samples = folder / f"samples-{len(list(folder.iterdir()))}.parquet"
    pq.write_table(pa.table(captions), samples)
    for name, numbers in (
        ("kept", [n for n, row in enumerate(rows) if row[1] == "kept"]),
        ("dropped", [n for n, row in enumerate(rows) if row[1] != "kept"]),
    ):
        columns: dict[str, Any] = {
            "key": pa.array([f"{part}#{n}" for n in numbers], pa.string()),
            "row": pa.array(numbers, pa.int64()),
            "image_key": pa.array([None for _ in numbers], pa.string()),
            "caption": pa.array([rows[n][0] for n in numbers], pa.string()),
        }
        if name == "dropped":
            del columns["caption"], columns["image_key"]  # they are the samples'
            columns["reason"] = pa.array([rows[n][1] for n in numbers], pa.string())
        path = folder / f"{name}-{len(list(folder.iterdir()))}.parquet"
        pq.write_table(pa.table(columns), path)
        files.append(path)
    return Judged(part, samples, (files[0],), files[1])


@settings(max_examples=30)
@given(before=states, after=states)
def test_moves_are_those_of_a_plain_comparison(
    before: list[tuple[str, str]], after: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("moves")
    ours, theirs = judged(folder, "p", before), judged(folder, "p", after)

    def at(rows: list[tuple[str, str]], number: int) -> str | None:
        return rows[number][1] if number < len(rows) else None

    ways = [(at(before, n), at(after, n)) for n in range(max(len(before), len(after)))]
    _, found = moves._same_part(moves._Pair(ours, theirs, 3))
    assert {(m.before, m.after): (m.rows, m.keys) for m in found} == {
        way: (ways.count(way), tuple(f"p#{n}" for n, w in enumerate(ways) if w == way)[:3])
        for way in ways
        if way[0] != way[1]
    }

    expected: Counter[tuple[str | None, str | None]] = Counter()
    for caption in "abc":  # of rows that are alike those are the same that became the same; the rest goes in its order
        ours_alike, theirs_alike = (
            Counter(state for text, state in rows if text == caption) for rows in (before, after)
        )
        one, other = (sorted(rest.elements()) for rest in (ours_alike - theirs_alike, theirs_alike - ours_alike))
        for n in range(max(len(one), len(other))):
            way = (one[n] if n < len(one) else None, other[n] if n < len(other) else None)
            expected[way] += way[0] != way[1]
    others = moves._other_parts([ours], [theirs], KINDS["text-to-image"], 3)
    assert {(m.before, m.after): m.rows for m in others} == +expected
