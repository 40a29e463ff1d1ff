import json
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import contract_loader
from prep.errors import ConfigError
from prep.stages.check import CheckReport, EntryReport, FirstSample, GroupReport, check_yaml
from prep.trainers.lavida_o import ENTRY_KEYS

S3 = "preproces_text_to_image_generation_s3"
LOC = "preproces_text_to_image_generation_s3_loc"
MAMMOTH = "preproces_und_mammoth_si_10M"
VW = "preproces_vw_instruct"
TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]

Change = dict[str, Any]
ABSENT = object()


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8), "red").save(path)
    return str(path)


def write_table(path: Path, columns: Mapping[str, Any], row_group_size: int | None = None) -> Path:
    pq.write_table(pa.table(dict(columns)), path, row_group_size=row_group_size)
    return path


def pictures(image: str, rows: int = 4) -> dict[str, Any]:
    """A text-to-image table in which nothing is wrong."""
    return {
        "s3_path": [image] * rows,
        "caption": [f"caption {i}" for i in range(rows)],
        "fltLaionAesthScore": [6.0 + i / 8 for i in range(rows)],
        "intHeight": [512] * rows,
        "intWidth": [600] * rows,
    }


def entry_for(path: Path, function: str | None = S3, **keys: Any) -> Change:
    entry: Change = {"name": "pictures", "json_path": str(path)}
    if function is not None:
        entry["preprocess_fn"] = function
    return entry | keys


def good_entry(tmp_path: Path, image: str, **changes: Any) -> Change:
    """An entry in which nothing is wrong, with keys changed or (ABSENT) left out."""
    columns = pictures(image)
    path = write_table(tmp_path / "t.parquet", columns)
    entry = entry_for(path, columns=list(columns), aes_cutoff=5.67, min_size=512) | changes
    return {key: value for key, value in entry.items() if value is not ABSENT}


def check(tmp_path: Path, *entries: Change, top: Change | None = None, **options: Any) -> CheckReport:
    path = tmp_path / "training.yaml"
    path.write_text(yaml.safe_dump({"datasets": list(entries)} | (top or {}), sort_keys=False), encoding="utf-8")
    return check_yaml(path, **options)


def problems(report: CheckReport) -> list[tuple[str, str]]:
    assert all(finding.effect and finding.remedy for finding in report.findings)
    return [(finding.level, finding.problem) for finding in report.findings]


# -- a good file ---------------------------------------------------------------------------------------------


def test_whole_report_of_a_good_file(tmp_path: Path, image: str) -> None:
    columns = pictures(image, 6) | {"hpsv2": [0.25] * 6}
    columns["fltLaionAesthScore"] = [5.0, 5.67, 5.68, 6.0, 7.0, None]
    columns["intHeight"] = [512, 512, 511, 512, 900, 900]
    path = write_table(tmp_path / "t.parquet", columns)
    table = entry_for(path, aes_cutoff=5.67, min_size=512, sampling_strategy="dup:2", length_group="t2i")
    rows = [{"image": "a.png", "conversations": TURNS}, {"conversations": TURNS}]
    (tmp_path / "l.json").write_text(json.dumps(rows), encoding="utf-8")
    listed = {"name": "chat", "json_path": str(tmp_path / "l.json"), "image_root": str(tmp_path)}
    top = {"weights": {"t2i": 300, "default": 100}, "batch_sizes": {"t2i": 0.5, "default": 1}}

    report = check(tmp_path, table, listed, top=top, steps=100, batch=16)

    memory = [entry.memory_bytes for entry in report.entries]
    assert report == CheckReport(
        path=tmp_path / "training.yaml",
        steps=100,
        batch=16,
        entries=[
            EntryReport(
                name="pictures",
                group="t2i",
                path=str(path),
                columns=("s3_path", "caption", "fltLaionAesthScore", "intHeight", "intWidth", "hpsv2"),
                rows_in_file=6,
                rows_after_cutoffs=2,
                rows_after_sampling=4,
                distinct_rows=2,
                memory_bytes=memory[0],
                images_opened=2,
                first=FirstSample((image,), "caption 3", "SCORE : 6.000 HPS : 2.500"),
                share=0.75,
                seen=100 * 8 * 0.75 / 2,
            ),
            EntryReport(
                name="chat",
                group="default",
                path=str(tmp_path / "l.json"),
                columns=("image", "conversations"),
                rows_in_file=2,
                rows_after_cutoffs=2,
                rows_after_sampling=2,
                distinct_rows=2,
                memory_bytes=memory[1],
                images_opened=1,
                first=FirstSample((image,), "human: <image>\nWhat?\ngpt: A dog.", ""),
                share=0.25,
                seen=100 * 16 * 0.25 / 2,
            ),
        ],
        groups=[GroupReport("t2i", 300, 0.5, 4, 0.75), GroupReport("default", 100, 1, 2, 0.25)],
        findings=[
            next(f for f in report.findings if f.problem.startswith("fltLaionAesthScore is null in 1 of 6")),
        ],
    )
    assert all(memory)
    assert json.loads(json.dumps(report.as_json()))["entries"][0]["rows_after_cutoffs"] == 2


def test_good_entry_has_no_findings(tmp_path: Path, image: str) -> None:
    assert check(tmp_path, good_entry(tmp_path, image)).findings == []


def test_repeated_names_are_told_apart_and_not_complained_of(tmp_path: Path, image: str) -> None:
    entries = [good_entry(tmp_path, image) for _ in range(3)]
    del entries[2]["name"]
    report = check(tmp_path, *entries)
    assert [e.name for e in report.entries] == ["pictures (line 2)", "pictures (line 13)", "none (line 24)"]
    assert report.findings == []


# -- the file as a whole -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "datasets is missing"),
        ("- a", "datasets is missing"),
        ("datasets:", "datasets is empty"),
        ("datasets: []", "datasets is empty"),
        ("datasets: {a: 1}", "datasets is not a list"),
        ("datasets: [text]", "item 1 of datasets is 'text', not an entry"),
    ],
)
def test_no_entries(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "t.yaml").write_text(text, encoding="utf-8")
    assert problems(check_yaml(tmp_path / "t.yaml")) == [("error", expected)]


