"""Pictures and a page of samples: boxes on what they name, and everything that can be wrong with a row."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from prep.datasets.grounding import location_text, phrase_text
from prep.errors import DataError, UsageError
from prep.manifest import Manifest, Shard, write_manifest
from prep.preview import MARK, PAGE, Shown, preview_table
from prep.schema import KINDS
from prep.workspace import Workspace
from s3_server import S3Server
from worlds import prep, snapshot

RED, BLUE, GREY = (200, 30, 30), (30, 30, 200), (90, 90, 90)


def make(root: Path, tables: Mapping[str, str], **config: Any) -> Workspace:
    """A workspace with tables (name -> kind) that nobody has made yet."""
    (root / "datasets").mkdir(parents=True)
    (root / "prep.yaml").write_text(yaml.safe_dump({"recipe": "recipe.yaml", **config}))
    (root / "recipe.yaml").write_text(yaml.safe_dump({"name": "x", "entries": [{"table": name} for name in tables]}))
    for name, kind in tables.items():
        select = {column.name: column.name for column in KINDS[kind].columns if column.required or column.images}
        table = {"kind": kind, "records": {"format": "parquet", "parts": "*"}, "select": select}
        dataset = {
            "name": name, "source": {"kind": "local", "path": "/nowhere"}, "images": {"kind": "given"},
            "tables": {name: table},
        }  # fmt: skip
        (root / "datasets" / f"{name}.yaml").write_text(yaml.safe_dump(dataset))
    return Workspace(root)


def write_rows(folder: Path, rows: Sequence[Mapping[str, Any]], shards: int = 1, group: int = 1000) -> None:
    """Rows as shards of a table, and its manifest."""
    folder.mkdir(parents=True)
    described = []
    size = -(-len(rows) // shards)
    for number in range(shards):
        part = [dict(row) for row in rows[number * size : (number + 1) * size]]
        path = folder / f"shard-{number:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(part), path, row_group_size=group)
        described.append(Shard(path.name, "task", len(part), path.stat().st_size, "0" * 64))
    write_manifest(folder, Manifest("filter", tuple(described), {}))


def picture(path: Path, size: tuple[int, int], *boxes: tuple[tuple[int, int, int, int], tuple[int, int, int]]) -> str:
    """A grey picture with coloured boxes."""
    image = Image.new("RGB", size, GREY)
    for box, colour in boxes:
        image.paste(colour, box)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return str(path)


def outlined(sheet: Image.Image, colour: str) -> tuple[int, int, int, int]:
    """The box around what is drawn in a colour."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    ys, xs = np.nonzero((np.abs(np.asarray(sheet.convert("RGB")).astype(int) - wanted) < 40).all(axis=2))
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def near(box: Sequence[float], expected: Sequence[float], within: float = 5) -> bool:
    return max(abs(one - other) for one, other in zip(box, expected, strict=True)) <= within


def shown_words(page: str) -> dict[str, str]:
    """The page's definitions, unescaped."""
    return {html.unescape(k): html.unescape(v) for k, v in re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page, re.DOTALL)}


@pytest.mark.parametrize("size", [(512, 512), (640, 427), (301, 640)])
def test_boxes_sit_on_what_they_name(size: tuple[int, int], tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"places": "referring-expression"})
    box = (size[0] // 4, size[1] // 2, size[0] * 3 // 4, size[1] - 20)
    path = picture(tmp_path / "a.png", size, (box, BLUE))
    text = location_text(box, *size)
    write_rows(workspace.filtered("places"), [{"s3_path": path, "label": "", "loc_string": text, "key": "a#0"}])
    [row] = preview_table(workspace, "places")
    folder = workspace.root / "preview" / "places"
    assert row == Shown(1, "a#0", "001.jpg", (path,), 1, ())
    assert sorted(path.name for path in folder.iterdir()) == [MARK, "001.jpg", PAGE]
    with Image.open(folder / "001.jpg") as sheet:
        assert max(sheet.size) == 1024
        scale = 1024 / max(size)
        assert near(outlined(sheet, "#e6194b"), [edge * scale for edge in box])
        inside = [edge * scale for edge in box]
        middle = (int((inside[0] + inside[2]) / 2), int((inside[1] + inside[3]) / 2))
        assert near(sheet.getpixel(middle), BLUE, 30)  # type: ignore[arg-type]


def test_a_phrase_has_one_colour_and_its_words_beside_it(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"scenes": "grounded-caption"})
    path = picture(tmp_path / "a.png", (1024, 1024))
    dogs = [location_text(box, 1024, 1024) for box in ((100, 100, 200, 200), (800, 800, 900, 900))]
    tree = location_text((500, 100, 700, 300), 1024, 1024)
    caption = f"{phrase_text('dogs', f'{dogs[0]}{dogs[1]}')} by {phrase_text('a <b>tree</b>', str(tree))}."
    write_rows(workspace.filtered("scenes"), [{"s3_path": path, "loc_caption": caption, "key": "a#0"}])
    [row] = preview_table(workspace, "scenes")
    assert (row.boxes, row.problems) == (3, ())
    folder = workspace.preview("scenes")
    with Image.open(folder / "001.jpg") as sheet:
        dogs_box, tree_box = outlined(sheet, "#e6194b"), outlined(sheet, "#3cb44b")
    assert near(dogs_box[2:], (900, 900)) and near(tree_box[2:], (700, 300))
    assert dogs_box[0] <= 102 and 70 <= dogs_box[1] <= 85  # the label stands above the first box
    page = (folder / PAGE).read_text()
    assert "<b>" not in page and shown_words(page)["loc_caption"] == caption


