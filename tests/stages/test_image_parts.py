"""Images out of parts: broken ones, cut ones, embedded ones, adopted folders, and parts that go when they are done."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sets import index, make, picture, run, statuses

from prep import line
from prep.config import Encode
from prep.errors import ConfigError, Failures, PrepError, SourceError, UsageError, WorkspaceError
from prep.images import archives
from prep.images.store import DiskStore
from prep.manifest import read_manifest
from prep.sources.slices import Slice
from prep.stages.download import download
from prep.stages.filter import filter_table
from prep.stages.normalize import normalize
from prep.stages.shards import Outcome
from prep.workspace import Workspace

SHARDS: dict[str, Any] = {
    "images": {"kind": "archive", "parts": "*.tar", "key": "part-member"},
    "tables": {
        "pics": {
            "kind": "text-to-image",
            "records": {"format": "webdataset", "parts": "*.tar"},
            "image": "_stem || '/' || key",
            "select": {"caption": "txt"},
        }
    },
}
ARCHIVES: dict[str, Any] = {"images": {"kind": "archive", "parts": "*.t*", "key": "member"}, "tables": {}}


def tar(members: Mapping[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return target.getvalue()


def shard(number: int) -> bytes:
    """A WebDataset shard of two records."""
    names = [f"{number}{n}" for n in range(2)]
    return tar({f"{name}.{end}": data for name in names for end, data in (("jpg", picture()), ("txt", name.encode()))})


def workspace_with(root: Path, dataset: Mapping[str, Any], parts: Mapping[str, bytes], **config: Any) -> Workspace:
    (root / "parts").mkdir(parents=True)
    for name, data in parts.items():
        (root / "parts" / name).write_bytes(data)
    if not dataset["tables"]:
        dataset = {**dataset, "tables": {"pics": {**SHARDS["tables"]["pics"], "image": "key"}}}
    workspace = make(root, dataset, **config)
    bring(workspace)
    return workspace


def bring(workspace: Workspace, **options: Any) -> Outcome:
    return download(workspace, workspace.catalogue.dataset("pics"), **options)


def raw(workspace: Workspace) -> list[str]:
    return sorted(path.name for path in workspace.raw("pics").iterdir() if path.suffix == ".tar")


# -- what is broken --------------------------------------------------------------------------------------------


def test_a_broken_archive_gives_what_can_be_saved_and_says_what_is_missing(tmp_path: Path) -> None:
    data = bytearray(tar({f"{n}.jpg": picture(n) for n in range(5)}))
    at = data.index(b"2.jpg")
    data[at : at + 512] = bytes(range(256)) * 2
    workspace = workspace_with(tmp_path, ARCHIVES, {"sa_000014.tar": bytes(data)})
    outcome = run(workspace)
    assert outcome.note == "archives cannot be read in 1 places; the index says where (status `lost`)"
    assert outcome.manifest is not None and outcome.manifest.counts == {"lost": 1, "ok": 4}
    (gap,) = [row for row in index(workspace) if row["status"] == "lost"]
    assert gap["source"].startswith("sa_000014.tar: bytes ") and gap["image_key"].startswith("sa_000014: bytes ")
    assert [row["source"] for row in index(workspace) if row["status"] == "ok"] == ["0.jpg", "1.jpg", "3.jpg", "4.jpg"]


def test_what_is_no_archive_at_all_is_an_error(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path, ARCHIVES, {"a.tar": b"<!doctype html>"})
    with pytest.raises(PrepError, match=r"a\.tar cannot be read as an archive"):
        run(workspace)


# -- what is cut -----------------------------------------------------------------------------------------------


def test_a_stream_cut_into_parts_is_one_archive(tmp_path: Path) -> None:
    stream = gzip.compress(tar({f"hq/{n}.jpg": picture(n) for n in range(40)}), mtime=0)
    cuts = [0, 700, 1500, len(stream)]
    parts = {f"hq.tar.gz.part{n + 1:03}": stream[cuts[n] : cuts[n + 1]] for n in range(3)}
    dataset = {**ARCHIVES, "images": {"kind": "archive", "parts": "*.part*"}}
    workspace = workspace_with(tmp_path, dataset, parts)
    outcome = run(workspace)
    assert (outcome.made, outcome.total) == (1, 1)
    assert statuses(workspace, "path") == {f"{n}.jpg": "ok" for n in range(40)}
    assert index(workspace)[0]["path"] == "hq/hq/0.jpg"


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    dataset = {**ARCHIVES, "images": {"kind": "archive", "parts": "*.part*"}}
    workspace = workspace_with(tmp_path, dataset, {f"a.tar.gz.part{n:03}": b"x" for n in (1, 3)})
    with pytest.raises(PrepError, match="part002"):
        run(workspace)


def test_large_archives_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "SHARE_BYTES", 8_192)
    members = {f"{n:02}.jpg": picture(n) for n in range(30)}
    workspace = workspace_with(tmp_path, ARCHIVES, {"a.tar": tar(members)})
    outcome = run(workspace)
    assert outcome.total > 3
    assert [row["source"] for row in index(workspace)] == list(members)
    names = [path.name for path in sorted(workspace.index("pics").glob("*.parquet"))]
    assert names == [f"shard-00000-{n:03}.parquet" for n in range(outcome.total)]
    assert run(workspace).state == "up to date"


# -- what is embedded ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("name", {"cat": "rows/cat.jpg", "dog/1": "rows/dog/1.png"}),
        (None, {"rows/0": "rows/0.jpg", "rows/1": "rows/1.png"}),
    ],
)
def test_images_inside_parquet(key: str | None, expected: dict[str, str], tmp_path: Path) -> None:
    images = [{"bytes": picture(1), "path": "x.jpg"}, {"bytes": picture(2, format_="PNG"), "path": None}]
    (tmp_path / "parts").mkdir()
    pq.write_table(pa.table({"name": ["cat", "dog/1"], "image": images}), tmp_path / "parts/rows.parquet")
    kind = {"kind": "parquet", "parts": "*.parquet", "key": key}
    image = "name" if key else "_stem || '/' || _row"
    table = {**SHARDS["tables"]["pics"], "image": image, "records": {"format": "parquet", "parts": "*.parquet"}}
    table["select"] = {"caption": "name"}
    workspace = make(tmp_path, {"images": kind, "tables": {"pics": table}})
    bring(workspace)
    run(workspace)
    assert {row["image_key"]: row["path"] for row in index(workspace)} == expected
    normalize(workspace, "pics")
    outcome = filter_table(workspace, "pics")
    assert outcome.manifest is not None and outcome.manifest.rows == 2


# -- what is there already -------------------------------------------------------------------------------------


def test_an_adopted_folder_is_indexed_where_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "my pictures"
    (folder / "train").mkdir(parents=True)
    (folder / "train/1.jpg").write_bytes(picture(1))
    (folder / "train/2.png").write_bytes(picture(2, (100, 40), "PNG"))
    (folder / "train/notes.txt").write_text("not a picture")
    workspace = workspace_with(tmp_path, ARCHIVES, {"a.tar": shard(0)}, image_folders={"pics": str(folder)})
    assert raw(workspace) == ["a.tar"]  # its records are read
    run(workspace)
    assert [(row["image_key"], row["path"]) for row in index(workspace)] == [
        ("train/1.jpg", str(folder / "train/1.jpg")),
        ("train/2.png", str(folder / "train/2.png")),
    ]
    assert not (workspace.root / "images").exists()
    assert run(workspace).state == "up to date"
    assert run(workspace, verify=True).note == "2 decoded"
    (folder / "train/2.png").write_bytes(picture(3, (100, 41), "PNG"))
    run(workspace)
    assert index(workspace)[1]["height"] == 41


def test_what_an_adopted_folder_needs_encoded_is_stored_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(picture(1))
    (folder / "2.jpg").write_bytes(picture(2, format_="GIF"))
    dataset = {**ARCHIVES, "images": {**ARCHIVES["images"], "encode": {"format": "jpeg"}}}
    workspace = workspace_with(tmp_path, dataset, {"a.tar": shard(0)}, image_folders={"pics": str(folder)})
    run(workspace)
    assert [row["path"] for row in index(workspace)] == [str(folder / "1.jpg"), "2.jpg"]
    assert {row["format"] for row in index(workspace)} == {"JPEG"}
    assert (folder / "2.jpg").read_bytes()[:3] == b"GIF"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path, ARCHIVES, {"a.tar": shard(0)}, image_folders={"pics": "nowhere"})
    with pytest.raises(WorkspaceError, match="which is no folder"):
        run(workspace)


def test_only_archives_can_be_in_a_folder(tmp_path: Path) -> None:
    table = {"kind": "text-to-image", "records": {"format": "parquet", "parts": "*"}, "select": {"caption": "c"}}
    workspace = make(tmp_path, {"images": {"kind": "url"}, "tables": {"pics": table}}, image_folders={"pics": "x"})
    with pytest.raises(ConfigError, match="are in no archives"):
        run(workspace)
    workspace = workspace_with(tmp_path / "b", ARCHIVES, {"a.tar": shard(0)})
    with pytest.raises(UsageError, match="--retry"):
        run(workspace, retry=("dns",))


# -- what goes when it is done ---------------------------------------------------------------------------------


def test_parts_go_when_their_images_are_stored_and_their_records_read(tmp_path: Path) -> None:
    parts = {f"{n}.tar": shard(n) for n in range(3)}
    workspace = workspace_with(tmp_path, SHARDS, parts)
    outcome = run(workspace, delete_parts=True)
    assert outcome.note == ("3 parts kept: records not normalized yet (`prep normalize pics`, then the same command)")
    assert raw(workspace) == sorted(parts)
    normalize(workspace, "pics")
    outcome = run(workspace, delete_parts=True)
    assert outcome.state == "up to date" and outcome.note == "30.7 kB of parts deleted"
    assert raw(workspace) == []
    manifest = read_manifest(workspace.raw("pics"))
    assert manifest is not None and [part.freed_shares for part in manifest.shards] == [1, 1, 1]

    # Nothing misses them.
    assert bring(workspace).state == "up to date"
    assert bring(workspace, verify=True).state == "up to date"
    assert run(workspace).state == "up to date"
    assert normalize(workspace, "pics").state == "up to date"
    assert run(workspace, verify=True).note == "6 decoded"
    with pytest.raises(SourceError, match=r"0\.tar, 1\.tar, 2\.tar would have to be read again; --delete-parts"):
        run(workspace, force=True)
    with pytest.raises(SourceError, match="would have to be read again"):
        normalize(workspace, "pics", force=True)
    bring(workspace, force=True)
    assert raw(workspace) == sorted(parts)
    run(workspace, force=True)


def test_a_dataset_passes_through_in_slices(tmp_path: Path) -> None:
    """Disk for a few parts is enough: bring some, store their images, let them go, bring the next."""
    parts = {f"{n}.tar": shard(n) for n in range(4)}
    workspace = workspace_with(tmp_path, SHARDS, {**parts})
    whole = make_copy(workspace, tmp_path / "whole", parts)
    bring(whole)
    run(whole)
    normalize(whole, "pics")
    for path in workspace.raw("pics").iterdir():
        path.unlink()
    for choice in (Slice("2-3"), Slice(limit=1), Slice()):
        bring(workspace, choice=choice)
        assert len(raw(workspace)) <= 2
        run(workspace)
        normalize(workspace, "pics")
        run(workspace, delete_parts=True)
        assert raw(workspace) == []
    assert index(workspace) == index(whole)
    names = [path.name for path in sorted(workspace.normalized("pics").glob("*.parquet"))]
    assert names == [f"shard-{n:05}.parquet" for n in range(4)]


def make_copy(workspace: Workspace, root: Path, parts: Mapping[str, bytes]) -> Workspace:
    return workspace_with(root, SHARDS, parts)


def test_a_persons_own_files_stay(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path, SHARDS, {"0.tar": shard(0)})
    path = workspace.root / "datasets/pics.yaml"
    path.write_text(path.read_text().replace("copy: true", "copy: false"))
    workspace = Workspace(workspace.root)
    bring(workspace)
    normalize(workspace, "pics")
    outcome = run(workspace, delete_parts=True)
    assert outcome.note == "1 part kept: a file of yours, which prep did not bring"
    assert raw(workspace) == ["0.tar"] and (workspace.root / "parts/0.tar").is_file()


def test_run_takes_a_dataset_through_a_disk_that_cannot_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {f"{n}.tar": shard(n) for n in range(5)}
    (tmp_path / "parts").mkdir()
    for name, data in parts.items():
        (tmp_path / "parts" / name).write_bytes(data)
    workspace = make(tmp_path, SHARDS)
    monkeypatch.setattr(line, "ARCHIVES_AT_ONCE", 2)
    most = 0
    failures = Failures()
    told = []
    for outcome in line.run_line(workspace, failures, delete_parts=True):
        most = max(most, len(raw(workspace)))
        told.append((outcome.stage, outcome.state))
    failures.raise_all()
    assert most == 2 and raw(workspace) == []
    assert told[:4] == [("download", "done"), ("images", "done"), ("normalize", "done"), ("images", "up to date")]
    assert statuses(workspace, "image_key") == {f"{n}{m}": "ok" for n in range(5) for m in range(2)}
    assert all(o.state == "up to date" for o in line.run_line(workspace, failures, delete_parts=True))
    assert all(o.state == "up to date" for o in line.run_line(workspace, failures))


# -- what must not be believed, or lost ------------------------------------------------------------------------


def stored_rightly(workspace: Workspace) -> bool:
    """Whether every good row's file is there with its bytes."""
    good = [row for row in index(workspace) if row["status"] == "ok"]
    files = [Path(workspace.image_root, "pics", row["path"]) for row in good]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files] == [row["sha256"] for row in good]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("a.jpg", "JPEG"), ("./a.jpg", "JPEG")], {"a.jpg": "ok"}),
        ([("a.jpg", "PNG"), ("a.jpg.png", "PNG")], {"a.jpg": "unsafe_name", "a.jpg.png": "ok"}),
        ([("a/b.jpg", "JPEG"), ("a//b.jpg", "JPEG")], {"a/b.jpg": "ok"}),
    ],
    ids=["dot", "lying extension", "slashes"],
)
def test_two_images_never_share_a_path(
    members: list[tuple[str, str]], expected: dict[str, str], tmp_path: Path
) -> None:
    data = {name: picture(number, format_=kind) for number, (name, kind) in enumerate(members)}
    workspace = workspace_with(tmp_path, ARCHIVES, {"a.tar": tar(data)})
    run(workspace)
    assert {row["image_key"]: row["status"] for row in index(workspace)} == expected
    assert stored_rightly(workspace)


