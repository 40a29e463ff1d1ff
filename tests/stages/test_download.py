"""The download stage: planned, pinned, brought once, in slices, from mirrors, verified, and never half declared."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import yaml

from prep import manifest, progress
from prep.config import Dataset
from prep.errors import PrepError, SourceError, UsageError, WorkspaceError
from prep.line import stale_tables, status
from prep.manifest import Journal
from prep.publishers import Fault, World
from prep.sources.slices import Slice
from prep.sources.transfer import Session
from prep.stages import plan as plan_module
from prep.stages.download import PlannedDownload, download
from prep.stages.plan import Plan, plan_download
from prep.stages.shards import Outcome
from prep.workspace import Workspace
from worlds import make_workspace, prep, prep_json, snapshot

PAUSE = Session.pause
FILES = {f"data/{name}.csv": f"of {name}\n".encode() * 50 for name in "abcde"}
COYO = {"name": "coyo", "entries": [{"table": "coyo-700m", "aes_cutoff": 5.67}]}
BLIP = {"name": "blip", "entries": [{"table": "blip3o-60k", "min_size": 512}]}


@pytest.fixture(autouse=True)
def events() -> Iterator[list[Mapping[str, Any]]]:
    """No bars; single events are kept."""
    before = progress._make, progress._on_event
    heard: list[Mapping[str, Any]] = []
    progress.use(progress.no_bar, heard.append)
    yield heard
    progress.use(*before)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prep.sources.transfer.Session.pause", lambda self, seconds: self.check_time())


@dataclass
class Mine:
    """A workspace with one dataset of five small files that the world serves."""

    world: World
    root: Path
    place: str  # folder below `files/`
    mirrors: list[dict[str, Any]] = field(default_factory=list)

    def write(self, *, hashes: bool = True, sizes: bool = True, **source: Any) -> None:
        """Write the files where the world serves them, and the dataset's YAML."""
        elsewhere(self, self.place)
        data: dict[str, Any] = {"name": "mine", "source": source or self.http(hashes=hashes, sizes=sizes)}
        table = {"kind": "text-to-image", "records": {"format": "csv", "parts": "*"}, "select": {"s3_path": "c"}}
        data |= {"mirrors": self.mirrors, "images": {"kind": "given"}, "tables": {"mine": table}}
        (self.root / "datasets").mkdir(exist_ok=True)
        (self.root / "datasets/mine.yaml").write_text(yaml.safe_dump(data))

    def http(self, place: str = "", *, hashes: bool = True, sizes: bool = True, skip: str = "") -> dict[str, Any]:
        """An http source of the files, at this place or another."""
        files = []
        for path, data in FILES.items():
            file: dict[str, Any] = {"url": f"{self.world.url}/files/{place or self.place}/{path}", "path": path}
            file |= {"sha256": hashlib.sha256(data).hexdigest()} if hashes else {}
            file |= {"size_bytes": len(data)} if sizes else {}
            files += [file] if path != skip else []
        return {"kind": "http", "files": files}

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root)

    @property
    def dataset(self) -> Dataset:
        return self.workspace.catalogue.dataset("mine")

    @property
    def raw(self) -> Path:
        return self.root / "raw/mine"

    @property
    def lock(self) -> dict[str, Any]:
        return self.workspace.locked("mine")

    def fault(self, name: str, fault: Fault) -> None:
        self.world.faults[f"/files/{self.place}/data/{name}.csv"] = fault

    def run(self, **options: Any) -> Outcome:
        return download(self.workspace, self.dataset, **options)

    def plan(self, **options: Any) -> Plan:
        return plan_download(self.workspace, self.dataset, **options)

    def fails(self, kind: type[PrepError] = SourceError, **options: Any) -> PrepError:
        with pytest.raises(kind) as caught:
            self.run(**options)
        return caught.value

    def there(self) -> dict[str, bytes]:
        """The dataset's folder but for its manifest."""
        files = (path for path in self.raw.rglob("*") if path.is_file() and path.name != "_manifest.json")
        return {path.relative_to(self.raw).as_posix(): path.read_bytes() for path in files}

    def fetched(self) -> list[str]:
        """Names asked of the world since the last call, sorted."""
        names = sorted(path.rsplit("/", 1)[-1].removesuffix(".csv") for _, path in self.world.requests)
        self.world.requests.clear()
        return names


@pytest.fixture
def mine(world: World, tmp_path: Path) -> Mine:
    root = make_workspace(tmp_path / "w", {"name": "x", "entries": [{"table": "mine"}]}, world)
    made = Mine(world, root, tmp_path.name)
    made.write()
    return made


def files(*names: str) -> dict[str, bytes]:
    return {path: data for path, data in FILES.items() if path[5] in names}


def states(plan: Plan) -> dict[str, str]:
    return {part.part.path[5]: part.state for part in plan.parts}


# -- bringing ----------------------------------------------------------------------------------------------------------


def test_every_part_comes_once_and_the_manifest_says_so(mine: Mine, events: list[Mapping[str, Any]]) -> None:
    outcome = mine.run()
    assert (outcome.state, outcome.made, outcome.total, outcome.note) == ("done", 5, 5, "")
    assert mine.there() == FILES
    assert outcome.manifest and [shard.name for shard in outcome.manifest.shards] == sorted(FILES)
    assert {s.name: s.sha256 for s in outcome.manifest.shards} == {
        path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()
    }
    assert mine.fetched() == [*"abcde"]
    size = sum(len(data) for data in FILES.values())
    asked = outcome.manifest.facts["asked"]
    assert mine.lock == {"asked": asked, "from": "source (http)", "parts": 5, "size_bytes": size}
    told = sorted(events, key=lambda event: str(event["path"]))
    assert told == [
        {"event": "part", "name": "mine", "path": path, "size_bytes": len(data)} for path, data in FILES.items()
    ]


