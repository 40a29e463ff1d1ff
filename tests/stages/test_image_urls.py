"""Images from addresses: what is fetched, what is fetched again, and what stops a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_sets import index, make_addresses, picture, run, statuses

from prep.config import Encode
from prep.errors import SourceError, UsageError
from prep.images import fetch, spool
from prep.images.index import IndexRow
from prep.publishers import Fault, World
from prep.stages import image_guard, image_urls
from prep.stages import images as images_stage
from prep.stages.filter import filter_table
from prep.workspace import Workspace


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_PAUSE_SECONDS", 0.0)


def serve(world: World, **pictures: Fault | bytes | int) -> list[str]:
    """Addresses `/pics/<name>` with their behaviour; a number is a status."""
    for name, what in pictures.items():
        fault = what if isinstance(what, Fault) else Fault(body=what) if isinstance(what, bytes) else Fault(status=what)
        world.faults[f"/pics/{name}"] = fault
    return [f"{world.url}/pics/{name}" for name in pictures]


def asked(world: World) -> list[str]:
    """Names that were asked for since the last time, sorted."""
    names = sorted({path.rpartition("/")[2] for _, path in world.requests})
    world.requests.clear()
    return names


def test_a_second_run_fetches_what_retry_names_and_nothing_else(world: World, tmp_path: Path) -> None:
    urls = serve(world, good=picture(), gone=404, down=503, page=b"<html>", small=picture(1, (15, 64)))
    workspace = make_addresses(tmp_path, urls)
    assert run(workspace).manifest is not None
    first = {"good": "ok", "gone": "http_404", "down": "http_5xx", "page": "not_an_image", "small": "too_small"}
    assert statuses(workspace) == first
    assert asked(world) == sorted(first)

    assert run(workspace).state == "up to date" and asked(world) == []
    serve(world, down=picture(2), gone=picture(3))
    assert run(workspace).state == "up to date" and asked(world) == []
    outcome = run(workspace, retry=("http_5xx", "dns"))
    assert outcome.state == "done" and asked(world) == ["down"]
    assert statuses(workspace) == first | {"down": "ok"}
    outcome = run(workspace, retry=("http_5xx", "dns"))
    assert (outcome.state, outcome.note) == ("up to date", "no address has the status http_5xx or dns")
    run(workspace, retry=("failed",))
    assert asked(world) == ["gone", "page", "small"]
    assert statuses(workspace) == first | {"down": "ok", "gone": "ok"}
    run(workspace, force=True)
    assert asked(world) == sorted(first)


def test_what_failed_is_gone_back_to_after_the_second_filter_too(world: World, tmp_path: Path) -> None:
    """The filter drops rows for the images they lack; their addresses are wanted all the same, and stay in it."""
    urls = serve(world, good=picture(), gone=404, down=503, page=b"<html>")
    workspace = make_addresses(tmp_path, urls)
    run(workspace)
    first = statuses(workspace)
    filter_table(workspace, "pics")
    assert run(workspace).state == "up to date"
    asked(world)
    serve(world, down=picture(2))
    run(workspace, retry=("http_5xx",))
    assert asked(world) == ["down"] and statuses(workspace) == first | {"down": "ok"}
    filter_table(workspace, "pics")
    run(workspace, retry=("failed",))
    assert asked(world) == ["gone", "page"] and statuses(workspace) == first | {"down": "ok"}
    filter_table(workspace, "pics")
    run(workspace, force=True)
    assert asked(world) == ["down", "gone", "good", "page"] and statuses(workspace) == first | {"down": "ok"}
    with pytest.raises(UsageError, match="--force fetches every image anew"):
        run(workspace, force=True, retry=("dns",))


def test_rows_that_are_not_wanted_any_more_stay_in_the_index(world: World, tmp_path: Path) -> None:
    workspace = make_addresses(tmp_path, serve(world, one=picture(1), two=404, three=picture(3)))
    run(workspace)
    rules = workspace.rules("pics").model_copy(update={"where": "caption LIKE '%one'"})
    filter_table(workspace, "pics", rules=rules)
    asked(world)
    run(workspace, force=True)
    assert "one" in asked(world)
    assert statuses(workspace) == {"one": "ok", "two": "http_404", "three": "ok"}


def test_all_fetches_rows_that_the_filter_drops(world: World, tmp_path: Path) -> None:
    urls = serve(world, one=picture(1), two=picture(2))
    workspace = make_addresses(tmp_path, urls)
    filter_table(workspace, "pics", rules=workspace.rules("pics").model_copy(update={"where": "caption LIKE '%one'"}))
    run(workspace)
    assert asked(world) == ["one"]
    run(workspace, all_rows=True)
    assert asked(world) == ["two"] and statuses(workspace) == {"one": "ok", "two": "ok"}
    assert run(workspace).state == "up to date"


def test_all_does_without_a_filter(world: World, tmp_path: Path) -> None:
    workspace = make_addresses(tmp_path, serve(world, one=picture(1)))
    for path in workspace.filtered("pics").iterdir():
        path.unlink()
    assert run(workspace).state == "waiting"
    assert run(workspace, all_rows=True).state == "done" and asked(world) == ["one"]


def test_a_list_that_is_no_good_stops_and_what_was_stored_stays(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_guard, "FEWEST", 10)
    urls = serve(world, good=picture(), **{f"dead{n}": 404 for n in range(19)})
    workspace = make_addresses(tmp_path, urls)
    with pytest.raises(SourceError, match="pics: of 20 addresses 1 gave an image; 19 http_404, 1 ok; for example"):
        run(workspace)
    assert not list(workspace.index("pics").glob("*.parquet"))
    assert len(asked(world)) == 20
    run(workspace, min_success=0.0)
    assert "good" not in asked(world)
    assert sorted(statuses(workspace).values()) == ["http_404"] * 19 + ["ok"]


def test_a_run_that_breaks_off_goes_on_behind_the_images_it_stored(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = serve(world, **{f"p{n:02}": picture(n) for n in range(30)})
    workspace = make_addresses(tmp_path, urls, fetch={"connections": 1})
    monkeypatch.setattr(spool, "FLUSH_ROWS", 10)
    add = spool.Spool.add

    def break_off(self: spool.Spool, row: IndexRow) -> None:
        add(self, row)
        if self.count == 25:
            raise OSError("the power is gone")

    monkeypatch.setattr(spool.Spool, "add", break_off)
    with pytest.raises(OSError, match="the power is gone"):
        run(workspace)
    monkeypatch.setattr(spool.Spool, "add", add)
    first = asked(world)
    run(workspace)
    assert len(first) >= 25 and len(asked(world)) <= 10
    assert list(statuses(workspace).values()) == ["ok"] * 30


def test_images_encoded_otherwise_are_not_thrown_away_by_accident(world: World, tmp_path: Path) -> None:
    workspace = make_addresses(tmp_path, serve(world, one=picture(1, (100, 50))))
    run(workspace)
    asked(world)
    before = workspace.given_rules()
    small = before.with_encode(
        workspace.encode(workspace.catalogue.dataset("pics")).model_copy(update={"max_side": 20}), []
    )
    workspace.remember_rules(small)
    workspace = Workspace(workspace.root)
    with pytest.raises(UsageError, match="1 shards of its index are of images kept elsewhere, or encoded otherwise"):
        run(workspace)
    assert asked(world) == []
    run(workspace, force=True)
    (row,) = index(workspace)
    assert (row["width"], row["height"], row["decoded"]) == (20, 10, True)


def test_verify_decodes_what_is_stored_and_brings_again_what_is_gone(world: World, tmp_path: Path) -> None:
    broken = bytearray(picture(4, (300, 300), "PNG"))
    at = broken.index(b"IDAT") + 10
    broken[at : at + 20] = bytes(20)
    urls = serve(world, lost=picture(1), changed=picture(2), good=picture(3), broken=bytes(broken))
    workspace = make_addresses(tmp_path, urls)
    run(workspace)
    assert not any(row["decoded"] for row in index(workspace))
    paths = {
        row["source"].rpartition("/")[2]: Path(workspace.image_root, "pics", row["path"]) for row in index(workspace)
    }
    paths["lost"].unlink()
    paths["changed"].write_bytes(picture(5))
    asked(world)

    outcome = run(workspace, verify=True)
    assert outcome.state == "done" and outcome.note == "3 decoded"
    assert asked(world) == ["changed", "lost"]
    assert statuses(workspace) == {"lost": "ok", "changed": "ok", "good": "ok", "broken": "undecodable"}
    assert {row["source"].rpartition("/")[2]: row["decoded"] for row in index(workspace)} == {
        "lost": True,
        "changed": True,
        "good": True,
        "broken": False,
    }
    assert paths["changed"].read_bytes() == picture(2) and paths["lost"].read_bytes() == picture(1)


def test_what_is_encoded_anew_leaves_nothing_behind(world: World, tmp_path: Path) -> None:
    workspace = make_addresses(
        tmp_path, serve(world, one=picture(1, (100, 50)), two=picture(2, (10, 10))), fetch={"min_side": 1}
    )
    run(workspace)
    encode = Encode(format="webp", max_side=20)
    workspace.remember_rules(workspace.given_rules().with_encode(encode, ["pics"]))
    workspace = Workspace(workspace.root)
    run(workspace, force=True)
    stored = [path for path in (workspace.root / "images").rglob("*") if path.is_file()]
    assert sorted(path.suffix for path in stored) == [".webp", ".webp"]
    assert {row["format"] for row in index(workspace)} == {"WEBP"}


def test_a_slow_address_holds_no_other_chunk_up(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (image_urls, images_stage):
        monkeypatch.setattr(module, "CHUNK_ROWS", 10)
    monkeypatch.setattr(image_guard, "FIRST", 5)
    urls = serve(world, slow=Fault(body=picture(), drip_seconds=1.0), **{f"p{n:02}": picture(n) for n in range(39)})
    workspace = make_addresses(tmp_path, urls)
    outcome = run(workspace)
    assert (outcome.made, outcome.total) == (4, 4)
    shards = sorted(workspace.index("pics").glob("*.parquet"))
    assert len(shards) == 4 and shards[0] == max(shards, key=lambda path: path.stat().st_mtime_ns)
    assert list(statuses(workspace).values()) == ["ok"] * 40
    assert asked(world) == sorted(url.rpartition("/")[2] for url in urls)
    run(workspace, retry=("dns",))
    assert asked(world) == []