def test_an_edit_has_its_images_side_by_side(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"edits": "edit-plan"})
    before = picture(tmp_path / "in.png", (400, 200), ((0, 0, 400, 200), RED))
    after = picture(tmp_path / "out.png", (200, 200), ((0, 0, 200, 200), BLUE))
    text = f"a cup {location_text((50, 50, 150, 150), 200, 200)}"
    row = {"input_paths": [before, before], "output_paths": after, "instruction": "Add a cup", "grounding_text": text}
    write_rows(workspace.filtered("edits"), [row | {"key": "e#0"}])
    [shown] = preview_table(workspace, "edits")
    assert (shown.images, shown.problems) == ((before, before, after), ())
    with Image.open(workspace.preview("edits") / "001.jpg") as sheet:
        assert 1000 < sheet.width <= 1024
        height = sheet.height
        assert height == (1024 - 16) // 5  # 2 : 2 : 1
        for at, colour in ((20, RED), (height * 2 + 30, RED), (height * 4 + 40, BLUE)):
            assert near(sheet.getpixel((at, 20)), colour, 30)  # type: ignore[arg-type]
    words = shown_words((workspace.preview("edits") / PAGE).read_text())
    assert words == {
        "instruction": "Add a cup",
        "grounding_text": text,
        "1 input_paths": f"{before}\n400 x 200",
        "2 input_paths": f"{before}\n400 x 200",
        "3 output_paths": f"{after}\n200 x 200",
    }


def test_an_image_that_a_dropped_row_lacks_is_a_grey_one(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"edits": "edit"})
    path = picture(tmp_path / "a.png", (64, 64))
    row = {"input_paths": [path, None], "output_paths": path, "instruction": "more", "key": "e#0"}
    write_rows(workspace.filtered("edits"), [row])
    [shown] = preview_table(workspace, "edits")
    assert shown.problems == ("input_paths: an image is not there",)


def test_many_images_stand_in_lines(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"talks": "conversation-images"})
    paths = [picture(tmp_path / f"{number}.png", (100, 100)) for number in range(9)]
    turns = [{"from": "human", "value": "<image> What?"}, {"from": "gpt", "value": "Grey & <plain>"}]
    write_rows(workspace.filtered("talks"), [{"image": paths, "conversations": turns, "key": "t#0"}])
    [row] = preview_table(workspace, "talks")
    with Image.open(workspace.preview("talks") / "001.jpg") as sheet:
        assert max(sheet.size) <= 1024 and sheet.width > sheet.height > 700
    page = (workspace.preview("talks") / PAGE).read_text()
    assert shown_words(page)["conversations"] == "human: <image> What?\ngpt: Grey & <plain>"
    assert "<plain>" not in page and len(row.images) == 9


def test_rows_without_images_and_turns_that_are_none(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"talks": "conversation"})
    path = picture(tmp_path / "a.png", (64, 64))
    turns = json.dumps([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}])
    write_rows(workspace.filtered("talks"), [{"image": path, "conversations": turns, "key": "t#0"}])
    write_rows(workspace.text_only("talks"), [{"image": None, "conversations": "[nothing", "key": "t#1"}])
    rows = list(preview_table(workspace, "talks"))
    assert rows == [Shown(1, "t#0", "001.jpg", (path,), 0, ()), Shown(2, "t#1", None, (), 0, ())]
    page = (workspace.preview("talks") / PAGE).read_text()
    assert "human: Hi\ngpt: Ho" in page and "[nothing" in page and page.count("<img") == 1