def test_broken_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("datasets: [", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"t\.yaml:1: not valid YAML"):
        check_yaml(tmp_path / "t.yaml")


MIXTURES: list[tuple[Change, list[tuple[str, str]]]] = [
    ({"weights": {"default": 1, "t2i": 1}, "batch_sizes": {"default": 1, "t2i": 1}}, []),
    ({"wieghts": {}}, [
        ("warning", "the top-level key 'wieghts' is unknown; did you mean 'weights'?"),
        ("warning", "weights lacks the group 'default'"), ("warning", "weights lacks the group 't2i'"),
    ]),
    ({"weights": {"default": 1}}, [("warning", "weights lacks the group 't2i'")]),
    ({"weights": {"default": 1, "t2i": 1, "t2": 1}}, [
        ("warning", "weights has 't2', a group without entries; did you mean 't2i'?"),
    ]),
    ({"weights": {"default": 1, "t2i": 1}, "batch_sizes": {"default": 1, "x": 1}}, [
        ("warning", "batch_sizes has 'x', a group without entries"), ("warning", "batch_sizes lacks the group 't2i'"),
    ]),
    ({"weights": {"default": 1, "t2i": 0}}, [("warning", "weights.t2i is 0")]),
    ({"weights": {"default": 5, "t2i": -1}}, [("error", "weights.t2i is -1")]),
    ({"weights": {"default": 0, "t2i": 0}}, [
        ("warning", "weights.default is 0"), ("warning", "weights.t2i is 0"), ("error", "all weights are 0"),
    ]),
    ({"weights": [1]}, [
        ("error", "weights is [1], not a mapping of groups to numbers"),
        ("warning", "weights lacks the group 'default'"), ("warning", "weights lacks the group 't2i'"),
    ]),
    ({"weights": {"default": 1, "t2i": "a"}}, [
        ("error", "weights.t2i is 'a', not a number"), ("warning", "weights lacks the group 't2i'"),
    ]),
    ({"weights": {"default": 1, "t2i": 1}, "batch_sizes": {"default": 0, "t2i": 1}}, [
        ("warning", "batch_sizes.default is 0"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("top", "expected"), MIXTURES)
def test_mixture(tmp_path: Path, image: str, top: Change, expected: list[tuple[str, str]]) -> None:
    entries = [good_entry(tmp_path, image), good_entry(tmp_path, image, name="more", length_group="t2i")]
    assert problems(check(tmp_path, *entries, top=top)) == expected


def test_one_group_needs_no_weights(tmp_path: Path, image: str) -> None:
    assert check(tmp_path, good_entry(tmp_path, image, length_group="t2i")).findings == []


def test_shares_within_and_between_groups(tmp_path: Path, image: str) -> None:
    big = write_table(tmp_path / "big.parquet", pictures(image, 6))
    entries = [
        good_entry(tmp_path, image, length_group="t2i", sampling_strategy="first:2"),
        entry_for(big, name="big", aes_cutoff=0, length_group="t2i"),
        good_entry(tmp_path, image, name="other", length_group="other"),
    ]
    top = {"weights": {"t2i": 30, "other": 10, "unused": 60}}
    report = check(tmp_path, *entries, top=top, steps=10, batch=8)
    assert [entry.share for entry in report.entries] == [0.75 * 2 / 8, 0.75 * 6 / 8, 0.25]
    assert [entry.seen for entry in report.entries] == [80 * 0.75 / 8, 80 * 0.75 / 8, 80 * 0.25 / 4]


# -- keys of an entry ----------------------------------------------------------------------------------------

KEYS: list[tuple[Change, list[tuple[str, str]]]] = [
    ({"preproces_fn": S3}, [("warning", "the key 'preproces_fn' is unknown; did you mean 'preprocess_fn'?")]),
    ({"aes_cutoff": "5,67"}, [
        ("error", "aes_cutoff is '5,67'; it must be a number"),
        ("warning", "fltLaionAesthScore is loaded without aes_cutoff"),
    ]),
    ({"min_size": None}, [("error", "min_size has no value; it must be a number")]),
    ({"process_fn_kwargs": None}, [("error", "process_fn_kwargs has no value; it must be a mapping")]),
    ({"json_path": ABSENT}, [("error", "json_path is missing")]),
    ({"json_path": "/data/t.csv"}, [
        ("error", "json_path '/data/t.csv' ends in none of .parquet, .json, .jsonl "
                  "(the trainer's guide says csv works; it does not)"),
    ]),
    ({"json_path": "/data/t.pq"}, [("error", "json_path '/data/t.pq' ends in none of .parquet, .json, .jsonl")]),
    ({"json_path": "/data/t.parquet/"}, [
        ("error", "json_path '/data/t.parquet/' ends in none of .parquet, .json, .jsonl"),
    ]),
    ({"json_path": "/data/t.parquet"}, [("error", "json_path '/data/t.parquet' is not there")]),
    ({"json_path": "s3://b/t.parquet"}, [
        ("warning", "json_path 's3://b/t.parquet' is an address, which was not looked into"),
    ]),
    ({"sampling_strategy": "full"}, []),
    ({"sampling_strategy": "first:50%"}, []),
    ({"sampling_strategy": "first"}, [("warning", "sampling_strategy 'first' is not understood")]),
    ({"sampling_strategy": "firts:2"}, [("warning", "sampling_strategy 'firts:2' is not understood")]),
    ({"sampling_strategy": "first:two"}, [
        ("error", "sampling_strategy 'first:two': 'two' is not a whole number or whole percentage above 0"),
    ]),
    ({"sampling_strategy": "dup:50%"}, [("error", "sampling_strategy 'dup:50%': dup takes a whole number")]),
    ({"sampling_strategy": "random:4"}, []),
    ({"sampling_strategy": "random:5"}, [("error", "random sampling asks for 5 of 4 rows")]),
    ({"preprocess_fn": "preprocess_text_to_image_generation_s3"}, [
        ("error", f"preprocess_fn 'preprocess_text_to_image_generation_s3' is unknown; did you mean '{S3}'?"),
    ]),
    ({"preprocess_fn": ABSENT}, [("error", "a parquet table without preprocess_fn")]),
    ({"preprocess_fn": ABSENT, "process_fn_kwargs": {"a": 1}}, [
        ("warning", "process_fn_kwargs without preprocess_fn"), ("error", "a parquet table without preprocess_fn"),
    ]),
    ({"process_fn_kwargs": {"random_truncate": False}}, []),
    ({"process_fn_kwargs": {"random_trunkate": False}}, [
        ("warning", f"{S3} is not known to take 'random_trunkate'; did you mean 'random_truncate'?"),
    ]),
    ({"process_fn_kwargs": {"caption_key": 7}}, [
        ("error", "caption_key is 7; it must be text"),
        ("error", f"{S3} reads '7', which the table does not have"),
    ]),
    ({"process_fn_kwargs": {"caption_key": "captions"}}, [
        ("error", f"{S3} reads 'captions', which the table does not have; did you mean 'caption'?"),
    ]),
    ({"process_fn_kwargs": {"random_caption_keys": ["caption", "long"]}}, [
        ("warning", "random_caption_keys names 'long', which is not loaded"),
    ]),
    ({"columns": ["s3_path", "caption", "nope"], "aes_cutoff": ABSENT, "min_size": ABSENT}, [
        ("error", "columns lists 'nope', which the table does not have"),
    ]),
    ({"columns": ["s3_path", "caption", "caption"], "aes_cutoff": ABSENT, "min_size": ABSENT}, [
        ("warning", "columns lists 'caption' twice"),
    ]),
    ({"columns": ["s3_path"], "aes_cutoff": ABSENT, "min_size": ABSENT}, [
        ("error", f"{S3} reads 'caption', which is not listed in columns"),
    ]),
    ({"columns": "s3_path", "aes_cutoff": 0}, [("error", "columns is 's3_path'; it must be a list")]),
    ({"columns": ["s3_path", "caption"], "min_size": ABSENT}, [
        ("warning", "aes_cutoff is given, but fltLaionAesthScore is not loaded"),
    ]),
    ({"columns": ["s3_path", "caption", "intWidth"], "aes_cutoff": ABSENT}, [
        ("error", "min_size is given, but intHeight is not loaded"),
    ]),
    ({"aes_cutoff": ABSENT}, [("warning", "fltLaionAesthScore is loaded without aes_cutoff")]),
    ({"aes_cutoff": 9}, [("error", "no row is left of 4 after the cutoffs")]),
    ({"min_size": 513}, [("error", "no row is left of 4 after the cutoffs")]),
    ({"max_enc_images": {"column": "caption"}}, [("error", "max_enc_images is {'column': 'caption'}")]),
    ({"max_enc_images": {"column": "pics", "value": 1}}, [
        ("error", "max_enc_images names 'pics', which is not loaded"),
    ]),
    ({"max_enc_images": {"column": "caption", "value": 1}}, [
        ("error", "max_enc_images names 'caption', which holds string, not lists"),
    ]),
    ({"image_root": "/data"}, [("warning", "image_root on a parquet table")]),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), KEYS)
def test_keys(tmp_path: Path, image: str, change: Change, expected: list[tuple[str, str]]) -> None:
    assert problems(check(tmp_path, good_entry(tmp_path, image, **change))) == expected


def test_relative_data_path(tmp_path: Path, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = check(tmp_path, good_entry(tmp_path, image, json_path="t.parquet"))
    assert problems(report) == [("warning", "json_path 't.parquet' is relative")]
    assert report.entries[0].rows_after_sampling == 4


def test_score_default_is_applied(tmp_path: Path, image: str) -> None:
    columns = pictures(image) | {"fltLaionAesthScore": [5.0, 5.1, 4.0, 6.0]}
    path = write_table(tmp_path / "t.parquet", columns)
    assert check(tmp_path, entry_for(path)).entries[0].rows_after_cutoffs == 2
    assert check(tmp_path, entry_for(path, columns=["s3_path", "caption"])).entries[0].rows_after_cutoffs == 4


# -- data files ----------------------------------------------------------------------------------------------


def test_folder_of_shards_reads_as_one_table(tmp_path: Path, image: str) -> None:
    folder = tmp_path / "f.parquet"
    folder.mkdir()
    for number in range(3):
        write_table(folder / f"shard-{number}.parquet", pictures(image))
    (folder / "_manifest.json").write_text("{}", encoding="utf-8")
    (folder / ".shard-9.parquet.tmp").write_text("half", encoding="utf-8")
    report = check(tmp_path, entry_for(folder, aes_cutoff=0))
    assert report.findings == []
    assert report.entries[0].rows_in_file == 12 == len(contract_loader.load_entry(entry_for(folder, aes_cutoff=0)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("README.md", "holds README.md, which is not parquet"),
        ("shard-1.parquet", "holds shard-1.parquet, which cannot be read as parquet"),
    ],
)
def test_stray_file_in_a_folder(tmp_path: Path, image: str, name: str, expected: str) -> None:
    folder = tmp_path / "f.parquet"
    folder.mkdir()
    write_table(folder / "shard-0.parquet", pictures(image))
    (folder / name).write_text("not a table", encoding="utf-8")
    assert problems(check(tmp_path, entry_for(folder))) == [("error", f"{folder} {expected}")]
    with pytest.raises(pa.ArrowInvalid):
        contract_loader.load_entry(entry_for(folder))


def test_unreadable_and_empty_tables(tmp_path: Path) -> None:
    broken, folder = tmp_path / "b.parquet", tmp_path / "e.parquet"
    broken.write_bytes(b"PAR1 not really PAR1")
    folder.mkdir()
    assert problems(check(tmp_path, entry_for(broken), entry_for(folder))) == [
        ("error", f"{broken} is not a parquet file that can be read"),
        ("error", f"{folder} holds no parquet file"),
    ]


def test_damaged_pages_are_an_error(tmp_path: Path, image: str) -> None:
    path = write_table(tmp_path / "t.parquet", pictures(image))
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(data)
    found = problems(check(tmp_path, entry_for(path, aes_cutoff=0)))
    assert len(found) == 1
    assert found[0][0] == "error"
    assert found[0][1].startswith(f"{path} cannot be read: ")


def test_folder_under_a_json_name(tmp_path: Path) -> None:
    folder = tmp_path / "l.json"
    folder.mkdir()
    found = problems(check(tmp_path, entry_for(folder, None)))
    assert found == [("error", f"json_path '{folder}' is a folder")]


def test_shard_without_a_column(tmp_path: Path, image: str) -> None:
    folder = tmp_path / "f.parquet"
    folder.mkdir()
    write_table(folder / "0.parquet", pictures(image))
    write_table(folder / "1.parquet", {"s3_path": [image], "caption": ["c"]})
    report = check(tmp_path, entry_for(folder, columns=["s3_path", "caption", "intWidth"]))
    assert problems(report) == [("warning", "1 shards lack the column 'intWidth'")]


def test_empty_table(tmp_path: Path) -> None:
    nothing = pa.array([], pa.string())
    path = write_table(tmp_path / "t.parquet", {"s3_path": nothing, "caption": nothing})
    report = check(tmp_path, entry_for(path))
    assert problems(report) == [("error", "no row is left of 0 after the cutoffs")]
    assert report.entries[0].share is None


# -- columns and values --------------------------------------------------------------------------------------


def pictures_with(**columns: Any) -> Callable[[str], Change]:
    return lambda image: pictures(image) | columns


def replaced(column: str, values: list[Any], kind: pa.DataType | None = None) -> Callable[[str], Change]:
    return pictures_with(**{column: pa.array(values, kind)})


VALUES: list[tuple[str, Callable[[str], Change], Change, list[tuple[str, str]]]] = [
    ("float32 score", replaced("fltLaionAesthScore", [6.0] * 4, pa.float32()), {}, []),
    ("null caption", replaced("caption", ["a", None, "b", "c"]), {}, [("error", "caption is null in 1 of 4 rows")]),
    ("null type caption", replaced("caption", [None] * 4), {}, [("error", "caption is null in 4 of 4 rows")]),
    ("number for caption", replaced("caption", [1, 2, 3, 4]), {}, [
        ("error", f"caption holds int64; {S3} wants a string"),
    ]),
    ("bytes for path", replaced("s3_path", [b"a"] * 4), {}, [
        ("error", f"s3_path holds binary; {S3} wants an image path"),
    ]),
    ("null in a row not drawn", replaced("caption", ["a", None, "b", "c"]), {"sampling_strategy": "first:1"}, []),
    ("some scores null", replaced("fltLaionAesthScore", [6.0, None, float("nan"), 6.0]), {}, [
        ("warning", "fltLaionAesthScore is null in 2 of 4 rows"),
    ]),
    ("all scores null", replaced("fltLaionAesthScore", [None] * 4, pa.float64()), {}, [
        ("error", "fltLaionAesthScore is null in every row"), ("error", "no row is left of 4 after the cutoffs"),
    ]),
    ("score of the null type", replaced("fltLaionAesthScore", [None] * 4), {}, [
        ("error", "fltLaionAesthScore holds null, not numbers"),
    ]),
    ("scores as text", replaced("fltLaionAesthScore", ["6"] * 4), {}, [
        ("error", "fltLaionAesthScore holds string, not numbers"),
    ]),
    ("sizes null", replaced("intHeight", [512, None, 512, 512]), {"min_size": 512}, [
        ("warning", "intHeight is null in 1 of 4 rows"),
    ]),
    ("sizes null, not looked at", replaced("intHeight", [512, None, 512, 512]), {}, []),
    ("all sizes null", replaced("intWidth", [None] * 4, pa.int32()), {"min_size": 512}, [
        ("error", "intWidth is null in every row"), ("error", "no row is left of 4 after the cutoffs"),
    ]),
    ("hpsv2", pictures_with(hpsv2=[0.3] * 4), {}, []),
    ("hpsv2 null", pictures_with(hpsv2=[0.3, None, 0.3, 0.3]), {}, [("warning", "hpsv2 is null in 1 of 4 rows")]),
    ("captions at the limit", replaced("caption", ["é" * 800] * 4), {}, []),
    ("captions cut", replaced("caption", ["é" * 801, "a", "b", "c"]), {}, [
        ("warning", "caption is longer than 800 characters in 1 of 4 rows (25.0%)"),
    ]),
    ("other caption", pictures_with(long=["a", "b", None, "c"]), {"process_fn_kwargs": {"caption_key": "long"}}, [
        ("error", "long is null in 1 of 4 rows"),
    ]),
    ("list kept", pictures_with(pics=[["a"], ["a", "b"], [], ["a"]]), {
        "max_enc_images": {"column": "pics", "value": 1},
    }, []),
    ("null in the list", pictures_with(pics=[["a"], None, [], ["a"]]), {
        "max_enc_images": {"column": "pics", "value": 1},
    }, [("error", "pics has nulls, and max_enc_images asks for their length")]),
    ("dictionary of strings", replaced("caption", pa.array(["a", "b", "a", "b"]).dictionary_encode()), {}, []),
    ("empty path", replaced("s3_path", [""] * 4), {}, [
        ("error", "an image path is empty (4 of 4 rows looked at; first in row 0)"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "keys", "expected"), [c[1:] for c in VALUES], ids=[c[0] for c in VALUES])
def test_values(
    tmp_path: Path,
    image: str,
    columns: Callable[[str], Change],
    keys: Change,
    expected: list[tuple[str, str]],
) -> None:
    path = write_table(tmp_path / "t.parquet", columns(image))
    assert problems(check(tmp_path, entry_for(path, aes_cutoff=0, **keys))) == expected


def test_max_images_counts_like_the_loader(tmp_path: Path, image: str) -> None:
    columns = pictures(image) | {"pics": [["a"], ["a", "b"], [], ["a", "b", "c"]]}
    entry = entry_for(write_table(tmp_path / "t.parquet", columns), aes_cutoff=0)
    entry["max_enc_images"] = {"column": "pics", "value": 1}
    assert check(tmp_path, entry).entries[0].rows_after_cutoffs == 2 == len(contract_loader.load_entry(entry))


def conversation_cases() -> list[tuple[str, str, Any, list[tuple[str, str]]]]:
    text = json.dumps(TURNS)
    late = "has no human turn followed by a gpt turn (1 of 1 rows looked at; first in row 0)"
    return [
        ("json for mammoth", MAMMOTH, pa.array([text]), []),
        ("native for mammoth", MAMMOTH, pa.array([TURNS]), [
            ("error", "conversations holds list<element: struct<from: string, value: string>>; "
                      f"{MAMMOTH} wants a JSON string of conversation turns"),
        ]),
        ("not json", MAMMOTH, pa.array(["{"]), [
            ("error", "conversations is not JSON (1 of 1 rows looked at; first in row 0)"),
        ]),
        ("json of something else", MAMMOTH, pa.array(['{"a": 1}']), [
            ("error", "conversations is not a list of turns (1 of 1 rows looked at; first in row 0)"),
        ]),
        ("turns without values", MAMMOTH, pa.array(['[{"from": "human"}]']), [
            ("error", "conversations has a turn without `from` and `value` texts "
                      "(1 of 1 rows looked at; first in row 0)"),
        ]),
        ("native for vw", VW, pa.array([TURNS]), []),
        ("json for vw", VW, pa.array([text]), [
            ("error", f"conversations holds string; {VW} wants a native list of conversation turns"),
        ]),
        ("one turn", VW, pa.array([TURNS[:1]]), [("error", f"conversations {late}")]),
        ("leading answer is dropped", VW, pa.array([[TURNS[1], *TURNS]]), []),
        ("answer, then nothing", VW, pa.array([TURNS[1:]]), [("error", f"conversations {late}")]),
        ("strange speaker", VW, pa.array([[{"from": "system", "value": ""}, *TURNS]]), [
            ("error", "conversations begins with a turn that is neither human nor gpt "
                      "(1 of 1 rows looked at; first in row 0)"),
        ]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "turns", "expected"),
    [case[1:] for case in conversation_cases()],
    ids=[case[0] for case in conversation_cases()],
)
def test_conversations(
    tmp_path: Path, image: str, function: str, turns: pa.Array, expected: list[tuple[str, str]]
) -> None:
    images = [["a.png"]] if function == VW else ["a.png"]
    path = write_table(tmp_path / "t.parquet", {"image": images, "conversations": turns})
    entry = entry_for(path, function, process_fn_kwargs={"s3_prefix": str(tmp_path)})
    assert problems(check(tmp_path, entry)) == expected
    if not expected:
        assert len(contract_loader.build_sample(entry, 0)["images"]) == 1


TEXT_ONLY: list[tuple[str, str, pa.Array, list[tuple[str, str]]]] = [
    ("text-only file", MAMMOTH, pa.nulls(2), []),
    ("text-only rows between others", MAMMOTH, pa.array(["a.png", None]), [
        ("error", "image is null in 1 of 2 rows, beside rows that have it"),
    ]),
    ("text-only list rows", VW, pa.array([["a.png"], None]), []),
    ("empty list", VW, pa.array([["a.png"], []]), [
        ("error", "a list of images is empty (1 of 2 rows looked at; first in row 1)"),
    ]),
    ("hole in a list", VW, pa.array([["a.png"], [None]], pa.list_(pa.string())), [
        ("error", "image is not a list of image paths (1 of 2 rows looked at; first in row 1)"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "images", "expected"), [case[1:] for case in TEXT_ONLY], ids=[case[0] for case in TEXT_ONLY]
)
def test_text_only_rows(
    tmp_path: Path, image: str, function: str, images: pa.Array, expected: list[tuple[str, str]]
) -> None:
    turns = pa.array([json.dumps(TURNS)] * 2) if function == MAMMOTH else pa.array([TURNS] * 2)
    path = write_table(tmp_path / "t.parquet", {"image": images, "conversations": turns})
    entry = entry_for(path, function, process_fn_kwargs={"s3_prefix": str(tmp_path)})
    assert problems(check(tmp_path, entry)) == expected
    if "beside rows" in str(expected):
        with pytest.raises(TypeError):
            contract_loader.build_sample(entry, 1)


def test_refcoco_wants_strings(tmp_path: Path, image: str) -> None:
    good = {"s3_path": [image], "label": ["dog"], "loc_string": ["<LOC_1>"]}
    function = "preproces_refcoco_rec"
    path = write_table(tmp_path / "good.parquet", good)
    assert check(tmp_path, entry_for(path, function)).findings == []
    bad = write_table(tmp_path / "bad.parquet", good | {"label": [["dog"]], "loc_string": [None]})
    assert problems(check(tmp_path, entry_for(bad, function))) == [
        ("error", f"label holds list<element: string>; {function} wants a string")
    ]


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (["too small;too red", "dark"], []),
        (["too small", "dark;blurred"], [("error", "negatives and negative_reasons differ in number in 2 of 2 rows")]),
    ],
)
def test_feedback_pairs_up(tmp_path: Path, image: str, reasons: list[str], expected: list[tuple[str, str]]) -> None:
    columns = {
        "s3_path": [image] * 2,
        "caption": ["c"] * 2,
        "grounding_text": ["g"] * 2,
        "negatives": ["a.png;a.png", "a.png"],
        "negative_reasons": reasons,
    }
    path = write_table(tmp_path / "t.parquet", columns)
    kwargs = {"add_feedback": True, "s3_prefix_enc": str(tmp_path)}
    report = check(tmp_path, entry_for(path, LOC, process_fn_kwargs=kwargs))
    assert problems(report) == expected
    assert report.entries[0].first is not None
    assert report.entries[0].first.images == (image, image, image)
    assert check(tmp_path, entry_for(path, LOC)).findings == []


def test_edit_task_must_be_known(tmp_path: Path, image: str) -> None:
    columns = {
        "input_paths": [[image]], "output_paths": [image], "instruction": ["i"], "grounding_text": ["g"],
    }  # fmt: skip
    path = write_table(tmp_path / "t.parquet", columns)
    function = "process_gpt_edit_loc_gnd"
    assert check(tmp_path, entry_for(path, function, process_fn_kwargs={"task": "swap"})).findings == []
    report = check(tmp_path, entry_for(path, function, process_fn_kwargs={"task": "swop"}))
    assert problems(report) == [("error", "task is 'swop'; did you mean 'swap'?")]


def test_parquet_without_function_but_with_conversations(tmp_path: Path, image: str) -> None:
    path = write_table(tmp_path / "t.parquet", {"image": [image], "conversations": [TURNS]})
    report = check(tmp_path, entry_for(path, None))
    assert problems(report) == [("warning", "a parquet table without preprocess_fn")]
    assert problems(check(tmp_path, entry_for(path, None, image_root="/data"))) == [
        ("error", "image_root on a parquet table"),
        ("warning", "a parquet table without preprocess_fn"),
    ]


# -- images --------------------------------------------------------------------------------------------------


def images_report(tmp_path: Path, paths: list[str], **options: Any) -> CheckReport:
    columns = {"s3_path": paths, "caption": ["c"] * len(paths)}
    return check(tmp_path, entry_for(write_table(tmp_path / "t.parquet", columns)), **options)


def test_missing_first_image_stops_the_run(tmp_path: Path, image: str) -> None:
    report = images_report(tmp_path, ["/nowhere/a.png", image])
    assert problems(report) == [
        ("error", "an image is not there (1 of 2 rows looked at; first in row 0, /nowhere/a.png)")
    ]
    assert "start-up" in report.errors[0].effect
    later = images_report(tmp_path, [image, "/nowhere/a.png"])
    assert "start-up" not in later.errors[0].effect
    assert later.entries[0].images_opened == 1


def test_truncated_and_strange_images_are_unreadable(tmp_path: Path, image: str) -> None:
    whole = tmp_path / "noise.jpg"
    Image.effect_noise((64, 64), 90).convert("RGB").save(whole)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:600])
    page = tmp_path / "page.jpg"
    page.write_text("<html>", encoding="utf-8")
    report = images_report(tmp_path, [str(whole), str(cut), str(page), "/" + "x" * 300])
    assert problems(report) == [("error", f"an image cannot be opened (3 of 4 rows looked at; first in row 1, {cut})")]
    palette = tmp_path / "palette.png"
    Image.new("P", (8, 8)).save(palette, transparency=b"\x00\x01")
    assert images_report(tmp_path, [str(palette)]).findings == []


def test_relative_image_path(tmp_path: Path, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert problems(images_report(tmp_path, ["a.png"])) == [
        ("warning", "an image path is relative (1 of 1 rows looked at; first in row 0, a.png)")
    ]


def test_images_in_stores_that_need_a_reader(tmp_path: Path, image: str) -> None:
    report = images_report(tmp_path, ["s3://bucket/a.png"])
    assert problems(report) == [
        ("warning", "an image is on S3 (1 of 1 rows looked at; first in row 0, s3://bucket/a.png)")
    ]
    assert report.entries[0].images_opened == 0
    columns = {"strImagehash": ["abc"], "longLLA_captions": ["c"]}
    path = write_table(tmp_path / "h.parquet", columns)
    hashed = check(tmp_path, entry_for(path, "preproces_text_to_image_generation_piat_hash"))
    assert problems(hashed) == [
        ("error", "an image is in the authors' private store (1 of 1 rows looked at; first in row 0, piat://abc)")
    ]


def test_images_are_opened_with_the_private_reader_where_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = types.ModuleType("piat")
    reader.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    reader.s3_image = {"s3://b/a.png": np.zeros((4, 4, 3), np.uint8)}.__getitem__  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "piat", reader)
    assert images_report(tmp_path, ["s3://b/a.png"]).findings == []
    assert problems(images_report(tmp_path, ["s3://b/a.png", "s3://b/c.png"])) == [
        ("error", "an image cannot be opened (1 of 2 rows looked at; first in row 1, s3://b/c.png)")
    ]


def test_how_many_images_are_opened(tmp_path: Path, image: str) -> None:
    paths = [image] * 100
    assert images_report(tmp_path, paths).entries[0].images_opened == 17
    assert images_report(tmp_path, paths, images="all").entries[0].images_opened == 100
    assert images_report(tmp_path, paths, images="none").entries[0].images_opened == 0
    paths[41] = "/nowhere.png"
    assert images_report(tmp_path, paths).findings == []
    assert problems(images_report(tmp_path, paths, images="all")) == [
        ("error", "an image is not there (1 of 100 rows looked at; first in row 41, /nowhere.png)")
    ]


def test_random_sampling_opens_the_first_row_the_loader_would(tmp_path: Path) -> None:
    paths = []
    for number in range(40):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (4, 4)).save(path)
        paths.append(str(path))
    columns = {"s3_path": paths, "caption": [f"c{i}" for i in range(40)]}
    path = write_table(tmp_path / "t.parquet", columns)
    for strategy in ("random:9", "random:25%", "end:3", "first:3", "dup:2", "all"):
        entry = entry_for(path, sampling_strategy=strategy)
        first = check(tmp_path, entry).entries[0].first
        assert first is not None
        assert first.text == contract_loader.load_entry(entry)["caption"].iloc[0]


# -- JSON lists ----------------------------------------------------------------------------------------------


def write_list(path: Path, rows: Any) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["l.json", "l.jsonl"])
def test_json_lists(tmp_path: Path, image: str, name: str) -> None:
    rows = [{"image": image, "conversations": TURNS}] * 5
    path = write_list(tmp_path / name, rows)
    for strategy, count in (("all", 5), ("first:2", 2), ("end:50%", 3)):
        entry = entry_for(path, None, sampling_strategy=strategy)
        report = check(tmp_path, entry)
        assert report.findings == []
        assert report.entries[0].rows_after_sampling == count == len(contract_loader.load_entry(entry))


LISTS: list[tuple[Any, Change, list[tuple[str, str]]]] = [
    ([{"conversations": TURNS}], {}, []),
    ([], {}, [("error", "the list is empty")]),
    ([{"conversations": TURNS}], {"sampling_strategy": "dup:2"}, [
        ("error", "sampling_strategy 'dup:2' on a JSON list"),
    ]),
    ([{"conversations": TURNS}], {"sampling_strategy": "random:1"}, [
        ("error", "sampling_strategy 'random:1' on a JSON list"),
    ]),
    ([{"conversations": TURNS}], {"aes_cutoff": 5, "columns": ["image"]}, [
        ("warning", "columns on a JSON list"), ("warning", "aes_cutoff on a JSON list"),
    ]),
    ([{"image": None, "conversations": TURNS}], {}, [
        ("error", "image is null (1 of 1 rows looked at; first in row 0)"),
    ]),
    ([{"image": 7, "conversations": TURNS}], {}, [
        ("error", "image is not an image path or a list of them (1 of 1 rows looked at; first in row 0)"),
    ]),
    ([{"conversations": TURNS}, {"id": 1}], {}, [
        ("error", "conversations is missing or null (1 of 2 rows looked at; first in row 1)"),
    ]),
    ([{"conversations": json.dumps(TURNS)}], {}, [
        ("error", "conversations is not a list of turns (1 of 1 rows looked at; first in row 0)"),
    ]),
    ([{"image": "b.png", "conversations": TURNS}], {"image_root": "/nowhere"}, [
        ("error", "an image is not there (1 of 1 rows looked at; first in row 0, /nowhere/b.png)"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "keys", "expected"), LISTS)
def test_json_list_findings(tmp_path: Path, rows: Any, keys: Change, expected: list[tuple[str, str]]) -> None:
    path = write_list(tmp_path / "l.json", rows)
    assert problems(check(tmp_path, entry_for(path, None, **keys))) == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("l.json", '{"a": 1}', "does not hold a list"),
        ("l.json", '[{"conversations": [', "is not good JSON after item 0: "),
        ("l.json", "", "is not good JSON after item 0: "),
        ("l.jsonl", '{"a": 1}\n{', "is not good JSON after item 1: "),
        ("l.jsonl", '{"a": 1}\n[]\n', "holds something else than an object as item 2"),
    ],
)
def test_unreadable_lists(tmp_path: Path, name: str, text: str, expected: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    found = problems(check(tmp_path, entry_for(path, None)))
    assert [level for level, _ in found] == ["error"]
    assert found[0][1].startswith(f"{path} {expected}")


def test_long_lists_are_looked_at_in_batches(tmp_path: Path, image: str) -> None:
    rows: list[Change] = [{"image": image, "conversations": TURNS} for _ in range(1_050)]
    rows[1_040]["image"] = "/nowhere.png"
    report = check(tmp_path, entry_for(write_list(tmp_path / "l.jsonl", rows), None), images="all")
    assert problems(report) == [
        ("error", "an image is not there (1 of 1,050 rows looked at; first in row 1,040, /nowhere.png)")
    ]
    assert report.entries[0].images_opened == 1_049
    assert report.entries[0].memory_is_estimate


# -- memory --------------------------------------------------------------------------------------------------


def test_memory_of_a_small_table_is_pandas_own_figure(tmp_path: Path, image: str) -> None:
    entry = good_entry(tmp_path, image)
    report = check(tmp_path, entry).entries[0]
    frame = pd.read_parquet(entry["json_path"], columns=entry["columns"])
    assert report.memory_bytes == frame.memory_usage(deep=True, index=False).sum()
    assert not report.memory_is_estimate


def test_memory_of_a_large_table_is_estimated(tmp_path: Path, image: str) -> None:
    columns = pictures(image, 60_000)
    path = write_table(tmp_path / "t.parquet", columns, row_group_size=5_000)
    report = check(tmp_path, entry_for(path, aes_cutoff=0), images="none").entries[0]
    exact = pd.read_parquet(path).memory_usage(deep=True, index=False).sum()
    assert report.memory_is_estimate
    assert report.memory_bytes == pytest.approx(exact, rel=0.05)


def test_memory_follows_lists_to_the_end(tmp_path: Path, image: str) -> None:
    long = [{"from": "human", "value": "q" * 5_000}, {"from": "gpt", "value": "a" * 5_000}]
    path = write_table(tmp_path / "t.parquet", {"image": [[image]], "conversations": [long]})
    memory = check(tmp_path, entry_for(path, VW)).entries[0].memory_bytes
    assert memory is not None
    assert 10_000 < memory < 12_000


# -- agreement with the loader -------------------------------------------------------------------------------

SCORES = st.one_of(st.none(), st.just(float("nan")), st.sampled_from([5.0, 5.67, 5.6700001, 6.0]), st.floats(0, 10))
SIZES = st.one_of(st.none(), st.sampled_from([511, 512, 513]), st.integers(1, 4_000))
STRATEGIES = st.one_of(
    st.sampled_from(["all", "full", "nonsense"]),
    st.builds(
        "{}:{}{}".format, st.sampled_from(["first", "end", "random"]), st.integers(1, 100), st.sampled_from(["", "%"])
    ),
    st.builds("dup:{}".format, st.integers(1, 4)),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(SCORES, SIZES, SIZES), min_size=1, max_size=30),
    score_type=st.sampled_from([pa.float32(), pa.float64()]),
    size_type=st.sampled_from([pa.int32(), pa.int64(), pa.float64()]),
    keys=st.fixed_dictionaries(
        {}, optional={
            "aes_cutoff": st.sampled_from([5, 5.67, -100.0]),
            "min_size": st.just(512),
            "sampling_strategy": STRATEGIES,
        },
    ),
)  # fmt: skip
def test_counts_are_the_loaders(
    tmp_path: Path,
    rows: list[tuple[float | None, int | None, int | None]],
    score_type: pa.DataType,
    size_type: pa.DataType,
    keys: Change,
) -> None:
    scores, heights, widths = zip(*rows, strict=True)
    columns = {
        "s3_path": [f"/images/{i}.png" for i in range(len(rows))],
        "caption": [f"c{i}" for i in range(len(rows))],
        "fltLaionAesthScore": pa.array(scores, score_type),
        "intHeight": pa.array(heights, size_type),
        "intWidth": pa.array(widths, size_type),
    }
    path = write_table(tmp_path / "t.parquet", columns, row_group_size=7)
    entry = entry_for(path, **keys)
    report = check(tmp_path, entry, images="none")
    ours = report.entries[0]

    cut = contract_loader.load_entry(entry | {"sampling_strategy": "all"})
    assert ours.rows_after_cutoffs == len(cut)
    try:
        loaded = contract_loader.load_entry(entry)
    except ValueError:  # random asks for too many
        assert [f.problem for f in report.errors if "random sampling" in f.problem or "no row is left" in f.problem]
        return
    if len(loaded):
        assert ours.rows_after_sampling == len(loaded)
        assert ours.first is not None
        assert ours.first.text == loaded["caption"].iloc[0]
        assert report.errors == []
    else:
        assert [f.problem for f in report.errors][-1].startswith("no row is left")


def test_samples_are_the_loaders(tmp_path: Path, image: str) -> None:
    columns = pictures(image) | {"hpsv2": [0.25] * 4}
    columns["caption"] = ["x" * 900] * 4
    entry = entry_for(write_table(tmp_path / "t.parquet", columns), aes_cutoff=6.1)
    sample = contract_loader.build_sample(entry, 0)
    first = check(tmp_path, entry).entries[0].first
    assert first == FirstSample((image,), sample["text"][0], sample["scores"])
    assert len(first.text) == 800
    assert sample["images"][0].size == (8, 8)


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
ENTRY = st.dictionaries(
    st.sampled_from([key for key in ENTRY_KEYS if key not in ("json_path", "name")]) | st.text(max_size=5),
    ANYTHING | st.fixed_dictionaries({"caption_key": ANYTHING}) | st.fixed_dictionaries({"column": st.just("caption")}),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entry=ENTRY, top=st.dictionaries(st.sampled_from(["weights", "batch_sizes"]), ANYTHING))
def test_nonsense_is_reported_and_never_raised(tmp_path: Path, image: str, entry: Change, top: Change) -> None:
    path = write_table(tmp_path / "t.parquet", pictures(image))
    report = check(tmp_path, entry_for(path) | entry, top=top, images="none", steps=1, batch=1)
    assert len(report.entries) == 1
    json.dumps(report.as_json())


# -- a file with the faults of the published one -------------------------------------------------------------


def test_faults_of_the_published_mixture(tmp_path: Path, image: str) -> None:
    columns = pictures(image)
    table = write_table(tmp_path / "t.parquet", columns)
    grounding = {"s3_path": [image] * 2, "loc_caption": ["<p>a dog</p>"] * 2}
    grand_f = write_table(tmp_path / "g.parquet", grounding)
    text = f"""\
datasets:
  - name: blip3o-60k
    json_path: {table}
    columns: [s3_path, caption, fltLaionAesthScore, intHeight, intWidth]
    preprocess_fn: preproces_text_to_image_generation_s3
    length_group: blip60k
    # aes_cutoff: 5.67
  - name: grand-f
    json_path: {grand_f}
    preprocess_fn: preproces_grandf
    sampling_strategy: all
    sampling_strategy: dup:3
    length_group: grounding
  - name: grand-f
    json_path: {grand_f}
    preprocess_fn: preproces_grandf
    length_group: laion_coyo
weights:
  blip60k: 80
  grounding: 100
  mjv6: 20
batch_sizes:
  blip60k: 1
  grounding: 1
  grounding: 0.5
"""
    path = tmp_path / "s3.yaml"
    path.write_text(text, encoding="utf-8")
    report = check_yaml(path)
    assert [(f.level, f.entry, f.problem) for f in report.findings] == [
        ("warning", "", "the key 'sampling_strategy' stands on line 11 and again on line 12"),
        ("warning", "", "the key 'grounding' stands on line 24 and again on line 25"),
        ("warning", "", "weights has 'mjv6', a group without entries"),
        ("warning", "", "weights lacks the group 'laion_coyo'"),
        ("warning", "", "batch_sizes lacks the group 'laion_coyo'"),
        ("warning", "blip3o-60k", "fltLaionAesthScore is loaded without aes_cutoff"),
    ]
    assert report.groups == [
        GroupReport("blip60k", 80, 1, 4, 80 / 280),
        GroupReport("grounding", 100, 0.5, 6, 100 / 280),
        GroupReport("laion_coyo", 100, 1, 2, 100 / 280),
    ]
    assert [entry.name for entry in report.entries] == ["blip3o-60k", "grand-f (line 8)", "grand-f (line 14)"]


def test_a_byte_order_mark_and_bottomless_rows_stop_the_loader(tmp_path: Path) -> None:
    for name, data in (("bom", b'\xef\xbb\xbf{"a": 1}\n'), ("deep", b'{"a": ' + b"[" * 200_000)):
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(data + b"\n")
        training = tmp_path / f"{name}.yaml"
        training.write_text(f"datasets:\n  - {{name: {name}, json_path: {path}}}\n")
        assert [finding.entry for finding in check_yaml(training).errors] == [name]
