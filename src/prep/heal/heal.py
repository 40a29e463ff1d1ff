"""Heal: join the rows of LLaVA-format lists with the images on disk, and mend what can be mended safely."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from prep import progress, sql
from prep.engine import default_workers, run_tasks
from prep.errors import UsageError, WorkspaceError
from prep.files import hash_file
from prep.heal import content, inventory, journal, matching, rows
from prep.heal.counting import collections, count_duplicates, examples, fill_states, repair_counts, same_bytes
from prep.heal.inventory import Inventory
from prep.heal.journal import Journal, Undone
from prep.heal.repairs import BATCH, Repair, Surgeon
from prep.heal.report import HealReport, ListReport
from prep.heal.rows import Aside, Pair
from prep.trainers import convllava

MEMORY = "250MB"  # of DuckDB; what does not fit goes to the temporary folder
MEMORY_READING = "600MB"  # the same where a row of 16 MB may have to be taken apart
LOOKED_AT_TOGETHER = 32_768  # files
_TASK_FILES = 1024
_THREADS = 8  # that wait for a disk or a network


def tree_pairs(root: Path) -> list[Pair]:
    """Lists and folders of images of ConvLLaVA's tree, of the names whose list is there.

    Args:
        root: the tree, or the folder above it, in which it is called `data`.

    Raises:
        UsageError: both have some.
        WorkspaceError: it has none of them.
    """
    data = root / "data"
    trees: dict[str, list[Pair]] = {}
    for folder in (root, data):
        named = [Pair(folder / each.json_path, folder / each.image_folder) for each in convllava.NAMES.values()]
        if found := [pair for pair in named if pair.json.is_file()]:
            trees[os.path.realpath(folder)] = found
    if not trees:
        raise WorkspaceError(
            f"{data if data.is_dir() else root} has none of ConvLLaVA's lists, such as "
            f"{convllava.NAMES['llava665k'].json_path}",
            "`prep layout convllava` makes the tree; or name a list and a folder with --json and --images.",
        )
    if len(trees) > 1:
        raise UsageError(
            f"{root} and {data} both hold lists of the tree",
            f"Which is meant? `prep heal --root {data}`; or name those of {root} with --json and --images.",
        )
    return next(iter(trees.values()))


def heal(pairs: Sequence[Pair], *, apply: bool = False, move: bool = False, decode: bool = False) -> HealReport:
    """Find what is wrong with the images of every row and, with `apply`, repair it and write the lists anew.

    Args:
        move: give a file that no row names its right name instead of a second one.
        decode: decode every image, rather than look at its ends.

    Raises:
        UsageError: a list or a folder is not there, or a file in the way of one to write.
        WorkspaceError: a list cannot be written.
        DataError: a list is broken, or no list of this format.
        OSError: the disk refuses; with `apply`, run again: what is done stays done.
    """
    bases = top_folders([pair.images for pair in pairs])
    _check_given(pairs, bases)
    with ExitStack() as stack:
        if apply:
            for base in bases:
                stack.enter_context(journal.locked(base))
            _check_targets(pairs, bases)
        connection = stack.enter_context(_database())
        found = [_list(connection, number, base) for number, base in enumerate(bases)]
        _read(connection, pairs, bases)
        matching.follow_links(connection)
        matching.place(connection)
        _check_folders(connection, pairs)
        _match(connection, bases, move, decode)
        journals = [stack.enter_context(closing(Journal(base))) for base in bases] if apply else []
        if apply:
            _repair(connection, bases, journals)
        fill_states(connection)
        report = HealReport(
            [
                ListReport(str(p.json), str(p.images), count_duplicates(connection, n), collections(connection, n))
                for n, p in enumerate(pairs)
            ],
            apply,
            repair_counts(connection),
            examples(connection),
            same_bytes(connection) if decode else None,
            _warnings(bases, found),
            [str(base) for base in bases],
        )
        if apply:
            _write_lists(connection, pairs, bases, journals, report)
        return report


def undo_all(folders: Sequence[Path]) -> list[Undone]:
    """Take back every repair below folders that were given with lists.

    Raises:
        WorkspaceError: no repair was made below one of them.
    """
    return [journal.undo(folder) for folder in top_folders(folders)]


def top_folders(folders: Sequence[Path]) -> list[Path]:
    """The folders that lie in none of the others, each once, in order."""
    real = {os.path.realpath(folder): folder for folder in folders}
    tops = [path for path in real if not any(path != top and _is_below(path, top) for top in real)]
    return [real[path] for path in tops]


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def _check_given(pairs: Sequence[Pair], bases: Sequence[Path]) -> None:
    for pair in pairs:
        if not pair.json.is_file():
            raise UsageError(f"there is no list {pair.json}", "Check what follows --json.")
    for base in bases:
        if not base.is_dir():
            raise UsageError(f"there is no folder {base}", "Check what follows --images.")


def _base_of(pair: Pair, bases: Sequence[Path]) -> tuple[int, str]:
    """Number of the folder that a pair's images are listed in, and where they are below it, with a slash."""
    real = os.path.realpath(pair.images)
    for number, base in enumerate(bases):
        top = os.path.realpath(base)
        if _is_below(real, top):
            below = os.path.relpath(real, top)
            return number, "" if below == "." else f"{below}/"
    raise AssertionError(f"{pair.images} is below none of its folders")


