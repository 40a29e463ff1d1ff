"""What `prep check --no-files` says: the authors' three mixtures whole, and each thing that keys alone can tell."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from prep.stages import check as check_stage
from prep.stages.check import CheckReport, EntryReport, Finding, GroupReport, check_yaml
from prep.yaml_file import read_yaml
from worlds import prep

PUBLISHED = Path(__file__).resolve().parents[1] / "trainers" / "published"
S3 = "preproces_text_to_image_generation_s3"
HASH = "preproces_text_to_image_generation_piat_hash"
GIVEN_UP = "where training cannot import it, the run stops"

Tell = Callable[[str], Finding]


def checked(name: str) -> CheckReport:
    return check_yaml(PUBLISHED / f"{name}.yaml", files=False)


def warning(problem: str, effect: str, remedy: str) -> Tell:
    return lambda entry: Finding("warning", entry, problem, effect, remedy)


TABLE = warning(
    "json_path is an address (s3://)",
    "it is handed to pandas, which needs a file system module for it",
    "Keep the table on a disk that every training process sees.",
)
CUTOFF = warning(
    "fltLaionAesthScore is loaded without aes_cutoff",
    "the loader drops every row that does not score above 5, its default",
    "Write the aes_cutoff you mean (-100 keeps every row that has a score).",
)
PRIVATE = warning(
    f"{HASH} opens images in the authors' private store",
    f"it needs their module piat: {GIVEN_UP}",
    "Use preproces_text_to_image_generation_s3 on a table with s3_path; caption_key names its caption column.",
)


def prefix(argument: str = "s3_prefix") -> Tell:
    return warning(
        f"{argument} is an address (s3://)",
        f"images are opened with a module named piat: {GIVEN_UP}",
        "Name the folder that has the images, with its whole path.",
    )


def names(text: str) -> Finding:
    effect = "samples carry the name of their entry: theirs cannot be told apart"
    return warning(f"names of several entries: {text}", effect, "Nothing, or give each entry a name of its own.")("")


def told(report: CheckReport, about: Sequence[Sequence[Tell]]) -> list[Finding]:
    """The findings that each entry has, besides that its table is on S3."""
    assert len(report.entries) == len(about)
    return [tell(entry.name) for entry, tells in zip(report.entries, about, strict=True) for tell in (TABLE, *tells)]


def test_whole_report_of_the_first_stage() -> None:
    report = checked("s1_und_gnd_data")
    listed = [(entry.name, entry.group, entry.columns) for entry in report.entries]
    grounded, referred = ("s3_path", "loc_caption"), ("s3_path", "label", "loc_string")
    assert listed == [
        ("mammoth", "default", ("image", "conversations")),
        ("grand-f (line 11)", "grounding", grounded),
        ("grand-f (line 17)", "grounding", grounded),
        ("grand-f (line 23)", "grounding", grounded),
        ("refcoco", "grounding", referred),
        ("refcoco+", "grounding", referred),
        ("refcocog", "grounding", referred),
    ]
    assert report.groups == [GroupReport("default", 100, 1, 0, 0.5), GroupReport("grounding", 100, 1, 0, 0.5)]
    assert report.findings == [names("grand-f (3 times)"), *told(report, [[prefix()], *[[]] * 6])]
    assert report.errors == [] and not report.files


def test_whole_report_of_the_second_stage() -> None:
    report = checked("s2_t2i_pretrain")
    assert report.groups == [GroupReport("default", 100, 1, 0, 1.0)]
    private = [[CUTOFF, PRIVATE]] * 4
    assert report.findings == told(report, [[], [], [CUTOFF], *private, [CUTOFF]])


THIRD_STAGE = {
    "blip60k": (80, 1), "t2i": (250, 1), "mj": (100, 1), "laion_coyo": (150, 1), "edit": (200, 1), "und_vw": (150, 1),
    "und": (250, 0.5), "edit_gpt": (250, 1), "grounding": (100, 0.5), "reflect_dit_plan_t2i": (200, 1),
    "reflect_dit_plan_text": (20, 1), "reflect_dit_plan_feedback_text": (20, 0.5),
    "reflect_dit_plan_feedback_t2i": (150, 0.5), "reflect_dit_feedback_t2i": (30, 0.5), "reflect_dit_judge": (150, 1),
    "edit_gpt_reason": (170, 0.5), "edit_gpt_reason_txt": (30, 1),
}  # fmt: skip


def test_whole_report_of_the_third_stage() -> None:
    report = checked("s3_interleaved")
    assert report.groups == [
        GroupReport(name, weight, factor, 0, weight / 2300) for name, (weight, factor) in THIRD_STAGE.items()
    ]

    def twice(key: str, first: int) -> Finding:
        effect = f"the loader keeps line {first + 1} and says nothing"
        problem = f"the key {key!r} stands on line {first} and again on line {first + 1}"
        return warning(problem, effect, "Remove one of the two.")("")

    def unused(group: str, hint: str = "") -> Finding:
        problem = f"weights has {group!r}, a group without entries{hint}"
        return warning(problem, "it takes no part", "Remove it, or give an entry that length_group.")("")

    def lacking(group: str, hint: str = "") -> Finding:
        problem = f"batch_sizes lacks the group {group!r}{hint}"
        return warning(problem, "the loader uses 1 and says nothing", "Add it to batch_sizes.")("")

    generated: list[list[Tell]] = [[CUTOFF], [CUTOFF], [CUTOFF], [CUTOFF], [], *[[CUTOFF, PRIVATE]] * 4]
    edited_and_understood: list[list[Tell]] = [[prefix()]] * 4 + [[]] * 3 + [[]] * 6
    feedback = [CUTOFF, prefix("s3_prefix_enc")]
    planned: list[list[Tell]] = [[CUTOFF], [CUTOFF], feedback, feedback, feedback, [prefix()], *[[CUTOFF]] * 4]
    assert report.findings == [
        twice("sampling_strategy", 196),
        twice("edit_gpt", 296),
        names("grand-f (3 times), reflect-dit-reason (3 times), reflect-dit-reason-text (6 times)"),
        unused("mjv6", "; did you mean 'mj'?"),
        unused("picabanana"),
        lacking("laion_coyo"),
        lacking("und_vw", "; did you mean 'und'?"),
        *told(report, [*generated, *edited_and_understood, *planned, *[[]] * 6]),
    ]


# -- what the keys alone tell --------------------------------------------------------------------------------


def entry(**keys: Any) -> dict[str, Any]:
    """An entry in which nothing is wrong, with keys changed or (None) left out."""
    good = {
        "name": "pictures",
        "json_path": "/data/nowhere.parquet",
        "preprocess_fn": S3,
        "columns": ["s3_path", "caption", "fltLaionAesthScore", "intHeight", "intWidth"],
        "aes_cutoff": 5.67,
        "min_size": 512,
    }
    return {key: value for key, value in (good | keys).items() if value is not None}


def problems(tmp_path: Path, *entries: dict[str, Any]) -> list[tuple[str, str]]:
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump({"datasets": list(entries)}, sort_keys=False))
    return [(finding.level, finding.problem) for finding in check_yaml(path, files=False).findings]


def test_a_good_entry_whose_file_is_not_there_has_no_findings(tmp_path: Path) -> None:
    assert problems(tmp_path, entry()) == []


MAMMOTH = "preproces_und_mammoth_si_10M"
LOC = "preproces_text_to_image_generation_s3_loc"
PLAN = ["s3_path", "caption", "grounding_text"]
TURNS = ["image", "conversations"]
T2I = ["s3_path", "caption"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"mni_size": 512}, [("warning", "the key 'mni_size' is unknown; did you mean 'min_size'?")]),
        ({"sampling_strategy": "frist:3"}, [("warning", "sampling_strategy 'frist:3' is not understood")]),
        ({"json_path": "data/t.parquet"}, [("warning", "json_path 'data/t.parquet' is relative")]),
        ({"json_path": None}, [("error", "json_path is missing")]),
        ({"json_path": "/d/t.csv", "columns": ["s3_path"], "min_size": None, "aes_cutoff": None}, [
            ("error", "json_path '/d/t.csv' ends in none of .parquet, .json, .jsonl"
                      " (the trainer's guide says csv works; it does not)"),
            ("error", f"{S3} reads 'caption', which is not listed in columns"),
        ]),
        ({"columns": ["s3_path", "fltLaionAesthScore", "intHeight", "intWidth"]}, [
            ("error", f"{S3} reads 'caption', which is not listed in columns"),
        ]),
        ({"columns": [], "aes_cutoff": None, "min_size": None}, [
            ("error", f"{S3} reads 's3_path', which is not listed in columns"),
            ("error", f"{S3} reads 'caption', which is not listed in columns"),
        ]),
        ({"process_fn_kwargs": {"caption_key": "long"}}, [
            ("error", f"{S3} reads 'long', which is not listed in columns"),
        ]),
        ({"columns": [*T2I, "caption"], "aes_cutoff": None, "min_size": None}, [
            ("warning", "columns lists 'caption' twice"),
        ]),
        ({"columns": [*T2I, "fltLaionAesthScore", "intWidth"]}, [
            ("error", "min_size is given, but intHeight is not loaded"),
        ]),
        ({"columns": T2I, "min_size": None}, [
            ("warning", "aes_cutoff is given, but fltLaionAesthScore is not loaded"),
        ]),
        ({"aes_cutoff": None}, [("warning", "fltLaionAesthScore is loaded without aes_cutoff")]),
        ({"max_enc_images": {"column": "images", "value": 3}}, [
            ("error", "max_enc_images names 'images', which is not loaded"),
        ]),
        ({"columns": None}, []),
        ({"columns": None, "preprocess_fn": None}, [("warning", "a parquet table without preprocess_fn")]),
        ({"image_root": "/images"}, [("warning", "image_root on a parquet table")]),
        ({"columns": None, "image_root": "/images"}, [("warning", "image_root on a parquet table")]),
        ({"preprocess_fn": "preprocess_grandf"}, [
            ("error", "preprocess_fn 'preprocess_grandf' is unknown; did you mean 'preproces_grandf'?"),
        ]),
        ({"preprocess_fn": "preproces_grandf", "columns": ["s3_path", "loc_caption", "hpsv2"], "aes_cutoff": None,
          "min_size": None}, [("warning", "columns lists hpsv2, which preproces_grandf does not use")]),
        ({"preprocess_fn": LOC, "columns": PLAN, "aes_cutoff": None, "min_size": None,
          "process_fn_kwargs": {"add_feedback": True, "s3_prefix_enc": "negatives"}}, [
            ("error", f"{LOC} reads 'negatives', which is not listed in columns"),
            ("error", f"{LOC} reads 'negative_reasons', which is not listed in columns"),
            ("warning", "s3_prefix_enc is 'negatives', a relative path"),
        ]),
        ({"preprocess_fn": LOC, "columns": PLAN, "aes_cutoff": None, "min_size": None,
          "process_fn_kwargs": {"s3_prefix_enc": "s3://not/asked/for"}}, []),
        ({"preprocess_fn": MAMMOTH, "columns": TURNS, "aes_cutoff": None, "min_size": None,
          "process_fn_kwargs": {"s3_prefix": "piat://x", "s3_perfix": "/"}}, [
            ("warning", f"{MAMMOTH} is not known to take 's3_perfix'; did you mean 's3_prefix'?"),
            ("warning", "s3_prefix is an address (piat://)"),
        ]),
        ({"preprocess_fn": HASH, "columns": None}, [
            ("warning", f"{HASH} opens images in the authors' private store"),
        ]),
        ({"process_fn_kwargs": {"random_caption_keys": ["caption", "short"]}}, [
            ("warning", "random_caption_keys names 'short', which is not loaded"),
        ]),
        ({"json_path": "/d/t.json", "preprocess_fn": None, "image_root": "s3://images", "sampling_strategy": "dup:2"}, [
            ("error", "sampling_strategy 'dup:2' on a JSON list"),
            ("warning", "columns on a JSON list"),
            ("warning", "aes_cutoff on a JSON list"),
            ("warning", "min_size on a JSON list"),
            ("warning", "image_root is an address (s3://)"),
        ]),
    ],
)  # fmt: skip
def test_what_the_keys_of_an_entry_tell(tmp_path: Path, keys: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert problems(tmp_path, entry(**keys)) == expected


def test_nothing_that_is_named_is_opened_or_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").write_text("this is no parquet")
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"datasets": [entry(json_path=str(tmp_path / "t.parquet"))]}))
    assert [finding.level for finding in check_yaml(tmp_path / "t.yaml").findings] == ["error"]
    parsed = read_yaml(tmp_path / "t.yaml")

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError(arguments)

    monkeypatch.setattr(check_stage, "read_yaml", lambda *arguments, **options: parsed)
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(os, "stat", refuse)
    assert check_yaml(tmp_path / "t.yaml", files=False).findings == []


# -- the command ---------------------------------------------------------------------------------------------


def test_the_command_shows_groups_and_tells_once_what_several_entries_have() -> None:
    done = prep(PUBLISHED, "check", "s2_t2i_pretrain.yaml", "--no-files", COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.rstrip() for line in done.stdout.splitlines()] == [
        "group    entries  weight   share  batch factor",
        "default        8     100  100.0%             1",
        "share: of the batches",
        "",
        "Warnings (18)",
        "blip3o-journeydb, blip3o-long-cap, blip3o-60k, coyo-700m, laion-2b, laion-2b-2,",
        "laion-2b-3, reflect-dit: json_path is an address (s3://)",
        "  in training: it is handed to pandas, which needs a file system module for it",
        "  what to do:  Keep the table on a disk that every training process sees.",
        "blip3o-60k, coyo-700m, laion-2b, laion-2b-2, laion-2b-3, reflect-dit:",
        "fltLaionAesthScore is loaded without aes_cutoff",
        "  in training: the loader drops every row that does not score above 5, its",
        "               default",
        "  what to do:  Write the aes_cutoff you mean (-100 keeps every row that has a",
        "               score).",
        "coyo-700m, laion-2b, laion-2b-2, laion-2b-3:",
        "preproces_text_to_image_generation_piat_hash opens images in the authors'",
        "private store",
        "  in training: it needs their module piat: where training cannot import it, the",
        "               run stops",
        "  what to do:  Use preproces_text_to_image_generation_s3 on a table with",
        "               s3_path; caption_key names its caption column.",
        "",
        "No errors, 18 warnings; the data files were not looked into.",
    ]


def test_the_command_as_json_has_the_keys_of_any_check_and_fails_for_errors(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"datasets": [entry(columns=["s3_path"], min_size=None)]}))
    done = prep(tmp_path, "check", "t.yaml", "--no-files", "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert [*document] == ["path", "steps", "batch", "entries", "groups", "findings"]
    report = EntryReport("pictures", "default", "/data/nowhere.parquet", ("s3_path",))
    assert document["entries"] == [json.loads(json.dumps(vars(report)))]
    assert "No errors" not in prep(tmp_path, "check", "t.yaml", "--no-files").stdout


def test_the_command_takes_no_options_that_need_files(tmp_path: Path) -> None:
    for options in (["--images", "all"], ["--steps", "10", "--batch", "8"]):
        done = prep(tmp_path, "check", "t.yaml", "--no-files", *options)
        assert done.returncode == 1
        assert "--no-files opens nothing" in done.stderr