def test_rows_of_parquet_with_one_key_do_not_mix(tmp_path: Path) -> None:
    images = [picture(1), picture(2), picture(3)]
    (tmp_path / "parts").mkdir()
    pq.write_table(pa.table({"name": ["cat", "cat", "cat.jpg"], "image": images}), tmp_path / "parts/rows.parquet")
    table = {**SHARDS["tables"]["pics"], "records": {"format": "parquet", "parts": "*"}, "image": "name"}
    kind = {"kind": "parquet", "parts": "*", "key": "name"}
    workspace = make(tmp_path, {"images": kind, "tables": {"pics": {**table, "select": {"caption": "name"}}}})
    bring(workspace)
    run(workspace)
    assert [(row["image_key"], row["status"]) for row in index(workspace)] == [
        ("cat", "unsafe_name"),
        ("cat.jpg", "ok"),
    ]
    assert stored_rightly(workspace)


def test_archives_may_not_lie_in_each_others_folders(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path, {**ARCHIVES, "images": {"kind": "archive", "parts": "*"}}, {"a.tar": shard(1)})
    (tmp_path / "parts/a").mkdir()
    (tmp_path / "parts/a/b.tar").write_bytes(shard(0))
    bring(workspace)
    with pytest.raises(ConfigError, match="'a/b'"):
        run(workspace)


