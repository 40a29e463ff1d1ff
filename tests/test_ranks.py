"""Several processes that share the work of every stage leave what one alone leaves, whoever ends first or is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plain_scorer import PlainLoading
from prep import files, progress
from prep.cli.spread import Spread, spread
from prep.engine import WHOLE, Share, share, working
from prep.errors import UsageError, WorkspaceError
from prep.files import try_lock
from prep.publishers import World
from prep.scorers.scorer import SCORERS
from prep.stages.download import download
from prep.stages.filter import filter_table
from prep.stages.images import ImageOptions, images
from prep.stages.normalize import normalize
from prep.stages.score import score_table
from prep.stages.shards import Outcome
from prep.workspace import Workspace
from worlds import QUICK_PREP, environment, make_workspace, prep, prep_json, snapshot

RECIPE = {
    "name": "ranks",
    "entries": [
        {"table": "coyo-700m", "aes_cutoff": 5.67, "min_size": 512, "group": "urls"},
        {"table": "blip3o-60k", "min_size": 512},
        {"table": "grand-f-flickr", "group": "grounding"},
    ],
}
TABLE = "blip3o-60k"  # of eleven parts, so of eleven shards everywhere


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    progress.use(progress.no_bar)
    yield
    progress.use(progress.tqdm_bar)


def without_marks(root: Path) -> dict[str, str]:
    """Files of a workspace but for the marks of who is at work, which the next command that is no rank removes."""
    return {path: digest for path, digest in snapshot(root).items() if not path.startswith(".prep-rank-")}


@pytest.fixture
def workspace(world: World, tmp_path: Path) -> Workspace:
    return Workspace(make_workspace(tmp_path / "w", RECIPE, world))


@pytest.fixture
def unpacked(workspace: Workspace, hub: World) -> Workspace:
    """With the parts and images of the table."""
    dataset = workspace.catalogue.dataset(TABLE)
    download(workspace, dataset)
    images(workspace, dataset)
    return workspace


def by_ranks(stage: Callable[[], Outcome], ranks: Sequence[Share]) -> list[Outcome]:
    """What a stage says to ranks that do their share one after the other."""
    outcomes = []
    for own in ranks:
        with working(own):
            outcomes.append(stage())
    return outcomes


# -- shares ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(1, 12))
def test_shares_are_disjoint_complete_and_even(items: int, world_size: int) -> None:
    shares = [Share(rank, world_size).of(range(items)) for rank in range(world_size)]
    assert sorted(item for own in shares for item in own) == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_share_holds_only_meanwhile() -> None:
    with pytest.raises(KeyError), working(Share(1, 3)):
        assert share() == Share(1, 3)
        raise KeyError
    assert share() == WHOLE


# -- the whole line --------------------------------------------------------------------------------------------------


def ranks_of(root: Path, world: World, *command: str, size: int = 3) -> list[dict[str, Any]]:
    """Run a command as so many ranks at once; what each printed."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(QUICK_PREP), *command, "--rank", str(rank), "--world-size", str(size), "--json"],
            cwd=root,
            env=environment(world),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * size, [err for _, err in ended]
    return [json.loads(out) for out, _ in ended]


def test_three_ranks_at_once_leave_what_one_process_leaves(world: World, tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "w", RECIPE, world)
    prep_json(root, "run", world=world)
    alone = snapshot(root)
    shutil.rmtree(root)

    make_workspace(root, RECIPE, world)
    for stage in ("download", "images", "normalize", "filter", "images", "filter"):
        said = ranks_of(root, world, stage)
        states = zip(*([outcome["state"] for outcome in rank["outcomes"]] for rank in said), strict=True)
        for of_item in states:
            # At least one saw all shares made, unless the item has to wait for the second round.
            assert set(of_item) <= {"done", "partly", "up to date"} or set(of_item) == {"waiting"}
            assert set(of_item) & {"done", "up to date", "waiting"}, (stage, of_item)
    requests = len(world.requests)
    finished = prep_json(root, "run", world=world)
    assert {outcome["state"] for outcome in finished["outcomes"]} == {"up to date"}
    assert len(world.requests) == requests
    assert snapshot(root) == alone


