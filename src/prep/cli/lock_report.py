"""`prep lock` and `prep diff`: what they compare and how they tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prep.cli import document
from prep.cli.show import talk
from prep.errors import WorkspaceError
from prep.line import stale_tables
from prep.lock.contents import Written, describe, write_lock
from prep.lock.differences import Difference, differences, shown
from prep.lock.held import differences_here
from prep.lock.moves import Move, find_moves, is_described
from prep.lock.verify import in_files, in_images
from prep.lock_file import printable, read_lock
from prep.manifest import read_finished
from prep.workspace import CONFIG_NAME, LOCK_NAME, Workspace

NOT_THERE = "not there"


@dataclass(frozen=True)
class Comparison:
    """Two locks, compared.

    Attributes:
        moves: rows that are judged otherwise, of tables whose files are in reach on both sides.
        notes: what a person should know.
    """

    differences: tuple[Difference, ...]
    moves: tuple[Move, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "differences": [one.as_json() for one in self.differences],
            "moves": [move.as_json() for move in self.moves],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class _Side:
    """A lock, and the workspace that it is of, where that is in reach; or what is in a workspace now."""

    label: str
    lock: dict[str, Any]
    workspace: Workspace | None
    is_present: bool = False


# -- prep lock -------------------------------------------------------------------------------------------------------


def lock_workspace(workspace: Workspace) -> Written:
    """Let prep.lock say what is in the workspace, but for tables that are not up to date."""
    return write_lock(workspace, stale_tables(workspace))


def check_lock(workspace: Workspace, *, verify: bool = False) -> Comparison:
    """What prep.lock says otherwise than what is there; nothing is written.

    Args:
        verify: read and hash parts, tables and images; otherwise that files are there with their sizes is enough.

    Raises:
        WorkspaceError: there is no prep.lock.
    """
    if not (workspace.root / LOCK_NAME).exists():
        raise WorkspaceError(f"there is no {workspace.root / LOCK_NAME}", "`prep lock` writes one.")
    stale = stale_tables(workspace)
    files = list(in_files(workspace, verify=verify))
    damaged = {one.name: "its files are others" for one in files if one.what == "table"}
    here = describe(workspace, damaged | stale, anew=verify).data
    found = differences_here(workspace, workspace.lock_data(), here)
    return Comparison((*found, *files, *in_images(workspace, verify=verify)), notes=tuple(_stale_notes(stale)))


def locked(written: Written, as_json: bool) -> None:
    """What `prep lock` wrote."""
    if as_json:
        document.put(written.as_json())
        return
    print(f"{written.path} {'written' if written.is_new else 'is up to date'}")
    _tell_left(written)


def _tell_left(written: Written) -> None:
    """Tables of which prep.lock still says what it said before."""
    for name, why in written.left.items():
        known = "what it said before stays" if name in written.data["tables"] else "not in it"
        talk(f"Note: table {name}: {known} ({why})")


# -- prep diff -------------------------------------------------------------------------------------------------------


def compare(
    before: Path, after: Path | None, folders: tuple[Path | None, Path | None], here: Workspace | None, most_keys: int
) -> Comparison:
    """What differs between two lock files, or between one and the workspace `here`.

    Args:
        folders: the workspaces of the two; by default the folders that the files lie in.
        most_keys: how many keys of each move are told.
    """
    first = _side(before, folders[0])
    second = _side(after, folders[1]) if after is not None else _present(here)
    found = differences(first.lock, second.lock)
    moves: list[Move] = []
    notes = _stale_notes(stale_tables(here)) if after is None and here is not None else []
    for name in _moved(found, first.lock.get("tables", {}), second.lock.get("tables", {})):
        lacking = next((why for side in (first, second) if (why := _lacking(side, name))), None)
        if lacking is not None:
            notes.append(f"which rows of {name} moved is not told: {lacking}")
        elif first.workspace and second.workspace:
            moves += find_moves(first.workspace, second.workspace, name, most_keys=most_keys)
    return Comparison(tuple(found), tuple(moves), tuple(notes))


def _moved(found: Sequence[Difference], before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Tables that both have, of which rows may differ: in what became of them, or in what is in them."""
    tables = {one.name for one in found if one.what == "table" and one.key in ("rows", "definition")}
    datasets = {one.name for one in found if one.what == "dataset" and one.key == "sha256"}
    both = sorted(before.keys() & after.keys())
    return [name for name in both if name in tables or {before[name]["dataset"], after[name]["dataset"]} & datasets]


def _stale_notes(stale: Mapping[str, str]) -> list[str]:
    return [f"table {name} is not up to date: {why}" for name, why in stale.items()]


def _side(path: Path, folder: Path | None) -> _Side:
    """A lock file, with the workspace given for it or that it lies in.

    Raises:
        WorkspaceError: it is no lock file, or `folder` is no workspace.
    """
    path = path / LOCK_NAME if path.is_dir() else path
    if not path.is_file():
        raise WorkspaceError(f"there is no {path}", "Name two lock files, or one to compare with this workspace.")
    lock = read_lock(path)
    if folder is None:
        is_own = path.name == LOCK_NAME and (path.parent / CONFIG_NAME).is_file()
        return _Side(str(path), lock, Workspace(path.parent) if is_own else None)
    if not (folder / CONFIG_NAME).is_file():
        raise WorkspaceError(f"{folder} is no workspace (no {CONFIG_NAME})", "Name the folder that has it.")
    return _Side(str(path), lock, Workspace(folder))


def _present(workspace: Workspace | None) -> _Side:
    """What is in a workspace now."""
    assert workspace is not None
    return _Side("this workspace", describe(workspace, {}).data, workspace, is_present=True)


def _lacking(side: _Side, name: str) -> str | None:
    """Why the rows that a side's lock speaks of cannot be looked at."""
    if side.workspace is None:
        return f"the workspace of {side.label} is not named (--a, --b)"
    if read_finished(side.workspace.normalized(name)) is None or side.workspace.read_filtered(name) is None:
        return f"its samples in {side.workspace.root} are gone, or others"
    if not side.is_present and not is_described(side.workspace, name, side.lock):
        return f"the files in {side.workspace.root} are not those that {side.label} describes"
    return None


def compared(comparison: Comparison, as_json: bool) -> None:
    """What differs: facts first, then rows."""
    if as_json:
        document.put(comparison.as_json())
        return
    console = Console(markup=False, emoji=False, highlight=False)
    if comparison.differences:
        console.print(_facts(comparison.differences))
    else:
        print("No difference.")
    for table in dict.fromkeys(move.table for move in comparison.moves):
        print(f"\nrows of {table}")
        for move in (move for move in comparison.moves if move.table == table):
            print(f"{move.rows:>12,}  {move.before or NOT_THERE} -> {move.after or NOT_THERE}")
            for key in move.keys:
                print(f"{'':14}{printable(key)}")
    for note in comparison.notes:
        talk(f"Note: {note}")


def _facts(found: Sequence[Difference]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("what", "name", "fact", "before", "after"):
        table.add_column(column, overflow="fold")
    for one in found:
        cells = (one.what, one.name, one.key, shown(one.before), shown(one.after))
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table
