"""What `prep layout` prints: what was moved and linked, what was left, and what the tree holds."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from prep.cli import document
from prep.cli.show import talk
from prep.layout import Layout
from prep.layout.journal import Undone
from prep.layout.links import Linked
from prep.layout.places import printable
from prep.layout.report import Pair, Tree
from prep.trainers.convllava import NAMES

SHOWN = 20
WIDTH = 10_000
_STATES = {
    "linked": "linked",
    "there": "there already",
    "in the way": "with something else in their place",
    "gone": "gone from the image store (`prep images NAME --verify decode` says which)",
    "unsafe": "whose names would leave the folder",
    "not ok": "that could not be had (their status is in the index)",
}
_MEMBERS = {
    "unpacked": "unpacked",
    "there": "there already",
    "in the way": "with something else in their place",
    "unsafe": "whose names would leave the folder",
    "damaged": "damaged",
    "too_large": "too large",
    "lost": "stretches that cannot be read",
}


def layout(layout: Layout, as_json: bool) -> None:
    """What was done to a tree, or would be."""
    if as_json:
        document.put(layout.as_json())
        return
    console = Console(markup=False, emoji=False, width=WIDTH)  # paths are there to be copied
    lines = [
        *_moves(layout),
        *_unpacked(layout),
        *([] if layout.linked is None else _linked(layout.linked, layout.tree is None)),
    ]
    console.print("\n".join(lines or [f"{layout.root}: nothing to move"]), highlight=False)
    _some("Left as it is:", [printable(line) for line in layout.found.left])
    if layout.tree is None:
        _some("To be unpacked, or with --extract:", [archive.command for archive in layout.archives])
        talk("Next: the same command without --dry-run")
        return
    console.print(_folders(layout.tree))
    _holes(layout.tree)
    console.print(_pairs(layout.tree))
    healing = f"`prep heal --root {layout.root} --apply`"
    if layout.linked is not None:
        healing += f" or `prep emit --root {layout.root}`"
    talk(f"A publisher's list may have rows that stop training: {healing} writes lists without them.")
    if layout.found.moves or layout.unpacked:
        talk(f"`prep layout convllava --root {layout.root} --undo` takes all of it back.")
    if len(layout.archives) > len(layout.unpacked):
        talk("The same command with --extract unpacks the archives that lie in the tree.")
    if any(folder.brings for folder in layout.tree.folders) or any(pair.brings for pair in layout.tree.pairs):
        where = " (in a workspace, such as `prep init convllava-s3` makes)" if layout.linked is None else ""
        talk(f"Next: the commands above{where}, then this one again")


def _moves(layout: Layout) -> list[str]:
    verb = "would move" if layout.tree is None else "moved"
    lines = []
    for move in layout.found.moves:
        some = f", such as {', '.join(move.examples)}" if move.examples else ""
        files = "1 file" if move.count == 1 else f"{move.count:,} files"
        lines.append(printable(f"{verb} {move.source} -> {move.target} ({files}{some})"))
    verb = "would link" if layout.tree is None else "linked"
    return lines + [f"{verb} {path} -> {to}" for path, to in layout.found.links.items()]


def _unpacked(layout: Layout) -> list[str]:
    lines = []
    for path, counts in layout.unpacked.items():
        words = [f"{count:,} {_MEMBERS[state]}" for state, count in sorted(counts.items()) if count]
        lines.append(printable(f"{path}: {', '.join(words) or 'no pictures'}"))
    return lines


def _linked(linked: Linked, is_planned: bool) -> list[str]:
    lines = []
    for folder, counts in linked.counts.items():
        words = [f"{count:,} {_STATES[state]}" for state, count in sorted(counts.items()) if count]
        lines.append(f"{folder}: {', '.join(words) or 'no images'}" + (" (planned)" if is_planned else ""))
    lines += [f"{path}: linked" + (" (planned)" if is_planned else "") for path in linked.lists]
    lines += [f"{name}: its images are not indexed yet (prep images {name})" for name in linked.unready]
    names = ", ".join(NAMES)
    lines += [f"entry {label}: the tree has no place for this name; it has for {names}" for label in linked.no_place]
    return lines + [f"{printable(path)}: something else stands there; move it away" for path in linked.in_the_way]


def _some(title: str, lines: list[str]) -> None:
    """A few lines under a title, on stderr."""
    if lines:
        more = [f"  and {len(lines) - SHOWN:,} more (all with --json)"] if len(lines) > SHOWN else []
        talk("\n".join([title, *(f"  {line}" for line in lines[:SHOWN]), *more]))


def _folders(tree: Tree) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("folder", "expected", "found", "missing", "what brings it"):
        table.add_column(column, justify="right" if column in ("expected", "found", "missing") else "left")
    for folder in tree.folders:
        numbers = ["?" if count is None else f"{count:,}" for count in (folder.expected, folder.found, folder.missing)]
        table.add_row(folder.folder, *numbers, folder.brings or folder.note)
    return table


def _holes(tree: Tree) -> None:
    words = {"there": "filled"}
    _some("Holes of the guide's tree:", [f"{path}: {words.get(state, state)}" for path, state in tree.holes.items()])


def _pairs(tree: Tree) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "JSON", "image folder", ""):
        table.add_column(column)
    for pair in tree.pairs:
        table.add_row(pair.name, str(pair.json_path), str(pair.image_folder), _state(pair))
    return table


def _state(pair: Pair) -> str:
    if pair.is_there:
        return ""
    if not pair.is_wanted:
        return "not of this recipe"
    return f"missing: {pair.brings}" if pair.brings else "missing"


def undone(undone: Undone, dry_run: bool, as_json: bool) -> None:
    """What was moved back."""
    if as_json:
        document.put(undone.as_json())
        return
    verb = "would be" if dry_run else "are"
    print(f"{undone.moved:,} files and folders {verb} back where they were")
    if undone.removed:
        print(f"{undone.removed:,} unpacked files {verb} gone")
    _some(
        "Left, since something else stands where they were, or they have changed since:",
        [printable(path) for path in undone.left],
    )
