"""Datasets, recipes and prep.yaml: what they may say, and what is said of those that say something else."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from prep import config
from prep.config import (
    ArchiveImages,
    Catalogue,
    Dataset,
    Entry,
    File,
    GoogleDriveFile,
    GoogleDriveSource,
    HttpSource,
    HuggingFaceSource,
    LinksTable,
    LocalSource,
    ManualSource,
    Recipe,
    Rules,
    S3Source,
    Source,
    Table,
    UrlImages,
    WorkspaceConfig,
    load,
    nearest,
    packaged_configs,
)
from prep.errors import ConfigError
from prep.schema import KINDS
from prep.sources import module_of

DATASET = """\
name: mine
source: {kind: local, path: /data}
images: {kind: url}
tables:
  mine:
    kind: text-to-image
    records: {format: parquet, parts: "*.parquet"}
    select:
      caption: text
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_it(text: str) -> Path:
        path = tmp_path / "file.yaml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write_it


def problems(model: type[BaseModel], path: Path) -> list[str]:
    """What is wrong with the file, a line each, without its name."""
    with pytest.raises(ConfigError) as caught:
        load(model, path)
    assert caught.value.next_step.startswith(("Mend", "Keep", "See", "Is this", "Check"))
    return [line.removeprefix(f"{path}:") for line in caught.value.message.splitlines()]


# -- what a file may say -------------------------------------------------------------------------------------


def test_a_dataset_is_read(write: Callable[[str], Path]) -> None:
    dataset = load(Dataset, write(DATASET))
    assert dataset.source == LocalSource(kind="local", path="/data")
    assert dataset.images == UrlImages(kind="url")
    assert dataset.tables["mine"].select == {"caption": "text"}
    assert dataset.tables["mine"].shape is KINDS["text-to-image"]


def test_a_loaded_model_cannot_be_changed(write: Callable[[str], Path]) -> None:
    dataset = load(Dataset, write(DATASET))
    with pytest.raises(ValidationError, match="frozen"):
        dataset.name = "other"


def test_merge_keys_and_anchors_work(write: Callable[[str], Path]) -> None:
    recipe = load(
        Recipe,
        write("""\
            name: r
            entries:
              - &first {table: a, min_size: 512, group: g}
              - {<<: *first, table: b, min_size: 256}
            """),
    )
    assert [(entry.table, entry.min_size, entry.group) for entry in recipe.entries] == [
        ("a", 512, "g"),
        ("b", 256, "g"),
    ]


def test_entries_name_themselves_and_their_rules() -> None:
    assert Entry(table="a").label == "a"
    assert Entry(table="a", name="b", aes_cutoff=5.5, where="x").label == "b"
    assert Entry(table="a", aes_cutoff=5.5, where="x").rules == Rules(aes_cutoff=5.5, where="x")


@pytest.mark.parametrize("sampling", ["all", "full", "first:10", "end:10%", "random:5%", "random:100", "dup:3"])
def test_samplings_that_are(sampling: str) -> None:
    assert Entry(table="a", sampling=sampling).sampling == sampling


@pytest.mark.parametrize(
    "sampling", ["", "All", "first", "first:", "first:1.5", "first:-1", "dup:10%", "some:3", "all:3"]
)
def test_samplings_that_are_not(sampling: str) -> None:
    with pytest.raises(ValidationError):
        Entry(table="a", sampling=sampling)


def test_rules_go_over_weaker_ones_where_they_say_something() -> None:
    weak, strong = Rules(aes_cutoff=5.0, min_size=256), Rules(min_size=0, where="a")
    assert strong.over(weak) == Rules(aes_cutoff=5.0, min_size=0, where="a")
    assert Rules().over(weak) == weak == weak.over(Rules())


# -- what a file may not say ---------------------------------------------------------------------------------


def test_an_unknown_key_has_its_line_and_the_nearest_right_one(write: Callable[[str], Path]) -> None:
    text = DATASET.replace("images:", "image:").replace("select:", "selct:").replace("parts:", "partz:")
    assert problems(Dataset, write(text)) == [
        "7: 'tables.mine.records.parts' is missing",
        "7: unknown key 'partz'; did you mean 'parts'?",
        "5: 'tables.mine.select' is missing",
        "8: unknown key 'selct'; did you mean 'select'?",
        "3: unknown key 'image'; did you mean 'images'?",
    ]


