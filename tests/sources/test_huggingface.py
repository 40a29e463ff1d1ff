"""Datasets on the hub: listed at one commit, fetched with the token, every refusal with its next step."""

from __future__ import annotations

import json
import socket
import time
import traceback
from pathlib import Path

import pytest

from prep.config import HuggingFaceSource
from prep.errors import SourceError
from prep.publishers import TOKEN, Fault, World
from prep.sources import Listing, Part, huggingface, part_transfer
from prep.sources.transfer import Session

COYO, SIXTY_K, GATED = "kakaobrain/coyo-700m", "BLIP3o/BLIP3o-60k", "laion/laion2B-en-aesthetic"
MODEL = "UCSC-VLAA/gpt-image-edit-training"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def source(repo: str, *include: str, **more: str | tuple[str, ...]) -> HuggingFaceSource:
    return HuggingFaceSource.model_validate(
        {"kind": "huggingface", "repo": repo, **({"include": include} if include else {}), **more}
    )


def listing(repo: str, *include: str, revision: str | None = None, **more: str | tuple[str, ...]) -> Listing:
    return huggingface.list_parts(source(repo, *include, **more), Path(), revision)


def fetch(given: HuggingFaceSource, part: Part, folder: Path) -> str:
    with Session() as session:
        return huggingface.fetch(given, part, folder / part.path, session)


def error_of(repo: str, revision: str | None = None) -> SourceError:
    with pytest.raises(SourceError) as caught:
        listing(repo, revision=revision)
    return caught.value


def commit(repo: str) -> str:
    return str(listing(repo).resolved["revision"])


def info_path(repo: str, revision: str = "main") -> str:
    return f"/api/datasets/{repo}/revision/{revision}"


def test_parts_are_what_the_hub_says_at_one_commit(hub: World) -> None:
    found = listing(COYO, "data/*")
    blobs = {blob.path: blob for blob in hub.server.hub.blobs(COYO)}
    at = f"{hub.url}/datasets/{COYO}/resolve/{found.resolved['revision']}"

    assert [part.path for part in found.parts] == sorted(blobs)[1:]
    assert found.resolved == {"repo": COYO, "revision": commit(COYO)}
    for part in found.parts:
        blob = blobs[part.path]
        assert (part.url, part.size_bytes, part.sha256) == (f"{at}/{part.path}", blob.size, blob.sha256)
        assert (part.md5, part.version) == (None, blob.oid)
    assert [part.sha256 is None for part in found.parts] == [True, False, False]


def test_include_and_exclude_choose_and_hidden_files_are_left_out(hub: World) -> None:
    everything = [part.path for part in listing(SIXTY_K).parts]
    assert len(everything) == 22 and ".gitattributes" not in everything
    assert len(listing(SIXTY_K, "*.tar").parts) == 11
    assert [part.path for part in listing(SIXTY_K, "object_*", exclude=("*.txt", "*_2*")).parts] == ["object_1.tar"]
    assert listing(SIXTY_K, "*.zip").parts == ()