def test_one_key_for_different_images_is_told(tmp_path: Path) -> None:
    dataset = {**ARCHIVES, "images": {"kind": "archive", "parts": "*.tar", "key": "member"}}
    parts = {f"{n}.tar": tar({"0.jpg": picture(n), "same.jpg": picture(9)}) for n in range(2)}
    workspace = workspace_with(tmp_path, dataset, parts)
    assert run(workspace).note.startswith("1 image keys stand for several different images")


def test_a_broken_off_change_of_encoding_is_no_finished_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = workspace_with(tmp_path, ARCHIVES, {"a.tar": tar({f"{n}.jpg": picture(n, (90, 60)) for n in range(9)})})
    run(workspace)
    rules = workspace.given_rules()
    put = DiskStore.put

    def break_off(self: DiskStore, path: str, data: bytes) -> None:
        if path.endswith("5.jpg"):
            raise OSError("the power is gone")
        put(self, path, data)

    monkeypatch.setattr(DiskStore, "put", break_off)
    with pytest.raises(OSError, match="the power is gone"):
        run(workspace.with_given(rules.with_encode(Encode(max_side=30), [])))
    monkeypatch.setattr(DiskStore, "put", put)
    run(workspace)
    assert stored_rightly(workspace) and {row["width"] for row in index(workspace)} == {90}
    run(workspace.with_given(rules.with_encode(Encode(format="webp"), [])))
    assert stored_rightly(workspace)
    assert {path.suffix for path in (workspace.root / "images").rglob("*.*")} == {".webp"}