NO_NAME = "name: String should match pattern '^[A-Za-z0-9][A-Za-z0-9._+-]*$'"
NO_KIND = (
    "sources.coyo: Input tag 'ftp' found using 'kind' does not match any of the expected tags: "
    "'huggingface', 'http', 's3', 'google-drive', 'local', 'manual'"
)
WRONG: list[tuple[type[BaseModel], str, str]] = [
    (WorkspaceConfig, "recipe: r\nwokers: 3\n", "2: unknown key 'wokers'; did you mean 'workers'?"),
    (WorkspaceConfig, "recipe: r\nqqqqq: 3\n", "2: unknown key 'qqqqq'"),
    (
        WorkspaceConfig,
        "\nworkers: many\n",
        "2: workers: Input should be a valid integer, unable to parse string as an integer",
    ),
    (WorkspaceConfig, "workers: 0\n", "1: workers: Input should be greater than or equal to 1"),
    (WorkspaceConfig, "sources:\n  coyo: {kind: ftp}\n", f"2: {NO_KIND}"),
    (WorkspaceConfig, "sources:\n  coyo:\n    kind: local\n", "2: 'sources.coyo.local.path' is missing"),
    (
        WorkspaceConfig,
        "sources:\n  coyo:\n    kind: http\n    files: []\n",
        "4: sources.coyo.http.files: Tuple should have at least 1 item after validation, not 0",
    ),
    (Recipe, "name: r\nentries: {a: 1}\n", "2: entries: Input should be a valid tuple"),
    (
        Recipe,
        "name: r\nentries:\n  - table: a\n  - {table: b, min_size: -1}\n",
        "4: entries.1.min_size: Input should be greater than or equal to 0",
    ),
    (
        Recipe,
        "name: r\nentries:\n  - {table: b, aes_cutoff: .nan}\n",
        "3: entries.0.aes_cutoff: Input should be a finite number",
    ),
    (Recipe, "name: r/../x\n", f"1: {NO_NAME}"),
    (Recipe, "name: .hidden\n", f"1: {NO_NAME}"),
    (Recipe, "name: 3\n", "1: name: Input should be a valid string"),
    (Recipe, "name: r\ntrainer: megatron\n", "2: trainer: Input should be 'lavida-o' or 'convllava'"),
]


@pytest.mark.parametrize(("model", "text", "expected"), WRONG)
def test_wrong_values_have_their_line(
    model: type[BaseModel], text: str, expected: str, write: Callable[[str], Path]
) -> None:
    assert problems(model, write(text)) == [expected]


def test_entries_of_one_table_have_one_set_of_rules(write: Callable[[str], Path]) -> None:
    text = "name: r\nentries:\n  - {table: a, min_size: 1}\n  - {table: b}\n  - {table: a, min_size: 2}\n"
    assert problems(Recipe, write(text)) == [
        "1: entries of table 'a' have different filter rules; a table is filtered once, so give them the same"
    ]
    assert len(load(Recipe, write(text.replace("min_size: 2", "min_size: 1, sampling: dup:2"))).entries) == 3


def test_a_table_has_a_known_kind_and_its_columns(write: Callable[[str], Path]) -> None:
    assert problems(Dataset, write(DATASET.replace("text-to-image", "text2image"))) == [
        "5: tables.mine: kind 'text2image' is unknown; did you mean 'text-to-image'?"
    ]
    assert problems(Dataset, write(DATASET.replace("caption: text", "captoin: text"))) == [
        "5: tables.mine: select has 'captoin', which text-to-image samples do not have; did you mean 'caption'?; "
        "columns for `where` alone go under `extra`"
    ]


NO_EXPRESSIONS = [
    "true); COPY (SELECT 1) TO '/nowhere/x'; SELECT (1",
    "true) UNION ALL SELECT row FROM range(3) t(row) WHERE (true",
    "true) OR (true",
    "true; SELECT 1",
    "true;",
    "true ORDER BY 1",
    "a AS b",
    "a, b",
    "a /* and no end",
    "-- nothing",
    "\ud800",
    " ",
    "",
]


