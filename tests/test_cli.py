"""The command as its user meets it: right and wrong, stdout and stderr, exit codes."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prep.publishers import TOKEN, World
from worlds import QUICK_PREP, environment, make_workspace, prep, prep_json, snapshot

BLIP = {"name": "blip", "entries": [{"table": "blip3o-60k", "min_size": 512}]}
COYO = {"name": "coyo", "entries": [{"table": "coyo-700m", "aes_cutoff": 5.67}]}
GIVEN = """name: mine
source: {kind: local, path: /x}
images: {kind: given}
tables:
  mine: {kind: text-to-image, records: {format: csv, parts: "*"}, """
GATED = {"name": "gated", "entries": [{"table": "laion-2b"}]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("publishers")) as world:
        yield world


@pytest.fixture
def blip(tmp_path: Path, world: World) -> Path:
    return make_workspace(tmp_path / "workspace", BLIP, world)


def fails(folder: Path, *arguments: str | Path, world: World | None = None, code: int = 1, **more: str) -> str:
    """What a command that must fail says: one message on stderr, no traceback, nothing on stdout but results."""
    done = prep(folder, *arguments, world=world, **more)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and "a bug in prep" not in done.stderr, done.stderr
    return done.stderr


# -- what can be typed wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "not in a workspace"),
        (["status"], "`prep init RECIPE` makes one here"),
        (["init", "lavida-o-strat"], "did you mean 'lavida-o-start'?"),
        (["datasets", "coyo-700"], "did you mean 'coyo-700m'?"),
        (["-C", "nowhere", "status"], "there is no folder nowhere"),
        (["check", "nothing.yaml"], "there is no nothing.yaml"),
        (["check", "x.yaml", "--images", "some"], "must be sample, all or none"),
        (["check", "x.yaml", "--steps", "4"], "--steps and --batch go together"),
        (["emit-yaml", "-o", "a", "--append", "b"], "both name a file"),
    ],
)
def test_wrong_outside_a_workspace(arguments: list[str], words: str, tmp_path: Path) -> None:
    assert words in fails(tmp_path, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["init", "lavida-o-debug"], 1, "is there already"),
        (["download", "blip3o"], 1, "did you mean 'blip3o-60k'?"),
        (["filter", "--aes-cutoff", "high"], 2, "--aes-cutoff"),
        (["filter", "--aes-cutoff", "nan"], 1, "finite number"),
        (["filter", "--min-size", "-1"], 2, "--min-size"),
        (["images"], 1, "nothing to work on yet: download first"),
        (["normalize"], 1, "download first"),
        (["filter"], 1, "normalize first"),
        (["emit-yaml"], 1, "not filtered yet"),
        (["emit-yaml", "--remap", "/a"], 1, "must be two words with = between"),
        (["check"], 1, "`prep emit-yaml` writes the workspace's"),
        (["add", "missing.csv"], 1, "there is no file missing.csv"),
        (["add", "recipe.yaml"], 1, "is none of .csv, .parquet, .json, .jsonl"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_wrong_in_a_workspace(arguments: list[str], code: int, words: str, blip: Path) -> None:
    before = snapshot(blip)
    assert words in fails(blip, *arguments, code=code)
    assert snapshot(blip) == before


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        (
            "recipe.yaml",
            "name: x\nentries:\n  - tabel: coyo-700m\n",
            "recipe.yaml:3: unknown key 'tabel'; did you mean",
        ),
        ("recipe.yaml", "name: x\nentries:\n  - table: coyo-700\n", "did you mean 'coyo-700m'?"),
        ("recipe.yaml", "name: x\nname: y\n", "recipe.yaml:2: key 'name' stands here and on line 1"),
        ("recipe.yaml", "name: x\nentries:\n  - {table: coyo-700m, sampling: dup}\n", "recipe.yaml:3"),
        ("recipe.yaml", "name: [x\n", "recipe.yaml:2: not valid YAML"),
        ("recipe.yaml", "", "must be a mapping"),
        (
            "prep.yaml",
            "recipe: recipe.yaml\nwrokers: 2\n",
            "prep.yaml:2: unknown key 'wrokers'; did you mean",
        ),
        ("prep.yaml", "recipe: recipe.yaml\nimages: ~/pictures\n", "write the whole path"),
        ("prep.yaml", "recipe: recipe.yaml\nimages: s3:/pictures\n", "write s3://bucket/prefix"),
        ("prep.yaml", "recipe: recipe.yaml\nimages: filtered\n", "name a folder of their own"),
        (
            "prep.yaml",
            "recipe: recipe.yaml\nsources: {coco-2071: {kind: local, path: /x}}\n",
            "did you mean 'coco-2017'",
        ),
        ("prep.yaml", "recipe: gone.yaml\n", "gone.yaml: cannot be read"),
        ("prep.yaml", "recipe: recipe.yaml\nworkers: 0\n", "prep.yaml:2: workers"),
        ("rules.yaml", "all: {aes_cutof: 5}\n", "rules.yaml:1: unknown key 'aes_cutof'; did you mean 'aes_cutoff'"),
        ("prep.lock", "{", "prep.lock: not a lock file"),
        ("datasets/mine.yaml", "name: yours\nsource: {kind: local, path: /x}\n", "named 'yours', its file 'mine'"),
        ("datasets/mine.yaml", "name: mine\nsource: {kind: torrent}\n", "mine.yaml:2"),
        ("datasets/mine.yaml", GIVEN + "select: {caption: c}}\n", "images are given, so select needs 's3_path'"),
        ("datasets/mine.yaml", GIVEN + "select: {s3_path: p, caption: c}, extra: {row: c}}\n", "extra has 'row'"),
    ],
)
def test_configuration_errors_name_file_and_line(file: str, text: str, words: str, blip: Path) -> None:
    (blip / file).parent.mkdir(exist_ok=True)
    (blip / file).write_text(text)
    (blip / "raw").mkdir()
    assert words in fails(blip, "run")


# -- what the world does wrong -----------------------------------------------------------------------------------


def test_no_network(blip: Path) -> None:
    assert "the hub cannot be reached" in fails(blip, "run")
    assert not (blip / "raw").exists()


def test_a_gated_dataset_says_how_to_get_in(tmp_path: Path, world: World) -> None:
    root = make_workspace(tmp_path / "w", GATED, world)
    for token in ("", "hf_wrong"):
        told = fails(root, "run", world=world, HF_TOKEN=token)
        assert "laion/relaion2B-en-research-safe is gated" in told and "HF_TOKEN" in told
    assert prep(root, "download", world=world).returncode == 0
    assert TOKEN not in "".join(path.read_text(errors="replace") for path in root.rglob("*") if path.is_file())


def test_a_part_that_is_not_what_it_says(blip: Path, world: World) -> None:
    assert prep(blip, "download", world=world).returncode == 0
    part = blip / "raw/blip3o-60k/text_1.tar"
    good = part.read_bytes()
    part.write_bytes(b"<html>quota exceeded</html>".ljust(len(good)))
    told = fails(blip, "run", world=world)
    assert "text_1.tar cannot be read as an archive" in told and "<html>" in told
    part.unlink()
    assert prep(blip, "run", world=world).returncode == 0


def test_a_missing_column_lists_those_that_are_there(tmp_path: Path, world: World) -> None:
    root = make_workspace(tmp_path / "w", COYO, world)
    (root / "datasets").mkdir()
    text = (Path(__file__).parents[1] / "configs/datasets/coyo-700m.yaml").read_text()
    (root / "datasets/coyo-700m.yaml").write_text(text.replace("caption: text", "caption: txt"))
    assert prep(root, "download", world=world).returncode == 0
    told = fails(root, "normalize", world=world)
    assert "coyo-700m" in told and "has no column 'txt'" in told and "text," in told


def test_the_package_is_the_command_too(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "prep", "-C", str(tmp_path), "status"], capture_output=True, text=True)
    assert done.returncode == 1 and "not in a workspace" in done.stderr, done.stderr
    code = "import sys, prep.__main__; print(sorted({'duckdb', 'prep.cli.app', 'typer'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_where_that_is_not_sql_is_not_remembered(blip: Path, world: World) -> None:
    assert prep(blip, "run", world=world).returncode == 0
    told = fails(blip, "filter", "--where", "watermark < 1")
    assert 'Referenced column "watermark" not found' in told and "columns of blip3o-60k: " in told
    assert not (blip / "rules.yaml").exists()
    assert prep(blip, "filter", "--where", "length(caption) > 3").returncode == 0


def test_a_where_that_fails_on_a_row_is_not_remembered_either(blip: Path, world: World) -> None:
    assert prep(blip, "run", world=world).returncode == 0
    told = fails(blip, "filter", "--where", "caption::INTEGER > 3")
    assert "Could not convert" in told and "`prep filter --reset` forgets it" in told
    assert not (blip / "rules.yaml").exists()
    assert prep(blip, "run").returncode == 0


def test_a_workspace_that_was_moved_goes_on_where_it_is(blip: Path, world: World) -> None:
    assert prep(blip, "run", world=world).returncode == 0
    moved = blip.rename(blip.with_name("moved"))
    assert "table blip3o-60k is out of date: filter has work to do" in fails(moved, "emit-yaml")
    made = {outcome["stage"]: outcome["made"] for outcome in prep_json(moved, "run", "--dry-run")["outcomes"]}
    assert made == {"download": 0, "images": 0, "normalize": 0, "filter": 11}
    assert prep(moved, "run").returncode == 0  # no network: images and parts moved along
    text = (moved / "training/blip.yaml").read_text()
    assert str(moved) in text and str(blip) + "/" not in text


def test_images_elsewhere_are_not_taken_for_there(blip: Path, world: World) -> None:
    assert prep(blip, "run", world=world).returncode == 0
    with (blip / "prep.yaml").open("a") as config:
        config.write("images: elsewhere\n")
    assert "images of blip3o-60k first" in fails(blip, "filter")
    assert "out of date" in fails(blip, "emit-yaml")


def test_a_run_whose_check_finds_errors_exits_1_every_time(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("s3_path,caption\n/nowhere/1.jpg,hello\n")
    for command in (["init"], ["add", "mine.csv"]):
        assert prep(tmp_path, *command).returncode == 0
    for _ in range(2):
        done = prep(tmp_path, "run")
        assert done.returncode == 1 and "/nowhere/1.jpg" in done.stdout, done.stderr


def test_one_address_in_many_shards_at_once(tmp_path: Path, world: World) -> None:
    (tmp_path / "data").mkdir()
    names = [f"coyo-{number:03}.jpg" for number in range(20)]
    for part in range(6):
        lines = [f"{world.url}/img/{name},picture {name}" for name in names]
        (tmp_path / f"data/{part}.csv").write_text("\n".join(["url,caption", *lines, ""]))
    entries = [{"table": "mine"}]
    root = make_workspace(tmp_path / "w", {"name": "x", "entries": entries}, world, workers=6)
    (root / "datasets").mkdir()
    (root / "datasets/mine.yaml").write_text(
        f"name: mine\nsource: {{kind: local, path: {tmp_path}/data}}\nimages: {{kind: url}}\ntables:\n"
        "  mine: {kind: text-to-image, records: {format: csv, parts: '*'}, select: {caption: caption}}\n"
    )
    assert prep(root, "run", world=world).returncode == 0
    assert len(list((root / "images/mine").rglob("*.jpg"))) == 20
    assert not [path for path in (root / "images").rglob(".*") if path.is_file()]


def test_an_empty_result_is_an_error_before_training(blip: Path, world: World) -> None:
    assert prep(blip, "run", world=world).returncode == 0
    assert prep(blip, "filter", "--min-size", "100000").returncode == 0
    assert "left no row of table blip3o-60k" in fails(blip, "run")
    assert prep(blip, "filter", "--reset").returncode == 0
    assert prep(blip, "run").returncode == 0


def test_a_check_with_errors_exits_1(blip: Path, world: World) -> None:
    assert prep(blip, "run", world=world).returncode == 0
    next((blip / "images/blip3o-60k/dalle3").glob("*")).unlink()
    done = prep(blip, "check", "--images", "all")
    assert (done.returncode, done.stderr) == (1, "") and "dalle3" in done.stdout


# -- what the machine does wrong ---------------------------------------------------------------------------------


def test_two_at_once(blip: Path, world: World) -> None:
    with (blip / ".prep-busy").open("w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        busy.write("process 4711")
        busy.flush()
        assert "another prep (process 4711) is at work" in fails(blip, "run", world=world)
        assert prep(blip, "status").returncode == 0
    assert prep(blip, "run", world=world).returncode == 0


def test_ctrl_c(tmp_path: Path, world: World) -> None:
    root = make_workspace(tmp_path / "w", BLIP, world, workers=2)
    process = subprocess.Popen(
        [sys.executable, str(QUICK_PREP), "run"],
        cwd=root,
        env=environment(world),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert "download" in process.stdout.readline()
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert told.strip() == "Interrupted. Nothing is lost: run the same command to go on."
    assert prep(root, "run", world=world).returncode == 0


def test_a_full_disk(blip: Path, world: World) -> None:
    """A limit on file sizes stands for the disk: writing past it fails the same way, in the middle of a file."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    done = subprocess.run(
        [sys.executable, str(QUICK_PREP), "run"],
        cwd=blip,
        env=environment(world),
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "File too large" in done.stderr and "run the same command" in done.stderr
    for path in (blip / "raw").rglob("*.tar"):
        with tarfile.open(path) as whole:
            whole.getmembers()
    assert prep(blip, "run", world=world).returncode == 0


@pytest.mark.parametrize("place", ["raw", "index", "normalized", "filtered", "training", "images"])
def test_a_file_where_a_folder_has_to_be(place: str, blip: Path, world: World) -> None:
    (blip / place).write_text("in the way")
    told = fails(blip, "run", world=world)
    assert place in told and "Move it away" in told
    (blip / place).unlink()
    assert prep(blip, "run", world=world).returncode == 0


# -- what machines read ------------------------------------------------------------------------------------------


def test_json_is_one_document_and_nothing_else(blip: Path, world: World) -> None:
    for command in ("datasets", "status", "download", "images", "normalize", "filter", "emit-yaml", "check", "run"):
        done = prep(blip, command, "--json", world=world)
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)
        assert all("event" in json.loads(line) for line in done.stderr.splitlines())
        assert bool(done.stderr) == (command in ("download", "images", "normalize", "filter", "run"))  # which locks
    assert json.loads(prep(blip, "datasets", "coyo-700m", "--json").stdout)["name"] == "coyo-700m"
    assert {recipe["name"] for recipe in json.loads(prep(blip, "init", "--list", "--json").stdout)} >= {
        "lavida-o-start"
    }


