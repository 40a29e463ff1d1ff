"""Rows counted by what became of their images."""

from __future__ import annotations

import duckdb

from prep.heal.matching import FOUND, KEPT, LOST, REPAIR
from prep.heal.report import Collection, Example
from prep.heal.rows import UNSAFE_PATH

TEXT_ONLY, NO_PATH = "(text only)", "(no path)"
MAX_COLLECTIONS = 40  # of a list; with more, fewer steps of their folders count
EXAMPLES = 3  # of a cause


def fill_states(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the table `states`: each row, with the worst of what its images are."""
    connection.execute(f"""
        CREATE TABLE states AS
        SELECT r.pair, r.row, r.is_bare, CASE WHEN r.problem IS NOT NULL THEN '{LOST}' ELSE coalesce(w.state, '{FOUND}')
               END AS state, coalesce(r.problem, w.cause) AS cause, w.detail, w.image,
               CASE WHEN w.cause = '{UNSAFE_PATH}' THEN '{NO_PATH}'
                    ELSE coalesce(w.folder, if(r.problem IS NULL, '{TEXT_ONLY}', '{NO_PATH}')) END AS folder
        FROM rows r LEFT JOIN (
            SELECT pair, row, worst.*, folder FROM (
                SELECT pair, row, arg_max(struct_pack(state, cause, detail, image), (severity, -place)) AS worst,
                       arg_min(folder, place) AS folder
                FROM (
                    SELECT f.pair, f.row, f.place, f.image, coalesce(o.detail, '') AS detail,
                           if(f.problem IS NULL, o.state, '{LOST}') AS state, coalesce(f.problem, o.cause) AS cause,
                           list_position(['{FOUND}', '{KEPT}', '{REPAIR}', '{LOST}'], state) AS severity,
                           regexp_replace(regexp_replace(f.image, '[^/]*$', ''), '(^|/)[0-9]+/(.|\\n)*$|/$', '')
                           AS folder
                    FROM refs f LEFT JOIN outcomes o ON f.problem IS NULL AND o.base = f.base AND o.path = f.path)
                GROUP BY pair, row)) w
        ON w.pair = r.pair AND w.row = r.row
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
    found = connection.execute(f"""
        SELECT cause, image, action, source, detail FROM (
            SELECT coalesce(f.problem, o.cause) AS cause, f.image, o.action, o.source, coalesce(o.detail, '') AS detail,
                   row_number() OVER (PARTITION BY coalesce(f.problem, o.cause) ORDER BY f.pair, f.row, f.place) AS nth
            FROM (SELECT problem, base, path, min(pair) AS pair, arg_min(row, (pair, row)) AS row, min(place) AS place,
                         min(image) AS image
                  FROM refs WHERE problem IS NOT NULL
                  OR path IN (SELECT path FROM outcomes WHERE cause IS NOT NULL) GROUP BY problem, base, path) f
            LEFT JOIN outcomes o ON f.problem IS NULL AND o.base = f.base AND o.path = f.path
            WHERE coalesce(f.problem, o.cause) IS NOT NULL)
        WHERE nth <= {EXAMPLES} ORDER BY cause, nth
    """).fetchall()
    return [Example(*values) for values in found]


def same_bytes(connection: duckdb.DuckDBPyConnection) -> int:
    """Names of files with the bytes of a file of another name."""
    query = "SELECT count(*) - count(DISTINCT digest) FROM seen WHERE digest IS NOT NULL"
    return int(connection.execute(query).fetchall()[0][0])
