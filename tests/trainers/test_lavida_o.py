import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prep.errors import ConfigError
from prep.schema import HEIGHT, KINDS, WIDTH
from prep.trainers.lavida_o import (
    FUNCTION_OF_KIND,
    FUNCTIONS,
    LLAVA_SAMPLE,
    NO_AES_CUTOFF,
    Holds,
    Sampling,
    cut_batch,
    parse_sampling,
    sampled_rows,
    training_entry,
    training_yaml,
)
from prep.trainers.lavida_o_sample import build_sample

S3 = "preproces_text_to_image_generation_s3"
COLUMNS = ("s3_path", "caption", "fltLaionAesthScore", "intHeight", "intWidth")

# What the contract says each function reads, its image columns, and what it uses when present.
CONTRACT = {
    S3: ("s3_path caption", "s3_path", "fltLaionAesthScore hpsv2"),
    "preproces_text_to_image_generation_piat_hash": (
        "strImagehash longLLA_captions", "strImagehash", "fltLaionAesthScore hpsv2",
    ),
    "preproces_text_to_image_generation_s3_loc": (
        "s3_path caption grounding_text", "s3_path", "fltLaionAesthScore hpsv2",
    ),
    "preproces_text_to_image_generation_layout_sam": (
        "s3_path caption cap_short cap_detail crop_parms", "s3_path", "fltLaionAesthScore hpsv2",
    ),
    "preproces_und_mammoth_si_10M": ("image conversations", "image", ""),
    "preproces_vw_instruct": ("image conversations", "image", ""),
    "preproces_grandf": ("s3_path loc_caption", "s3_path", ""),
    "preproces_refcoco_rec": ("s3_path label loc_string", "s3_path", ""),
    "preprocess_reflection_und": ("image prompts results", "image", ""),
    "process_sharegpt_4o_edit": ("input_image output_image input_prompt", "input_image output_image", ""),
    "process_gpt_edit": ("input_paths output_paths instruction", "input_paths output_paths", "hpsv2"),
    "process_gpt_edit_loc_gnd": (
        "input_paths output_paths instruction grounding_text", "input_paths output_paths", "edit_type hpsv2",
    ),
    "process_pica_banana": (
        "local_input_image local_output_image text", "local_input_image local_output_image", "hpsv2",
    ),
    "process_metaquery": (
        "source_images_paths tgt_path dir_name prompt", "source_images_paths tgt_path", "",
    ),
    "process_uniworld": (
        "image image_gen image_gen_enc folder is_edit conversations", "image image_gen image_gen_enc", "",
    ),
}  # fmt: skip


def test_the_fifteen_functions() -> None:
    known = {
        name: (
            " ".join(read.column for read in function.reads_with({})),
            " ".join(read.column for read in function.reads_with({}) if read.holds.is_image),
            " ".join(function.uses_when_present),
        )
        for name, function in FUNCTIONS.items()
    }
    assert known == CONTRACT
    assert sum(name.startswith("preproces_") for name in known) == 8
    assert {name: function.name for name, function in FUNCTIONS.items()} == {name: name for name in FUNCTIONS}


def test_every_kind_has_a_function_for_its_columns() -> None:
    assert list(FUNCTION_OF_KIND) == list(KINDS) and set(FUNCTION_OF_KIND.values()) == set(FUNCTIONS)
    for name, function in FUNCTION_OF_KIND.items():
        kind, reads = KINDS[name], FUNCTIONS[function].reads
        known = {*(read.column for read in reads), *FUNCTIONS[function].uses_when_present}
        assert {read.column for read in reads} <= set(kind.column_names)
        assert set(kind.column_names) - known <= {HEIGHT, WIDTH}, name
        images = [column.name for column in kind.image_columns]
        assert sorted(images) == sorted(set(FUNCTIONS[function].image_columns) - {"strImagehash"}), name
        for read in reads:
            column = kind.column(read.column)
            assert column is not None
            assert (read.holds is Holds.PATHS) <= (column.images == "list"), name
            assert (read.holds is Holds.PATH) <= (column.images == "one"), name
            assert (read.holds is Holds.JOINED_PATHS) == (column.images == "joined"), name
            is_optional = read.nullable or read.only_with is not None or kind.place is not None
            assert column.required or is_optional or read.holds is Holds.ANYTHING, (name, column)