def failure(folder: Path, *arguments: str, world: World | None = None) -> dict[str, Any]:
    """What a command that fails prints with --json; its errors are told on stderr too, and nothing else but events."""
    done = prep(folder, *arguments, "--json", world=world)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event for event in events if event["event"] == "error"] == [
        {"event": "error", **error} for error in document["errors"]
    ]
    assert document["errors"] and events[-1]["event"] == "error"
    return dict(document)


def test_json_of_a_failure_has_what_was_done_and_every_error(tmp_path: Path, world: World) -> None:
    entries = [{"table": table} for table in ("laion-2b", "blip3o-60k", "coyo-700m")]
    elsewhere = {name: {"kind": "local", "path": f"/nowhere/{name}"} for name in ("laion-2b", "coyo-700m")}
    root = make_workspace(tmp_path / "w", {"name": "x", "entries": entries}, world, sources=world.sources | elsewhere)
    for command in ("download", "run"):
        found = failure(root, command, world=world)
        done = {(outcome["stage"], outcome["name"]) for outcome in found["outcomes"] if outcome["state"] != "waiting"}
        stages = ("images", "normalize", "filter") if command == "run" else ()
        assert done == {(stage, "blip3o-60k") for stage in ("download", *stages)}
        assert [error["message"] for error in found["errors"][:2]] == [
            f"/nowhere/{name} is neither a file nor a folder" for name in ("laion-2b", "coyo-700m")
        ]