def test_what_is_wrong_is_shown_and_told(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"scenes": "grounded-caption"})
    good = picture(tmp_path / "good.png", (640, 320))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "half.png").write_bytes(Path(good).read_bytes()[:-90])
    above = "<LOC_BEGIN><LOC_10><LOC_10><LOC_90><LOC_90><LOC_END>"
    turned = "<LOC_BEGIN><LOC_90><LOC_10><LOC_10><LOC_90><LOC_END>"
    captions = ["A cat.", phrase_text("sky", above), phrase_text("cat", turned), "a <LOC_BEGIN><LOC_3><LOC_END>"]
    names = ["gone.png", "bad.png", "half.png", "good.png/x.png"]
    rows = [{"s3_path": good, "loc_caption": caption, "key": f"s#{i}"} for i, caption in enumerate(captions)]
    fine = phrase_text("cat", str(location_text((9, 9, 99, 99), 640, 320)))
    rows += [{"s3_path": str(tmp_path / name), "loc_caption": fine, "key": name} for name in names]
    write_rows(workspace.filtered("scenes"), rows)
    shown = list(preview_table(workspace, "scenes"))
    assert [row.problems for row in shown] == [
        ("loc_caption: has no location",),
        (f"sky: {above} lies outside of the image",),
        (f"cat: {turned} is no location",),
        ("loc_caption: has a location that is none",),
        (f"s3_path: {tmp_path}/gone.png is not there",),
        (f"s3_path: {tmp_path}/bad.png cannot be opened (UnidentifiedImageError)",),
        (f"s3_path: {tmp_path}/half.png cannot be opened (OSError)",),
        (f"s3_path: {tmp_path}/good.png/x.png is not there",),
    ]
    page = (workspace.preview("scenes") / PAGE).read_text()
    assert [html.unescape(text) for text in re.findall(r'class="problem">(.*?)</p>', page)] == [
        problem for row in shown for problem in row.problems
    ]
    assert [row.picture for row in shown] == [f"{number:03d}.jpg" for number in range(1, 9)]


def test_rows_are_spread_evenly_over_shards_and_row_groups(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"pictures": "text-to-image"})
    path = picture(tmp_path / "a.png", (8, 8))
    rows = [{"s3_path": path, "caption": "c", "key": f"k#{number}"} for number in range(101)]
    write_rows(workspace.filtered("pictures"), rows, shards=7, group=4)
    keys = [row.key for row in preview_table(workspace, "pictures", rows=11)]
    assert keys == [f"k#{number}" for number in range(0, 101, 10)]
    assert [row.key for row in preview_table(workspace, "pictures", rows=1)] == ["k#0"]
    assert sorted(path.name for path in workspace.preview("pictures").glob("*.jpg")) == ["001.jpg"]  # no old ones
    assert len(list(preview_table(workspace, "pictures", rows=500))) == 101
    assert "101 of 101 rows" in (workspace.preview("pictures") / PAGE).read_text()


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"pictures": "text-to-image"})
    evil = '</dd><script>alert(1)</script><img src=x onerror="a()">&amp;'
    path = picture(tmp_path / "<i>.png", (8, 8))
    write_rows(workspace.filtered("pictures"), [{"s3_path": path, "caption": evil, "key": f"{evil}#0"}])
    list(preview_table(workspace, "pictures"))
    page = (workspace.preview("pictures") / PAGE).read_text()
    assert "<script" not in page and page.count("<img") == 1 and "<i>" not in page
    assert shown_words(page)["caption"] == evil


def test_labels_of_any_words_are_drawn(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"places": "referring-expression"})
    path = picture(tmp_path / "a.png", (40, 20))
    labels = ["x" * 500, "две собаки\n\x00", "犬と🐕", "", "\u202eobverse"]
    whole = location_text((0, 0, 40, 20), 40, 20)
    rows = [{"s3_path": path, "label": label, "loc_string": whole, "key": "k"} for label in labels]
    write_rows(workspace.filtered("places"), rows)
    assert [row.problems for row in preview_table(workspace, "places")] == [()] * 5