# -- whoever ends first, or is lost -----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_the_last_rank_writes_the_manifest(order: tuple[int, ...], unpacked: Workspace) -> None:
    normalize(unpacked, TABLE)
    alone = snapshot(unpacked.root)
    shutil.rmtree(unpacked.normalized(TABLE))

    said = by_ranks(lambda: normalize(unpacked, TABLE), [Share(rank, 3) for rank in order])
    numbers = {0: 4, 1: 4, 2: 3}
    assert [(outcome.state, outcome.made, outcome.total) for outcome in said] == [
        (state, numbers[rank], numbers[rank]) for state, rank in zip(("partly", "partly", "done"), order, strict=True)
    ]
    assert said[0].note == f"rank {order[0]} of 3: its share is made; 2 others have not"
    again = by_ranks(lambda: normalize(unpacked, TABLE), [Share(1, 3), WHOLE])
    assert [(outcome.state, outcome.made) for outcome in again] == [("up to date", 0)] * 2
    assert without_marks(unpacked.root) == alone


def test_what_a_lost_rank_left_is_made_by_a_plain_run(unpacked: Workspace) -> None:
    normalize(unpacked, TABLE)
    alone = snapshot(unpacked.root)
    shutil.rmtree(unpacked.normalized(TABLE))
    said = by_ranks(lambda: normalize(unpacked, TABLE), [Share(0, 3), Share(2, 3)])
    assert [outcome.state for outcome in said] == ["partly", "partly"]
    assert not (unpacked.normalized(TABLE) / "_manifest.json").exists()
    assert filter_table(unpacked, TABLE).note == "normalize first"
    outcome = normalize(unpacked, TABLE)
    assert (outcome.state, outcome.made, outcome.total) == ("done", 4, 11)
    assert without_marks(unpacked.root) == alone


def test_another_number_of_ranks_takes_up_what_was_made(unpacked: Workspace) -> None:
    normalize(unpacked, TABLE)
    alone = snapshot(unpacked.root)
    shutil.rmtree(unpacked.normalized(TABLE))
    by_ranks(lambda: normalize(unpacked, TABLE), [Share(0, 3)])  # 0, 3, 6 and 9
    said = by_ranks(lambda: normalize(unpacked, TABLE), [Share(1, 2), Share(0, 2)])
    assert [(outcome.state, outcome.made) for outcome in said] == [("partly", 3), ("done", 4)]
    normalize(unpacked, TABLE)
    assert without_marks(unpacked.root) == alone


def test_only_the_rank_whose_shard_is_gone_makes_it_again(unpacked: Workspace) -> None:
    normalize(unpacked, TABLE)
    alone = snapshot(unpacked.root)
    for first in (0, 1):  # once from the manifest of one process, once from that of ranks
        (unpacked.normalized(TABLE) / "shard-00004.parquet").unlink()
        said = by_ranks(lambda: normalize(unpacked, TABLE), [Share((first + rank) % 2, 2) for rank in range(2)])
        assert sum(outcome.made for outcome in said) == 1
        assert said[-1].state == "done"
        normalize(unpacked, TABLE)
        assert without_marks(unpacked.root) == alone


def test_shards_of_other_rules_are_not_put_together(unpacked: Workspace) -> None:
    """A rank that was left behind with older rules does not count as one that is through."""
    normalize(unpacked, TABLE)
    by_ranks(lambda: filter_table(unpacked, TABLE), [Share(0, 2)])
    stricter = unpacked.rules(TABLE).model_copy(update={"min_size": 600})
    said = by_ranks(lambda: filter_table(unpacked, TABLE, rules=stricter), [Share(1, 2), Share(0, 2)])
    assert [outcome.state for outcome in said] == ["partly", "done"]
    assert said[0].note == "rank 1 of 2: its share is made; what 1 other made is of other rules or inputs"
    by_hand = filter_table(unpacked, TABLE, rules=stricter, force=True)
    assert said[1].manifest == by_hand.manifest
    assert by_hand.manifest is not None and by_hand.manifest.counts["min_size"] > 2


