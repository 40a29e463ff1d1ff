"""Histograms count every row once, into the right bin, wherever it lies."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_world import Page, make, sample, write_filtered, write_shards

from prep.errors import DataError
from prep.report.histograms import AESTHETIC, IMAGE_WIDTH, LENGTH, SHAPE, Axis, Histogram, table_histograms, text_column
from prep.report.svg import histogram_svg, short
from prep.schema import KINDS


def filled(histogram: Histogram) -> dict[str, tuple[int, int]]:
    """Bins that hold rows, by their words."""
    counts = zip(histogram.kept, histogram.dropped, strict=True)
    return {histogram.axis.words_of(number): pair for number, pair in enumerate(counts) if any(pair)}


def test_every_value_is_in_its_bin_and_an_edge_in_the_one_above(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"pictures": "text-to-image"})
    kept = [
        sample(0, fltLaionAesthScore=5.25, intWidth=64, intHeight=64, caption="x" * 800),
        sample(1, fltLaionAesthScore=5.2499999, intWidth=63, intHeight=10_000, caption=""),
        sample(2, fltLaionAesthScore=99.0, intWidth=8192, intHeight=None, caption="ж" * 799),
    ]
    dropped = [
        sample(3, fltLaionAesthScore=-1.0, intWidth=65, intHeight=0, caption=None, reason="no_caption"),
        sample(4, fltLaionAesthScore=None, intWidth=None, intHeight=None, caption="dog", reason="no_score"),
    ]
    write_filtered(workspace, "pictures", kept, dropped)
    score, width, height, shape, length = table_histograms(workspace, "pictures")
    assert filled(score) == {"below 2": (0, 1), "5 to 5.25": (1, 0), "5.25 to 5.5": (1, 0), "9 or more": (1, 0)}
    assert (score.kept_unknown, score.dropped_unknown, score.low, score.high) == (0, 1, -1.0, 99.0)
    assert filled(width) == {"below 64": (1, 0), "64 to 128": (1, 1), "8192 or more": (1, 0)}
    assert filled(height) == {"below 64": (0, 1), "64 to 128": (1, 0), "8192 or more": (1, 0)}
    assert filled(shape) == {"below 1:4": (1, 0), "9:10 to 10:9": (1, 0)}  # a height of 0 has none
    assert (shape.kept_unknown, shape.dropped_unknown) == (1, 2)
    assert filled(length) == {"below 1": (1, 0), "1 to 20": (0, 1), "600 to 800": (1, 0), "800 to 1200": (1, 0)}
    assert length.axis.title == "characters of caption"


SCORES = st.lists(st.one_of(st.none(), st.floats(-20, 20), st.sampled_from(AESTHETIC.edges)), max_size=12)


@given(kept=SCORES, dropped=SCORES, shards=st.integers(1, 4))
def test_bins_agree_with_counting_by_hand(
    tmp_path_factory: pytest.TempPathFactory, kept: list[float | None], dropped: list[float | None], shards: int
) -> None:
    workspace = make(tmp_path_factory.mktemp("bins") / "w", {"pictures": "text-to-image"})
    rows = [
        [sample(n, fltLaionAesthScore=score, reason="where") for n, score in enumerate(some)]
        for some in (kept, dropped)
    ]
    write_filtered(
        workspace, "pictures", [{k: v for k, v in row.items() if k != "reason"} for row in rows[0]], rows[1], shards
    )
    found = {histogram.axis: histogram for histogram in table_histograms(workspace, "pictures")}
    if not any(score is not None for score in kept + dropped):
        assert AESTHETIC not in found
        return
    edges = AESTHETIC.edges
    for scores, counts, unknown in (
        (kept, found[AESTHETIC].kept, found[AESTHETIC].kept_unknown),
        (dropped, found[AESTHETIC].dropped, found[AESTHETIC].dropped_unknown),
    ):
        by_hand = [0] * (len(edges) + 1)
        for score in scores:
            if score is not None:
                by_hand[sum(score >= edge for edge in edges)] += 1
        assert list(counts) == by_hand
        assert unknown == scores.count(None)


@pytest.mark.parametrize("axis", [AESTHETIC, IMAGE_WIDTH, SHAPE, LENGTH], ids=lambda axis: axis.name)
def test_edges_rise_and_each_has_its_words(axis: Axis) -> None:
    assert list(axis.edges) == sorted(set(axis.edges)) and len(axis.edges) == len(axis.words)


def test_conversations_have_the_characters_of_their_turns(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"talks": "conversation", "seen": "conversation-images"})
    facts = {"dataset": "talks", "kind": "conversation", "columns": [], "rules": {}, "has_images": True, "rows_in": 3}
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A dog."}]
    as_text = '[{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A dog."}]'
    kept = pa.table({"image": ["a.png"], "conversations": [as_text]})
    text = pa.table({"image": pa.nulls(1), "conversations": [as_text]})
    samples = pa.table({"row": [0, 1, 2], "conversations": [as_text, as_text, "no JSON"]})
    dropped = pa.table({"image": ["a.png"], "row": [2], "reason": ["bad_conversation"]})
    write_shards(workspace.filtered("talks"), "filter", [kept], facts, text_only=1, bad_conversation=1)
    write_shards(workspace.text_only("talks"), "filter", [text], {})
    write_shards(workspace.normalized("talks"), "normalize", [samples], {})
    write_shards(workspace.dropped("talks"), "filter", [dropped], {})
    [length] = table_histograms(workspace, "talks")
    assert filled(length) == {"1 to 20": (2, 0)} and (length.low, length.high, length.dropped_unknown) == (17, 17, 1)
    native = pa.table({"image": [["a.png"]], "conversations": [turns]})
    write_shards(workspace.filtered("seen"), "filter", [native], facts)
    write_shards(workspace.normalized("seen"), "normalize", [samples], {})
    [length] = table_histograms(workspace, "seen")
    assert filled(length) == {"1 to 20": (1, 0)} and length.low == 17


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_has_a_text(kind: object) -> None:
    assert text_column(kind) not in ("is_edit", "crop_parms")  # type: ignore[arg-type]


def test_a_table_that_is_not_filtered_is_told(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"pictures": "text-to-image"})
    with pytest.raises(DataError, match="table pictures is not filtered yet"):
        table_histograms(workspace, "pictures")


def test_a_damaged_shard_is_told(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", {"pictures": "text-to-image"})
    write_filtered(workspace, "pictures", [sample()], [])
    path = workspace.filtered("pictures") / "shard-00000.parquet"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(DataError, match="stats pictures: ") as failure:
        table_histograms(workspace, "pictures")
    assert "prep filter --force" in failure.value.next_step


def test_numbers_of_any_size_are_short() -> None:
    numbers = [0, 999, 99_999, 100_000, 999_499, 999_999, 746_972_269, 2_100_000_000, 10**12, 10**15]
    words = ["0", "999", "99,999", "100 k", "999 k", "1 M", "747 M", "2.1 bn", "1 tn", "1,000 tn"]
    assert [short(number) for number in numbers] == words


def test_a_chart_tells_every_bar(tmp_path: Path) -> None:
    axis = Axis("x", 'a <b> & "c"', (1.0, 2.0), ("1", "2"))
    page = Page(histogram_svg(Histogram(axis, (2_000_000_000, 0, 1), (0, 0, 1), 0, 0, 0.0, 9.0)))
    assert page.named("svg")[0]["aria-label"] == 'a <b> & "c"'
    assert page.text == "2 bn below 1: 2,000,000,000 kept, 0 dropped 2 or more: 1 kept, 1 dropped 1 2"
    assert [bar["class"] for bar in page.named("rect")] == ["kept", "kept", "dropped"]
    assert all(float(str(bar["height"])) >= 1 for bar in page.named("rect"))  # one row among a billion is seen