def test_a_listing_of_many_pages_is_read_to_its_end(hub: World, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = listing(SIXTY_K)
    monkeypatch.setattr(hub.server.hub, "page_size", 4)
    assert listing(SIXTY_K) == whole


def test_a_pinned_revision_is_listed_without_asking_where_main_is(hub: World) -> None:
    pinned = commit(COYO)
    hub.requests.clear()
    assert listing(COYO, revision=pinned).resolved["revision"] == pinned
    assert hub.requests == [("GET", f"/api/datasets/{COYO}/tree/{pinned}")]


def test_a_file_comes_with_the_token_which_the_hub_alone_sees(hub: World, tmp_path: Path) -> None:
    part = listing(GATED, "*.parquet").parts[0]
    fetch(source(GATED), part, tmp_path)
    assert (tmp_path / part.path).read_bytes() == (hub.folder / "hub" / GATED / part.path).read_bytes()
    at_hub, at_cdn = ({name.lower(): value for name, value in sent.items()} for sent in hub.server.request_headers[-2:])
    assert at_hub["authorization"] == f"Bearer {TOKEN}"
    assert at_hub["user-agent"].count("prep/") == 1
    assert "authorization" not in at_cdn


@pytest.mark.parametrize("token", ["", "hf_of_somebody_else"])
def test_a_gated_file_without_the_right_token_says_what_to_do(
    token: str, hub: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = listing(GATED, "*.parquet").parts[0]
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(SourceError) as caught:
        fetch(source(GATED), part, tmp_path)
    assert caught.value.message == f"hub dataset {GATED} is gated or private, and this account has no access"
    assert caught.value.next_step == (
        f"Accept its terms at https://huggingface.co/datasets/{GATED}, then set HF_TOKEN or run `hf auth login`."
    )
    assert list(tmp_path.iterdir()) == []
    assert "hf_of_somebody_else" not in "".join(traceback.format_exception(caught.value))


def test_a_model_repository_is_listed_and_fetched(hub: World, tmp_path: Path) -> None:
    hub.requests.clear()
    found = listing(MODEL, "training_json/u*", repo_type="model")
    [part], pinned = found.parts, found.resolved["revision"]
    assert [path for _, path in hub.requests] == [
        f"/api/models/{MODEL}/revision/main",
        f"/api/models/{MODEL}/tree/{pinned}",
    ]
    assert part.url == f"{hub.url}/{MODEL}/resolve/{pinned}/training_json/ultraedit_gpt.json"
    fetch(source(MODEL, repo_type="model"), part, tmp_path)
    assert (tmp_path / part.path).read_bytes() == (hub.folder / "models" / MODEL / part.path).read_bytes()


def test_a_models_large_file_comes_from_the_cdn(hub: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prep.publishers.hub.LFS_SUFFIXES", (".json",))
    monkeypatch.setattr(hub.server.hub, "_blobs", {})
    part = listing(MODEL, "*/ultraedit_gpt.json", repo_type="model").parts[0]
    fetch(source(MODEL, repo_type="model"), part, tmp_path)
    assert (tmp_path / part.path).read_bytes() == (hub.folder / "models" / MODEL / part.path).read_bytes()
    assert hub.requests[-1] == ("GET", f"/cdn/models/{MODEL}/{part.sha256}")


@pytest.mark.parametrize(
    ("repo", "repo_type"),
    [(MODEL, "dataset"), (MODEL.lower(), "model"), (COYO, "model"), (COYO.upper(), "dataset")],
)
def test_ids_of_the_other_type_or_in_another_case_are_not_there(repo: str, repo_type: str, hub: World) -> None:
    with pytest.raises(SourceError) as caught:
        listing(repo, repo_type=repo_type)
    assert str(caught.value) == (
        f"hub {repo_type} {repo} is not there, or is private\n"
        "  Check `repo` and `repo_type`; for a private one set HF_TOKEN or run `hf auth login`."
    )


def test_ids_that_differ_in_case_and_type_are_two_repositories(
    hub: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, name in (
        ("hub", "Someone/reflect-DiT"),
        ("hub", "Someone/Reflect-DiT"),
        ("models", "Someone/reflect-DiT"),
    ):
        (tmp_path / folder / name).mkdir(parents=True)
        (tmp_path / folder / name / "a.txt").write_text(f"{folder} {name}")
    monkeypatch.setattr(hub.server.hub, "folder", tmp_path / "hub")
    monkeypatch.setattr(hub.server.hub, "models", tmp_path / "models")
    for number, (name, repo_type) in enumerate(
        [("Someone/reflect-DiT", "dataset"), ("Someone/Reflect-DiT", "dataset"), ("Someone/reflect-DiT", "model")]
    ):
        part = listing(name, repo_type=repo_type).parts[0]
        fetch(source(name, repo_type=repo_type), part, tmp_path / str(number))
        folder = {"dataset": "hub", "model": "models"}[repo_type]
        assert (tmp_path / str(number) / "a.txt").read_text() == f"{folder} {name}"


def test_a_gated_model_says_where_its_terms_are(hub: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = listing(MODEL, "*.json", repo_type="model").parts[0]
    monkeypatch.setattr(hub.server.hub, "gated", frozenset([f"models/{MODEL}"]))
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(SourceError) as caught:
        fetch(source(MODEL, repo_type="model"), part, tmp_path)
    assert str(caught.value) == (
        f"hub model {MODEL} is gated or private, and this account has no access\n"
        f"  Accept its terms at https://huggingface.co/{MODEL}, then set HF_TOKEN or run `hf auth login`."
    )


def test_a_file_that_vanished_is_not_taken_for_a_refusal(hub: World, tmp_path: Path) -> None:
    part = listing(COYO, "*.parquet").parts[0]
    hub.faults[part.url.removeprefix(hub.url)] = Fault(status=404)
    with pytest.raises(SourceError, match="the server answers 404"):
        fetch(source(COYO), part, tmp_path)


def test_names_and_revisions_that_are_not_there(hub: World) -> None:
    gone = "f" * 40
    assert str(error_of("nobody/nothing")).startswith("hub dataset nobody/nothing is not there, or is private\n")
    assert str(error_of("a b/c/d")) == "'a b/c/d' names no hub dataset\n  Check `repo` in the dataset's YAML."
    with pytest.raises(SourceError) as caught:
        huggingface.list_parts(source(COYO, revision="v9"), Path(), None)
    assert str(caught.value) == f"hub dataset {COYO} has no revision 'v9'\n  Check the dataset's YAML."
    assert str(error_of(COYO, revision=gone)) == (
        f"hub dataset {COYO} has no revision '{gone}'\n  prep.lock pins it: `prep download --force` resolves it anew."
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(status=500), f"the hub answers 500 for {COYO}"),
        (Fault(status=429), f"the hub answers 429 for {COYO}"),
        (Fault(status=403), f"the hub answers 403 for {COYO}"),
        (Fault(cut_at=10), f"the hub cannot be reached for {COYO}: "),
        (
            Fault(body=b"<html>Log in to the network</html>"),
            f"the hub's answer for {COYO} is not a hub's: JSONDecodeError",
        ),
        (Fault(body=b"{}"), f"the hub's answer for {COYO} is not a hub's: KeyError"),
        (Fault(body=b"[]"), f"the hub's answer for {COYO} is not a hub's: TypeError"),
        (Fault(body=b"[" * 100_000), f"the hub's answer for {COYO} is not a hub's: RecursionError"),
    ],
    ids=["500", "429", "403", "cut", "a login page", "no fields", "a list", "deep"],
)
def test_a_hub_in_trouble(fault: Fault, message: str, hub: World) -> None:
    hub.faults[info_path(COYO)] = fault
    error = error_of(COYO)
    assert error.message.startswith(message)
    assert error.next_step


@pytest.mark.parametrize(
    ("fault", "waited"),
    [
        (Fault(status=429, headers={"RateLimit": '"api";r=0;t=100'}, times=2), [101.0, 101.0]),
        (Fault(status=429, retry_after="seconds", times=1), [1.0]),
        (Fault(status=503, times=3), [1.0, 2.0, 4.0]),
    ],
    ids=["RateLimit", "Retry-After", "503"],
)
def test_a_hub_that_asks_to_wait_is_waited_for(
    fault: Fault, waited: list[float], hub: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    hub.faults[info_path(COYO)] = fault
    assert len(listing(COYO).parts) == 3
    assert pauses == waited


def test_a_hub_that_asks_for_more_than_five_minutes_is_left(hub: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    hub.faults[info_path(COYO)] = Fault(status=429, headers={"RateLimit": '"api";r=0;t=180'})
    assert str(error_of(COYO)) == (f"the hub answers 429 for {COYO}\n  Try again later; finished parts are kept.")
    assert pauses == [181.0]


def test_a_listing_cut_off_between_its_pages_is_an_error(hub: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = f"/api/datasets/{SIXTY_K}/tree/{commit(SIXTY_K)}"
    hub.faults[tree] = Fault(status=502)
    assert error_of(SIXTY_K).message == f"the hub answers 502 for {SIXTY_K}"


@pytest.mark.parametrize("path", ["/etc/cron.d/x", "data/../../x.parquet", "../x"])
def test_a_listed_path_that_leaves_the_dataset_is_refused(path: str, hub: World) -> None:
    entries = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in (path, "a.parquet")]
    hub.faults[f"/api/datasets/{COYO}/tree/{commit(COYO)}"] = Fault(body=json.dumps(entries).encode())
    assert error_of(COYO).message == f"hub dataset {COYO} lists {path!r}, a path outside it"


def test_a_listed_path_that_no_folder_can_hold_is_left_out_by_hand(hub: World) -> None:
    entries = [{"type": "file", "path": name, "size": 0, "oid": "0" * 40} for name in ("_manifest.json/a", "n" * 240)]
    hub.faults[f"/api/datasets/{COYO}/tree/{commit(COYO)}"] = Fault(body=json.dumps(entries).encode())
    error = error_of(COYO)
    assert "is a name that `prep` keeps for files of its own" in error.message
    assert error.next_step == "Leave it out with `exclude`."
    assert listing(COYO, exclude=("_manifest*", "nn*")).parts == ()


@pytest.mark.parametrize("token", ["hf_caf\u00e9-secret", "hf_\x01-secret", "hf_a b-secret"])
def test_a_token_that_is_none_is_not_shown(
    token: str, hub: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = listing(COYO, "*.parquet").parts[0]
    monkeypatch.setenv("HF_TOKEN", token)
    for call in (lambda: listing(COYO), lambda: fetch(source(COYO), part, tmp_path)):
        with pytest.raises(SourceError) as caught:
            call()
        assert str(caught.value) == (
            "the hub's token has characters that no token has\n"
            "  Copy it anew from the hub into HF_TOKEN, or run `hf auth login`."
        )
        assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_a_hub_that_is_down(hub: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        error = error_of(COYO)
    assert error.message.startswith(f"the hub cannot be reached for {COYO}: ")
    assert error.next_step == "Check the network and HF_ENDPOINT, then run the same command; finished parts are kept."


def test_offline_mode_is_said(hub: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert error_of(COYO).message.startswith(f"the hub cannot be reached for {COYO}: ")


def test_signed_addresses_that_run_out_are_renewed_between_ranges(
    hub: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = max(listing(SIXTY_K, "*.tar").parts, key=lambda part: part.size_bytes or 0)
    monkeypatch.setattr(part_transfer, "SEGMENT_BYTES", 10_000)
    hub.server.hub.signature_uses = 3
    hub.requests.clear()
    with Session() as session:
        huggingface.fetch(source(SIXTY_K), part, tmp_path / part.path, session)
    assert (tmp_path / part.path).read_bytes() == (hub.folder / "hub" / SIXTY_K / part.path).read_bytes()
    resolved = sum(path == part.url.removeprefix(hub.url) for _, path in hub.requests)
    assert part.size_bytes and 2 <= resolved < part.size_bytes / 10_000, "not every range asks the hub again"


def test_a_used_up_quota_is_waited_for_by_all(hub: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = listing(SIXTY_K, "*.tar").parts
    hub.server.hub.quota, hub.server.hub.window_seconds = {"resolvers": 6}, 1
    pauses: list[float] = []

    def pause(session: Session, seconds: float) -> None:
        pauses.append(seconds)
        hub.server.hub.window_seconds += 1e-6  # a new window, as if the time were over

    monkeypatch.setattr(Session, "pause", pause)
    with Session() as session:
        for part in parts:
            huggingface.fetch(source(SIXTY_K), part, tmp_path / part.path, session)
    for part in parts:
        assert (tmp_path / part.path).read_bytes() == (hub.folder / "hub" / SIXTY_K / part.path).read_bytes()
    assert pauses and all(0 < seconds <= 3 for seconds in pauses)