def test_a_rank_of_the_filter_says_first_that_others_are_missing(unpacked: Workspace) -> None:
    normalize(unpacked, TABLE)
    rules = unpacked.rules(TABLE).model_copy(update={"aes_cutoff": 5.0})
    [outcome] = by_ranks(lambda: filter_table(unpacked, TABLE, rules=rules), [Share(0, 3)])
    assert outcome.note.startswith("rank 0 of 3: its share is made; 2 others have not; no aesthetic scores")


def test_a_rank_that_ends_a_table_leaves_what_others_are_writing(unpacked: Workspace) -> None:
    """Their command may end at the same time: each writes the manifest, and renames its own temporary file."""
    folder = unpacked.normalized(TABLE)
    by_ranks(lambda: normalize(unpacked, TABLE), [Share(1, 2)])
    theirs = {"..share-1-of-2.json.rank-1.tmp", "._manifest.json.rank-1.tmp", ".shard-00001.parquet.rank-1.tmp"}
    spill = folder / ".shard-00001.parquet.rank-1.spill"
    spill.mkdir()
    for name in (*theirs, ".shard-00001.parquet.tmp"):
        (folder / name).touch()
    assert [outcome.state for outcome in by_ranks(lambda: normalize(unpacked, TABLE), [Share(0, 2)])] == ["done"]
    left = {path.name for path in folder.glob(".*") if not path.match(".share-*.json")}
    assert left == {*theirs, spill.name}

    (folder / "_manifest.json").unlink()
    assert normalize(unpacked, TABLE).state == "done"
    assert list(folder.glob(".*")) == []  # nobody is at work beside a command that is no rank