def _check_targets(pairs: Sequence[Pair], bases: Sequence[Path]) -> None:
    """Raise where a list to write would take the place of somebody else's file."""
    targets = [path for pair in pairs for path in (pair.healed, pair.missing)]
    if len({journal.real_path(path) for path in targets}) < len(targets):
        raise UsageError("two lists would be written to one file", "Give lists of different names, each once.")
    ours: dict[str, set[str]] = {}
    for base in bases:
        for name, hashes in journal.written_lists(base).items():
            ours.setdefault(name, set()).update(hashes)
    for path in targets:
        if os.path.lexists(path):
            hashes = ours.get(journal.real_path(path), set())
            if not hashes or not path.is_file() or hash_file(path) not in hashes:
                what = "was changed since" if hashes else "is there and no earlier"
                raise UsageError(f"{path} {what} `prep heal` wrote it", "Move it away; nothing was changed.")
        rows.room_for(path)


@contextmanager
def _database() -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB with its tables in a temporary file."""
    with tempfile.TemporaryDirectory(prefix="prep-heal-") as folder, sql.connect() as connection:
        connection.execute(f"ATTACH {sql.text(folder + '/tables.duckdb')} AS tables; USE tables")
        connection.execute(f"SET temp_directory = {sql.text(folder + '/spill')}; SET memory_limit = '{MEMORY}'")
        connection.execute(f"SET threads = {default_workers()}; SET preserve_insertion_order = false")
        connection.execute(inventory.TABLES + rows.TABLES + matching.OUTCOMES)
        yield connection


def _list(connection: duckdb.DuckDBPyConnection, number: int, base: Path) -> Inventory:
    with progress.bar(f"list {base}", None, "files") as advance:
        return inventory.take_inventory(connection, number, base, advance)


def _read(connection: duckdb.DuckDBPyConnection, pairs: Sequence[Pair], bases: Sequence[Path]) -> None:
    connection.execute(f"SET memory_limit = '{MEMORY_READING}'")
    for number, pair in enumerate(pairs):
        with progress.bar(f"read {pair.json.name}", None, "rows") as advance:
            rows.read_rows(connection, number, pair, *_base_of(pair, bases), advance)
    connection.execute(f"SET memory_limit = '{MEMORY}'")


def _match(connection: duckdb.DuckDBPyConnection, bases: Sequence[Path], move: bool, decode: bool) -> None:
    """Fill `outcomes`."""
    matching.find_candidates(connection)
    schema = pa.table({field.name: pa.array([], field.type) for field in content.SCHEMA})
    connection.register("nothing", schema)
    connection.execute("CREATE TABLE seen AS SELECT * FROM nothing")
    connection.unregister("nothing")
    _look(connection, [os.path.realpath(base) for base in bases], decode)
    matching.judge(connection, move=move)


def _look(connection: duckdb.DuckDBPyConnection, roots: Sequence[str], decode: bool) -> None:
    """Fill `seen` with what the files are that rows name, or that may be meant."""
    query = f"""
        SELECT base, path FROM placed WHERE is_file
        UNION SELECT base, source FROM candidates WHERE number <= {matching.MAX_CANDIDATES} ORDER BY base, path
    """
    connection.execute(f"CREATE TABLE looks AS {query}")
    total = connection.execute("SELECT count(*) FROM looks").fetchall()[0][0]
    cursor = _cursor(connection, "SELECT base, path FROM looks ORDER BY base, path")
    with progress.bar("look at images", total, "images") as advance:
        while names := cursor.fetchmany(LOOKED_AT_TOGETHER):
            tasks = [
                content.Look(names[start : start + _TASK_FILES], roots, decode)
                for start in range(0, len(names), _TASK_FILES)
            ]
            workers = default_workers() if decode else _THREADS
            batches = []
            for batch in run_tasks(content.look_at_all, tasks, workers=workers, threads=not decode):
                batches.append(batch)
                advance(len(batch))
            connection.register("batches", pa.Table.from_batches(batches))
            connection.execute("INSERT INTO seen SELECT * FROM batches")
            connection.unregister("batches")


def _check_folders(connection: duckdb.DuckDBPyConnection, pairs: Sequence[Pair]) -> None:
    """Raise where a list's folder is a step off: that is mended by naming another one, not by a link for each row."""
    for number, pair in enumerate(pairs):
        refs = f"FROM refs r JOIN placed p ON p.base = r.base AND p.path = r.path WHERE r.pair = {number}"
        first = connection.execute(f"SELECT r.image {refs} AND NOT p.is_file ORDER BY r.row LIMIT 5").fetchall()
        if not first or connection.execute(f"SELECT count(*) {refs} AND p.is_file").fetchall()[0][0]:
            continue
        above = pair.images.absolute().parent
        if all((above / image).is_file() for (image,) in first):
            raise UsageError(
                f"no image of {pair.json} is below {pair.images}, but the first are below {above}",
                f"Give --images {above}",
            )


