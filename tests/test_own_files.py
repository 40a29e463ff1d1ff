"""`prep add` of lists and of S3: what is written, what comes out at the end of the line, and everything refused."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import contract_loader
from prep import own_files
from prep.add import add_file
from prep.config import Catalogue, S3Source
from prep.errors import DataError, PrepError, SourceError, UsageError
from prep.own_files import AWS, S3Options, look_at
from prep.publishers import World
from prep.sources import s3 as s3_source
from prep.stages.download import download
from prep.stages.filter import filter_table
from prep.stages.normalize import normalize
from prep.workspace import Workspace
from s3_server import S3Server
from worlds import prep

LAION = {
    "SAMPLE_ID": "int64",
    "URL": "string",
    "TEXT": "string",
    "HEIGHT": "int32",
    "WIDTH": "int32",
    "pwatermark": "float",
}
OURS = {
    "s3_path": "string",
    "caption": "string",
    "fltLaionAesthScore": "float",
    "intHeight": "int32",
    "intWidth": "int32",
}
ODD = "part 2 [é*]?#1.parquet"


def write_parquet(path: Path, rows: Sequence[Sequence[Any]], types: Mapping[str, str] = OURS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, pa.type_for_alias(alias)) for name, alias in types.items()])
    columns = [*zip(*rows, strict=True)] or [()] * len(types)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    pq.write_table(pa.table(arrays, schema=schema), path)
    return path


def ours(*numbers: int) -> list[tuple[Any, ...]]:
    return [(f"pictures/{n}.jpg", f"picture {n}", 5.0 + n / 10, 512 + n, 600) for n in numbers]


def laion(*numbers: int) -> list[tuple[Any, ...]]:
    return [(n, f"https://example.org/{n}.jpg", f"picture {n}", 500 + n, 600, n / 100) for n in numbers]


def run_all(root: Path, *commands: Sequence[str | Path], **more: str) -> list[subprocess.CompletedProcess[str]]:
    """Run commands in a new workspace, all of which succeed."""
    root.mkdir(exist_ok=True)
    done = [prep(root, *command, world=None, **more) for command in (["init"], *commands)]
    for one in done:
        assert one.returncode == 0, one.stderr
    return done


def described(root: Path, name: str) -> Any:
    return yaml.safe_load((root / f"datasets/{name}.yaml").read_text())


def keys_of(s3: S3Server) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": s3.key_id, "AWS_SECRET_ACCESS_KEY": s3.secret, "AWS_DEFAULT_REGION": "us-east-1"}


def put(s3: S3Server, key: str, rows: Sequence[Sequence[Any]], types: Mapping[str, str] = OURS) -> str:
    """A parquet object; its address."""
    local = write_parquet(s3.folder.parent / "put.parquet", rows, types)
    s3.put(key, local.read_bytes())
    return f"s3://{s3.bucket}/{key}"


# -- a list of this machine's files ----------------------------------------------------------------------------


def test_a_list_goes_the_whole_line(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_parquet(data / "b/part 1.parquet", ours(5, 6))
    write_parquet(data / "a" / ODD, ours(7, 0))
    write_parquet(data / "not-named.parquet", ours(9))
    (data / "mine.txt").write_bytes(f"# two of three\r\n\r\nb/part 1.parquet\r\na/{ODD}\r\n".encode())
    done = run_all(
        tmp_path / "w",
        ["add", data / "mine.txt"],
        ["filter", "--aes-cutoff", "5.2", "--min-size", "512"],
        ["emit-yaml"],
        ["check", "--images", "none"],
    )
    assert done[1].stdout.startswith(
        "mine: 4 rows (s3_path, caption, fltLaionAesthScore, intHeight, intWidth), described"
    )
    assert described(tmp_path / "w", "mine") == {
        "name": "mine",
        "title": "Own data: mine.txt",
        "source": {"kind": "local", "path": str(data), "files_from": str(data / "mine.txt")},
        "images": {"kind": "given"},
        "tables": {
            "mine": {
                "kind": "text-to-image",
                "records": {"format": "parquet", "parts": "*"},
                "select": {name: f'"{name}"' for name in OURS},
                "extra": {},
                "drop": {"path_is_an_address": "regexp_matches(CAST(\"s3_path\" AS VARCHAR), '(?i)^\\W?https?://')"},
            }
        },
    }
    [entry] = contract_loader.load_yaml(tmp_path / "w/training/mixture.yaml")
    kept = contract_loader.load_entry(entry)
    assert list(kept["s3_path"]) == [f"{data}/a/pictures/7.jpg", f"{data}/b/pictures/5.jpg", f"{data}/b/pictures/6.jpg"]
    assert [path.name for path in sorted((tmp_path / "w/normalized/mine.parquet").glob("shard-*"))] == [
        "shard-00000.parquet",
        "shard-00001.parquet",
    ]


def test_a_list_that_grows_is_noticed_and_what_is_done_stays(tmp_path: Path) -> None:
    for number in range(3):
        write_parquet(tmp_path / f"{number}.parquet", ours(number + 1))
    listed = tmp_path / "mine.txt"
    listed.write_text("0.parquet\n1.parquet\n")
    Workspace.create(tmp_path / "w", Catalogue().recipe_path("empty").read_text())
    add_file(Workspace(tmp_path / "w"), listed)

    def made() -> list[int]:
        workspace = Workspace(tmp_path / "w")
        outcomes = [download(workspace, workspace.datasets[0]), normalize(workspace, "mine")]
        return [outcome.made for outcome in (*outcomes, filter_table(workspace, "mine"))]

    assert (made(), made()) == ([2, 2, 2], [0, 0, 0])
    listed.write_text("2.parquet\n1.parquet\n0.parquet\n")
    assert made() == [1, 1, 1]
    assert list(pd.read_parquet(tmp_path / "w/filtered/mine.parquet")["caption"]) == [f"picture {n}" for n in (1, 2, 3)]
    listed.unlink()
    with pytest.raises(SourceError, match=r"mine\.txt cannot be read"):
        made()


def test_lists_of_csv_and_of_json(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("s3_path,caption,n\n/1.jpg,one,1\n")
    (tmp_path / "b.csv").write_text("n,S3_PATH,caption\nmany,/2.jpg,two\n")
    (tmp_path / "csv.txt").write_text("a.csv\nb.csv\n")
    (tmp_path / "a.json").write_text('[{"s3_path": "/3.jpg", "caption": "three", "x": 1}]')
    (tmp_path / "b.jsonl").write_text('{"s3_path": "/4.jpg", "caption": "four", "y": "z"}\n')
    (tmp_path / "json.txt").write_text("a.json\nb.jsonl\n")
    root = tmp_path / "w"
    run_all(
        root,
        ["add", "../csv.txt"],
        ["add", "../json.txt"],
        ["filter", "csv", "--where", "n != '1'"],
        ["filter", "json"],
    )
    assert list(pd.read_parquet(root / "filtered/csv.parquet")["s3_path"]) == ["/2.jpg"]
    assert list(pd.read_parquet(root / "filtered/json.parquet")["s3_path"]) == ["/3.jpg", "/4.jpg"]
    assert described(root, "json")["tables"]["json"]["extra"] == {"x": '"x"', "y": '"y"'}


# -- S3 --------------------------------------------------------------------------------------------------------


def test_a_list_on_s3_is_what_the_same_files_here_are(s3: S3Server, tmp_path: Path) -> None:
    names = ["sub/part 1.parquet", "sub/é[1].parquet", "other/=%25#.parquet"]
    for number, name in enumerate(names):
        write_parquet(tmp_path / "here" / name, laion(number, number + 10, 50 + number), LAION)
        s3.put(f"lists/{name}", (tmp_path / "here" / name).read_bytes())
    put(s3, "lists/sub/not-named.parquet", laion(99), LAION)
    (tmp_path / "far.txt").write_text("".join(f"s3://{s3.bucket}/lists/{name}\n" for name in names))
    (tmp_path / "near.txt").write_text("".join(f"here/{name}\n" for name in names))
    mapped = ["--map", "caption=text", "--map", "intHeight=HEIGHT", "--map", "intWidth=WIDTH", "--name", "laion"]
    rules = ["filter", "--min-size", "505", "--where", "pwatermark < 0.52"]
    far, near = tmp_path / "far", tmp_path / "near"
    at = ["--endpoint", s3.endpoint, "--region", "us-east-1"]
    run_all(far, ["add", "../far.txt", *mapped, *at], rules, **keys_of(s3))
    run_all(near, ["add", "../near.txt", *mapped], rules)

    assert described(far, "laion")["source"] == {
        "kind": "s3",
        "path": f"s3://{s3.bucket}/lists/",
        "endpoint": s3.endpoint,
        "region": "us-east-1",
        "files_from": str(tmp_path / "far.txt"),
    }
    assert described(far, "laion")["tables"] == described(near, "laion")["tables"]
    for table in ("normalized", "filtered", "dropped"):
        shards = [sorted((root / table).glob("laion.parquet/shard-*")) for root in (far, near)]
        assert len(shards[0]) == 3
        frames = [pd.concat([pd.read_parquet(path) for path in paths]) for paths in shards]
        pd.testing.assert_frame_equal(frames[0], frames[1])
    kept = pd.read_parquet(near / "filtered/laion.parquet")
    assert sorted(kept["url"]) == [f"https://example.org/{n}.jpg" for n in (10, 11, 12, 50, 51)]


def test_a_prefix_and_an_object(s3: S3Server, tmp_path: Path) -> None:
    put(s3, "trainer/one.parquet", ours(1, 2))
    put(s3, "trainer/deep/two.parquet", ours(3))
    s3.put("trainer/readme.md", b"no data")
    at = ["--endpoint", s3.endpoint]
    run_all(
        tmp_path,
        ["add", f"s3://{s3.bucket}/trainer/", *at],
        ["add", f"s3://{s3.bucket}/trainer/one.parquet", *at],
        ["filter"],
        **keys_of(s3),
    )
    source = {"kind": "s3", "endpoint": s3.endpoint}
    assert described(tmp_path, "trainer")["source"] == source | {
        "path": f"s3://{s3.bucket}/trainer/",
        "include": ["*.parquet"],
    }
    assert described(tmp_path, "one")["source"] == source | {"path": f"s3://{s3.bucket}/trainer/one.parquet"}
    prefix = f"s3://{s3.bucket}/trainer"
    assert {
        name: list(pd.read_parquet(tmp_path / f"filtered/{name}.parquet")["s3_path"]) for name in ("trainer", "one")
    } == {
        "trainer": [f"{prefix}/deep/pictures/3.jpg", f"{prefix}/pictures/1.jpg", f"{prefix}/pictures/2.jpg"],
        "one": [f"{prefix}/pictures/1.jpg", f"{prefix}/pictures/2.jpg"],
    }


def test_only_footers_are_read(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a file whose footer is longer than what is asked for at first."""
    groups = pa.table(
        {"s3_path": [str(n) for n in range(200_000)], "caption": [f"picture {n}" for n in range(200_000)]}
    )
    pq.write_table(groups, tmp_path / "many.parquet", row_group_size=400)
    data = (tmp_path / "many.parquet").read_bytes()
    footer = int.from_bytes(data[-8:-4], "little") + 8
    assert own_files._TAIL_BYTES < footer < len(data) / 5
    s3.put("footers/many.parquet", data)
    asked: list[int] = []
    read_range = s3_source.read_range

    def counted(source: S3Source, part: Any, start: int, length: int) -> bytes:
        asked.append(length)
        return read_range(source, part, start, length)

    monkeypatch.setattr(s3_source, "read_range", counted)
    found = look_at(f"s3://{s3.bucket}/footers/", tmp_path, S3Options(s3.endpoint))
    assert (asked, found.columns) == ([own_files._TAIL_BYTES, footer], {"s3_path": '"s3_path"', "caption": '"caption"'})