def test_two_ranks_that_end_together_both_write_the_manifest(
    unpacked: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    normalize(unpacked, TABLE)
    alone = snapshot(unpacked.root)
    shutil.rmtree(unpacked.normalized(TABLE))
    sync, others = files.sync, [Share(0, 2)]  # before rank 1 renames its file, rank 0 writes its own
    said: list[Outcome] = []

    def slow(path: Path) -> None:
        sync(path)
        if path.name.startswith("._manifest.json") and others:
            said.extend(by_ranks(lambda: normalize(unpacked, TABLE), [others.pop()]))

    monkeypatch.setattr(files, "sync", slow)
    said += by_ranks(lambda: normalize(unpacked, TABLE), [Share(0, 2), Share(1, 2)])
    assert [outcome.state for outcome in said] == ["done", "partly", "done"]
    normalize(unpacked, TABLE)
    assert without_marks(unpacked.root) == alone


def test_a_dry_run_plans_the_share_alone(unpacked: Workspace) -> None:
    before = snapshot(unpacked.root)
    said = by_ranks(lambda: normalize(unpacked, TABLE, dry_run=True), [Share(0, 3), Share(2, 3)])
    assert [(outcome.state, outcome.made, outcome.total) for outcome in said] == [("planned", 4, 4), ("planned", 3, 3)]
    assert snapshot(unpacked.root) == before


# -- stages that are not shards alone ---------------------------------------------------------------------------------


def test_ranks_bring_a_part_each_and_a_lost_one_is_not_waited_for(workspace: Workspace, hub: World) -> None:
    dataset = workspace.catalogue.dataset(TABLE)
    download(workspace, dataset)
    alone = snapshot(workspace.root)
    shutil.rmtree(workspace.raw(TABLE))
    (workspace.root / "prep.lock").unlink()

    said = by_ranks(lambda: download(workspace, dataset), [Share(3, 4), Share(0, 4), Share(1, 4)])
    assert [(outcome.state, outcome.made, outcome.total) for outcome in said] == [
        ("partly", 2, 2),
        ("partly", 3, 3),
        ("partly", 3, 3),
    ]
    hub.requests.clear()
    outcome = download(workspace, dataset)
    assert (outcome.state, outcome.made, outcome.total) == ("done", 3, 11)
    brought = {path.split("/")[-1] for _, path, *_ in hub.requests if ".tar" in path}
    assert len(brought) == 3
    assert without_marks(workspace.root) == alone


def test_a_part_that_is_brought_again_leaves_the_others_alone(workspace: Workspace, world: World) -> None:
    """Also parts of which no publisher says a hash: what the manifest knew of them is kept while it is away."""
    dataset = workspace.catalogue.dataset("coco-2017")
    whole = download(workspace, dataset)
    alone = snapshot(workspace.root)
    assert whole.manifest is not None
    (workspace.raw(dataset.name) / whole.manifest.shards[0].name).unlink()
    world.requests.clear()
    said = by_ranks(lambda: download(workspace, dataset), [Share(1, 2), Share(0, 2)])
    assert [(outcome.state, outcome.made) for outcome in said] == [("partly", 0), ("done", 1)]
    assert len({path for _, path, *_ in world.requests if path.endswith("2017.zip")}) <= 1
    download(workspace, dataset)
    assert without_marks(workspace.root) == alone


def test_ranks_fetch_what_looser_rules_let_in_and_try_again_what_failed(world: World, tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "w", {"name": "r", "entries": RECIPE["entries"][:1]}, world)
    prep_json(root, "run", world=world)
    workspace = Workspace(root)
    dataset = workspace.catalogue.dataset("coyo-700m")
    looser = workspace.rules("coyo-700m").model_copy(update={"aes_cutoff": 4.0})
    filter_table(workspace, "coyo-700m", rules=looser)
    before = snapshot(root)
    single = images(workspace, dataset)
    alone = snapshot(root)
    assert alone != before and single.manifest is not None

    for path in (root / "index").rglob("*"):
        if path.is_file():
            path.unlink()
    strict = workspace.rules("coyo-700m")
    filter_table(workspace, "coyo-700m", rules=strict)
    images(workspace, dataset)
    filter_table(workspace, "coyo-700m", rules=looser)
    ranks = [Share(1, 2), Share(0, 2)]
    said = by_ranks(lambda: images(workspace, dataset), ranks)
    assert [outcome.state for outcome in said] == ["partly", "done"]
    assert said[1].manifest is not None and said[1].manifest.counts == single.manifest.counts

    world.requests.clear()
    failed = ImageOptions(retry=("http_404",))
    said = by_ranks(lambda: images(workspace, dataset, options=failed), ranks)
    assert said[-1].state == "done" and said[-1].manifest == images(workspace, dataset).manifest
    assert world.requests != []


def test_ranks_score_their_own_shards(unpacked: Workspace) -> None:
    normalize(unpacked, TABLE)
    filter_table(unpacked, TABLE)
    info = SCORERS["aesthetic-v2"]

    def score() -> Outcome:
        return score_table(unpacked, TABLE, info, PlainLoading())

    score()
    alone = snapshot(unpacked.root)
    shutil.rmtree(unpacked.scores(info.name, TABLE))
    said = by_ranks(score, [Share(2, 3), Share(0, 3), Share(1, 3)])
    assert [(outcome.state, outcome.made, outcome.total) for outcome in said] == [
        ("partly", 3, 3),
        ("partly", 4, 4),
        ("done", 4, 4),
    ]
    assert score().state == "up to date"
    assert without_marks(unpacked.root) == alone
    filter_table(unpacked, TABLE)  # with the scores: what ranks have said of other rows does not count any more
    again = by_ranks(score, [Share(0, 3)])
    assert [(outcome.state, outcome.made) for outcome in again] == [("partly", 0)]


# -- who may work beside whom ----------------------------------------------------------------------------------------


def test_ranks_work_beside_each_other_and_nobody_beside_them(workspace: Workspace) -> None:
    other = Workspace(workspace.root)
    with workspace.shared(Share(0, 3)), other.shared(Share(1, 3)):
        for hold, who in (
            (other.exclusive(), "rank "),
            (other.shared(Share(1, 3)), "rank 1 of 3, process "),
            (other.shared(Share(3, 4)), "rank "),
        ):
            with pytest.raises(WorkspaceError, match=f"another prep \\({who}.*is at work"), hold:
                pass
    with other.exclusive(), pytest.raises(WorkspaceError, match="process"), workspace.shared(Share(0, 3)):
        pass
    with other.shared(Share(2, 3)):
        pass
    assert list(workspace.root.glob(".prep-rank-*-of-3")) != []  # of those that have ended
    with other.exclusive():
        assert list(workspace.root.glob(".prep-rank-*")) == []
    with other.shared(Share(0, 4)):
        pass


def test_who_asks_for_ranks_at_work_is_not_taken_for_one(workspace: Workspace) -> None:
    """Ranks that start together ask for those of another number at the same time, and those may start meanwhile."""
    with workspace.shared(Share(0, 4)), workspace.shared(Share(1, 4)):
        pass
    with ExitStack() as asking:
        for rank in range(2):
            mark = asking.enter_context((workspace.root / f".prep-rank-{rank}-of-4").open())
            assert try_lock(mark.fileno(), shared=True)
        with workspace.shared(Share(0, 3)):
            pass
        threading.Timer(0.1, asking.pop_all().close).start()
        with workspace.shared(Share(0, 4)):
            pass


def test_one_rank_at_a_time_has_its_turn_and_may_take_it_twice(workspace: Workspace) -> None:
    with working(Share(0, 2)), workspace.turn(), workspace.turn():
        workspace.lock("coyo-700m", {"revision": "abc"})
    assert workspace.locked("coyo-700m") == {"revision": "abc"}


# -- options ----------------------------------------------------------------------------------------------------------


def test_what_options_mean() -> None:
    assert spread(None, None, "local", None) == Spread()
    assert spread(None, None, "local", None, alone={"--force": True}) == Spread()
    assert spread(2, 8, "local", None, alone={"--force": False}) == Spread(Share(2, 8))
    assert spread(0, 1, "local", None, alone={"--force": True}) == Spread()
    assert spread(None, None, "ray", "host:6379", alone={"--force": True}) == Spread(WHOLE, True, "host:6379")
    for arguments, words in (
        ((None, None, "dask", None), "--engine dask: must be local or ray"),
        ((None, None, "local", "host:1"), "--address is of a Ray cluster"),
        ((1, None, "local", None), "--rank and --world-size go together"),
        ((None, 4, "local", None), "--rank and --world-size go together"),
        ((0, 4, "ray", None), "--rank is for processes that no engine runs"),
        ((4, 4, "local", None), "--rank 4: of 4 ranks the last is 3"),
        ((None, None, "ray", ""), "--address is empty"),
    ):
        with pytest.raises(UsageError) as caught:
            spread(*arguments)
        assert caught.value.message == words
    with pytest.raises(UsageError, match="--delete-parts is for one process, and these are 4"):
        spread(0, 4, "local", None, alone={"--force": False, "--delete-parts": True})
    assert spread(0, 1, "local", None, rules=["min_size"]) == Spread()
    with pytest.raises(UsageError) as caught:
        spread(0, 4, "local", None, rules=["min_size", "where"])
    assert str(caught.value) == (
        "--min-size is for one process, and these are 4\n"
        "  Write `min_size: ...` into the recipe's entries, which all ranks read."
    )


def test_what_the_command_says_to_a_rank(world: World, tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "w", RECIPE, world)
    done = prep(root, "download", TABLE, "--rank", "0", "--world-size", "2", world=world)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"download  {TABLE}        6 of 6 made  (rank 0 of 2: its share of 11 parts is there; others are not)\n"
    )
    assert "if one was lost, run its command again, or `prep download` without --rank." in done.stderr
    refused = prep(root, "download", "--rank", "2", "--world-size", "2")
    assert refused.returncode == 1 and "of 2 ranks the last is 1" in refused.stderr
    for rule in (["--where", "error('x')"], ["--reset"]):
        refused = prep(root, "filter", *rule, "--rank", "0", "--world-size", "2")
        assert refused.returncode == 1 and f"{rule[0]} is for one process, and these are 2" in refused.stderr
    assert not (root / "rules.yaml").exists()
