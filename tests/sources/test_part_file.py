"""An unfinished part: whatever order its ranges come in, its gaps, its hash and its journal are right."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.sources import part_file
from prep.sources.part_file import PartFile, journal_path, open_part, part_path, partial_bytes

DATA = bytes(range(256)) * 4
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_file, "JOURNAL_FROM_BYTES", 1)
    monkeypatch.setattr(part_file, "HASH_BYTES", 64)


def nothing() -> None:
    """Waiting may go on."""


def fill(file: PartFile, start: int, size: int) -> None:
    with file.claim(start, start + size) as span:
        file.write(span, [DATA[start : start + size // 2], DATA[start + size // 2 : start + size]])


@given(st.randoms(use_true_random=False), st.integers(1, 300), st.booleans(), st.integers(0, 30))
def test_ranges_in_any_order_make_the_whole(random, size, is_along, flushes) -> None:  # type: ignore[no-untyped-def]
    pieces = [(start, min(size, len(DATA) - start)) for start in range(0, len(DATA), size)]
    random.shuffle(pieces)
    with TemporaryDirectory() as folder:
        target = Path(folder) / "a"
        with open_part(target, "key", nothing, ("sha256",)) as file:
            if is_along:
                file.hash_along()
            for number, (start, length) in enumerate(pieces):
                fill(file, start, length)
                if number < flushes:
                    file.flush()
                    kept = sum(end - start for start, end in json.loads(journal_path(target).read_text())["done"])
                    assert kept == file.kept == partial_bytes(target)
            assert file.gaps(len(DATA)) == []
            assert file.frontier() == len(DATA)
            assert file.hashes() == {"sha256": SHA256}
            file.finish()
        assert [path.name for path in Path(folder).iterdir()] == ["a"]
        assert target.read_bytes() == DATA


@given(st.sets(st.integers(0, 15)), st.sets(st.integers(0, 15)))
def test_another_run_finds_exactly_the_gaps(first: set[int], second: set[int]) -> None:
    with TemporaryDirectory() as folder:
        target = Path(folder) / "a"
        for numbers in (first, second):
            with open_part(target, "key", nothing, ("sha256",)) as file:
                for number in sorted(numbers - (first if numbers is second else set()), reverse=True):
                    fill(file, number * 64, 64)
                there = first | (second if numbers is second else set())
                missing = [byte for start, end in file.gaps(len(DATA)) for byte in range(start, end or 0)]
                assert missing == [byte for byte in range(len(DATA)) if byte // 64 not in there]
        assert partial_bytes(target) == 64 * len(first | second)
        assert part_path(target).exists() == journal_path(target).exists() == bool(first | second)


def test_a_part_of_another_key_is_thrown_away(tmp_path: Path) -> None:
    target = tmp_path / "a"
    for key, gaps in (("one", [(0, 128)]), ("one", [(64, 128)]), ("two", [(0, 128)])):
        with open_part(target, key, nothing, ("sha256",)) as file:
            assert file.gaps(128) == gaps
            if gaps == [(0, 128)]:
                fill(file, 0, 64)


def test_waiting_for_another_process_ends_when_the_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_file, "LOCK_POLL_SECONDS", 0.01)

    class OverError(Exception):
        pass

    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OverError

    with (
        open_part(tmp_path / "a", "key", nothing, ("sha256",)),
        pytest.raises(OverError),
        open_part(tmp_path / "a", "key", check, ("sha256",)),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_small_parts_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_file, "JOURNAL_FROM_BYTES", 1000)
    with open_part(tmp_path / "a", "key", nothing, ("sha256",)) as file:
        fill(file, 0, 900)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), open_part(tmp_path / "file" / "a", "key", nothing, ("sha256",)):
        pass