@pytest.mark.parametrize("text", NO_EXPRESSIONS)
def test_sql_is_one_expression(text: str) -> None:
    table = {"kind": "text-to-image", "records": {"format": "parquet", "parts": "*"}, "select": {"caption": "c"}}
    Table.model_validate(table)
    places: list[dict[str, Any]] = [
        {"select": {"caption": text}},
        {"extra": {"a": text}},
        {"drop": {"a": text}},
        {"image": text},
        {"image": {"s3_path": text}},
        {"filter": {"where": text}},
    ]
    for place in places:
        with pytest.raises(ValidationError):
            Table.model_validate(table | place)
    for model in (lambda: Rules(where=text), lambda: Entry(table="a", where=text)):
        with pytest.raises(ValidationError):
            model()


@pytest.mark.parametrize(
    "text",
    [
        "a = 1 -- so it is",
        "a IN (SELECT b FROM read_csv('x;y.csv')) AND \"c;\" != ');'",
        "row_number() OVER (PARTITION BY a ORDER BY b) > 1\n",
        "list_filter(json_texts(a), lambda x: x != '')[1]",
        "CASE WHEN a THEN 1 ELSE (b) END",
        "E'\\'); SELECT (' = a",
    ],
)
def test_sql_may_be_any_expression(text: str) -> None:
    assert Rules(where=text).where == text


def test_no_two_columns_differ_in_capital_letters_alone(write: Callable[[str], Path]) -> None:
    for column in ("Image_Status", "REASON", "Caption", "_reason"):
        assert problems(Dataset, write(DATASET + f"    extra: {{{column}: x}}\n")) == [
            f"5: tables.mine: extra has {column!r}, which samples have anyway; give it another name"
        ]
    assert problems(Dataset, write(DATASET + "    extra: {Mark: x, mark: y}\n")) == [
        "5: tables.mine: extra has two columns that only capital letters tell apart; give one another name"
    ]


@pytest.mark.parametrize("reason", ["near_duplicate", "sample", "text_only", "aes_cutoff", "where", "image_http_404"])
def test_reasons_of_a_dataset_are_not_the_filters(reason: str, write: Callable[[str], Path]) -> None:
    assert problems(Dataset, write(DATASET + f"    drop: {{{reason}: x}}\n")) == [
        f"5: tables.mine: drop has {reason!r}, which `prep filter` says itself; give it another name"
    ]
    own = DATASET + "    drop: {several_images: x, bad_conversation: x, image_outside: x, no_caption: x}\n"
    assert len(load(Dataset, write(own)).tables["mine"].drop) == 4


@pytest.mark.parametrize("column", ["caption", "key", "image_key", "drop_reason"])
def test_own_columns_do_not_hide_those_that_samples_have(column: str, write: Callable[[str], Path]) -> None:
    text = DATASET + f"    extra: {{{column}: x, watermark: y}}\n"
    assert problems(Dataset, write(text)) == [
        f"5: tables.mine: extra has {column!r}, which samples have anyway; give it another name"
    ]


def test_a_table_says_which_image_a_record_belongs_to(write: Callable[[str], Path]) -> None:
    needs_image = ["1: table mine: `image` has to say which image a record belongs to"]
    archive = DATASET.replace("{kind: url}", '{kind: archive, parts: "*"}')
    elsewhere = DATASET + "    images_from: coco-2017\n"
    nowhere = DATASET.replace("images: {kind: url}\n", "")
    for text in (archive, elsewhere, nowhere):
        assert problems(Dataset, write(text)) == needs_image
        assert load(Dataset, write(text + "    image: name\n")).tables["mine"].image == "name"
    given = DATASET.replace("kind: url", "kind: given")
    assert problems(Dataset, write(given)) == ["1: table mine: images are given, so select needs 's3_path'"]


@pytest.mark.parametrize("records", ["{format: function, parts: '*'}", "{format: csv, function: a.b, parts: '*'}"])
def test_a_function_goes_with_its_format(records: str, write: Callable[[str], Path]) -> None:
    text = DATASET.replace('{format: parquet, parts: "*.parquet"}', records)
    assert problems(Dataset, write(text)) == [
        "7: tables.mine.records: format: function and function: module.name go together"
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "word\n", "null\n"])
def test_a_file_that_is_no_mapping_is_said(text: str, write: Callable[[str], Path]) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load(WorkspaceConfig, path)
    assert caught.value.message == f"{path}: must be a mapping of keys to values"