def test_a_store_that_is_away_is_no_lost_store(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path, SHARDS, {"0.tar": shard(0)})
    run(workspace)
    normalize(workspace, "pics")
    run(workspace, delete_parts=True)
    before = index(workspace)
    (workspace.root / "images").rename(tmp_path / "away")
    with pytest.raises(WorkspaceError, match="there is no folder"):
        run(workspace, verify=True)
    (workspace.root / "images").mkdir()
    run(workspace, verify=True)
    assert {row["status"] for row in index(workspace)} == {"gone"}
    (workspace.root / "images").rmdir()
    (tmp_path / "away").rename(workspace.root / "images")
    run(workspace, verify=True)
    assert index(workspace) == [{**row, "decoded": True} for row in before]


def test_the_first_images_of_all_can_be_decoded_at_once(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path, SHARDS, {"0.tar": shard(0)})
    run(workspace, verify=True)
    assert [(row["status"], row["decoded"]) for row in index(workspace)] == [("ok", True)] * 2


def test_what_is_gone_comes_back_with_its_archive(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path, SHARDS, {"0.tar": shard(0)})
    run(workspace)
    normalize(workspace, "pics")
    run(workspace, delete_parts=True)
    Path(workspace.image_root, "pics", index(workspace)[0]["path"]).unlink()
    run(workspace, verify=True)
    assert [row["status"] for row in index(workspace)] == ["gone", "ok"]
    bring(workspace, force=True)
    run(workspace)
    assert [row["status"] for row in index(workspace)] == ["ok", "ok"] and stored_rightly(workspace)