def test_images_on_s3(s3: S3Server, tmp_path: Path) -> None:
    store = f"s3://{s3.bucket}/looked at"
    workspace = make(
        tmp_path / "w", {"talks": "conversation", "pictures": "text-to-image"}, images=store, s3_endpoint=s3.endpoint
    )
    s3.put("looked at/x/a b.png", Path(picture(tmp_path / "a b.png", (64, 32))).read_bytes())
    there, gone = f"{store}/x/a b.png", f"{store}/x/gone.png"
    rows = [{"s3_path": path, "caption": "c", "key": path} for path in (there, gone)]
    write_rows(workspace.filtered("pictures"), rows)
    assert list(preview_table(workspace, "pictures")) == [
        Shown(1, there, "001.jpg", (there,), 0, ()),
        Shown(2, gone, "002.jpg", (gone,), 0, (f"s3_path: {gone} is not there",)),
    ]
    joined = {"image": there.removeprefix("s3://"), "conversations": "[]", "key": "t#0"}  # training adds the scheme
    write_rows(workspace.filtered("talks"), [joined])
    assert list(preview_table(workspace, "talks")) == [Shown(1, "t#0", "001.jpg", (there,), 0, ())]


def test_a_folder_that_no_preview_made_stays_as_it_is(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"pictures": "text-to-image"})
    path = picture(tmp_path / "a.png", (8, 8))
    write_rows(workspace.filtered("pictures"), [{"s3_path": path, "caption": "c", "key": "k"}])
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    picture(theirs / "001.jpg", (8, 8))
    before = snapshot(theirs)
    for folder in (theirs, tmp_path / "a.png"):
        with pytest.raises(UsageError):
            list(preview_table(workspace, "pictures", folder=folder))
    assert snapshot(theirs) == before
    mine.mkdir()
    list(preview_table(workspace, "pictures", folder=mine))
    (mine / "notes.txt").write_text("mine")
    (mine / "012.jpg").write_bytes(b"old")
    first = snapshot(mine)
    list(preview_table(workspace, "pictures", folder=mine))
    assert snapshot(mine) == {name: data for name, data in first.items() if name != "012.jpg"}


def test_a_table_that_is_not_there_yet_or_has_no_rows(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"pictures": "text-to-image"})
    with pytest.raises(DataError, match="not filtered yet"):
        list(preview_table(workspace, "pictures"))
    write_rows(workspace.filtered("pictures"), [{"s3_path": "/x.png", "caption": "c", "key": "k"}])
    write_rows(workspace.normalized("pictures"), [{"row": 0, "caption": "c", "key": "k"}])
    with pytest.raises(DataError, match="no row of table pictures was dropped"):
        list(preview_table(workspace, "pictures", dropped=True))
    assert not (workspace.root / "preview").exists()


def test_a_dataset_of_pictures_alone_has_no_table_to_show(tmp_path: Path) -> None:
    Workspace.create(tmp_path, "name: x\nentries: [{table: grand-f-flickr}]\n")
    done = prep(tmp_path, "preview", "flickr30k")
    assert done.returncode == 1
    assert "flickr30k has pictures alone, no table in the recipe" in done.stderr
    assert "Name one: grand-f-flickr." in done.stderr


def test_the_command(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"places": "referring-expression"})
    path = picture(tmp_path / "a.png", (64, 64))
    text = location_text((0, 0, 32, 32), 64, 64)
    row = {"s3_path": path, "label": "dog", "loc_string": text, "key": "a#0"}
    write_rows(workspace.filtered("places"), [row, row | {"s3_path": "/gone.png", "key": "a#1"}])
    samples = [{"label": "cat", "row": 1}, {"label": "dog", "row": 2}]
    write_rows(workspace.normalized("places"), [one | {"loc_string": text, "url": "http://x/y"} for one in samples])
    dropped = {"s3_path": None, "key": "a#2", "row": 2, "reason": "image_http_404"}
    write_rows(workspace.dropped("places"), [dropped])
    page = workspace.preview("places") / PAGE
    done = prep(workspace.root, "preview", "places")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "001.jpg       1 box  a#0",
        "002.jpg       1 box  a#1",
        "          s3_path: /gone.png is not there",
        str(page),
    ]
    done = prep(workspace.root, "preview", "places", "-n", "1", "-o", tmp_path / "out", "--json")
    assert json.loads(done.stdout) == {
        "page": str(tmp_path / "out" / PAGE),
        "rows": [{"number": 1, "key": "a#0", "picture": "001.jpg", "images": [path], "boxes": 1, "problems": []}],
    }
    done = prep(workspace.root, "preview", "places", "--dropped")
    assert done.stdout.splitlines() == [
        "no image      1 box  a#2",
        str(workspace.preview("places-dropped") / PAGE),
    ]
    words = shown_words((workspace.preview("places-dropped") / PAGE).read_text())
    assert words == {"reason": "image_http_404", "label": "dog", "loc_string": text, "url": "http://x/y"}
    done = prep(workspace.root, "preview", "plaices")
    assert done.returncode == 1 and "did you mean 'places'?" in done.stderr