def test_a_repeated_key_is_refused(write: Callable[[str], Path]) -> None:
    assert problems(WorkspaceConfig, write("recipe: a\nworkers: 1\nrecipe: b\n")) == [
        "3: key 'recipe' stands here and on line 1"
    ]


def test_nearest() -> None:
    assert nearest("coyo", ["laion", "coyo-700m"]) == "; did you mean 'coyo-700m'?"
    assert nearest("zzz", ["laion", "coyo-700m"]) == nearest("a", []) == ""


# -- sources -------------------------------------------------------------------------------------------------


def sources_of(*texts: str) -> str:
    """A dataset with these sources: the first, and its mirrors."""
    mirrors = ", ".join(texts[1:])
    return DATASET.replace("{kind: local, path: /data}", f"{texts[0]}\nmirrors: [{mirrors}]")


def test_a_dataset_has_mirrors_of_any_kind(write: Callable[[str], Path]) -> None:
    dataset = load(
        Dataset,
        write(
            sources_of(
                "{kind: huggingface, repo: a/b}",
                "{kind: s3, path: s3://bucket/data/, endpoint: 'https://host', region: eu, anonymous: true}",
                "{kind: google-drive, folder: 1abc, files: [{id: 1d, path: x.zip, size_bytes: 3}]}",
                "{kind: local, path: /data, copy: true}",
                "{kind: manual, instructions: Ask., links: {file: '*.txt', url: link}, files: [{path: a.tar}]}",
            )
        ),
    )
    assert dataset.mirrors == (
        S3Source(kind="s3", path="s3://bucket/data/", endpoint="https://host", region="eu", anonymous=True),
        GoogleDriveSource(
            kind="google-drive", folder="1abc", files=(GoogleDriveFile(id="1d", path="x.zip", size_bytes=3),)
        ),
        LocalSource(kind="local", path="/data", copy=True),
        ManualSource(
            kind="manual",
            instructions="Ask.",
            links=LinksTable(file="*.txt", name="file_name", url="link"),
            files=(File(path="a.tar"),),
        ),
    )
    assert load(Dataset, write(DATASET)).mirrors == ()
    assert dataset.mirrors[2] != LocalSource(kind="local", path="/data")


def test_hashes_are_compared_in_lower_case() -> None:
    assert File(path="a", sha256="AB" * 32, md5="Cd" * 16) == File(path="a", sha256="ab" * 32, md5="cd" * 16)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{kind: s3, path: /data}", "s3: path '/data': write s3://bucket/prefix/"),
        ("{kind: s3, path: 's3://'}", "s3: path 's3://': write s3://bucket/prefix/"),
        ("{kind: s3, path: 's3:///data'}", "s3: path 's3:///data': write s3://bucket/prefix/"),
        ("{kind: s3, path: 's3://b', endpoint: h}", "s3: endpoint 'h': write a whole address, https://host"),
        ("{kind: google-drive}", "google-drive: name a `folder`, or `files` by their ids, or both"),
        (
            "{kind: google-drive, folder: 'https://host/x'}",
            "google-drive.folder: 'https://host/x' is neither an id nor an address of Google Drive",
        ),
        (
            "{kind: google-drive, folder: 'https://drive.google.com/file/d/1a/view'}",
            "google-drive.folder: 'https://drive.google.com/file/d/1a/view' is a file, which has a key of its own",
        ),
        (
            "{kind: google-drive, files: [{path: x, id: 'https://drive.google.com/drive/folders/1a'}]}",
            "google-drive.files.0.id: 'https://drive.google.com/drive/folders/1a' is a folder, which has a key of its "
            "own",
        ),
        (
            "{kind: manual, instructions: x, files: [{path: a, size_bytes: -1}]}",
            "manual.files.0.size_bytes: Input should be greater than or equal to 0",
        ),
        (
            "{kind: manual, instructions: x, files: [{path: a, md5: abc}]}",
            "manual.files.0.md5: String should match pattern '^[0-9A-Fa-f]{32}$'",
        ),
        (
            "{kind: manual, instructions: x, files: [{path: ''}]}",
            "manual.files.0.path: String should have at least 1 character",
        ),
    ],
)
def test_sources_that_cannot_be(text: str, expected: str, write: Callable[[str], Path]) -> None:
    assert problems(Dataset, write(sources_of("{kind: local, path: /x}", text))) == [f"3: mirrors.0.{expected}"]