def test_a_folder_that_is_written_to_cannot_be_adopted(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path, ARCHIVES, {"a.tar": shard(0)})
    run(workspace)
    (tmp_path / "link").symlink_to(workspace.root / "images/pics")
    for folder in ("images", "images/pics", "images/pics/a", ".", "..", "link"):
        path = workspace.root / "prep.yaml"
        text = path.read_text()
        path.write_text(text + f"image_folders: {{pics: {folder}}}\n")
        with pytest.raises(ConfigError, match="lies in or around it"):
            run(Workspace(workspace.root))
        path.write_text(text)


def test_a_slice_of_a_stream_keeps_its_parts(tmp_path: Path) -> None:
    stream = gzip.compress(tar({f"hq/{n}.jpg": picture(n) for n in range(40)}), mtime=0)
    third = len(stream) // 3 + 1
    parts = {f"hq.tar.gz.part{n + 1:03}": stream[n * third : (n + 1) * third] for n in range(3)}
    table = {**SHARDS["tables"]["pics"], "records": {"format": "parquet", "parts": "*.parquet"}}
    dataset = {"images": {"kind": "archive", "parts": "*.part*"}, "tables": {"pics": table}}
    workspace = workspace_with(tmp_path, dataset, parts)
    bring(workspace, choice=Slice(limit=2))
    (workspace.raw("pics") / "hq.tar.gz.part003").unlink()
    outcome = run(workspace, delete_parts=True)
    assert outcome.note.endswith("2 parts kept: of an archive that may have more parts than this slice")
    bring(workspace, choice=Slice())
    assert run(workspace, delete_parts=True).note.endswith("of parts deleted")
    assert list(statuses(workspace, "path").values()) == ["ok"] * 40