def test_what_is_complete_is_not_asked_for_again(mine: Mine) -> None:
    mine.run()
    before = snapshot(mine.root)
    mine.fetched()
    assert mine.run().state == mine.run(dry_run=True).state == "up to date"
    assert mine.fetched() == [] and snapshot(mine.root) == before


def test_an_unfinished_download_goes_on_with_what_is_missing(mine: Mine) -> None:
    mine.write(hashes=False)
    mine.fault("c", Fault(status=404))
    assert "the server answers 404" in mine.fails().message
    assert not (mine.raw / "_manifest.json").exists()
    journal = mine.raw / "_parts.jsonl"
    assert {json.loads(line)["name"] for line in journal.read_text().splitlines()} == files(*"abde").keys()
    with journal.open("a") as file:
        file.write('{"name": "data/c.c')  # a kill in the middle of a line
    mine.world.faults.clear()
    mine.fetched()
    assert (mine.run().made, mine.fetched(), mine.there()) == (1, ["c"], FILES)


def test_a_part_of_the_publishers_hash_counts_without_a_journal_and_others_do_not(mine: Mine) -> None:
    for path, data in FILES.items():
        (mine.raw / path).parent.mkdir(parents=True, exist_ok=True)
        (mine.raw / path).write_bytes(data if path[5] in "abc" else data[::-1])
    assert mine.run().made == 2
    assert (mine.fetched(), mine.there()) == (["d", "e"], FILES)
    (mine.raw / "_manifest.json").unlink()
    mine.write(hashes=False)
    assert (mine.run().made, mine.fetched()) == (5, [*"abcde"])


def test_force_brings_every_part_again(mine: Mine) -> None:
    mine.run()
    mine.fetched()
    assert (mine.run(force=True).made, mine.fetched()) == (5, [*"abcde"])