def test_misspelt_keys_of_sources_are_known(write: Callable[[str], Path]) -> None:
    text = sources_of("{kind: local, path: /x, copi: true}", "{kind: s3, path: 's3://b', anonymos: true}")
    assert problems(Dataset, write(text)) == [
        "2: unknown key 'copi'; did you mean 'copy'?",
        "3: unknown key 'anonymos'; did you mean 'anonymous'?",
    ]


DRIVE_ID = "1FxB2Nw-vWUcTUSI_dBpPIykb-uGYoEqV"


@pytest.mark.parametrize(
    "address",
    [
        DRIVE_ID,
        f"https://drive.google.com/file/d/{DRIVE_ID}/view?usp=sharing",
        f"https://drive.google.com/file/d/{DRIVE_ID}",
        f"drive.google.com/file/u/1/d/{DRIVE_ID}/view",
        f"https://drive.google.com/open?id={DRIVE_ID}",
        f"https://drive.google.com/uc?export=download&id={DRIVE_ID}",
        f"http://docs.google.com/uc?id={DRIVE_ID}&export=download",
        f"https://drive.usercontent.google.com/download?id={DRIVE_ID}&confirm=t",
    ],
)
def test_addresses_of_files_on_drive(address: str) -> None:
    assert GoogleDriveFile(id=address, path="x").id == DRIVE_ID


@pytest.mark.parametrize(
    "address",
    [
        DRIVE_ID,
        f"https://drive.google.com/drive/folders/{DRIVE_ID}?usp=sharing",
        f"https://drive.google.com/drive/u/0/folders/{DRIVE_ID}",
        f"https://drive.google.com/embeddedfolderview?id={DRIVE_ID}#list",
    ],
)
def test_addresses_of_folders_on_drive(address: str) -> None:
    assert GoogleDriveSource(kind="google-drive", folder=address).folder == DRIVE_ID


@pytest.mark.parametrize(
    "address",
    [
        "",
        "a b",
        "../x",
        "https://drive.google.com/",
        "https://drive.google.com.example.org/file/d/1a",
        "https://example.org/?u=https://drive.google.com/file/d/1a",
        "ftp://drive.google.com/file/d/1a",
    ],
)
def test_what_is_no_address_on_drive(address: str) -> None:
    with pytest.raises(ValidationError, match="neither an id nor an address of Google Drive"):
        GoogleDriveFile(id=address, path="x")


# -- what comes with prep ------------------------------------------------------------------------------------

CATALOGUE = Catalogue()


def test_the_packaged_configs_are_there() -> None:
    assert packaged_configs().is_dir()
    assert CATALOGUE.dataset_names() and CATALOGUE.recipe_names()
    assert {path.suffix for path in packaged_configs().glob("*/*")} == {".yaml"}


@pytest.mark.parametrize("name", CATALOGUE.dataset_names())
def test_every_dataset_loads_and_what_it_points_at_exists(name: str) -> None:
    dataset = CATALOGUE.dataset(name)
    assert dataset.name == name
    assert dataset.title and dataset.homepage.startswith("https://") and dataset.license
    module = module_of(dataset.source)
    assert callable(module.list_parts) and callable(module.fetch)
    for table in dataset.tables.values():
        for name in table.image_datasets(dataset.name).values():
            assert isinstance(CATALOGUE.dataset(name).images, ArchiveImages if name != dataset.name else BaseModel)
        if table.records.function is None:
            continue
        module_name, _, function = table.records.function.partition(".")
        assert callable(getattr(importlib.import_module(f"prep.datasets.{module_name}"), function))