def test_an_object_that_changes_meanwhile_is_not_read(s3: S3Server, tmp_path: Path) -> None:
    address = put(s3, "changing/a.parquet", ours(1))
    source = S3Source(kind="s3", path=address, endpoint=s3.endpoint)
    (part,) = s3_source.list_parts(source, tmp_path, None).parts
    put(s3, "changing/a.parquet", ours(2, 3))
    with pytest.raises(SourceError, match="was replaced after it was listed"):
        s3_source.read_range(source, part, 0, 4)


def test_a_public_bucket_needs_no_credentials(world: World, tmp_path: Path) -> None:
    data = sorted((world.folder / "files").glob("laion-high*/*.parquet"))
    keys = [path.relative_to(world.folder).as_posix() for path in data]
    (tmp_path / "laion.txt").write_text("".join(f"s3://{key}\n" for key in keys))
    at = ["--endpoint", world.url, "--anonymous", "--map", "caption=TEXT"]
    nobody = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "HOME": str(tmp_path)}
    run_all(tmp_path, ["add", "laion.txt", *at], **nobody)
    assert described(tmp_path, "laion")["source"]["anonymous"] is True
    rows = sum(pq.read_metadata(path).num_rows for path in data)
    assert len(pd.read_parquet(tmp_path / "normalized/laion.parquet")) == rows
    assert not any("authorization" in name.lower() for sent in world.server.request_headers for name in sent)


