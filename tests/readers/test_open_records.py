"""Records of every format as one DuckDB view, their columns under canonical names."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prep import sql
from prep.config import Records
from prep.errors import DataError
from prep.images.archives import split_member
from prep.readers import open_records, webdataset

Rows = tuple[list[str], list[tuple[Any, ...]]]


def rows_of(part: Path, **records: Any) -> Rows:
    """Column names and rows of the view `records`."""
    model = Records(parts="*", **({"format": part.suffix[1:]} | records))
    with sql.connect() as connection, open_records(connection, model, part, lambda key: None):
        result = connection.execute("SELECT * FROM records")
        return [column[0] for column in result.description or ()], result.fetchall()


def parquet(path: Path, **columns: Sequence[Any]) -> Path:
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
    return path


def csv(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_keep_their_names_and_values(tmp_path: Path) -> None:
    part = parquet(tmp_path / "a.parquet", url=["u", None], Score=[5.5, 6.0], **{"odd \"name'": [1, 2]})
    assert rows_of(part) == (["url", "Score", "odd \"name'"], [("u", 5.5, 1), (None, 6.0, 2)])
    part = csv(tmp_path / "a.csv", 'url,caption\nu,"a ""b"", c\nd"\n,\n')
    assert rows_of(part) == (["url", "caption"], [("u", 'a "b", c\nd'), (None, None)])


@pytest.mark.parametrize("format_", ["parquet", "csv"])
def test_columns_are_found_under_other_names_and_in_any_case(format_: str, tmp_path: Path) -> None:
    number: object
    if format_ == "parquet":
        part, number = parquet(tmp_path / "a.parquet", TEXT=["a cat"], Url=["u"], pwatermark=[0.5]), 0.5
    else:
        part, number = csv(tmp_path / "a.csv", "TEXT,Url,pwatermark\na cat,u,0.5\n"), "0.5"
    columns = {"url": ["url"], "caption": ["caption", "text"], "score": ["aesthetic", "SCORE"]}
    found = rows_of(part, columns=columns, optional=["score"])
    assert found == (["url", "caption", "score", "pwatermark"], [("u", "a cat", None, number)])


def test_the_first_of_several_names_wins_and_an_old_column_of_the_canonical_name_gives_way(tmp_path: Path) -> None:
    part = parquet(tmp_path / "a.parquet", caption=["old"], top_caption=["new"], text=["other"])
    found = rows_of(part, columns={"caption": ["top_caption", "text", "caption"]})
    assert found == (["caption", "text"], [("new", "other")])


def test_one_column_can_serve_two_names(tmp_path: Path) -> None:
    part = parquet(tmp_path / "a.parquet", size=[512])
    assert rows_of(part, columns={"width": ["size"], "height": ["size"]}) == (["width", "height"], [(512, 512)])


@pytest.mark.parametrize("format_", ["parquet", "csv"])
def test_a_missing_column_lists_what_is_there(format_: str, tmp_path: Path) -> None:
    if format_ == "parquet":
        part = parquet(tmp_path / "a.parquet", link=["u"], ALT=["x"])
    else:
        part = csv(tmp_path / "a.csv", "link,ALT\nu,x\n")
    with pytest.raises(DataError) as caught:
        rows_of(part, columns={"url": ["url", "image_url"]})
    assert str(caught.value) == (
        f"{part}: no column for 'url' (any of url, image_url); it has: link, ALT\n"
        "  Write the column's name here into the dataset's YAML, under records.columns."
    )


PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
NOT_THE_FORMAT = [
    *(("parquet", b""), ("parquet", b"<html>Not found</html>"), ("parquet", PNG), ("parquet", b"PAR1" * 40)),
    ("csv", b"url,caption\nu,caf\xe9\n"),
]


@pytest.mark.parametrize(("format_", "data"), NOT_THE_FORMAT)
def test_a_part_that_is_not_its_format_is_said(format_: str, data: bytes, tmp_path: Path) -> None:
    part = tmp_path / f"a.{format_}"
    part.write_bytes(data)
    with pytest.raises(DataError) as caught:
        rows_of(part)
    assert caught.value.message.startswith(f"{part}: not the {format_} it should be: ")
    assert caught.value.next_step == (
        f"Delete {part} and run `prep download` again; if it stays so, the publisher changed its format."
    )


def test_a_csv_that_is_a_web_page_lacks_its_columns(tmp_path: Path) -> None:
    part = csv(tmp_path / "a.csv", "<!doctype html>\n<p>Not found</p>\n")
    with pytest.raises(DataError, match="no column for 'url'"):
        rows_of(part, columns={"url": ["url"]})


@pytest.mark.parametrize("format_", ["parquet", "csv"])
@pytest.mark.parametrize("folder", [".", "run=3", "it's [a] *?{b}"])
def test_a_path_means_itself_whatever_duckdb_reads_into_it(format_: str, folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    for name in ("a[1]", "a1", "b*", "bb", "c?", "cc"):
        part = tmp_path / folder / f"{name}.{format_}"
        if format_ == "parquet":
            parquet(part, name=[name])
        else:
            csv(part, f"name\n{name}\n")
    for part in (tmp_path / folder).iterdir():
        assert rows_of(part) == (["name"], [(part.stem,)])


def test_everything_in_a_csv_is_the_text_that_stands_there(tmp_path: Path) -> None:
    lines = ["007,01/02/2020", "1.50,true", '"a, b","two\nlines ""quoted"""', ",  "]
    _, rows = rows_of(csv(tmp_path / "a.csv", "\n".join(["score,caption", *lines, ""])))
    assert rows == [("007", "01/02/2020"), ("1.50", "true"), ("a, b", 'two\nlines "quoted"'), (None, "  ")]


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_byte_order_marks_and_line_ends(separator: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(f"\ufeffa{separator}b\r\n1,5{separator}x\r\n".encode())
    assert rows_of(tmp_path / "a.csv") == (["a", "b"], [("1,5", "x")])


def test_a_csv_row_of_another_length_is_an_error_that_names_its_line(tmp_path: Path) -> None:
    """And not a reason to take a later line for the header."""
    part = csv(tmp_path / "a.csv", "path,caption\n/a.jpg,x\n/b.jpg,y\npath,caption,height\n/c.jpg,z,600\n")
    with pytest.raises(DataError, match="Line: 4"):
        rows_of(part)


def tar(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_a_webdataset_part_has_its_readers_columns(tmp_path: Path) -> None:
    part = tar(tmp_path / "a.tar", ("1.jpg", b"image"), ("1.txt", b"one"))
    assert rows_of(part, format="webdataset") == (
        ["key", "txt", "json", "extensions"],
        [("1", "one", None, ["jpg", "txt"])],
    )
    found = rows_of(part, format="webdataset", columns={"caption": ["txt"], "extra": ["cls"]}, optional=["extra"])
    assert found[0] == ["caption", "extra", "key", "json", "extensions"]


def test_a_part_without_records_is_said(tmp_path: Path) -> None:
    part = tar(tmp_path / "a.tar")
    with pytest.raises(DataError) as caught:
        rows_of(part, format="webdataset")
    assert caught.value.message == f"{part} has no records"


def test_a_reader_that_fails_late_keeps_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first batch is good; the reader fails while DuckDB is reading.
    part = tar(tmp_path / "a.tar", *((f"{n:05}.txt", b"text") for n in range(3000)))

    def split(name: str) -> tuple[str, str]:
        if name.startswith("02500"):
            raise DataError(f"{name} is more than it can bear", "")
        return split_member(name)

    monkeypatch.setattr(webdataset, "split_member", split)
    with pytest.raises(DataError) as caught:
        rows_of(part, format="webdataset")
    assert caught.value.message == "02500.txt is more than it can bear"


def test_a_parquet_part_that_is_damaged_inside_is_an_error(tmp_path: Path) -> None:
    part = parquet(tmp_path / "a.parquet", caption=[f"caption {n}" for n in range(5000)])
    data = bytearray(part.read_bytes())
    data[200:2000] = bytes(1800)
    part.write_bytes(data)
    with pytest.raises((duckdb.Error, DataError)):
        rows_of(part)