def _repair(connection: duckdb.DuckDBPyConnection, bases: Sequence[Path], journals: Sequence[Journal]) -> None:
    """Do every repair; what fails is lost, with the reason."""
    total = connection.execute(f"SELECT count(*) FROM outcomes WHERE state = '{matching.REPAIR}'").fetchall()[0][0]
    with progress.bar("repair images", total, "images") as advance:
        for number, base in enumerate(bases):
            cursor = _cursor(
                connection,
                f"""SELECT action, path, source, cause FROM outcomes
                    WHERE state = '{matching.REPAIR}' AND base = {number} ORDER BY path""",
            )
            with Surgeon(Path(os.path.realpath(base)), journals[number]) as surgeon:
                while batch := [Repair(*values) for values in cursor.fetchmany(BATCH)]:
                    _mark_failed(connection, number, surgeon.repair(batch))
                    advance(len(batch))


def _mark_failed(connection: duckdb.DuckDBPyConnection, base: int, failed: Sequence[tuple[Repair, str]]) -> None:
    if failed:
        paths, reasons = [repair.path for repair, _ in failed], [why for _, why in failed]
        connection.register("failed", pa.table({"path": paths, "why": reasons}))
        connection.execute(f"""
            UPDATE outcomes SET state = '{matching.LOST}', cause = 'repair_failed', action = NULL,
                detail = outcomes.cause || ': ' || failed.why
            FROM failed WHERE outcomes.base = {base} AND outcomes.path = failed.path
        """)
        connection.unregister("failed")


def _cursor(connection: duckdb.DuckDBPyConnection, query: str) -> duckdb.DuckDBPyConnection:
    """The rows of a query, to be read while `connection` does other things."""
    cursor = connection.cursor()
    cursor.execute("USE tables")
    cursor.execute(query)
    return cursor


def _warnings(bases: Sequence[Path], found: Sequence[Inventory]) -> list[str]:
    warnings = []
    for base, each in zip(bases, found, strict=True):
        if each.bad_names:
            warnings.append(f"{each.bad_names:,} names below {base} are not UTF-8: no JSON can name them")
        if each.unreadable:
            shown = ", ".join(each.unreadable[:3]) + (", ..." if len(each.unreadable) > 3 else "")
            warnings.append(f"{len(each.unreadable):,} folders below {base} cannot be listed: {shown}")
    return warnings


def _write_lists(
    connection: duckdb.DuckDBPyConnection,
    pairs: Sequence[Pair],
    bases: Sequence[Path],
    journals: Sequence[Journal],
    report: HealReport,
) -> None:
    """Write every list anew."""
    for number, pair in enumerate(pairs):
        book = journals[_base_of(pair, bases)[0]]
        with (
            progress.bar(f"write {pair.healed.name}", None, "rows"),
            rows.written(pair, _asides(connection, number), is_all_read=rows.is_all_read(connection, number)) as files,
        ):
            book.write({"do": journal.WRITE, "to": journal.real_path(path), "sha256": sha} for path, sha in files)
        report.lists[number].healed, report.lists[number].missing = str(pair.healed), str(pair.missing)
    report.journals = [str(book.path) for book in journals if not book.is_empty]


def _asides(connection: duckdb.DuckDBPyConnection, number: int) -> Iterator[Aside]:
    """Rows of a list that do not go into the new one as they stand, in order."""
    is_lost = f"state = '{matching.LOST}'"
    cursor = _cursor(
        connection,
        f"""SELECT row, if({is_lost}, cause, NULL), coalesce(detail, ''), image FROM states
            WHERE pair = {number} AND ({is_lost} OR is_bare) ORDER BY row""",
    )
    while found := cursor.fetchmany(BATCH):
        for values in found:
            yield Aside(*values)