def test_arguments_change_what_is_read() -> None:
    loc = FUNCTIONS["preproces_text_to_image_generation_s3_loc"]
    assert [read.column for read in loc.reads_with({"add_feedback": True})][3:] == ["negatives", "negative_reasons"]
    assert [read.column for read in FUNCTIONS[S3].reads_with({"caption_key": "long"})] == ["s3_path", "long"]
    assert loc.prefix_arguments == ("s3_prefix_enc",)
    assert FUNCTIONS["process_gpt_edit"].prefix_arguments == ("s3_prefix",)


# -- sampling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("all", Sampling("all")),
        ("full", Sampling("all")),
        ("first", Sampling("all", is_understood=False)),
        ("firts:3", Sampling("all", is_understood=False)),
        ("first:3", Sampling("first", 3)),
        ("end:10%", Sampling("end", 10, is_percent=True)),
        ("random:7", Sampling("random", 7)),
        ("dup:2", Sampling("dup", 2)),
    ],
)
def test_sampling_is_understood(strategy: str, expected: Sampling) -> None:
    assert parse_sampling(strategy) == expected


@pytest.mark.parametrize(
    "strategy", ["first:", "first:x", "first:1.5", "first:-2", "first:0", "end:%", "first:3:4", "dup:5%", "first:²"]
)
def test_sampling_that_cannot_be_read(strategy: str) -> None:
    with pytest.raises(ConfigError, match="sampling_strategy"):
        parse_sampling(strategy)


@pytest.mark.parametrize(
    ("strategy", "rows", "expected"),
    [
        ("all", 10, 10),
        ("nonsense", 10, 10),
        ("first:3", 10, 3),
        ("first:30", 10, 10),
        ("end:1%", 10, 1),
        ("end:7%", 100, 7),
        ("first:34%", 3, 2),
        ("random:10", 10, 10),
        ("random:11", 10, 11),
        ("dup:3", 10, 30),
        ("first:5", 0, 0),
    ],
)
def test_sampled_rows(strategy: str, rows: int, expected: int) -> None:
    assert sampled_rows(strategy, rows) == expected


@given(st.integers(1, 100), st.integers(0, 10**9))
def test_percentages_round_up(percent: int, rows: int) -> None:
    taken = sampled_rows(f"first:{percent}%", rows)
    assert (taken - 1) * 100 < percent * rows <= taken * 100


@pytest.mark.parametrize(("batch", "factor", "expected"), [(8, 1, 8), (8, 0.5, 4), (7, 0.5, 3), (1, 0.5, 1), (4, 0, 1)])
def test_cut_batch(batch: int, factor: float, expected: int) -> None:
    assert cut_batch(batch, factor) == expected


# -- entries and the file ------------------------------------------------------------------------------------


def test_training_entry() -> None:
    entry = training_entry(
        name="coyo",
        json_path=Path("/data/coyo.parquet"),
        function=S3,
        columns=COLUMNS,
        sampling="first:10%",
        arguments={"random_truncate": False},
        aes_cutoff=5.67,
        min_size=512,
        group="t2i",
    )
    assert list(entry.items()) == [
        ("name", "coyo"),
        ("json_path", "/data/coyo.parquet"),
        ("columns", list(COLUMNS)),
        ("sampling_strategy", "first:10%"),
        ("preprocess_fn", S3),
        ("process_fn_kwargs", {"random_truncate": False}),
        ("aes_cutoff", 5.67),
        ("min_size", 512),
        ("length_group", "t2i"),
    ]


def entry_keys(columns: tuple[str, ...], **rules: Any) -> dict[str, Any]:
    entry = training_entry(name="a", json_path=Path("/a.parquet"), function=S3, columns=columns, **rules)
    return {key: value for key, value in entry.items() if key in ("aes_cutoff", "min_size")}