def test_the_examples_of_the_docs_run(s3: S3Server, tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs/own-data.md").read_text()
    _, _, page = page.partition("## A list of files")
    page, _, _ = page.partition("## Other kinds")
    listing = re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    commands = [
        line for body in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL) for line in body.splitlines()
    ]
    assert len(commands) == 6
    names = [line for line in listing.splitlines() if not line.startswith("#")]
    types = {**LAION, "similarity": "float"}
    for number, name in enumerate(names):
        rows = [(*row, 0.5) for row in laion(10 * number, 10 * number + 13)]
        write_parquet(tmp_path / name, rows, types)
        put(s3, f"docs/{name}", rows, types)
    (tmp_path / "laion.txt").write_text(listing)
    (tmp_path / "on-s3.txt").write_text("".join(f"s3://{s3.bucket}/docs/{name}\n" for name in names))
    assert prep(tmp_path, "init").returncode == 0
    for line in commands:
        words = [word.replace("s3://our-bucket/", f"s3://{s3.bucket}/docs/") for word in shlex.split(line)[1:]]
        words = [s3.endpoint if word == "https://s3.example.org" else word for word in words]
        at = ["--endpoint", s3.endpoint] if "s3://" in line else []
        done = prep(tmp_path, *words, *at, world=None, **keys_of(s3))
        assert done.returncode == 0, (line, done.stderr)
    counts = {path.stem: len(pd.read_parquet(path)) for path in (tmp_path / "normalized").iterdir()}
    assert counts == {"laion": 6, "laion2B-en": 4, "multi": 2, "on-s3": 6, "laion-en": 4}
    assert sorted(pd.read_parquet(tmp_path / "filtered/laion.parquet")["caption"]) == [
        f"picture {n}" for n in (13, 20, 23, 33)
    ]