@pytest.mark.parametrize("hashes", [True, False])
def test_what_force_could_not_bring_again_is_still_there(
    mine: Mine, hashes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine.write(hashes=hashes, sizes=hashes)
    mine.run()
    before = snapshot(mine.root)
    for name in "abde":
        mine.fault(name, Fault(status=404))
    if not hashes:
        monkeypatch.setitem(FILES, "data/c.csv", b"new\n")
        elsewhere(mine, mine.place)
    mine.fails(force=True)
    mine.fault("c", Fault(status=404))
    mine.fetched()
    assert not (mine.raw / "_manifest.json").exists()
    outcome = mine.run()
    assert (outcome.state, outcome.made, mine.fetched(), mine.there()) == ("done", 0, [], FILES)
    changed = {path for path, value in snapshot(mine.root).items() if before.get(path) != value}
    assert changed == (set() if hashes else {"raw/mine/data/c.csv", "raw/mine/_manifest.json", "prep.lock"})
    assert mine.run(verify=True).note == "5 verified, 0 repaired"


def test_damage_that_a_failed_repair_leaves_is_not_taken_for_there(mine: Mine) -> None:
    mine.write(hashes=False)
    mine.run()
    path = mine.raw / "data/a.csv"
    path.write_bytes(path.read_bytes()[::-1])
    mine.fault("a", Fault(status=404))
    mine.fails(verify=True)
    mine.world.faults.clear()
    mine.fetched()
    assert (mine.run().made, mine.fetched(), mine.there()) == (1, ["a"], FILES)


def test_a_file_that_changed_at_the_publisher_is_brought_alone(mine: Mine, monkeypatch: pytest.MonkeyPatch) -> None:
    mine.run()
    mine.fetched()
    monkeypatch.setitem(FILES, "data/b.csv", b"another one\n")
    mine.write()
    assert (mine.run().made, mine.fetched()) == (1, ["b"])
    assert (mine.raw / "data/b.csv").read_bytes() == b"another one\n"


def test_the_journal_is_not_made_durable_for_every_small_part(
    mine: Mine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(400):
        (folder / f"{number}.csv").write_text("x")
    mine.write(kind="local", path=str(folder))
    synced: list[Journal] = []
    monkeypatch.setattr(Journal, "_sync", lambda journal: synced.append(journal))
    monkeypatch.setattr(manifest, "FSYNC_SECONDS", 3600.0)
    assert mine.run().made == 400
    assert len(synced) == 1


def test_leftovers_of_parts_that_are_no_more_are_removed(mine: Mine) -> None:
    folder = mine.raw / "data"
    folder.mkdir(parents=True)
    names = [".gone.csv.part", ".gone.csv.part.json", ".e.csv.part", ".e.csv.part.json.tmp"]
    for name in [*names, ".x", ".a.csv.party"]:
        (folder / name).write_text("{}")
    mine.run(choice=Slice("0-3"))
    assert {path.name for path in folder.glob(".*")} == {".e.csv.part", ".e.csv.part.json.tmp", ".x", ".a.csv.party"}
    mine.run(choice=Slice())
    assert {path.name for path in folder.glob(".*")} == {".x", ".a.csv.party"}


def test_what_another_process_is_bringing_is_no_leftover(mine: Mine) -> None:
    """Two workspaces may share `raw/` by a link."""
    folder = mine.raw / "data"
    folder.mkdir(parents=True)
    live, dead = [".live.csv.part", ".live.csv.part.json"], [".dead.csv.part", ".dead.csv.part.json", ".x.part.json"]
    for name in [*live, *dead]:
        (folder / name).write_text("{}")
    (folder / ".pipe.part").symlink_to("nowhere")
    with (folder / live[0]).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        mine.run()
        assert {path.name for path in folder.glob(".*")} == {*live, ".pipe.part"}
    mine.run(force=True)
    assert {path.name for path in folder.glob(".*")} == {".pipe.part"}


# -- what cannot be written --------------------------------------------------------------------------------------------


def test_a_part_that_cannot_be_written_does_not_stop_the_others(mine: Mine) -> None:
    source = mine.http()
    source["files"][1]["path"], source["files"][3]["path"] = "one/b.csv", "two/d.csv"
    mine.write(**source)
    mine.raw.mkdir(parents=True)
    for name in ("one", "two"):
        (mine.raw / name).write_text("in the way")
    error = mine.fails(WorkspaceError)
    first, _, more = error.message.partition("\n")
    assert first in ("mine: one/b.csv: File exists", "mine: two/d.csv: File exists") and "and 1 more" in more
    assert error.next_step
    assert {path: data for path, data in mine.there().items() if path in FILES} == files("a", "c", "e")
    mine.run(choice=Slice("0,2"))
    (mine.raw / "one").unlink()
    error = mine.fails(WorkspaceError, choice=Slice())
    assert error.message == "mine: two/d.csv: File exists"
    assert error.next_step.startswith("Something else stands at that path.")


def test_a_full_disk_ends_a_dataset_and_says_so(mine: Mine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Session, *arguments: Any, **options: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Session, "bring", full)
    error = mine.fails(WorkspaceError)
    assert "No space left on device" in error.message and error.next_step.startswith("The disk is full.")


def test_a_dataset_that_cannot_be_written_does_not_stop_the_others(mine: Mine) -> None:
    for name in ("mine", "other"):
        text = (mine.root / "datasets/mine.yaml").read_text().replace("mine", name)
        (mine.root / f"datasets/{name}.yaml").write_text(text)
    (mine.root / "recipe.yaml").write_text("name: x\nentries: [{table: mine}, {table: other}]\n")
    (mine.root / "raw").mkdir()
    mine.raw.write_text("in the way")
    done = prep(mine.root, "download", world=mine.world)
    assert done.returncode == 1 and done.stdout.startswith("download  other             5 parts")
    assert str(mine.raw) in done.stderr and "Move it away" in done.stderr


@pytest.mark.parametrize(
    "facts", [{"asked": 3}, {"slice": 5}, {"slice": {"of": "x"}}, {"slice": {"only": [5], "of": 5}}, {"slice": {}}, {}]
)
def test_a_manifest_with_other_facts_is_said_or_written_anew(mine: Mine, facts: dict[str, Any]) -> None:
    mine.run()
    path = mine.raw / "_manifest.json"
    before = path.read_text()
    asked = {} if facts in ({}, {"asked": 3}) else {"asked": json.loads(before)["facts"]["asked"]}
    path.write_text(json.dumps(json.loads(before) | {"facts": asked | facts}))
    if not asked:
        assert (mine.run().made, path.read_text()) == (0, before)
        return
    said = "raw/mine/_manifest.json: not a manifest", "Delete that file and run the same command again."
    for call in (mine.run, lambda: status(mine.workspace)):
        with pytest.raises(WorkspaceError) as caught:
            call()
        assert (caught.value.message, caught.value.next_step) == said
    path.unlink()
    assert (mine.run().made, path.read_text()) == (0, before)


# -- pinned at the hub -------------------------------------------------------------------------------------------------


def test_the_revision_is_kept_before_any_byte_comes(hub: World, tmp_path: Path) -> None:
    workspace = Workspace(make_workspace(tmp_path / "w", COYO, hub))
    dataset = workspace.catalogue.dataset("coyo-700m")
    part = plan_download(workspace, dataset).parts[0].part
    path = part.url.removeprefix(hub.url)
    hub.faults[path] = Fault(status=404)
    with pytest.raises(SourceError):
        download(workspace, dataset)
    locked = workspace.locked("coyo-700m")
    assert locked.keys() == {"asked", "from", "repo", "revision"} and locked["revision"] in part.url

    hub.faults.clear()
    hub.requests.clear()
    download(workspace, dataset)
    api = "/api/datasets/kakaobrain/coyo-700m"
    tree = ("GET", f"{api}/tree/{locked['revision']}")
    assert [request for request in hub.requests if "/api/" in request[1]] == [tree]
    hub.requests.clear()
    download(workspace, dataset, force=True)
    assert [request for request in hub.requests if "/api/" in request[1]] == [("GET", f"{api}/revision/main"), tree]


# -- the plan, and room ------------------------------------------------------------------------------------------------


def test_a_plan_says_what_is_there_what_is_kept_and_what_is_to_come(mine: Mine) -> None:
    mine.run(choice=Slice("0-1"))
    (mine.raw / "data/.c.csv.part").write_bytes(FILES["data/c.csv"][:100])
    journal = {"key": "x", "validator": None, "done": [[0, 60], [80, 100]]}
    (mine.raw / "data/.c.csv.part.json").write_text(json.dumps(journal))
    mine.fetched()
    before = snapshot(mine.root)
    plan = mine.plan(choice=Slice())
    assert states(plan) == {"a": "there", "b": "there", "c": "partial", "d": "to bring", "e": "to bring"}
    sizes = {path[5]: len(data) for path, data in FILES.items()}
    assert plan.bytes_to_bring == plan.disk_needed == sizes["c"] - 80 + sizes["d"] + sizes["e"]
    assert plan.bytes_there == sizes["a"] + sizes["b"] + 80
    assert (plan.unknown_sizes, plan.hub_requests, plan.disk_free > 0) == (0, 0, True)
    assert [part.position for part in plan.parts] == [0, 1, 2, 3, 4]
    assert (mine.fetched(), snapshot(mine.root)) == ([], before)


def test_sizes_that_no_listing_gives_are_asked_for(mine: Mine) -> None:
    mine.write(hashes=False, sizes=False)
    mine.fault("d", Fault(status=404))
    mine.fault("e", Fault(body=b"<html>sign in</html>", headers={"Content-Type": "text/html"}))
    plan = mine.plan()
    assert {part.part.path[5]: part.size_bytes for part in plan.parts} == {
        **{name: len(FILES[f"data/{name}.csv"]) for name in "abc"},
        "d": None,
        "e": None,
    }
    assert plan.unknown_sizes == 2 and all(part.part.size_bytes is None for part in plan.parts)
    assert mine.fetched() == [*"abcde"]
    outcome = mine.run(dry_run=True)
    assert mine.fetched() == [] and outcome.note == "0 B to bring; 5 parts of unknown size"
    assert mine.run(dry_run=True, ask_sizes=True).note.endswith("B to bring; 2 parts of unknown size")


def test_a_plan_does_not_wait_long_for_sizes(mine: Mine, monkeypatch: pytest.MonkeyPatch) -> None:
    mine.write(hashes=False, sizes=False)
    for name in "bcde":
        mine.fault(name, Fault(status=429, headers={"Retry-After": "600"}))
    assert plan_module.SIZES_PATIENCE_SECONDS == 10
    monkeypatch.setattr(plan_module, "SIZES_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(Session, "pause", PAUSE)
    assert mine.plan().unknown_sizes >= 4


def free(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> list[Path]:
    """Make the disk seem to have so much room; the folders it is asked about."""
    asked: list[Path] = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=free_bytes)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return asked


@pytest.mark.parametrize("sizes", [True, False])
def test_what_does_not_fit_is_not_begun(mine: Mine, sizes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    mine.write(sizes=sizes)
    total = sum(len(data) for data in FILES.values())
    before = snapshot(mine.root)
    free(monkeypatch, total - 1)
    error = mine.fails(WorkspaceError)
    assert (
        error.message == f"mine: {total / 1e3:.1f} kB are to come, {(total - 1) / 1e3:.1f} kB are free in {mine.root}"
    )
    assert "--parts" in error.next_step
    assert snapshot(mine.root) == before
    free(monkeypatch, total)
    assert mine.run().state == "done"
    free(monkeypatch, 0)
    assert mine.run().state == "up to date"


def test_room_is_looked_for_where_raw_leads_to(mine: Mine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = tmp_path / "large"
    large.mkdir()
    (mine.root / "raw").symlink_to(large)
    asked = free(monkeypatch, 10**9)
    mine.run()
    assert set(asked) == {large}
    assert (large / "mine/_manifest.json").is_file()


@pytest.mark.parametrize(("copy", "needed"), [(False, 0), (True, 6)])
def test_a_link_needs_no_room_and_a_copy_does(mine: Mine, tmp_path: Path, copy: bool, needed: int) -> None:
    (tmp_path / "mine.csv").write_text("a\nb\nc\n")
    mine.write(kind="local", path=str(tmp_path / "mine.csv"), copy=copy)
    plan = mine.plan()
    assert (plan.disk_needed, plan.bytes_to_bring) == (needed, 6)


def test_half_a_part_is_gone_on_with(mine: Mine, monkeypatch: pytest.MonkeyPatch) -> None:
    large = bytes(range(256)) * 40_000
    monkeypatch.setitem(FILES, "data/c.csv", large)
    mine.write()
    mine.fault("c", Fault(cut_at=6_000_000, ignore_range=True))
    mine.fails()
    plan = mine.plan()
    (kept,) = (part.kept_bytes for part in plan.parts if part.state == "partial")
    assert 4_000_000 <= kept <= 6_000_000 and plan.bytes_to_bring == len(large) - kept
    assert mine.run(dry_run=True).note == f"{(len(large) - kept) / 1e6:.1f} MB to bring"

    mine.world.faults.clear()
    mine.world.server.request_headers.clear()
    meters: list[progress.Meter] = []

    @contextmanager
    def meter(label: str, total: int | None, unit: str, items: int | None = None) -> Iterator[progress.Bar]:
        meters.append(progress.Meter(label, total, unit, items))
        yield meters[-1]

    progress.use(meter)
    assert (mine.run().made, mine.there()) == (1, FILES)
    (headers,) = mine.world.server.request_headers
    assert headers["Range"].startswith(f"bytes={kept}-")
    (told,) = meters
    assert (told.done, told.total, told.items_done) == (len(large) - kept, len(large) - kept, 1)


# -- slices ------------------------------------------------------------------------------------------------------------


def test_a_slice_is_kept_widened_and_forgotten(mine: Mine) -> None:
    outcome = mine.run(choice=Slice("1-2"))
    assert outcome.note == "a slice: 2 of 5 parts; `prep download mine --all` brings the rest"
    assert (mine.fetched(), mine.there()) == (["b", "c"], files("b", "c"))
    assert mine.lock["slice"] == {"parts": "1-2", "of": 5}
    again = mine.run()
    assert (again.state, again.note, mine.fetched()) == ("up to date", outcome.note, [])
    assert status(mine.workspace)[0].note == outcome.note

    assert (mine.run(choice=Slice("0-3", only=("*/[bcd]*",), limit=3)).made, mine.fetched()) == (1, ["d"])
    assert mine.lock["slice"] == {"parts": "0-3", "only": ["*/[bcd]*"], "limit": 3, "of": 5}
    whole = mine.run(choice=Slice())
    assert (whole.made, whole.total, whole.note, mine.fetched()) == (2, 5, "", ["a", "e"])
    assert "slice" not in mine.lock and whole.manifest and "slice" not in whole.manifest.facts
    assert mine.there() == FILES


def test_a_slice_of_all_parts_says_that_there_is_no_rest(mine: Mine) -> None:
    assert mine.run(choice=Slice(limit=9)).note == "a slice: all 5 parts"
    assert mine.run().note == status(mine.workspace)[0].note == "a slice: all 5 parts"


def test_a_narrower_slice_leaves_the_others_where_they_are(mine: Mine) -> None:
    mine.write(hashes=False)
    mine.run()
    mine.fetched()
    outcome = mine.run(choice=Slice(limit=2))
    assert outcome.note == (
        f"a slice: 2 of 5 parts; `prep download mine --all` brings the rest; 3 parts outside it stay in {mine.raw}"
    )
    assert outcome.manifest and [shard.name[5] for shard in outcome.manifest.shards] == ["a", "b"]
    assert {path for path in mine.there() if path in FILES} == FILES.keys()
    assert mine.run().state == "up to date"
    assert (mine.run(choice=Slice()).made, mine.fetched(), mine.there()) == (0, [], FILES)


def test_a_slice_survives_a_failure_and_force(mine: Mine) -> None:
    mine.fault("c", Fault(status=404))
    mine.fails(choice=Slice("1-2"))
    assert status(mine.workspace)[0].note == "not finished; a slice: --parts 1-2"
    mine.world.faults.clear()
    mine.fetched()
    assert (mine.run().total, mine.fetched()) == (2, ["c"])
    assert (mine.run(force=True).total, mine.fetched()) == (2, ["b", "c"])


def test_an_expected_number_of_parts_is_of_the_whole(hub: World, tmp_path: Path) -> None:
    workspace = Workspace(make_workspace(tmp_path / "w", COYO, hub))
    dataset = workspace.catalogue.dataset("coyo-700m")
    assert "expected" not in download(workspace, dataset, choice=Slice("0")).note
    assert "the publisher has 2 parts, 128 were expected" in download(workspace, dataset, choice=Slice()).note


@pytest.mark.parametrize("choice", [Slice("5"), Slice(only=("*.tar",)), Slice("0", only=("*/b*",))], ids=str)
def test_a_slice_without_a_part_is_refused_and_not_remembered(mine: Mine, choice: Slice) -> None:
    before = snapshot(mine.root)
    error = mine.fails(UsageError, choice=choice)
    assert error.message == f"mine: {choice} takes none of its 5 parts"
    assert "from 0 (data/a.csv) to 4 (data/e.csv)" in error.next_step
    assert snapshot(mine.root) == before


def test_a_slice_in_the_lock_that_is_none_says_how_to_forget_it(mine: Mine) -> None:
    for wrong in ("x", {"parts": "3-1"}, {"limit": "many"}, {"only": 3}, {"only": [5]}, {"parts": "9" * 5000}):
        mine.workspace.lock("mine", {"slice": wrong})
        assert mine.fails(WorkspaceError).next_step == "`prep download mine --all` forgets it."
    assert mine.run(choice=Slice()).total == 5


def test_a_slice_of_what_lies_here_is_stale_when_it_changes(mine: Mine, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.csv").write_text("c\nx\n")
    mine.write(kind="local", path=str(folder))
    mine.run(choice=Slice("0"))
    assert stale_tables(mine.workspace) == {"mine": "normalize has work to do"}
    (folder / "b.csv").write_text("outside the slice")
    assert stale_tables(mine.workspace) == {"mine": "normalize has work to do"}
    (folder / "a.csv").write_text("c\nchanged\n")
    assert stale_tables(mine.workspace) == {"mine": "download has work to do"}


# -- verify ------------------------------------------------------------------------------------------------------------


def damage(mine: Mine) -> None:
    """One part with other bytes, one cut, one gone."""
    a, b, c = (mine.raw / f"data/{name}.csv" for name in "abc")
    a.write_bytes(a.read_bytes()[::-1])
    b.write_bytes(b.read_bytes()[:-1])
    c.unlink()


@pytest.mark.parametrize("hashes", [True, False])
def test_what_is_damaged_cut_or_gone_is_brought_again(mine: Mine, hashes: bool) -> None:
    mine.write(hashes=hashes)
    mine.run()
    mine.fetched()
    assert mine.run(verify=True).note == "5 verified, 0 repaired"
    assert mine.fetched() == []
    damage(mine)
    outcome = mine.run(verify=True)
    assert (outcome.note, outcome.made, mine.fetched()) == ("2 verified, 3 repaired", 3, [*"abc"])
    assert mine.there() == FILES


def test_bytes_that_turned_in_place_are_seen_by_verify_alone(mine: Mine) -> None:
    mine.run()
    path = mine.raw / "data/a.csv"
    path.write_bytes(path.read_bytes()[::-1])
    assert mine.run().state == "up to date"
    before = snapshot(mine.root)
    planned = mine.run(verify=True, dry_run=True)
    assert isinstance(planned, PlannedDownload) and planned.plan and states(planned.plan)["a"] == "damaged"
    assert planned.note == f"{len(path.read_bytes())} B to bring; 4 verified, 1 to repair"
    assert snapshot(mine.root) == before


def test_a_repair_with_other_bytes_is_told(mine: Mine, monkeypatch: pytest.MonkeyPatch) -> None:
    mine.write(hashes=False)
    mine.run()
    damage(mine)
    for name in "ab":
        monkeypatch.setitem(FILES, f"data/{name}.csv", FILES[f"data/{name}.csv"].swapcase())
    elsewhere(mine, mine.place)
    assert mine.run(verify=True).note == (
        "2 verified, 3 repaired; 2 parts are not the bytes that came before: their publisher changed them"
    )
    assert mine.there() == FILES
    assert mine.run(verify=True).note == "5 verified, 0 repaired"


def test_a_slice_is_verified_as_a_slice(mine: Mine) -> None:
    mine.run()
    damage(mine)
    mine.fetched()
    outcome = mine.run(verify=True, choice=Slice("0,3"))
    assert outcome.note.startswith("1 verified, 1 repaired; a slice: 2 of 5 parts")
    assert mine.fetched() == ["a"]
    assert mine.run(verify=True).note.startswith("2 verified, 0 repaired; a slice: 2 of 5")


@pytest.mark.parametrize("kind", ["local", "manual"])
def test_damage_to_the_only_copy_is_told_and_not_mended(mine: Mine, kind: str, tmp_path: Path) -> None:
    folder = mine.raw if kind == "manual" else tmp_path / "own"
    folder.mkdir(parents=True)
    own = folder / "a.csv"
    own.write_text("right\n")
    source: dict[str, Any] = {"path": str(folder)} if kind == "local" else {"instructions": "Ask."}
    mine.write(kind=kind, **source)
    mine.run()
    modified = own.stat().st_mtime_ns
    own.write_text("wrong\n")
    os.utime(own, ns=(modified, modified))
    before = snapshot(mine.root)
    error = mine.fails(verify=True)
    assert error.message == (f"mine: a.csv changed since the download, and a {kind} source has no other copy to bring")
    assert "`prep download mine --force` takes them as they are now" in error.next_step
    assert snapshot(mine.root) == before
    assert mine.run(force=True).state == "done"
    assert mine.run(verify=True).note == "1 verified, 0 repaired"


def test_a_copy_is_mended_from_its_original(mine: Mine, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("right\n")
    mine.write(kind="local", path=str(own), copy=True)
    mine.run()
    (mine.raw / "own.csv").write_text("wrong\n")
    assert mine.run(verify=True).note == "0 verified, 1 repaired"
    assert (mine.raw / "own.csv").read_text() == own.read_text() == "right\n"


def test_force_and_verify_contradict_each_other(mine: Mine) -> None:
    assert "nothing to look at" in mine.fails(UsageError, force=True, verify=True).message


# -- mirrors -----------------------------------------------------------------------------------------------------------


def elsewhere(mine: Mine, place: str, change: Mapping[str, bytes] = MappingProxyType({})) -> None:
    """The same files at another place of the world."""
    for path, data in {**FILES, **change}.items():
        target = mine.world.folder / "files" / place / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


@pytest.mark.parametrize("hashes", [True, False])
def test_a_part_that_the_source_cannot_give_comes_from_a_mirror(mine: Mine, hashes: bool) -> None:
    elsewhere(mine, f"{mine.place}-mirror")
    mine.mirrors = [mine.http(f"{mine.place}-mirror", hashes=False, sizes=False)]
    mine.write(hashes=hashes)
    for name in "bd":
        mine.fault(name, Fault(status=404))
    outcome = mine.run()
    assert (outcome.note, mine.there()) == ("2 parts from mirror 1 (http)", FILES)
    assert mine.lock["from"] == "source (http)"
    assert mine.run().state == "up to date"


def test_a_mirror_is_held_to_what_the_source_says(mine: Mine) -> None:
    wrong = {"data/b.csv": FILES["data/b.csv"][::-1]}
    for number in (1, 2):
        elsewhere(mine, f"{mine.place}-{number}", wrong if number == 1 else {})
    mine.mirrors = [mine.http(f"{mine.place}-{number}", hashes=False, sizes=False) for number in (1, 2)]
    mine.write()
    mine.fault("b", Fault(status=404))
    assert mine.run().note == "1 part from mirror 2 (http)"
    assert mine.there() == FILES


def test_a_local_mirror_is_held_to_it_too(mine: Mine, tmp_path: Path) -> None:
    folder = tmp_path / "own/data"
    folder.mkdir(parents=True)
    (folder / "b.csv").write_bytes(FILES["data/b.csv"][::-1])
    mine.mirrors = [{"kind": "local", "path": str(folder.parent)}]
    mine.write()
    mine.fault("b", Fault(status=404))
    assert f"mirror 1 (local): {folder}/b.csv: sha256 is " in mine.fails().message
    (folder / "b.csv").write_bytes(FILES["data/b.csv"])
    assert mine.run().note == "1 part from mirror 1 (local)"


def test_when_all_fail_every_place_has_its_reason(mine: Mine, tmp_path: Path) -> None:
    other = mine.http("nowhere") | {}
    other["files"][1] = other["files"][1] | {"sha256": "0" * 64}
    mine.mirrors = [
        mine.http(skip="data/b.csv"),
        {"kind": "local", "path": str(tmp_path / "nothing")},
        other,
    ]
    mine.write()
    mine.fault("b", Fault(status=404))
    error = mine.fails()
    url, sha256 = f"{mine.world.url}/files/{mine.place}/data/b.csv", hashlib.sha256(FILES["data/b.csv"]).hexdigest()
    assert error.message.splitlines() == [
        "data/b.csv cannot be had from any of its 4 places:",
        f"    source (http): {url}: the server answers 404",
        "    mirror 1 (http): has no data/b.csv",
        f"    mirror 2 (local): {tmp_path}/nothing is neither a file nor a folder",
        f"    mirror 3 (http): has another data/b.csv: sha256 {'0' * 64}, not {sha256}",
    ]
    assert error.next_step
    assert mine.there().keys() - {"_parts.jsonl"} == FILES.keys() - {"data/b.csv"}


def test_a_mirror_lists_when_the_source_cannot(hub: World, tmp_path: Path) -> None:
    mine = Mine(hub, make_workspace(tmp_path / "w", {"name": "x", "entries": [{"table": "mine"}]}, hub), tmp_path.name)
    mine.mirrors = [{"kind": "local", "path": str(tmp_path / "nothing")}, mine.http()]
    mine.write(kind="huggingface", repo="nobody/nothing")
    outcome = mine.run()
    assert outcome.note == "listed by mirror 2 (http)"
    assert mine.lock["from"] == "mirror 2 (http)" and mine.there() == FILES
    mine.fetched()
    assert (mine.run().state, mine.fetched()) == ("up to date", [])

    mine.mirrors = mine.mirrors[:1]
    mine.write(kind="huggingface", repo="nobody/nothing")
    assert mine.fails().message.splitlines() == [
        "mine cannot be had from any of its 2 places:",
        "    source (huggingface): hub dataset nobody/nothing is not there, or is private",
        f"    mirror 1 (local): {tmp_path}/nothing is neither a file nor a folder",
    ]


def test_an_unfinished_download_goes_on_at_the_mirror_that_listed_it(mine: Mine, tmp_path: Path) -> None:
    mine.mirrors = [mine.http(hashes=False)]
    mine.write(kind="local", path=str(tmp_path / "later"))
    mine.fault("c", Fault(status=404))
    mine.fails()
    mine.world.faults.clear()
    mine.fetched()
    (tmp_path / "later").mkdir()
    (tmp_path / "later/other.csv").write_text("x")
    assert (mine.run().note, mine.fetched(), mine.there()) == ("listed by mirror 1 (http)", ["c"], FILES)


def test_a_source_in_prep_yaml_replaces_the_mirrors_too(mine: Mine, tmp_path: Path) -> None:
    mine.mirrors = [mine.http()]
    mine.write()
    with (mine.root / "prep.yaml").open("a") as file:
        file.write(f"\nsources: {{mine: {{kind: local, path: {tmp_path}/nothing}}}}\n")
    text = yaml.safe_load((mine.root / "prep.yaml").read_text())
    (mine.root / "prep.yaml").write_text(yaml.safe_dump(text))
    assert mine.fails().message == f"{tmp_path}/nothing is neither a file nor a folder"


# -- time --------------------------------------------------------------------------------------------------------------


def test_after_the_deadline_nothing_is_asked(mine: Mine) -> None:
    error = mine.fails(deadline=time.monotonic())
    assert error.message == "mine: the time given with --deadline is over"
    assert (mine.fetched(), mine.there()) == ([], {})


def test_what_came_before_the_deadline_stays(mine: Mine, monkeypatch: pytest.MonkeyPatch) -> None:
    mine.mirrors = [mine.http()]
    mine.write()
    bring = Session.bring

    def slow(self: Session, part: Any, *arguments: Any, **options: Any) -> str:
        if part.path[5] in "de":
            time.sleep(max(0.0, moment - time.monotonic()))
            self.check_time()
        return bring(self, part, *arguments, **options)

    monkeypatch.setattr(Session, "bring", slow)
    moment = time.monotonic() + 0.5
    error = mine.fails(deadline=moment)
    assert error.message == "mine: the time given with --deadline is over; 3 of 5 parts are there"
    monkeypatch.undo()
    mine.fetched()
    assert (mine.run().made, mine.fetched()) == (2, ["d", "e"])


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--parts", "3-1"], 1, "--parts 3-1: 3-1 goes backwards\n  For example --parts 1-3."),
        (["--parts", "x"], 1, "--parts x: 'x' is no position\n  For example --parts 0-3,7."),
        (["--parts", "1,,2"], 1, "'' is no position"),
        (["--parts", "-1"], 1, "'-1' is no position"),
        (["--parts", ""], 1, "--parts names no position"),
        (["--parts", "5"], 1, "mine: --parts 5 takes none of its 5 parts"),
        (["--only", "*.tar"], 1, "mine: --only '*.tar' takes none of its 5 parts"),
        (["--limit", "0"], 2, "--limit"),
        (["--limit", "some"], 2, "--limit"),
        (["--all", "--limit", "2"], 1, "--all brings every part, and --limit 2 only some"),
        (["--all", "--only", "*a*"], 1, "--all brings every part, and --only '*a*' only some"),
        (["--deadline", "soon"], 1, "--deadline soon: is no time from now\n  For example --deadline 8h, 90m or 3600s."),
        (["--deadline", "0"], 1, "--deadline 0: is no time from now"),
        (["--deadline", "-5m"], 1, "is no time from now"),
        (["--verify", "--force"], 1, "--verify has nothing to look at\n  Give one of them."),
        (["nine"], 1, "'nine' is neither a dataset nor a table"),
    ],
)
def test_what_can_be_typed_wrong(mine: Mine, arguments: list[str], code: int, words: str) -> None:
    before = snapshot(mine.root)
    done = prep(mine.root, "download", *arguments, world=mine.world)
    assert (done.returncode, done.stdout) == (code, "") and "Traceback" not in done.stderr
    assert words in done.stderr
    assert snapshot(mine.root) == before


def test_the_line_works_on_a_slice_and_then_on_all(world: World, tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "w", BLIP, world)
    assert prep(root, "run", world=world).returncode == 0
    whole = snapshot(root)
    shutil.rmtree(root)
    make_workspace(root, BLIP, world)
    done = prep(root, "download", "--parts", "1,3", world=world)
    assert done.returncode == 0 and "a slice: 2 of 11 parts; `prep download blip3o-60k --all`" in done.stdout
    result = prep_json(root, "run", world=world)
    assert {outcome["stage"]: outcome["total"] for outcome in result["outcomes"]} == {
        "download": 2,
        "images": 2,
        "normalize": 2,
        "filter": 2,
    }
    assert result["check"]["findings"] == [] or all(f["level"] == "warning" for f in result["check"]["findings"])
    for command in (["run"], ["status"]):
        assert "a slice: 2 of 11 parts" in prep(root, *command).stdout

    assert prep_json(root, "download", "--all", world=world)["outcomes"][0]["made"] == 9
    assert prep(root, "run", world=world).returncode == 0
    assert snapshot(root) == whole


def test_a_dry_run_lists_parts_and_what_all_would_take(mine: Mine) -> None:
    prep(mine.root, "download", "--limit", "1", world=mine.world)
    before = snapshot(mine.root)
    done = prep(mine.root, "download", "--dry-run", "--all", world=mine.world)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    each = len(FILES["data/b.csv"])
    assert lines[0] == f"download  mine              4 of 5 to do  ({4 * each / 1e3:.1f} kB to bring)"
    assert [line.split() for line in lines[1:6]] == [
        *([str(number), f"data/{name}.csv", f"{each}", "B", "to", "bring"] for number, name in enumerate("bcde", 1)),
        ["0", "data/a.csv", f"{each}", "B", "there"],
    ]
    assert lines[6] == f"to bring: {4 * each / 1e3:.1f} kB in 4 parts; there already: {each} B"
    assert lines[7].startswith(f"disk: {4 * each / 1e3:.1f} kB needed, ") and lines[7].endswith(str(mine.raw))
    assert len(lines) == 8  # neither a hub nor enough bytes to measure
    assert snapshot(mine.root) == before


def test_names_of_parts_are_shown_as_they_are(mine: Mine) -> None:
    source = mine.http()
    source["files"][0]["path"] = "data/x[/y].bin"
    source["files"][1]["path"] = "data/[red]x:smile:.bin"
    mine.write(**source)
    done = prep(mine.root, "download", "--dry-run", world=mine.world)
    assert done.returncode == 0, done.stderr
    assert " data/x[/y].bin " in done.stdout and " data/[red]x:smile:.bin " in done.stdout


def test_a_dry_run_says_how_fast_and_what_the_hub_allows(world: World, tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "w", COYO, world)
    workspace = Workspace(root)
    assert "hub" in prep_json(root, "download", "--dry-run", world=world)["totals"]
    tree = next(path for _, path in world.requests if "/tree/" in path)
    parts = sorted((world.folder / "hub/kakaobrain/coyo-700m/data").glob("*.parquet"))
    folder = f"/datasets/kakaobrain/coyo-700m/resolve/{tree.rsplit('/', 1)[-1]}/data"
    found = prep_json(root, "download", "--dry-run", world=world)["totals"]
    assert found["hub"] == {
        "requests": 2,
        "allowed": 3000,
        "window_seconds": 300,
        "is_documented": False,
        "wait_seconds": 0,
    }
    assert (found["bytes_per_second"], found["eta_seconds"]) == (None, None)  # some kB tell nothing
    world.faults.update({f"{folder}/{part.name}": Fault(body=b"x" * (1 << 20)) for part in parts})
    done = prep(root, "download", "--dry-run", world=world)
    assert "\nhub: 2 requests; the documented figure is 5,000 in 5 min\ntime: about 1 s at " in done.stdout
    assert "/s, measured just now over one connection\n" in done.stdout
    anonymous = prep(root, "download", "--dry-run", world=world, HF_TOKEN="")
    assert "\nhub: 2 requests; the documented figure is 3,000 in 5 min\n" in anonymous.stdout
    assert not (root / "raw").exists() and workspace.locked("coyo-700m") == {}


def test_only_download_measures(world: World, tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "w", COYO, world)
    for command in (["run", "--dry-run"], ["status"]):
        assert prep(root, *command, world=world).returncode == 0
    assert [path for _, path in world.requests if "/resolve/" in path] == []


def test_json_has_every_part_and_events_on_stderr(mine: Mine) -> None:
    done = prep(mine.root, "download", "--json", world=mine.world)
    assert json.loads(done.stdout)["outcomes"][0]["made"] == 5
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in told if event["event"] != "progress"] == ["start", *["part"] * 5, "end"]
    size = sum(len(data) for data in FILES.values())
    same = {"stage": "download", "name": "mine", "total_bytes": size, "files_total": 5}
    assert told[0] == {"event": "start", "done_bytes": 0, "files": 0, **same}
    assert told[-1] == {"event": "end", "done_bytes": size, "files": 5, **same}


def test_a_server_that_asks_to_wait_is_named_on_stderr(mine: Mine) -> None:
    path = f"/files/{mine.place}/{next(iter(FILES))}"
    mine.world.faults[path] = Fault(status=429, headers={"Retry-After": "60"}, times=1)
    done = prep(mine.root, "download", world=mine.world)
    assert done.returncode == 0, done.stderr
    assert f"{mine.world.url.removeprefix('http://')} asks to wait 60 s\n" in done.stderr


def test_a_deadline_of_the_command_leaves_room_enough(mine: Mine) -> None:
    for time_ in ("8h", "90m", "3600s", "120", "1.5h"):
        assert prep_json(mine.root, "download", "--deadline", time_, world=mine.world)["outcomes"][0]["total"] == 5
