"""`prep run --locked` refuses what has changed before anything is done, and makes the same again after other ways."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lock_worlds import FIRST, Rows, edit, lock_of, make, refusal, run, write_part
from prep.cli.lock_report import check_lock, lock_workspace
from prep.engine import Share
from prep.errors import WorkspaceError
from prep.lock.contents import describe_source
from prep.lock.held import hold
from prep.publishers import World
from prep.stages.download import download
from prep.stages.filter import filter_table
from prep.stages.images import images
from prep.stages.normalize import normalize
from prep.workspace import LOCK_NAME, Workspace
from s3_server import S3Server
from test_ranks import by_ranks
from worlds import make_workspace, snapshot

OTHERS: Rows = [("a carp", 5.5), ("a hare", 6.5)]


def refused(workspace: Workspace) -> list[str]:
    """What `prep run --locked` names; nothing is touched by it."""
    before = without_training(workspace.root)
    lines = refusal(Workspace(workspace.root)).message.splitlines()
    assert without_training(workspace.root) == before
    return [line.strip() for line in lines[1:]]


def without_training(root: Path) -> dict[str, str]:
    return {path: digest for path, digest in snapshot(root).items() if not path.startswith("training/")}


# -- files of this machine -----------------------------------------------------------------------------------------


def test_a_local_file_that_changed_is_named_before_anything_is_made_of_it(tmp_path: Path) -> None:
    workspace = run(make(tmp_path / "w"))
    part = workspace.raw("pets") / "b.parquet"
    before = part.stat().st_size
    write_part(tmp_path / "w/pets", "b", [*OTHERS, ("a wolf", 1.0)])
    after = part.stat().st_size
    assert refused(workspace) == [f"dataset pets b.parquet size_bytes: {before:,} -> {after:,}"]
    found = [str(one) for one in check_lock(Workspace(workspace.root)).differences]
    assert f"dataset pets b.parquet size_bytes: {before:,} -> {after:,}" in found


def test_a_local_file_of_the_same_size_is_hashed_where_it_was_touched(tmp_path: Path) -> None:
    workspace = run(make(tmp_path / "w"))
    part = tmp_path / "w/pets/b.parquet"
    whole = part.read_bytes()
    os.utime(part, ns=(1, 1))
    run(workspace, is_locked=True)
    part.write_bytes(whole[:-100] + bytes(1) + whole[-99:])
    (line,) = refused(workspace)
    assert line.startswith("dataset pets b.parquet sha256: ") and line.endswith(" -> other bytes")


def test_local_files_that_are_gone_or_new_are_named(tmp_path: Path) -> None:
    workspace = run(make(tmp_path / "w"))
    (tmp_path / "w/pets/b.parquet").unlink()
    write_part(tmp_path / "w/pets", "c", OTHERS)
    assert refused(workspace) == ["dataset pets b.parquet: there -> -", "dataset pets c.parquet: - -> there"]


def test_elsewhere_the_number_of_files_and_their_bytes_are_compared(tmp_path: Path) -> None:
    lock = lock_of(run(make(tmp_path / "w")))["datasets"]["pets"]
    workspace = make(tmp_path / "x", {"a": FIRST})
    shutil.copy(tmp_path / "w/workspace" / LOCK_NAME, workspace.root)
    here = (tmp_path / "x/pets/a.parquet").stat().st_size
    assert refused(workspace) == [
        "dataset pets parts: 2 -> 1",
        f"dataset pets size_bytes: {lock['size_bytes']:,} -> {here}",
    ]


def test_a_changed_list_of_files_is_named_by_what_it_takes(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w")
    listed = tmp_path / "w/pets/list.txt"
    listed.write_text("a.parquet\nb.parquet\n")
    edit(workspace.root / "datasets/pets.yaml", "pets}", f"pets, files_from: {listed}}}")
    workspace = run(workspace)
    listed.write_text("# in another order\nb.parquet\na.parquet\n")
    run(workspace, is_locked=True)
    listed.write_text("a.parquet\n")
    assert refused(workspace) == ["dataset pets b.parquet: there -> -"]


def test_files_put_there_by_hand(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w")
    text = (workspace.root / "datasets/pets.yaml").read_text()
    place = f"{{kind: local, path: {tmp_path / 'w/pets'}}}"
    (workspace.root / "datasets/pets.yaml").write_text(text.replace(place, "{kind: manual, instructions: ask}"))
    shutil.copytree(tmp_path / "w/pets", workspace.root / "raw/pets")
    workspace = run(workspace)
    run(workspace, is_locked=True)
    part = workspace.raw("pets") / "b.parquet"
    before = part.stat().st_size
    write_part(part.parent, "b", [*OTHERS, ("a wolf", 1.0)])
    assert refused(workspace) == [f"dataset pets b.parquet size_bytes: {before:,} -> {part.stat().st_size:,}"]


def test_an_object_that_is_read_in_place_is_asked_about_before_anything_is_made_of_it(
    tmp_path: Path, s3: S3Server
) -> None:
    workspace = make(tmp_path / "w")
    text = (workspace.root / "datasets/pets.yaml").read_text()
    place = f"{{kind: local, path: {tmp_path / 'w/pets'}}}"
    there = f"{{kind: s3, path: s3://{s3.bucket}/locked/, endpoint: {s3.endpoint}, in_place: true}}"
    (workspace.root / "datasets/pets.yaml").write_text(text.replace(place, there))
    for name in ("a", "b"):
        s3.put(f"locked/{name}.parquet", (tmp_path / f"w/pets/{name}.parquet").read_bytes())
    workspace = run(workspace)
    run(workspace, is_locked=True)
    write_part(tmp_path / "w/pets", "b", OTHERS)
    s3.put("locked/b.parquet", (tmp_path / "w/pets/b.parquet").read_bytes())
    (line,) = refused(workspace)
    assert line.startswith("dataset pets b.parquet sha256: ")
    shutil.rmtree(workspace.root / "raw")
    (line,) = refused(workspace)
    assert line.startswith("dataset pets sha256: ")
    assert check_lock(Workspace(workspace.root)).notes  # which does not ask S3


# -- sources, stores and locks that say less ----------------------------------------------------------------------


def test_a_source_that_differs_is_told_by_what_is_asked_of_it(tmp_path: Path) -> None:
    workspace = run(make(tmp_path / "w"))
    there = {"kind": "huggingface", "repo": "zoo/pets", "include": ["*.parquet"]}
    here = "{kind: huggingface, repo: zoo/pets, include: ['a*', 'b*']}"
    (workspace.root / "prep.yaml").write_text(f"workers: 1\nsources:\n  pets: {here}\n")
    source = Workspace(workspace.root).source(workspace.catalogue.dataset("pets"))
    assert describe_source(source) == {**there, "include": ["a*", "b*"]}
    lock = lock_of(workspace)
    for said, line in (
        ({"source": there}, 'dataset pets source.include: ["*.parquet"] -> ["a*", "b*"]'),
        ({"source": describe_source(source), "asked": "x"}, None),
        (
            {"from": "source (huggingface)", "repo": "zoo/newts"},  # as older ones have it
            "dataset pets source: source (huggingface), repo zoo/newts -> huggingface, repo zoo/pets, include a* b*",
        ),
    ):
        pinned = {key: lock["datasets"]["pets"][key] for key in ("parts", "size_bytes")}
        lock["datasets"]["pets"] = {"asked": "another", **pinned, **said}
        workspace.write_lock(lock)
        found = [str(one) for one in check_lock(Workspace(workspace.root)).differences if one.key.startswith("source")]
        assert len(found) == 1 and (line is None or found == [line])
        assert found[0] in refused(workspace)
    assert "asked another" not in found[0]


def test_another_place_for_images_is_refused(stored: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(stored, tmp_path / "w"))
    (root / "prep.yaml").write_text((root / "prep.yaml").read_text() + "images: elsewhere\n")
    line = "dataset blip3o-60k images: images -> elsewhere"
    assert refused(Workspace(root)) == [line]
    assert line in [str(one) for one in check_lock(Workspace(root)).differences]


def test_images_encoded_otherwise_are_refused_even_where_the_lock_says_nothing_of_images(
    stored: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(stored, tmp_path / "w"))
    (root / "rules.yaml").write_text("images: {all: {max_side: 300}}\n")
    assert refused(Workspace(root)) == ["dataset blip3o-60k encode.max_side: - -> 300"]


@pytest.mark.parametrize("is_whole_section", [True, False])
def test_a_lock_that_says_nothing_of_the_bytes_is_refused(tmp_path: Path, is_whole_section: bool) -> None:
    workspace = run(make(tmp_path / "w"))
    lock = lock_of(workspace)
    sha256 = lock["contents"]["pets"]["sha256"]
    del (lock if is_whole_section else lock["contents"])["contents" if is_whole_section else "pets"]
    workspace.write_lock(lock)
    assert refused(workspace) == ["dataset pets sha256: - -> needed"]
    assert [str(one) for one in check_lock(workspace).differences] == [f"dataset pets sha256: - -> {sha256}"]


def test_parts_that_are_removed_to_save_room_stay_in_the_lock(tmp_path: Path, stored: Path) -> None:
    root = Path(shutil.copytree(stored, tmp_path / "w"))
    before = (root / LOCK_NAME).read_bytes()
    shutil.rmtree(root / "raw")
    assert not lock_workspace(Workspace(root)).is_new
    assert (root / LOCK_NAME).read_bytes() == before


def test_entries_in_another_order_are_refused(tmp_path: Path) -> None:
    entries = [{"table": "pets", "name": name} for name in "abcd"]
    workspace = run(make(tmp_path / "w", recipe=yaml.safe_dump({"name": "zoo", "entries": entries})))
    entries[1:3] = entries[2:0:-1]
    (workspace.root / "recipe.yaml").write_text(yaml.safe_dump({"name": "zoo", "entries": entries}))
    assert refused(workspace) == ['recipe order: ["b", "c"] -> ["c", "b"]']
    lock = lock_of(workspace)
    del lock["recipe"]["order"]  # as older ones
    workspace.write_lock(lock)
    run(workspace, is_locked=True)


def test_a_name_cannot_steer_the_terminal(tmp_path: Path) -> None:
    workspace = run(make(tmp_path / "w"))
    lock = lock_of(workspace)
    lock["recipe"]["weights"] = {"a": 2.0, "z\x1b[31m\u202e": 1.0}
    workspace.write_lock(lock)
    with pytest.raises(WorkspaceError) as caught:
        hold(workspace)
    assert caught.value.message.splitlines()[1:] == ["    recipe weights.z\ufffd[31m\ufffd: 1.0 -> -"]


# -- made in other ways --------------------------------------------------------------------------------------------


def test_duplicates_are_part_of_what_is_held(tmp_path: Path) -> None:
    parts: dict[str, Rows] = {"a": [*FIRST, ("an owl", 8.0)], "b": FIRST[:2]}
    dedup = "dedup: {by: [caption]}\n"

    def asked(name: str, rules: str) -> Workspace:
        workspace = make(tmp_path / name, parts)
        (workspace.root / "rules.yaml").write_text(rules)
        return workspace

    first = run(asked("one", dedup))
    facts = lock_of(first)["tables"]["pets"]
    assert facts["dropped"]["duplicate_caption"] == 3 and facts["dedup"]["by"] == ["caption"]
    second = asked("two", dedup)
    shutil.copy(first.root / LOCK_NAME, second.root)
    run(second, is_locked=True)
    assert lock_of(second) == lock_of(first)
    (second.root / "rules.yaml").write_text("dedup: {by: [caption], keep: first}\n")
    assert refused(second) == ["table pets dedup.keep: score -> first"]
    (second.root / "rules.yaml").unlink()
    assert 'table pets dedup.by: ["caption"] -> -' in refused(second)


def test_what_ranks_have_made_is_what_the_lock_says(stored: Path, tmp_path: Path, hub: World) -> None:
    recipe: dict[str, Any] = yaml.safe_load((stored / "recipe.yaml").read_text())
    root = make_workspace(tmp_path / "w", recipe, hub)
    shutil.copy(stored / LOCK_NAME, root)
    workspace, ranks = Workspace(root), [Share(rank, 2) for rank in range(2)]
    dataset = workspace.catalogue.dataset("blip3o-60k")
    by_ranks(lambda: download(workspace, dataset), ranks)
    by_ranks(lambda: images(workspace, dataset), ranks)
    by_ranks(lambda: normalize(workspace, "blip3o-60k"), ranks)
    by_ranks(lambda: filter_table(workspace, "blip3o-60k"), ranks)
    run(workspace, is_locked=True)
    assert (root / LOCK_NAME).read_bytes() == (stored / LOCK_NAME).read_bytes()
    assert check_lock(Workspace(root), verify=True).as_json() == {"differences": [], "moves": [], "notes": []}
    (root / LOCK_NAME).unlink()
    assert lock_workspace(Workspace(root)).data["tables"] == lock_of(Workspace(stored))["tables"]
