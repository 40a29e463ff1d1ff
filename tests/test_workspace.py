"""The folder of one recipe: found, made, locked, and the only place that knows its names."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml

from prep.config import Catalogue, HuggingFaceSource, LocalSource, Rules
from prep.engine import default_workers
from prep.errors import ConfigError, PrepError, UsageError, WorkspaceError
from prep.workspace import CONFIG_NAME, LOCK_NAME, RULES_NAME, RulesFile, Workspace, shard_name

RECIPE = """\
name: mix
entries:
  - {table: grand-f-refcocog}
  - {table: coyo-700m, aes_cutoff: 5.67, min_size: 512}
  - {table: grand-f-flickr, sampling: "first:5"}
  - {table: coyo-700m, name: again, aes_cutoff: 5.67, min_size: 512}
"""
SELECTED = ["grand-f-refcocog", "coyo-700m", "grand-f-flickr"]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "work", RECIPE)


def configured(workspace: Workspace, text: str) -> Workspace:
    (workspace.root / CONFIG_NAME).write_text(text)
    return Workspace(workspace.root)


def said(error: pytest.ExceptionInfo[PrepError]) -> str:
    return str(error.value)


# -- made and found ------------------------------------------------------------------------------------------


def test_a_new_workspace_is_two_files(workspace: Workspace) -> None:
    assert sorted(path.name for path in workspace.root.iterdir()) == ["prep.yaml", "recipe.yaml"]
    assert (workspace.root / "recipe.yaml").read_text() == RECIPE
    assert yaml.safe_load((workspace.root / CONFIG_NAME).read_text()) == {"recipe": "recipe.yaml", "images": "images"}
    assert workspace.recipe.name == "mix"


@pytest.mark.parametrize("images", ["s3://bucket/pre/fix", "/data/a: b #c", 'it\'s "ü"', "yes", "3", "a\nb"])
def test_images_can_go_anywhere(images: str, tmp_path: Path) -> None:
    assert Workspace.create(tmp_path, RECIPE, images).config.images == images


@pytest.mark.parametrize(
    ("recipe", "images", "problem"),
    [
        (RECIPE, "s3://", "write s3://bucket/prefix"),
        (RECIPE, "raw", "a folder of their own"),
        ("a: 3\n", "x", "name: Field"),
    ],
)
def test_a_refused_one_leaves_nothing_behind(recipe: str, images: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=problem):
        Workspace.create(tmp_path, recipe, images)
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_the_users_is_overwritten(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError) as caught:
        Workspace.create(workspace.root, "name: other\n")
    assert caught.value.message == f"{workspace.root}/prep.yaml is there already"

    (tmp_path / "recipe.yaml").write_text("name: of the user\n")
    with pytest.raises(WorkspaceError) as caught:
        Workspace.create(tmp_path, RECIPE)
    assert caught.value.message == f"{tmp_path}/recipe.yaml is there already"
    assert (tmp_path / "recipe.yaml").read_text() == "name: of the user\n"
    assert not (tmp_path / CONFIG_NAME).exists()


def test_making_one_that_was_killed_half_way_can_be_done_again(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert Workspace.create(tmp_path, RECIPE).recipe.name == "mix"


def test_it_is_found_from_anywhere_inside(workspace: Workspace, tmp_path: Path) -> None:
    inside = workspace.root / "raw/coyo"
    inside.mkdir(parents=True)
    (tmp_path / "link").symlink_to(inside)
    assert {Workspace.find(start).root for start in (workspace.root, inside, tmp_path / "link")} == {workspace.root}
    with pytest.raises(WorkspaceError) as caught:
        Workspace.find(tmp_path)
    assert caught.value.message == f"{tmp_path} is not in a workspace (no prep.yaml here or above)"
    assert "prep init" in caught.value.next_step


def test_a_broken_file_of_it_is_said_with_its_line(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match=r"prep\.yaml:2: unknown key 'worker'; did you mean 'workers'\?"):
        configured(workspace, "recipe: recipe.yaml\nworker: 3\n")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read: No such file or directory"):
        _ = configured(workspace, "recipe: nowhere.yaml\n").recipe
    (workspace.root / RULES_NAME).write_text("all: {min_sze: 3}\n")
    with pytest.raises(ConfigError, match=r"rules\.yaml:1: unknown key 'min_sze'; did you mean 'min_size'\?"):
        configured(workspace, "recipe: recipe.yaml\n")


# -- what is in it -------------------------------------------------------------------------------------------


def test_tables_and_datasets_of_the_recipe_each_once_and_images_before_who_needs_them(workspace: Workspace) -> None:
    assert workspace.table_names == tuple(SELECTED)
    assert [dataset.name for dataset in workspace.datasets] == ["coco-2014", "grand-f", "coyo-700m", "flickr30k"]


def test_no_names_select_everything_and_names_may_be_datasets_or_tables(workspace: Workspace) -> None:
    def datasets(*names: str) -> list[str]:
        return [dataset.name for dataset in workspace.select_datasets(names)]

    assert datasets() == ["coco-2014", "grand-f", "coyo-700m", "flickr30k"]
    assert datasets("flickr30k", "grand-f-flickr", "grand-f") == ["flickr30k", "grand-f"]
    assert workspace.select_tables(()) == tuple(SELECTED)
    assert workspace.select_tables(["coyo-700m", "grand-f"]) == ("coyo-700m", "grand-f-flickr", "grand-f-refcocog")
    assert workspace.select_tables(["grand-f-flickr", "grand-f-flickr"]) == ("grand-f-flickr",)


def test_names_that_are_not_of_the_workspace_are_said(workspace: Workspace) -> None:
    expected = (
        "'grandf' is neither a dataset nor a table of this workspace; did you mean 'grand-f'?\n"
        "  There are: coco-2014, grand-f, coyo-700m, flickr30k, grand-f-refcocog, grand-f-flickr."
    )
    for select in (workspace.select_datasets, workspace.select_tables):
        with pytest.raises(UsageError) as caught:
            select(["coyo-700m", "grandf"])
        assert said(caught) == expected


NOT_PUBLIC = """\
name: mix
entries:
  - {table: coyo-700m, min_size: 512}
  - {table: plans, name: one, min_size: 64, not_public: The authors kept them.}
  - {table: plans, name: two, min_size: 64, not_public: The authors kept them.}