# -- what is refused -------------------------------------------------------------------------------------------


def refused(data: str | Path, options: S3Options, tmp_path: Path) -> PrepError:
    with pytest.raises(PrepError) as caught:
        look_at(str(data), tmp_path / "raw/x", options)
    assert caught.value.next_step
    return caught.value


LocalCase = tuple[str, type[PrepError], str]


@pytest.mark.parametrize(
    ("lines", "kind", "message"),
    [
        ("a.parquet\nempty.parquet", DataError, "L:2: T/empty.parquet is empty"),
        (
            "a.parquet\nother.parquet",
            DataError,
            "L:2: T/other.parquet has other columns than the first file: it has no "
            "'s3_path', has no 'caption', has no 'fltLaionAesthScore', has no 'intHeight', has no 'intWidth'",
        ),
        (
            "a.parquet\nmore.parquet",
            DataError,
            "L:2: T/more.parquet has other columns than the first file: it has 'more', which the first file has not",
        ),
        ("a.parquet\nbroken.parquet", DataError, "L:2: T/broken.parquet cannot be read as parquet: "),
        ("a.parquet\nb.csv", UsageError, "L:2: T/b.csv is csv, and the file of line 1 parquet"),
        ("a.parquet\nother.txt", UsageError, "L:2: T/other.txt is a list itself, and no data"),
        ("a.parquet\nx.tar", UsageError, "L:2: T/x.tar is none of .csv, .parquet, .json, .jsonl"),
        ("a.parquet\n*.parquet", SourceError, "L:2: T/*.parquet cannot be read: No such file or directory"),
        ("a.parquet\nfolder.parquet", SourceError, "L:2: T/folder.parquet is a folder"),
        ("", SourceError, "L names no file"),
    ],
)
def test_a_list_of_what_cannot_be_is_told_with_the_line(
    lines: str, kind: type[PrepError], message: str, tmp_path: Path
) -> None:
    write_parquet(tmp_path / "a.parquet", ours(1))
    write_parquet(tmp_path / "other.parquet", laion(1), {name + "_": alias for name, alias in LAION.items()})
    write_parquet(tmp_path / "more.parquet", [(*ours(1)[0], 1)], OURS | {"more": "int32"})
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no more PAR1")
    (tmp_path / "b.csv").write_text("s3_path,caption\n")
    (tmp_path / "other.txt").write_text("a.parquet\n")
    (tmp_path / "x.tar").write_bytes(b"x")
    (tmp_path / "folder.parquet").mkdir()
    path = tmp_path / "list.txt"
    path.write_text(lines)
    error = refused(path, AWS, tmp_path)
    assert type(error) is kind
    assert error.message.startswith(message.replace("L", str(path), 1).replace("T/", f"{tmp_path}/"))


