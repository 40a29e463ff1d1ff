"""Captions that one dataset gives for the addresses of another."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from lines import finish

from prep.publishers import World
from worlds import make_workspace, prep


def raw(root: Path, pattern: str) -> pd.DataFrame:
    """All parts below raw/ that match, as one table, addresses under `url`."""
    read = pd.read_csv if pattern.endswith("csv") else pd.read_parquet
    parts = [read(path) for path in sorted((root / "raw").glob(pattern))]
    return pd.concat([part.rename(columns={"Image Path": "url"}) for part in parts], ignore_index=True)


@pytest.mark.parametrize(
    ("table", "own", "others", "caption"),
    [
        (
            "coyo-700m-recaptioned",
            "coyo-700m/data/*.parquet",
            "recap-long-coyo/*.csv",
            "longLLA_captions",
        ),
        (
            "laion-2b-recaptioned-19m",
            "laion-2b/part*.parquet",
            "re-laion-caption19m/*.parquet",
            "llava_next_caption",
        ),
    ],
)
def test_captions_of_another_table_go_in_the_place_of_its_own(
    table: str, own: str, others: str, caption: str, tmp_path: Path, world: World
) -> None:
    line = finish(tmp_path, [{"table": table}], world)
    captions = raw(line.root, others)
    captions = captions[captions[caption].fillna("").str.strip() != ""].drop_duplicates("url")
    first = dict(zip(captions["url"], captions[caption], strict=True))
    rows = raw(line.root, own)
    score = rows.get("aesthetic_score_laion_v2", pd.Series([9.0] * len(rows)))
    wanted = [first[url] for url in rows[score > 5]["url"] if url in first]
    kept = line.rows(table)
    lost = [reason for reason in line.dropped(table).values() if reason.startswith("image_")]
    assert len(kept) > 2 and len(kept) + len(lost) == len(wanted)
    assert [row["caption"] for row in kept] == [text for text in wanted if text in {row["caption"] for row in kept}]
    assert set(line.dropped(table).values()) >= {"no_recaption"}
    assert {outcome["name"] for outcome in line.result["outcomes"] if outcome["stage"] == "images"} == {
        own.partition("/")[0]
    }


def test_a_column_that_one_of_the_two_lacks_is_told(tmp_path: Path, world: World) -> None:
    root = make_workspace(tmp_path / "w", {"name": "tried", "entries": [{"table": "mine"}]}, world)
    (root / "mine.csv").write_text("url,caption\nhttp://127.0.0.1:9/a.jpg,A\n")
    for name, captions in (("mine", "captions: {table: theirs, by: hash}"), ("theirs", "drop: {}")):
        (root / "datasets").mkdir(exist_ok=True)
        (root / f"datasets/{name}.yaml").write_text(f"""
name: {name}
source: {{kind: local, path: {root / "mine.csv"}}}
images: {{kind: url}}
tables:
  {name}:
    kind: text-to-image
    records: {{format: csv, parts: "*"}}
    select: {{caption: caption}}
    {captions}
""")
    done = prep(root, "run", world=world)
    assert done.returncode != 0 and "captions.by is 'hash', which mine does not have" in done.stderr
