"""Files of weights: from a folder, the hub and an address; whether they are the published ones; what they may hold."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import pytest

from prep.errors import DataError, SourceError, UsageError
from prep.publishers import Fault, World
from prep.scorers.weights import Hub, Weight, WeightFile, find_weights, read_tensors, scale_of

REPO = "UCSC-VLAA/gpt-image-edit-training"  # a model's, in the small world
CONFIG, HEAD = "config.json", "head.pth"
BYTES = b"numbers of a head" * 99


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def published(hub: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, WeightFile]:
    """A file on the hub and one at an address, by name; caches are empty."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hub.server.faults[f"/files/{HEAD}"] = Fault(body=BYTES, status=200)
    assert hub.server.hub.models is not None
    config = (hub.server.hub.models / REPO / CONFIG).read_bytes()
    return {
        CONFIG: WeightFile(CONFIG, Hub(REPO, "main"), sha256(config), len(config)),
        HEAD: WeightFile(HEAD, f"{hub.url}/files/{HEAD}", sha256(BYTES), len(BYTES)),
    }


def test_files_come_from_their_publishers_once(published: dict[str, WeightFile], world: World, tmp_path: Path) -> None:
    found = find_weights(list(published.values()))
    assert found[HEAD] == Weight(tmp_path / "cache/prep/weights" / HEAD, sha256(BYTES))
    assert found[CONFIG].path.is_relative_to(tmp_path / "hub-cache")
    assert found[CONFIG].sha256 == published[CONFIG].sha256
    assert scale_of("aesthetic-v2", found) == "aesthetic-v2"

    asked = len(world.requests)
    assert find_weights([published[HEAD]]) == {HEAD: found[HEAD]}
    assert len(world.requests) == asked


def test_a_file_whose_hash_nobody_knows_is_taken_and_hashed(published: dict[str, WeightFile]) -> None:
    file = WeightFile(CONFIG, published[CONFIG].home)
    [weight] = find_weights([file]).values()
    assert weight == Weight(weight.path, published[CONFIG].sha256 or "", True)


def test_a_file_of_another_hash_from_the_hub_is_refused(published: dict[str, WeightFile]) -> None:
    file = WeightFile(CONFIG, published[CONFIG].home, "0" * 64)
    with pytest.raises(SourceError) as caught:
        find_weights([file])
    message = str(caught.value)
    assert CONFIG in message and str(published[CONFIG].sha256) in message and "0" * 64 in message
    assert "Delete it, then run the same command" in message


def test_what_the_hub_does_not_have_is_told(published: dict[str, WeightFile]) -> None:
    for file in (WeightFile("gone.json", Hub(REPO, "main")), WeightFile(CONFIG, Hub("nobody/nothing", "main"))):
        with pytest.raises(SourceError, match=f"{file.name} cannot be had from hub model .*") as caught:
            find_weights([file])
        assert "give it with `--weights`" in caught.value.next_step


def test_offline_takes_what_is_in_the_cache_and_nothing_else(
    published: dict[str, WeightFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    find_weights([published[CONFIG]])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_weights([published[CONFIG]])[CONFIG].sha256 == published[CONFIG].sha256
    with pytest.raises(SourceError, match="cannot be had from hub model"):
        find_weights([WeightFile("other.json", Hub(REPO, "main"))])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(body=b"<!DOCTYPE html><title>Sign in</title>", headers={"Content-Type": "text/html"}), "page|HTML|html"),
        (Fault(body=BYTES[:-1] + b"!"), "sha256|SHA-256"),
        (Fault(status=404, body=b""), "404"),
    ],
    ids=["page", "other bytes", "gone"],
)
def test_wrong_bytes_at_an_address_are_refused(
    fault: Fault, words: str, published: dict[str, WeightFile], world: World, tmp_path: Path
) -> None:
    world.server.faults[f"/files/{HEAD}"] = fault
    with pytest.raises(SourceError, match=words) as caught:
        find_weights([published[HEAD]])
    assert "give it with `--weights`" in caught.value.next_step
    assert not (tmp_path / "cache/prep/weights" / HEAD).exists()


def test_a_damaged_file_in_the_cache_is_fetched_anew(published: dict[str, WeightFile]) -> None:
    path = find_weights([published[HEAD]])[HEAD].path
    path.write_bytes(b"damaged")
    assert find_weights([published[HEAD]])[HEAD].path.read_bytes() == BYTES


def test_a_folder_has_to_have_every_file(tmp_path: Path) -> None:
    (tmp_path / HEAD).write_bytes(BYTES)
    files = [
        WeightFile(HEAD, "https://example.org/head.pth"),
        WeightFile("model.safetensors", Hub("openai/clip", "32bd64288804d66e")),
        WeightFile("mlp.pth", "https://example.org/mlp.pth"),
    ]
    with pytest.raises(UsageError) as caught:
        find_weights(files, tmp_path)
    assert caught.value.message == (
        f"{tmp_path} lacks 2 of 3 files:\n  model.safetensors, from hub model openai/clip at 32bd64288804\n"
        "  mlp.pth, from https://example.org/mlp.pth"
    )


def test_other_weights_in_a_folder_are_taken_and_named_in_the_scale(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth", "c.pth"):
        (tmp_path / name).write_bytes(name.encode())
    files = [WeightFile("a.pth", "x", sha256(b"a.pth")), WeightFile("b.pth", "x", "0" * 64), WeightFile("c.pth", "x")]
    found = find_weights(files, tmp_path)
    assert [weight.is_published for weight in found.values()] == [True, False, True]
    assert scale_of("aesthetic-v2", found) == f"aesthetic-v2 with other weights ({sha256(b'b.pth')[:12]})"


class Code:
    """Unpickled, it would make a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_only_tensors_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    good, code, zipped = tmp_path / "good.pth", tmp_path / "code.pth", tmp_path / "zipped.pth"
    torch.save({"weight": torch.ones(2)}, good)
    assert read_tensors(good)["weight"].tolist() == [1, 1]

    code.write_bytes(pickle.dumps({"weight": Code(tmp_path / "trace")}, protocol=2))
    torch.save({"weight": Code(tmp_path / "trace")}, zipped)
    for name, data in {
        "page.pth": b"<!DOCTYPE html><title>Sign in</title>",
        "page.safetensors": b"<!DOCTYPE html><title>Sign in</title>",
        "pointer.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1710540580\n",
        "empty.pt": b"",
        "half.pth": good.read_bytes()[:200],
    }.items():
        (tmp_path / name).write_bytes(data)
    refused = [path for path in sorted(tmp_path.iterdir()) if path != good]
    assert len(refused) == 7
    for path in refused:
        with pytest.raises(DataError, match=f"{path} holds no tensors"):
            read_tensors(path)
    assert not (tmp_path / "trace").exists()

    torch.save([torch.ones(2)], good)
    with pytest.raises(DataError, match="holds no tensors by name"):
        read_tensors(good)