@pytest.mark.parametrize("name", CATALOGUE.recipe_names())
def test_every_recipe_loads_and_its_tables_exist(name: str) -> None:
    recipe = load(Recipe, CATALOGUE.recipe_path(name))
    assert recipe.title
    assert recipe.name == name or name == "empty"
    groups = {entry.group for entry in recipe.entries}
    assert set(recipe.weights) | set(recipe.batch_sizes) <= groups
    for entry in recipe.entries:
        assert bool(entry.not_public) != CATALOGUE.has_table(entry.table), entry.table


def test_no_two_datasets_have_a_table_of_one_name() -> None:
    tables = [table for dataset in CATALOGUE.datasets() for table in dataset.tables]
    assert sorted(set(tables)) == sorted(tables)


def test_every_kind_of_source_has_its_module() -> None:
    union = get_args(get_args(Source)[0])
    assert set(union) == {HuggingFaceSource, HttpSource, S3Source, GoogleDriveSource, LocalSource, ManualSource}
    for model in union:
        (kind,) = get_args(model.model_fields["kind"].annotation)
        module = importlib.import_module(f"prep.sources.{kind.replace('-', '_')}")
        assert module.__doc__ and module.list_parts.__doc__ and module.fetch.__doc__
        assert "Attributes:" in (model.__doc__ or "")


# -- the catalogue -------------------------------------------------------------------------------------------


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/mine.yaml").write_text(DATASET)
    return Catalogue(tmp_path)


def test_a_workspace_adds_datasets_and_replaces_them(catalogue: Catalogue, tmp_path: Path) -> None:
    assert catalogue.dataset_names() == sorted([*CATALOGUE.dataset_names(), "mine"])
    assert catalogue.dataset_of_table("mine") is catalogue.dataset("mine")
    assert catalogue.dataset_of_table("coyo-700m") == CATALOGUE.dataset("coyo-700m")

    (tmp_path / "datasets/coyo-700m.yaml").write_text(DATASET.replace("mine", "coyo-700m"))
    replaced = Catalogue(tmp_path)
    assert replaced.dataset_names() == catalogue.dataset_names()
    assert replaced.dataset_of_table("coyo-700m").source == LocalSource(kind="local", path="/data")


def test_a_table_name_that_two_datasets_have_is_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "datasets/other.yaml").write_text(DATASET.replace("name: mine", "name: other"))
    assert said(Catalogue(tmp_path).dataset_of_table, "coyo-700m") == (
        "datasets 'mine' and 'other' both have a table 'mine'\n  Give one of the tables another name."
    )


def said(call: Callable[[str], Any], name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        call(name)
    return str(caught.value)


@pytest.mark.parametrize("name", ["coyo", "../recipes/empty", "/etc/passwd", "", ".", "a\0b"])
def test_what_is_not_in_the_catalogue_is_said(name: str, catalogue: Catalogue) -> None:
    hint = {"coyo": "; did you mean 'coyo-700m'?", "a\0b": "; did you mean 'sa-1b'?"}.get(name, "")
    table_hint = hint if name == "coyo" else ""
    assert said(catalogue.dataset, name) == (f"no dataset is called {name!r}{hint}\n  `prep datasets` lists them all.")
    assert said(catalogue.dataset_of_table, name) == (
        f"no dataset has a table {name!r}{table_hint}\n  `prep datasets` lists datasets and their tables."
    )
    there = ", ".join(catalogue.recipe_names())
    assert said(catalogue.recipe_path, name).startswith(f"no recipe is called {name!r}\n  There are: {there}. ")


def test_a_dataset_is_named_like_its_file(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    path = tmp_path / "datasets/other.yaml"
    path.write_text(DATASET)
    assert said(Catalogue(tmp_path).dataset, "other") == (
        f"{path}: the dataset is named 'mine', its file 'other'\n  Give both the same name."
    )


def test_a_broken_dataset_is_a_loud_error_and_not_a_missing_table(catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "datasets/broken.yaml").write_text("name: [")
    assert "broken.yaml:1: not valid YAML" in said(catalogue.dataset_of_table, "mine")


def test_installed_configs_go_before_those_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(config, "files", lambda package: tmp_path)
    packaged_configs.cache_clear()
    try:
        assert packaged_configs() == tmp_path / "configs"
    finally:
        packaged_configs.cache_clear()
