"""Files that only a person can get."""

from __future__ import annotations

from pathlib import Path

import pytest

from prep.config import ManualSource
from prep.errors import SourceError
from prep.sources import Part, manual

FORM = ManualSource(kind="manual", instructions="1. Fill in the form.\n2. Wait.\n", include=("*.tar", "*.zip"))


def test_nothing_there_yet_gives_the_instructions(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "flickr30k"
    with pytest.raises(SourceError) as caught:
        manual.list_parts(FORM, folder, None)
    assert str(caught.value) == (
        "flickr30k has to be fetched by hand:\n1. Fill in the form.\n2. Wait.\n"
        f"  Put the files (*.tar, *.zip) into {folder}, or name a folder that has them in prep.yaml "
        "(sources: {flickr30k: {kind: local, path: ...}}); then run the same command."
    )


def test_what_is_there_and_does_not_match_is_not_taken(tmp_path: Path) -> None:
    for name in ("README.txt", "_manifest.json", "_parts.jsonl", ".hidden.tar", ".images.zip.tmp"):
        (tmp_path / name).touch()
    with pytest.raises(SourceError, match="by hand"):
        manual.list_parts(FORM, tmp_path, None)


def test_what_a_person_put_there_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/images.zip").write_bytes(b"zip")
    (tmp_path / "a.tar").write_bytes(b"tarred")
    versions = [str((tmp_path / name).stat().st_mtime_ns) for name in ("a.tar", "b/images.zip")]
    listing = manual.list_parts(FORM, tmp_path, None)
    assert listing.parts == (
        Part("a.tar", str(tmp_path / "a.tar"), 6, version=versions[0]),
        Part("b/images.zip", str(tmp_path / "b/images.zip"), 3, version=versions[1]),
    )

    told: list[int] = []
    manual.fetch(FORM, listing.parts[0], tmp_path / "a.tar", told.append)
    assert told == [6]
    assert (tmp_path / "a.tar").read_bytes() == b"tarred"