@pytest.mark.parametrize(
    ("arguments", "document"),
    [
        (["download"], {"outcomes": []}),
        (["download", "--parts", "x"], {}),
        (["images"], {"outcomes": ["waiting"]}),
        (["emit-yaml"], {}),
        (["check"], {}),
        (["add", "missing.csv"], {}),
        (["datasets", "nine"], {}),
    ],
)
def test_json_of_every_failure_is_one_document(arguments: list[str], document: dict[str, Any], blip: Path) -> None:
    found = failure(blip, *arguments)
    found.pop("errors")
    if "outcomes" in found:
        found["outcomes"] = [outcome["state"] for outcome in found["outcomes"]]
    assert found == document


def test_json_of_a_refusing_system_and_of_a_bug(blip: Path, world: World) -> None:
    (blip / "raw").write_text("in the way")
    (error,) = failure(blip, "download", world=world)["errors"]
    assert "Move it away" in error["next_step"] and str(blip / "raw") in error["message"]
    script = "import prep.line; prep.line.status = lambda workspace: 1 / 0; from prep.cli import main; main()"
    command = [sys.executable, "-c", script, "status", "--json"]
    done = subprocess.run(command, cwd=blip, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and json.loads(done.stdout)["errors"][0]["message"].startswith("a bug in prep: Zero")


@pytest.mark.parametrize("script", ['exec "$@" 2>&-', 'exec "$@" 2>/dev/full', '"$@" 2>&1 >&3 3>&- | true'])
def test_nobody_at_stderr_changes_nothing_else(script: str, blip: Path, world: World) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", f"exec 3>&1; {script}", "sh", sys.executable, str(QUICK_PREP), *arguments]
        return subprocess.run(command, cwd=blip, env=environment(world), capture_output=True, text=True, timeout=120)

    done = run("download", "--json")
    assert json.loads(done.stdout)["outcomes"][0]["made"] == 11 and done.stderr == ""
    done = run("download", "nine")
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode == (0 if "true" in script else 1)
    assert "up to date" in run("download").stdout


@pytest.mark.parametrize(
    "arguments", [["status"], ["status", "--json"], ["download", "nine"], ["download", "nine", "--json"]]
)
def test_nobody_at_stdout_ends_nothing_in_a_traceback(arguments: list[str], blip: Path) -> None:
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, str(QUICK_PREP), *arguments]
    done = subprocess.run(command, cwd=blip, env=environment(), stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == (1 if "nine" in arguments else 0)
    assert "Traceback" not in done.stderr and "bug" not in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_full_stdout_is_not_a_full_disk(option: list[str], unbuffered: str, blip: Path) -> None:
    shell = environment(PYTHONUNBUFFERED=unbuffered)
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, str(QUICK_PREP), "status", *option]
        done = subprocess.run(command, cwd=blip, env=shell, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    (told,) = [line for line in done.stderr.splitlines() if "rror" in line]
    message = json.loads(told)["message"] if option else told.removeprefix("Error: ")
    assert message == "stdout cannot be written: No space left on device"


def test_a_reader_of_stdout_that_is_gone_ends_it_quietly(blip: Path) -> None:
    command = ["sh", "-c", '{ "$@"; echo $? >&2; } | true', "sh", sys.executable, str(QUICK_PREP), "datasets", "--json"]
    done = subprocess.run(command, cwd=blip, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stderr == "1\n"


INTERRUPTING = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
module, sys.argv = sys.argv[1], ["prep", *sys.argv[2:]]
sys.meta_path.insert(0, Interrupting())
from prep.cli import main
main()
"""


@pytest.mark.parametrize("module", ["prep.cli.app", "typer", "prep.errors", "prep.workspace", "yaml"])
def test_ctrl_c_is_quiet_from_the_first_moment(module: str, blip: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTING, module, "status"]
    done = subprocess.run(command, cwd=blip, env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "Interrupted. Nothing is lost: run the same command to go on.\n"
    done = subprocess.run([*command, "--json"], cwd=blip, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 130 and "Traceback" not in done.stderr and "Interrupted" in done.stderr


def test_dry_runs_write_nothing(blip: Path, world: World) -> None:
    for stage in ("download", "images", "normalize", "filter"):
        before = snapshot(blip)
        outcome = prep_json(blip, stage, "--dry-run", world=world)["outcomes"][0]
        assert (outcome["state"], outcome["made"], outcome["total"]) == ("planned", 11, 11)
        assert snapshot(blip) == before
        prep_json(blip, stage, world=world)
    before = snapshot(blip)
    done = prep(blip, "emit-yaml", "--dry-run")
    assert "json_path: " in done.stdout and snapshot(blip) == before


def test_force_does_it_again_to_the_same_bytes(blip: Path, world: World) -> None:
    assert prep(blip, "run", world=world).returncode == 0
    before = snapshot(blip)
    for stage in ("download", "images", "normalize", "filter"):
        outcome = prep_json(blip, stage, "--force", world=world)["outcomes"][0]
        assert (outcome["state"], outcome["made"]) == ("done", 11)
        assert snapshot(blip) == before


def test_completion_knows_commands_and_names(blip: Path) -> None:
    def complete(words: str) -> list[str]:
        place = str(len(words.split()) - 1)
        shell = environment(_PREP_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=place)
        command = [str(Path(sys.executable).with_name("prep"))]
        done = subprocess.run(command, cwd=blip, env=shell, capture_output=True, text=True)
        return done.stdout.split()

    assert complete("prep emit") == ["emit-yaml", "emit"]
    assert complete("prep datasets coy") == ["coyo-700m"]
    assert complete("prep init lavida-o-d") == ["lavida-o-debug"]
    assert complete("prep filter bl") == ["blip3o-60k"]


def test_version_and_help(tmp_path: Path) -> None:
    assert prep(tmp_path, "--version").stdout.strip() == "0.1.0"
    assert "emit-yaml" in prep(tmp_path, "--help").stdout
