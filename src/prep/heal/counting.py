"""Rows counted by what became of their images."""

from __future__ import annotations

import duckdb

from prep.heal.matching import FOUND, KEPT, LOST, REPAIR
from prep.heal.report import Collection, Example
from prep.heal.rows import UNSAFE_PATH

TEXT_ONLY, NO_PATH = "(text only)", "(no path)"
MAX_COLLECTIONS = 40  # of a list; with more, fewer steps of their folders count
EXAMPLES = 3  # of a cause
LOOKED_THROUGH = 20  # for them, as several rows may name one image
MAX_PLACES = 1_000_000  # of images in a row
STATES = [FOUND, KEPT, REPAIR, LOST]  # from good to bad


def fill_states(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the table `states`: each row, with the worst of what its images are.

    Aggregates are of numbers alone: those of texts cannot be written to the disk where memory is short.
    """
    folder = "regexp_replace(regexp_replace(image, '[^/]*$', ''), '(^|/)[0-9]+/(.|\\n)*$|/$', '')"
    connection.execute(f"""
        CREATE TABLE told AS
        SELECT f.pair, f.row, f.place, f.image, coalesce(o.detail, '') AS detail,
               if(f.problem IS NULL, o.state, '{LOST}') AS state, coalesce(f.problem, o.cause) AS cause
        FROM refs f LEFT JOIN outcomes o ON f.problem IS NULL AND o.base = f.base AND o.path = f.path;
        CREATE TABLE states AS
        SELECT r.pair, r.row, r.is_bare, t.detail, t.image,
               if(r.problem IS NULL, coalesce(t.state, '{FOUND}'), '{LOST}') AS state,
               coalesce(r.problem, t.cause) AS cause,
               CASE WHEN t.cause = '{UNSAFE_PATH}' OR r.problem IS NOT NULL THEN '{NO_PATH}'
                    WHEN t.image IS NULL THEN '{TEXT_ONLY}' ELSE {folder} END AS folder
        FROM rows r
        LEFT JOIN (SELECT pair, row,
                          min(place - {MAX_PLACES} * list_position({STATES}, state)) AS worst FROM told GROUP BY ALL) w
            ON w.pair = r.pair AND w.row = r.row
        LEFT JOIN told t ON t.pair = r.pair AND t.row = r.row
            AND t.place - {MAX_PLACES} * list_position({STATES}, t.state) = w.worst
    """)


def collections(connection: duckdb.DuckDBPyConnection, pair: int) -> list[Collection]:
    """A list's rows by the first steps of their images' folder."""
    found: dict[str, Collection] = {}
    for name, state, cause, count in connection.execute(f"""
        WITH names AS (SELECT folder, array_to_string(list_filter(string_split(folder, '/'),
                              lambda step: step NOT IN ('', '.'))[:2], '/') AS two,
                              split_part(two, '/', 1) AS one
                       FROM (SELECT DISTINCT folder FROM states WHERE pair = {pair})),
             steps AS (SELECT CASE WHEN count(DISTINCT two) <= {MAX_COLLECTIONS} THEN 2
                                   WHEN count(DISTINCT one) <= {MAX_COLLECTIONS} THEN 1 ELSE 0 END AS steps FROM names)
        SELECT coalesce(nullif(CASE WHEN folder LIKE '(%)' THEN folder WHEN steps = 2 THEN two
                                    WHEN steps = 1 THEN one END, ''), '.') AS name, state, cause, count(*)
        FROM states JOIN names USING (folder), steps WHERE pair = {pair} GROUP BY ALL ORDER BY ALL
    """).fetchall():
        collection = found.setdefault(name, Collection(name))
        collection.rows += count
        collection.found += count * (state in (FOUND, KEPT))
        collection.repaired += count * (state == REPAIR)
        collection.lost += count * (state == LOST)
        if cause is not None:
            collection.causes[cause] = collection.causes.get(cause, 0) + count
    for collection in found.values():
        collection.causes = dict(sorted(collection.causes.items()))
    return list(found.values())


def count_duplicates(connection: duckdb.DuckDBPyConnection, pair: int) -> int:
    """Rows that are, word for word, an earlier row of their list."""
    query = f"SELECT count(digest) - count(DISTINCT digest) FROM rows WHERE pair = {pair}"
    return int(connection.execute(query).fetchall()[0][0])


def repair_counts(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """What is done -> number of files."""
    query = f"SELECT action, count(*) FROM outcomes WHERE state = '{REPAIR}' GROUP BY action ORDER BY action"
    return dict(connection.execute(query).fetchall())


def examples(connection: duckdb.DuckDBPyConnection) -> list[Example]:
    """The first few images of each cause, in the order of rows."""
    found: dict[str, dict[str, Example]] = {}
    for cause, images in connection.execute(f"""
        SELECT coalesce(f.problem, o.cause) AS cause,
               arg_min(struct_pack(f.image, o.action, o.source, detail := coalesce(o.detail, '')),
                       (f.pair, f.row, f.place), {LOOKED_THROUGH})
        FROM refs f LEFT JOIN outcomes o ON f.problem IS NULL AND o.base = f.base AND o.path = f.path
        WHERE coalesce(f.problem, o.cause) IS NOT NULL GROUP BY ALL ORDER BY cause
    """).fetchall():
        few = found.setdefault(cause, {})
        for each in images:
            if len(few) < EXAMPLES:
                few.setdefault(each["image"], Example(cause, *each.values()))
    return [example for few in found.values() for example in few.values()]


def same_bytes(connection: duckdb.DuckDBPyConnection) -> int:
    """Names of files with the bytes of a file of another name."""
    query = "SELECT count(*) - count(DISTINCT digest) FROM seen WHERE digest IS NOT NULL"
    return int(connection.execute(query).fetchall()[0][0])