def test_a_folder_whose_files_differ_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/a.parquet", ours(1))
    write_parquet(tmp_path / "data/b.parquet", laion(1), LAION)
    (tmp_path / "w").mkdir()
    assert prep(tmp_path / "w", "init").returncode == 0
    done = prep(tmp_path / "w", "add", "../data")
    assert done.returncode == 1 and "b.parquet has other columns than the first file" in done.stderr
    assert not (tmp_path / "w/datasets").exists()


def test_s3_options_are_for_s3(tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "a.parquet", ours(1))
    (tmp_path / "list.txt").write_text("a.parquet\n")
    for given in (data, tmp_path / "list.txt"):
        for options in (
            S3Options(endpoint="https://h"),
            S3Options(region="eu"),
            S3Options(anonymous=True),
            S3Options(in_place=True),
        ):
            assert "are for S3, and" in refused(given, options, tmp_path).message


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ("s3://", UsageError, "path 's3://': write s3://bucket/prefix/"),
        ("s3://?/a", UsageError, "path 's3://?/a': write s3://bucket/prefix/"),
        ("s3://no-such-bucket/a/", SourceError, "s3://no-such-bucket/a/: there is no such bucket at "),
        ("s3://pictures/refused/nothing/", UsageError, "s3://pictures/refused/nothing/ has no parquet files"),
        ("s3://pictures/refused/texts/", UsageError, "s3://pictures/refused/texts/ has no parquet files"),
        ("s3://pictures/refused/broken/", DataError, "s3://pictures/refused/broken/b.parquet is no parquet file"),
        ("s3://pictures/refused/short/", DataError, "s3://pictures/refused/short/b.parquet is no parquet file"),
        ("s3://pictures/refused/lying/", DataError, "s3://pictures/refused/lying/b.parquet is no parquet file"),
        (
            "s3://pictures/refused/garbled/",
            DataError,
            "s3://pictures/refused/garbled/b.parquet cannot be read as parquet",
        ),
        ("s3://pictures/refused/cut/", DataError, "s3://pictures/refused/cut/b.parquet cannot be read as parquet: IO"),
        ("s3://pictures/refused/empty/", DataError, "s3://pictures/refused/empty/b.parquet is empty"),
        ("s3://pictures/refused/differing/", DataError, "s3://pictures/refused/differing/b.parquet has other columns"),
        ("s3://pictures/refused/texts/a.txt", UsageError, "s3://pictures/refused/texts/a.txt is a list itself"),
        (
            "s3://pictures/refused/texts/a.csv",
            UsageError,
            "s3://pictures/refused/texts/a.csv is csv; on S3 only parquet",
        ),
        ("L: s3://pictures/refused/gone.parquet", SourceError, "L:2: s3://pictures/refused/gone.parquet is not there"),
        (
            "L: s3://no-such-bucket/a.parquet",
            SourceError,
            "L:2: s3://no-such-bucket/a.parquet is in s3://no-such-bucket",
        ),
        ("L: s3://pictures/refused/texts/a.csv", UsageError, "L:2: s3://pictures/refused/texts/a.csv is csv; on S3"),
        ("L: s3://pictures/refused/empty/b.parquet", DataError, "L:2: s3://pictures/refused/empty/b.parquet is empty"),
        ("L: s3://pictures/refused/broken/b.parquet", DataError, "L:2: s3://pictures/refused/broken/b.parquet is no"),
        (
            "L: s3://pictures/refused/differing/b.parquet",
            DataError,
            "L:2: s3://pictures/refused/differing/b.parquet has other columns than the first file",
        ),
    ],
)
def test_s3_that_cannot_be(data: str, kind: type[PrepError], message: str, s3: S3Server, tmp_path: Path) -> None:
    good = put(s3, "refused/differing/a.parquet", ours(1))
    put(s3, "refused/differing/b.parquet", laion(1), LAION)
    whole = s3.path("refused/differing/b.parquet").read_bytes()
    cut = whole[-8 - int.from_bytes(whole[-8:-4], "little") : -108]
    for name, body in {
        "texts/a.txt": b"x",
        "texts/a.csv": b"s3_path,caption",
        "broken/b.parquet": b"no parquet at all, whatever its name",
        "short/b.parquet": b"PAR1",
        "lying/b.parquet": b"PAR1" + b"\xff\xff\xff\x7fPAR1",
        "garbled/b.parquet": b"PAR1" + b"\xaa" * 40 + (40).to_bytes(4, "little") + b"PAR1",
        "cut/b.parquet": b"PAR1" + cut + len(cut).to_bytes(4, "little") + b"PAR1",
        "empty/b.parquet": b"",
    }.items():
        s3.put(f"refused/{name}", body)
    path = tmp_path / "list.txt"
    if data.startswith("L: "):
        path.write_text(f"{good}\n{data.removeprefix('L: ')}\n")
        data = str(path)
    error = refused(data, S3Options(s3.endpoint), tmp_path)
    assert type(error) is kind, error
    assert error.message.startswith(message.replace("L:", f"{path}:", 1) if message.startswith("L:") else message)
    assert "footer.parquet" not in error.message and "\n" not in error.message


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize(
    ("environment", "options", "words"),
    [
        ({"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}, [], "credentials|access denied"),
        ({}, [], "there are no S3 credentials"),
        ({}, ["--endpoint", "http://127.0.0.1:9", "--anonymous"], "http://127.0.0.1:9 cannot be reached"),
        ({}, ["--endpoint", "localhost"], "endpoint 'localhost': write a whole address"),
    ],
)
def test_whoever_may_not_is_told_what_to_do(
    environment: dict[str, str], options: list[str], words: str, as_list: bool, s3: S3Server, tmp_path: Path
) -> None:
    address = put(s3, "denied/a.parquet", ours(1))
    (tmp_path / "list.txt").write_text(f"{address}\n")
    alone = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "HOME": str(tmp_path)}
    assert prep(tmp_path, "init").returncode == 0
    data = "list.txt" if as_list else f"s3://{s3.bucket}/denied/"
    given = ["--endpoint", s3.endpoint, *options]
    done = prep(tmp_path, "add", data, *given, world=None, **(alone | environment))
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stdout == ""
    assert re.search(words, " ".join(done.stderr.split())), done.stderr
    assert not (tmp_path / "datasets").exists()