def test_cutoffs_are_written_where_the_loader_would_else_use_its_own() -> None:
    assert entry_keys(COLUMNS) == {"aes_cutoff": NO_AES_CUTOFF}
    assert entry_keys(COLUMNS, aes_cutoff=0) == {"aes_cutoff": 0}
    assert entry_keys(COLUMNS[:2], aes_cutoff=5.67, min_size=512) == {}
    assert entry_keys(COLUMNS[:4], aes_cutoff=5.67, min_size=512) == {"aes_cutoff": 5.67}


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entry = training_entry(name="a", json_path=Path("a.parquet"), function=S3, columns=COLUMNS)
    assert entry["json_path"] == str(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"function": "preprocess_grandf"}, "no preprocess function is called 'preprocess_grandf'; did you mean"),
        ({"columns": ("s3_path",)}, f"entry 'a': {S3} reads caption, which the table does not have"),
        ({"arguments": {"caption_key": "long"}}, "reads long, which"),
        ({"sampling": "first:x"}, "not a whole number"),
    ],
)
def test_entries_that_cannot_work(keys: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"name": "a", "json_path": Path("/a"), "function": S3, "columns": COLUMNS}
    with pytest.raises(ConfigError, match=message):
        training_entry(**good | keys)


def test_training_yaml() -> None:
    entries = [
        training_entry(name="coyo", json_path=Path("/d/c.parquet"), function=S3, columns=COLUMNS, aes_cutoff=5.67),
        training_entry(
            name="grand-f", json_path=Path("/d/g.parquet"), function="preproces_grandf",
            columns=["s3_path", "loc_caption"], sampling="dup:3", group="grounding",
        ),
    ]  # fmt: skip
    header = ["Made by prep.", "", "left out: a\x07 # b"]
    text = training_yaml(entries, {"grounding": 100.0, "default": 62.5}, {"grounding": 0.5}, header)
    assert text == (
        "# Made by prep.\n"
        "#\n"
        "# left out: a  # b\n"
        "\n"
        "datasets:\n"
        "  - name: coyo\n"
        "    json_path: /d/c.parquet\n"
        "    columns: [s3_path, caption, fltLaionAesthScore, intHeight, intWidth]\n"
        "    sampling_strategy: all\n"
        "    preprocess_fn: preproces_text_to_image_generation_s3\n"
        "    aes_cutoff: 5.67\n"
        "\n"
        "  - name: grand-f\n"
        "    json_path: /d/g.parquet\n"
        "    columns: [s3_path, loc_caption]\n"
        "    sampling_strategy: dup:3\n"
        "    preprocess_fn: preproces_grandf\n"
        "    length_group: grounding\n"
        "\n"
        "weights:\n"
        "  grounding: 100\n"
        "  default: 62.5\n"
        "\n"
        "batch_sizes:\n"
        "  grounding: 0.5\n"
    )
    assert yaml.safe_load(text)["datasets"] == entries
    assert training_yaml([], {}, {}) == "datasets: []\n"


@given(
    name=st.text(max_size=20),
    header=st.lists(st.text(max_size=20), max_size=3),
    group=st.none() | st.text(min_size=1, max_size=8),
    value=st.one_of(st.booleans(), st.text(max_size=20), st.lists(st.text(max_size=5), max_size=3)),
    weights=st.dictionaries(st.text(max_size=8), st.floats(0, 1e6), max_size=3),
)
def test_any_entry_survives_the_file(
    name: str, header: list[str], group: str | None, value: Any, weights: dict[str, float]
) -> None:
    entry = training_entry(
        name=name, json_path=Path("/a.parquet"), function=S3, columns=COLUMNS, arguments={"x": value}, group=group
    )
    data = yaml.safe_load(training_yaml([entry, entry], weights, {}, header))
    assert data == {"datasets": [entry, entry]} | ({"weights": weights} if weights else {})


# -- samples -------------------------------------------------------------------------------------------------

TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
SAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...], str, str]] = {
    S3: (
        {}, {"s3_path": "/a.png", "caption": "x" * 801, "fltLaionAesthScore": 5.8125, "hpsv2": 0.25},
        ("/a.png",), "x" * 800, "SCORE : 5.812 HPS : 2.500",
    ),
    "preproces_text_to_image_generation_piat_hash": (
        {"caption_key": "c"}, {"strImagehash": "abc", "c": "a dog"}, ("piat://abc",), "a dog", "",
    ),
    "preproces_text_to_image_generation_s3_loc": (
        {"add_feedback": True, "s3_prefix_enc": "s3://b/p/"},
        {"s3_path": "/a.png", "caption": "c", "grounding_text": "g", "negatives": "n.png;m.png",
         "negative_reasons": "r;s"},
        ("/a.png", "s3://b/p/n.png", "s3://b/p/m.png"), "c\ng\nr;s", "",
    ),
    "preproces_text_to_image_generation_layout_sam": (
        {"s3_prefix": "/p"}, {"s3_path": "a.png", "caption": "c", "cap_short": "s", "cap_detail": "d", "crop_parms": 1},
        ("/p/a.png",), "c\ns\nd", "",
    ),
    "preproces_und_mammoth_si_10M": (
        {"s3_prefix": "/p"}, {"image": "a.png", "conversations": json.dumps(TURNS)},
        ("/p/a.png",), "human: q\ngpt: a", "",
    ),
    "preproces_vw_instruct": (
        {"s3_prefix": "/p"}, {"image": ["a.png", "/b.png"], "conversations": TURNS},
        ("/p/a.png", "/b.png"), "human: q\ngpt: a", "",
    ),
    "preproces_grandf": (
        {"s3_prefix": "/p"}, {"s3_path": "/a.png", "loc_caption": "x" * 900}, ("/a.png",), "x" * 900, "",
    ),
    "preproces_refcoco_rec": (
        {}, {"s3_path": "/a.png", "label": "dog", "loc_string": "<LOC_1>"}, ("/a.png",), "dog\n<LOC_1>", "",
    ),
    "preprocess_reflection_und": (
        {"s3_prefix": "/p/"}, {"image": "a.png", "prompts": ["x"], "results": {"a": 1}}, ("/p/a.png",), "", "",
    ),
    "process_sharegpt_4o_edit": (
        {"s3_prefix": "/p"}, {"input_image": ["a.png", "b.png"], "output_image": "o.png", "input_prompt": "go"},
        ("/p/a.png", "/p/b.png", "/p/o.png"), "go", "",
    ),
    "process_gpt_edit": (
        {}, {"input_paths": "/a.png", "output_paths": "/o.png", "instruction": "go", "hpsv2": 0.3},
        ("/a.png", "/o.png"), "go", "HPS : 3.000",
    ),
    "process_gpt_edit_loc_gnd": (
        {"task": "add"},
        {"input_paths": ["/a.png"], "output_paths": "/o.png", "instruction": "go", "grounding_text": "g"},
        ("/a.png", "/o.png"), "go\ng", "",
    ),
    "process_pica_banana": (
        {}, {"local_input_image": "/a.png", "local_output_image": "/o.png", "text": "go"},
        ("/a.png", "/o.png"), "go", "",
    ),
    "process_metaquery": (
        {"s3_prefix": "/p"}, {"source_images_paths": ["a.png"], "tgt_path": "t.png", "dir_name": "d", "prompt": "go"},
        ("/p/d/a.png", "/p/d/t.png"), "d\ngo", "",
    ),
    "process_uniworld": (
        {}, {"image": ["a.png"], "image_gen": ["g.png"], "image_gen_enc": ["e.png"], "folder": "/f", "is_edit": True,
             "conversations": "?"},
        ("/f/a.png", "/f/g.png", "/f/e.png"), "/f\n?", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_sample_of_every_function(name: str) -> None:
    arguments, row, images, text, scores = SAMPLES[name]
    sample = build_sample(FUNCTIONS[name], arguments, row)
    assert (sample.images, sample.text, sample.scores, sample.faults) == (images, text, scores, ())


def test_text_only_rows_have_no_image() -> None:
    for image in (None, float("nan")):
        sample = build_sample(LLAVA_SAMPLE, {}, {"image": image, "conversations": TURNS})
        assert (sample.images, sample.faults) == ((), ())
