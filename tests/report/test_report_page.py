"""A report of made workspaces: its numbers, its pictures, and that no word of the data becomes more than a word."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image
from report_world import Page, make, sample, write_filtered, write_shards

from prep.datasets.grounding import location_text
from prep.errors import UsageError
from prep.images.index import SCHEMA
from prep.manifest import Manifest, Shard, write_manifest
from prep.report import sheets
from prep.report.build import build_report
from prep.report.page import render
from prep.report.write import report_path, write_report
from prep.workspace import Workspace

EVIL = '</title><script>alert(1)</script><img src="http://evil.test/x" onerror="a()">&amp;\'"><style>*{display:none}'


def picture(path: Path, size: tuple[int, int] = (40, 30), colour: tuple[int, int, int] = (90, 90, 90)) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return str(path)


def page_of(workspace: Workspace, **options: Any) -> tuple[str, Page]:
    text = render(build_report(workspace, **options))
    return text, Page(text)


def assert_fetches_nothing(page: Page) -> None:
    """No script, no form, and every address is data, or a link that a person has to follow."""
    allowed = {
        *("html", "head", "meta", "title", "style", "body", "header", "nav", "section", "article", "footer", "div"),
        *(
            "h1",
            "h2",
            "h3",
            "h4",
            "p",
            "a",
            "ul",
            "ol",
            "li",
            "b",
            "i",
            "em",
            "small",
            "span",
            "code",
            "dl",
            "dt",
            "dd",
        ),
        *("table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "details", "summary", "img"),
        *("svg", "g", "rect", "line", "text"),
    }
    assert {tag for tag, _ in page.tags} <= allowed
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in {"src", "href", "xlink:href", "srcset", "action", "data"} & attributes.keys():
            value = str(attributes[name])
            expected = ("data:image/jpeg;base64,",) if tag == "img" else ("#", "https://", "http://")
            assert value.startswith(expected) and (tag in ("img", "a")), (tag, name, value)
    policies = [str(meta.get("content")) for meta in page.named("meta") if "http-equiv" in meta]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


# -- numbers ---------------------------------------------------------------------------------------------------------


def test_the_mixture_says_what_training_would_draw(tmp_path: Path) -> None:
    entries = [
        {"table": "a", "group": "x"},
        {"table": "b", "group": "x", "sampling": "dup:3"},
        {"table": "c", "group": "y", "sampling": "first:50%"},
        {"table": "d", "group": "z"},
    ]
    kinds = dict.fromkeys("abcd", "text-to-image")
    weights, factors = {"x": 3, "y": 1, "z": 4}, {"y": 0.5}
    workspace = make(tmp_path / "w", kinds, entries=entries, weights=weights, batch_sizes=factors)
    for name, rows in {"a": 4, "b": 2, "c": 10}.items():
        write_filtered(workspace, name, [sample(number) for number in range(rows)], [])
    report = build_report(workspace, steps=100, batch=8, pictures=False)
    assert [(item.entry, item.kept, item.sampled, item.share, item.seen) for item in report.mixture] == [
        ("a", 4, 4, pytest.approx(0.75 * 0.4), 100 * 8 * 0.3 / 4),
        ("b", 2, 6, pytest.approx(0.75 * 0.6), pytest.approx(100 * 8 * 0.45 / 2)),
        ("c", 10, 5, 0.25, 100 * 4 * 0.25 / 5),
        ("d", None, None, None, None),  # not filtered: its group takes no part
    ]
    text = Page(render(report)).text
    assert "x 75.0% a 30.0% 4 rows , each seen 60x b 45.0% 6 rows (dup:3), each seen 180x" in text.replace(
        "rows,", "rows ,"
    )
    assert "z 0.0% d not filtered yet" in text and "100 steps of 8 samples" in text


def test_numbers_of_any_size_are_told_in_few_characters(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"a": "text-to-image"})
    scores = (-1e300, 123_456_789.0, 1e16)
    write_filtered(workspace, "a", [sample(n, fltLaionAesthScore=score) for n, score in enumerate(scores)], [])
    text = Page(render(build_report(workspace, steps=10**20, batch=10**20, pictures=False))).text
    assert "-1e+300 to 1e+16" in text and "each seen 3.33e+39x" in text
    text = Page(render(build_report(workspace, steps=10**9, batch=30, pictures=False))).text
    assert "each seen 10,000,000,000x" in text


def test_convllava_sees_every_row_equally_often(tmp_path: Path) -> None:
    workspace = make(
        tmp_path / "w", {"a": "text-to-image", "b": "text-to-image"}, trainer="convllava", weights={"default": 9}
    )
    for name, rows in {"a": 3, "b": 1}.items():
        write_filtered(workspace, name, [sample(number) for number in range(rows)], [])
    mixture = build_report(workspace, steps=2, batch=4, pictures=False).mixture
    assert [(item.entry, item.group, item.share, item.seen) for item in mixture] == [
        ("a", "", 0.75, 2.0),
        ("b", "", 0.25, 2.0),
    ]


def test_failures_by_class_and_host(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"a": "text-to-image"}, images="url")
    found = [
        ("ok", "https://user:pw@One.test:8080/a.png"), ("ok", "https://one.test/b?x=http://two.test/"),
        ("http_404", "https://one.test#x"), ("dns", "http://two.test/c"), ("dns", "http://two.test/d"),
        ("bad_url", "no address"), ("timeout", "http://[2001:db8::1]:80/e"), ("http_404", "http://two.test"),
        ("ok", "http://good.test/f"),
    ]  # fmt: skip
    rows = [
        {"image_key": str(n), "status": status, "source": source, "format": "PNG", "size_bytes": 10}
        for n, (status, source) in enumerate(found)
    ]
    tables = [pa.Table.from_pylist(rows[n::2], schema=SCHEMA) for n in range(2)]
    facts = {"store": "images", "encode": {}}
    write_shards(workspace.index("a"), "images", tables, facts, ok=3, http_404=2, dns=2, bad_url=1, timeout=1)
    report = build_report(workspace, pictures=False)
    assert json.loads(json.dumps(report.as_json(), default=lambda value: value.as_json()))["images"] == [
        {
            "dataset": "a",
            "good": 3,
            "size_bytes": 30,
            "formats": {"PNG": 3},
            "statuses": {"dns": 2, "http_404": 2, "bad_url": 1, "timeout": 1},
            "hosts": [
                {"name": "two.test", "images": 3, "failed": 3, "statuses": {"dns": 2, "http_404": 1}},
                {"name": "", "images": 1, "failed": 1, "statuses": {"bad_url": 1}},
                {"name": "[2001:db8::1]", "images": 1, "failed": 1, "statuses": {"timeout": 1}},
                {"name": "one.test", "images": 3, "failed": 1, "statuses": {"http_404": 1}},
            ],
            "failing_hosts": 4,
            "histograms": [],
        }
    ]
    text = Page(render(report)).text
    assert "dns connection 2 22.2% http_404 answer 2 22.2% bad_url not asked 1" in text
    assert "two.test 3 3 100.0% 2 dns, 1 http_404" in text


def test_counts_beyond_32_bits(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"laion": "text-to-image"})
    write_filtered(workspace, "laion", [sample()], [])
    rows, dropped = 2_100_000_000_000, 1_400_000_000_000
    folder = workspace.filtered("laion")
    facts = {"dataset": "laion", "kind": "text-to-image", "columns": [], "rules": {"where": "x"}, "has_images": True}
    path = folder / "shard-00000.parquet"
    shard = Shard(path.name, "t", rows - dropped, path.stat().st_size, "0" * 64, {"where": dropped})
    write_manifest(folder, Manifest("filter", (shard,), facts | {"rows_in": rows}))
    normalized = workspace.normalized("laion")
    whole = Shard("shard-00000.parquet", "t", rows, 467 * 10**9, "0" * 64)
    write_manifest(normalized, Manifest("normalize", (whole,), {}))
    _, page = page_of(workspace, pictures=False)
    assert "700 bn rows kept of 2.1 tn" in page.text
    assert "rows 2,100,000,000,000 100.0% where -1,400,000,000,000 700,000,000,000 33.3%" in page.text
    assert "467.0 GB" in page.text


def test_an_empty_workspace_has_a_page(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {})
    _, page = page_of(workspace)
    assert_fetches_nothing(page)
    assert page.text.count("Nothing yet.") == 5
    assert "0 rows kept of 0 0 tables 0 images, 0 B" in page.text


def test_a_workspace_where_nothing_is_made_yet(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"pictures": "text-to-image"})
    _, page = page_of(workspace)
    assert "download 0 parts 0 B 0 of 1" in page.text and "pictures not filtered yet" in page.text
    assert "parts not downloaded yet pictures: rules not filtered" in page.text


# -- pictures --------------------------------------------------------------------------------------------------------


def test_contact_sheets_go_by_tenths_of_the_score(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"pictures": "text-to-image"})
    kept = []
    for number in range(40):
        path = picture(tmp_path / "p" / f"{number}.png", colour=(number * 6, 0, 0))
        score = None if number == 39 else 5 + (number * 7 % 39) / 10  # in no order
        kept.append(sample(number, s3_path=path, fltLaionAesthScore=score, caption=f"dog {number}"))
    write_filtered(workspace, "pictures", kept, [], shards=3)
    found = sheets.contact_sheets(workspace, "pictures", tables=10)
    assert [(sheet.tenth, sheet.low, sheet.high) for sheet in found[:2]] == [(1, 5.0, 5.2), (2, 5.3, 5.6)]
    assert [sheet.tenth for sheet in found] == list(range(1, 11))
    shown = [one for sheet in found for one in sheet.thumbnails]
    assert all(sheet.low <= one.score <= sheet.high for sheet in found for one in sheet.thumbnails)  # type: ignore[operator]
    assert len({one.key for one in shown}) == len(shown) == 39
    for one in shown:  # the picture is the row's own
        data = base64.b64decode(one.data.removeprefix("data:image/jpeg;base64,"))
        with Image.open(io.BytesIO(data)) as image:
            red = image.getpixel((5, 5))[0]  # type: ignore[index]
            assert image.size == (one.width, one.height) == (132, 99)
        assert abs(red - int(one.text.removeprefix("dog ")) * 6) < 8


def test_few_pictures_still_show_the_lowest_and_the_highest(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"pictures": "text-to-image"})
    path = picture(tmp_path / "a.png")
    kept = [sample(number, s3_path=path, fltLaionAesthScore=5 + number / 100) for number in range(100)]
    write_filtered(workspace, "pictures", kept, [])
    found = sheets.contact_sheets(workspace, "pictures", tables=sheets.MAX_PICTURES // 3)
    assert [(sheet.tenth, len(sheet.thumbnails)) for sheet in found] == [(1, 1), (5, 1), (10, 1)]


def test_boxes_are_drawn_on_thumbnails(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"places": "referring-expression"})
    path = picture(tmp_path / "a.png", (400, 400))
    text = location_text((100, 100, 300, 300), 400, 400)
    facts = {"dataset": "places", "kind": "referring-expression", "columns": [], "rules": {}, "has_images": True}
    rows = [{"s3_path": path, "label": "dog", "loc_string": text, "key": "k"}]
    write_shards(workspace.filtered("places"), "filter", [pa.Table.from_pylist(rows)], facts | {"rows_in": 1})
    [sheet] = sheets.contact_sheets(workspace, "places", tables=1)
    [one] = sheet.thumbnails
    with Image.open(io.BytesIO(base64.b64decode(one.data.partition(",")[2]))) as image:
        red = (np.abs(np.asarray(image).astype(int) - (230, 25, 75)) < 60).all(axis=2)
    ys, xs = np.nonzero(red)
    assert [xs.min() // 4, ys.min() // 4, xs.max() // 4, ys.max() // 4] == [8, 8, 24, 24]  # a quarter of 132 in


def test_images_that_are_not_there_have_a_grey_one(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"pictures": "text-to-image"})
    write_filtered(workspace, "pictures", [sample()], [])
    _, page = page_of(workspace)
    assert len(page.named("img")) == 1
    assert page_of(workspace, pictures=False)[1].named("img") == []


def test_a_page_stays_small_whatever_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make(tmp_path / "w", dict.fromkeys("ab", "text-to-image"))
    monkeypatch.setattr(sheets, "MAX_PICTURES", 24)
    noise = np.random.default_rng(0).integers(0, 255, (600, 600, 3), np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(noise).save(path)
    words = {"s3_path": str(path), "caption": "x" * 100_000, "key": "k" * 100_000}
    for name in ("a", "b"):
        write_filtered(workspace, name, [sample(number) | words for number in range(40)], [])
    text, page = page_of(workspace)
    pictures = [str(image["src"]) for image in page.named("img")]
    assert 20 <= len(pictures) <= 24
    assert max(map(len, pictures)) <= sheets.MAX_PICTURE_BYTES * 4 / 3 + 100
    assert len(text) - sum(map(len, pictures)) < 60_000


# -- hostile words, and files ------------------------------------------------------------------------------------------


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"a": "text-to-image"}, images="url", title=EVIL)
    path = picture(tmp_path / EVIL.replace("/", "_") / "a.png")
    kept = [sample(caption=EVIL, key=EVIL, s3_path=path)]
    write_filtered(workspace, "a", kept, [sample(reason=EVIL)])
    dataset = workspace.root / "datasets" / "a.yaml"
    described = yaml.safe_load(dataset.read_text())
    described |= {"license": EVIL, "title": EVIL, "homepage": f"javascript:{EVIL}"}
    dataset.write_text(yaml.safe_dump(described))
    rows = [{"image_key": "1", "status": EVIL, "source": f"http://{EVIL}/a", "size_bytes": 1}]
    rows += [{"image_key": "2", "status": "ok", "source": "http://b", "format": EVIL, "size_bytes": 1}]
    index = pa.Table.from_pylist(rows, schema=SCHEMA)
    write_shards(workspace.index("a"), "images", [index], {"store": "images"}, **{EVIL: 1, "ok": 1})
    passport = {"scorer": EVIL, "scale": EVIL, "weights": {EVIL: EVIL}, "preprocessing": EVIL, "dtype": EVIL}
    facts = {"dataset": "a", "passports": [passport], "source": "images"}
    write_shards(workspace.scores("aesthetic-v2", "a"), "score", [], facts)
    facts = {"asked": EVIL, "repo": EVIL, "revision": EVIL, "slice": EVIL}
    write_shards(workspace.raw("a"), "download", [], facts)
    text, page = page_of(Workspace(workspace.root))
    assert_fetches_nothing(page)
    assert EVIL not in text and "<script" not in text and len(page.named("style")) == 1
    assert page.text.count("alert(1)") >= 12  # it is all there, as words
    assert page.named("img")[0]["alt"] == EVIL
    assert [link["href"] for link in page.named("a") if not str(link["href"]).startswith("#")] == []


def test_the_same_workspace_gives_the_same_bytes(tmp_path: Path) -> None:
    pages = []
    for name in ("one", "two"):
        workspace = make(tmp_path / name, {"pictures": "text-to-image"})
        path = picture(tmp_path / name / "a.png")
        kept = [sample(number, s3_path=path, fltLaionAesthScore=5 + number / 10) for number in range(30)]
        write_filtered(workspace, "pictures", kept, [sample(31, reason="where")])
        pages.append(page_of(workspace)[0])
        assert str(tmp_path) not in pages[-1]
    assert len({text.partition("manifest of")[0] for text in pages}) == 1


def test_a_report_replaces_reports_alone(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {})
    path = report_path(workspace, None)
    assert path == workspace.root / "report.html"
    report = build_report(workspace)
    assert write_report(report, path) == path.stat().st_size
    assert report_path(workspace, path) == path  # its own may be replaced
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine</p>")
    for place in (mine, tmp_path, workspace.root / "recipe.yaml", workspace.root / "filtered" / "x.html"):
        with pytest.raises(UsageError):
            report_path(workspace, place)