"""
PLANS = """\
name: plans
source: {kind: local, path: /data/plans}
images: {kind: given}
tables:
  plans:
    kind: text-to-image-plan
    records: {format: parquet, parts: "*"}
    select: {s3_path: s3_path, caption: caption, grounding_text: grounding_text}
"""


def test_entries_that_are_not_public_are_passed_over_until_somebody_has_their_table(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path, NOT_PUBLIC)
    assert [entry.label for entry in workspace.recipe.entries] == ["coyo-700m", "one", "two"]
    assert [entry.label for entry in workspace.entries] == ["coyo-700m"]
    assert [entry.label for entry in workspace.not_public] == ["one", "two"]
    assert workspace.table_names == ("coyo-700m",)
    assert [dataset.name for dataset in workspace.datasets] == ["coyo-700m"]
    with pytest.raises(UsageError, match="'plans' is neither a dataset nor a table of this workspace"):
        workspace.select_tables(["plans"])

    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "plans.yaml").write_text(PLANS)
    supplied = Workspace(tmp_path)
    assert (supplied.entries, supplied.not_public) == (supplied.recipe.entries, ())
    assert supplied.table_names == ("coyo-700m", "plans")
    assert supplied.rules("plans") == Rules(min_size=64)


def test_a_recipe_of_nothing_public_says_so(tmp_path: Path) -> None:
    lines = NOT_PUBLIC.splitlines(keepends=True)
    workspace = Workspace.create(tmp_path, "".join(lines[:2] + lines[3:]))
    for select in (workspace.select_datasets, workspace.select_tables):
        with pytest.raises(UsageError) as caught:
            select(())
        assert said(caught) == (
            f"{tmp_path}/recipe.yaml has no entry whose data is public\n"
            "  `prep recipe show` says what is missing; `prep add --name TABLE` supplies it."
        )


def test_a_recipe_without_entries_says_how_to_fill_it(tmp_path: Path) -> None:
    empty = Workspace.create(tmp_path, Catalogue().recipe_path("empty").read_text())
    for select in (empty.select_datasets, empty.select_tables):
        with pytest.raises(UsageError) as caught:
            select(())
        assert said(caught).startswith(f"{tmp_path}/recipe.yaml has no entries yet\n  `prep add FILE`")


def test_a_source_of_the_workspace_goes_before_the_catalogues(workspace: Workspace) -> None:
    coyo = workspace.catalogue.dataset("coyo-700m")
    assert isinstance(workspace.source(coyo), HuggingFaceSource)
    workspace = configured(workspace, "sources: {coyo-700m: {kind: local, path: /data/coyo, include: [a]}}\n")
    assert workspace.source(coyo) == LocalSource(kind="local", path="/data/coyo", include=("a",))


def test_a_local_source_is_relative_to_the_workspace(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    coyo = workspace.catalogue.dataset("coyo-700m")
    for path, expected in (("data", f"{workspace.root}/data"), ("~/data", "/home/me/data")):
        workspace = configured(workspace, f"sources: {{coyo-700m: {{kind: local, path: {path}}}}}\n")
        assert workspace.source(coyo) == LocalSource(kind="local", path=expected)


def test_a_home_that_nobody_has_is_said(workspace: Workspace) -> None:
    workspace = configured(workspace, "sources: {coyo-700m: {kind: local, path: ~nosuchuser/x}}\n")
    with pytest.raises(ConfigError) as caught:
        workspace.sources(workspace.catalogue.dataset("coyo-700m"))
    assert said(caught) == ("coyo-700m: there is no home folder for ~nosuchuser/x\n  Write the whole path.")


def test_workers(workspace: Workspace) -> None:
    assert workspace.workers == default_workers()
    assert configured(workspace, "workers: 3\n").workers == 3


# -- rules ---------------------------------------------------------------------------------------------------


def test_rules_of_the_command_line_go_over_the_recipes(workspace: Workspace) -> None:
    recipe = Rules(aes_cutoff=5.67, min_size=512)
    assert workspace.rules("coyo-700m") == recipe
    assert workspace.rules("grand-f-flickr") == Rules()

    given = RulesFile(all=Rules(min_size=256), tables={"coyo-700m": Rules(aes_cutoff=6.0, where="a = 'ü'")})
    workspace.remember_rules(given)
    again = Workspace(workspace.root)
    assert again.given_rules() == given
    assert again.rules("coyo-700m") == Rules(aes_cutoff=6.0, min_size=256, where="a = 'ü'")
    assert again.rules("grand-f-flickr") == Rules(min_size=256)
    assert again.rules("coyo-700m", RulesFile()) == recipe
    assert (workspace.root / RULES_NAME).read_text().startswith("# Rules given to `prep filter`")


def test_no_rules_are_no_file(workspace: Workspace) -> None:
    workspace.remember_rules(RulesFile(all=Rules(min_size=0)))
    assert workspace.given_rules() == RulesFile(all=Rules(min_size=0))
    workspace.remember_rules(RulesFile())
    assert not (workspace.root / RULES_NAME).exists()
    workspace.remember_rules(RulesFile())


def test_rules_are_added_for_all_or_for_some_tables() -> None:
    one = RulesFile().with_rules(Rules(min_size=512), [])
    assert one == RulesFile(all=Rules(min_size=512))
    two = one.with_rules(Rules(aes_cutoff=6.0), ["a", "b"]).with_rules(Rules(min_size=0), ["a"])
    assert two.all == Rules(min_size=512)
    assert two.tables == {"a": Rules(aes_cutoff=6.0, min_size=0), "b": Rules(aes_cutoff=6.0)}
    assert two.with_rules(Rules(), ["a"], reset=True) == RulesFile(all=two.all, tables={"b": Rules(aes_cutoff=6.0)})
    assert two.with_rules(Rules(where="x"), ["b"], reset=True).tables["b"] == Rules(where="x")
    assert two.with_rules(Rules(), [], reset=True) == RulesFile()


# -- where things are ----------------------------------------------------------------------------------------


def test_places(workspace: Workspace) -> None:
    places = [
        *(workspace.raw("d"), workspace.index("d"), workspace.normalized("t"), workspace.filtered("t")),
        *(workspace.dropped("t"), workspace.training_yaml, workspace.recipe_path),
    ]
    assert [str(place.relative_to(workspace.root)) for place in places] == [
        *("raw/d", "index/d.parquet", "normalized/t.parquet", "filtered/t.parquet"),
        *("dropped/t.parquet", "training/mix.yaml", "recipe.yaml"),
    ]
    assert [shard_name(0), shard_name(123456)] == ["shard-00000.parquet", "shard-123456.parquet"]


@pytest.mark.parametrize(
    ("images", "root"),
    [
        ("images", "{root}/images"),
        ("/data/images", "/data/images"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("s3://bucket", "s3://bucket"),
    ],
)
def test_the_root_of_images(workspace: Workspace, images: str, root: str) -> None:
    assert configured(workspace, f"images: {images}\n").image_root == root.format(root=workspace.root)


# -- prep.lock -----------------------------------------------------------------------------------------------


def test_the_lock_file_remembers_and_is_the_same_bytes_in_any_order(workspace: Workspace) -> None:
    assert workspace.locked("coyo-700m") == {}
    workspace.lock("coyo-700m", {"revision": "abc", "parts": 2})
    workspace.lock("blip", {"revision": "def"})
    first = (workspace.root / LOCK_NAME).read_bytes()
    (workspace.root / LOCK_NAME).unlink()
    workspace.lock("blip", {"revision": "def"})
    workspace.lock("coyo-700m", {"parts": 2, "revision": "abc"})
    assert (workspace.root / LOCK_NAME).read_bytes() == first
    assert Workspace(workspace.root).locked("coyo-700m") == {"revision": "abc", "parts": 2}


NO_LOCKS = [
    b"",
    b"{",
    b"[]",
    b"3",
    b"{}",
    b'{"datasets": 3}',
    b'{"datasets": {"coyo-700m": 3}}',
    b"\xff",
    b"[" * 100_000,
]


@pytest.mark.parametrize("data", NO_LOCKS)
def test_what_is_no_lock_file_is_said(workspace: Workspace, data: bytes) -> None:
    (workspace.root / LOCK_NAME).write_bytes(data)
    for call in (lambda: workspace.locked("coyo-700m"), lambda: workspace.lock("blip", {})):
        with pytest.raises(WorkspaceError) as caught:
            call()
        assert caught.value.message.startswith(f"{workspace.root}/prep.lock: not a lock file")
        assert caught.value.next_step == "Restore it, or delete it to resolve revisions anew."
    assert (workspace.root / LOCK_NAME).read_bytes() == data


# -- one at a time -------------------------------------------------------------------------------------------

HOLD = """
import sys
from functools import partial
from pathlib import Path
from prep.workspace import Workspace
with Workspace(Path(sys.argv[1])).exclusive():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_told_who_is_first_and_a_kill_ends_the_hold(workspace: Workspace) -> None:
    command = [sys.executable, "-c", HOLD, str(workspace.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(WorkspaceError) as caught, workspace.exclusive():
            pass
        assert caught.value.message == f"another prep (process {process.pid}) is at work in {workspace.root}"
        process.kill()
        process.wait()
        with workspace.exclusive(), pytest.raises(WorkspaceError), workspace.exclusive():
            pass
    with workspace.exclusive():
        pass


def test_a_file_system_without_locks_is_worked_on_all_the_same(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int, file: object, operation: int) -> None:
        raise OSError(number, "no locks here")

    for number in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
        monkeypatch.setattr(fcntl, "flock", partial(fail, number))
        with workspace.exclusive():
            assert (workspace.root / ".prep-busy").is_file()
    monkeypatch.setattr(fcntl, "flock", partial(fail, errno.EIO))
    with pytest.raises(OSError, match="no locks here"), workspace.exclusive():
        pass


def test_what_is_ours_alone_is_not_written_through_a_link(workspace: Workspace, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("of the user")
    for name in (".prep-busy", LOCK_NAME):
        (workspace.root / name).symlink_to(own)
    with pytest.raises(OSError, match="link"), workspace.exclusive():
        pass
    own.write_text('{"datasets": {}}')
    workspace.lock("coyo-700m", {"revision": "abc"})
    assert own.read_text() == '{"datasets": {}}'
    assert workspace.locked("coyo-700m") == {"revision": "abc"}
