"""Every image that rows name beside what is on disk, as SQL: found, to be repaired, or lost, and why.

A file is a candidate for a missing image where their names agree but for letter case, escapes, zeros before a final
number, or the extension, and their folders agree or one has a step more: a wrapper, or a repetition. A file is taken
where it is the only candidate of an image, whatever state others are in, and that image its only one, and where no row
names it: rather is a row lost than given another's picture.
"""

from __future__ import annotations

import duckdb

from prep.heal.content import OK
from prep.heal.inventory import unescape

FOUND, KEPT, REPAIR, LOST = "found", "kept", "repair", "lost"  # states; `kept` is found, with something to say
LINK, MOVE, ENCODE = "link", "move", "encode"
WRONG_FORMAT = "wrong_format"
MISSING, AMBIGUOUS, NO_EXTENSION = "missing", "ambiguous", "no_extension"
OUTSIDE, CLAIMED, PADDING_UNCLEAR = "outside", "claimed", "padding_unclear"
MAX_CANDIDATES = 8  # for one image; whatever they are, nothing is guessed among more
_MAX_STEPS = 16  # of a path, of which one may be too many
_MAX_LINKS = 16  # to folders, one inside the other
_WRAPPERS = [  # folders that come and go around pictures, with _ for -
    *("images", "image", "imgs", "img", "data", "playground", "sharegpt4v", "convllava", "image_chunks"),
    "train_val_images",
]

_SUFFIX = r"\.(?i:jpg|jpeg|jpe|jfif|png|gif|webp|bmp|tif|tiff)$"
_FORMATS = (
    "CASE {0} WHEN '.png' THEN ['PNG'] WHEN '.gif' THEN ['GIF'] WHEN '.webp' THEN ['WEBP'] WHEN '.bmp' THEN ['BMP']"
    " WHEN '.tif' THEN ['TIFF'] WHEN '.tiff' THEN ['TIFF'] WHEN '' THEN NULL ELSE ['JPEG', 'MPO'] END"
)
_IS_JPEG = "{0} IN ('.jpg', '.jpeg', '.jpe', '.jfif')"

OUTCOMES = """
    CREATE TABLE outcomes (base INTEGER, path VARCHAR, state VARCHAR, cause VARCHAR, action VARCHAR, source VARCHAR,
                           detail VARCHAR);
"""


def follow_links(connection: duckdb.DuckDBPyConnection) -> None:
    """Let paths through links to folders lead to where the files are listed."""
    links = connection.execute("SELECT base, path, target FROM links ORDER BY length(path) DESC").fetchall()
    for _ in range(_MAX_LINKS if links else 0):
        changed = 0
        for base, path, target in links:
            start = "" if target == "." else f"{target}/"
            changed += connection.execute(
                "UPDATE refs SET path = ? || substr(path, ?) WHERE base = ? AND starts_with(path, ?)",
                [start, len(path) + 2, base, f"{path}/"],
            ).fetchall()[0][0]
        if not changed:
            return


def place(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the table `placed`: each image that is named, once, and what is under that name."""
    connection.execute("""
        CREATE TABLE placed AS
        SELECT w.base, w.path, f.path IS NOT NULL AS is_file, o.kind,
               coalesce(f.is_outside, false) OR EXISTS (
                   SELECT 1 FROM outside WHERE outside.base = w.base AND starts_with(w.path, outside.path || '/')
               ) AS is_outside
        FROM (SELECT DISTINCT base, path FROM refs WHERE problem IS NULL) w
        LEFT JOIN files f ON f.base = w.base AND f.path = w.path
        LEFT JOIN others o ON o.base = w.base AND o.path = w.path
    """)


def find_candidates(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the table `candidates`: files that may be an image that is not where its rows say, and how they differ."""
    connection.create_function("unescaped", unescape, [duckdb.sqltypes.VARCHAR], duckdb.sqltypes.VARCHAR)
    absent = "SELECT base, path FROM placed WHERE NOT is_file AND kind IS NULL"
    files = "SELECT base, path, is_outside FROM files WHERE EXISTS (FROM absent)"
    connection.execute(f"""
        CREATE TABLE absent AS {_parts(absent)};
        CREATE TABLE near AS SELECT * FROM ({_parts(files, "is_outside")}) SEMI JOIN absent USING (base, key);
        CREATE TABLE pairs AS
            SELECT a.base, a.path, n.path AS source, false AS is_moved
            FROM absent a JOIN near n ON n.base = a.base AND n.key = a.key AND n.dir_key = a.dir_key
            UNION ALL
            SELECT a.base, a.path, n.path, true FROM absent a JOIN ({_shorter("near")}) n
                ON n.base = a.base AND n.key = a.key AND n.dir_key = a.dir_key
            UNION ALL
            SELECT a.base, a.path, n.path, true FROM ({_shorter("absent")}) a JOIN near n
                ON n.base = a.base AND n.key = a.key AND n.dir_key = a.dir_key;
        CREATE TABLE candidates AS
            SELECT *, count(*) OVER (PARTITION BY base, path) AS number,
                   count(*) OVER (PARTITION BY base, source) AS wanted FROM (
                SELECT p.*, n.is_outside, a.suffix, n.suffix AS source_suffix, {_DIFFERENCES}
                FROM pairs p JOIN absent a ON a.base = p.base AND a.path = p.path
                JOIN near n ON n.base = p.base AND n.path = p.source);
        DROP TABLE pairs;
    """)


# A file in `images/` may be of any collection, so it is not taken for one in `gqa/images/`: nothing says it is GQA's.
_DIFFERENCES = """
    NOT is_moved AND lower(a.dir) <> lower(n.dir)
        OR lower(a.stem) <> lower(n.stem) AND (a.plain <> a.stem OR n.plain <> n.stem) AS is_escaped,
    lower(a.plain) <> lower(n.plain) AS is_padding,
    a.plain <> n.plain AND lower(a.plain) = lower(n.plain)
        OR a.suffix <> n.suffix AND lower(a.suffix) = lower(n.suffix)
        OR NOT is_moved AND a.dir <> n.dir AND lower(a.dir) = lower(n.dir) AS is_case,
    lower(a.suffix) <> lower(n.suffix) AS is_extension,
    a.suffix = '' AS has_no_suffix,
    is_moved AND n.dir_key = regexp_replace(a.dir_key, '^[^/]*/?', '')
        AND regexp_matches(n.dir_key, '^((images?|imgs?|data|train|val|test)(/|$))*$') AS is_anybodys,
    coalesce(nullif(array_to_string(list_filter([
        if(is_moved, 'folder', ''), if(is_escaped, 'escaped', ''), if(is_case, 'case', ''),
        if(is_padding, 'padding', ''), if(is_extension, 'extension', '')], lambda x: x <> ''), '+'), ''),
        'escaped') AS cause  -- as Å and the sign for Ångström, whose lower case is one
"""


def _parts(table: str, more: str = "") -> str:
    """Paths in the parts that are compared: the folder, the name without its suffix, and keys that leave out whatever
    may differ."""
    plain = "CASE WHEN regexp_matches({0}, '[#%+]|[^\\x00-\\x7f]') THEN unescaped({0}) ELSE {0} END"
    return f"""
        SELECT *, lower({plain.format("dir")}) AS dir_key, {plain.format("stem")} AS plain,
               regexp_replace(lower(plain), '(^|[-_ ])0*([0-9]+)$', '\\1\\2') AS key
        FROM (SELECT *, regexp_extract(name, '{_SUFFIX}') AS suffix, left(name, length(name) - length(suffix)) AS stem
              FROM (SELECT base, path, {f"{more}, " if more else ""}regexp_extract(path, '[^/]*$') AS name,
                           left(path, greatest(length(path) - length(name) - 1, 0)) AS dir FROM ({table})))
    """


def _shorter(table: str) -> str:
    """The same paths with one step of their folder left out that is a wrapper or like one beside it, each once."""
    steps, spelled = "string_split(dir_key, '/')", "string_split(replace(dir_key, '-', '_'), '/')"
    may_go = f"""NOT starts_with({steps}[i], '.') AND coalesce(list_contains({_WRAPPERS}, {spelled}[i])
        OR {spelled}[i] = {spelled}[i + 1] OR {spelled}[i] = {spelled}[i - 1], false)"""
    places = f"list_filter(range(1, least(len({steps}), {_MAX_STEPS}) + 1), lambda i: {may_go})"
    without = f"array_to_string(list_concat({steps}[:i - 1], {steps}[i + 1:]), '/')"
    some = f"list_distinct(list_transform({places}, lambda i: {without}))"
    folders = (
        f"SELECT dir_key, unnest({some}) AS shorter FROM (SELECT DISTINCT dir_key FROM {table} WHERE dir_key <> '')"
    )
    return f"SELECT t.base, t.path, t.key, f.shorter AS dir_key FROM {table} t JOIN ({folders}) f USING (dir_key)"


def judge(connection: duckdb.DuckDBPyConnection, *, move: bool) -> None:
    """Fill `outcomes` from `placed`, `candidates` and what `seen` says of the files.

    Args:
        move: move a file that no row names, rather than link it.
    """
    connection.execute(f"""
        INSERT INTO outcomes
        SELECT base, path,
               CASE WHEN status <> '{OK}' THEN '{LOST}' WHEN fits THEN '{FOUND}'
                    WHEN is_jpeg AND NOT is_outside THEN '{REPAIR}' ELSE '{KEPT}' END AS state,
               CASE WHEN status <> '{OK}' THEN status WHEN NOT fits THEN '{WRONG_FORMAT}' END,
               CASE WHEN state = '{REPAIR}' THEN '{ENCODE}' END, CASE WHEN state = '{REPAIR}' THEN path END,
               CASE WHEN status <> '{OK}' THEN detail WHEN NOT fits THEN 'its content is ' || format ELSE '' END
        FROM (SELECT p.*, s.*, {_IS_JPEG.format("suffix")} AS is_jpeg,
                     coalesce(list_contains({_FORMATS.format("suffix")}, s.format), true) AS fits
              FROM (SELECT *, lower(regexp_extract(path, '{_SUFFIX}')) AS suffix FROM placed WHERE is_file) p
              JOIN (SELECT base, path, status, format, detail FROM seen) s ON s.base = p.base AND s.path = p.path);
        INSERT INTO outcomes SELECT base, path, '{LOST}', kind, NULL, NULL, '' FROM placed
            WHERE NOT is_file AND kind IS NOT NULL;
    """)
    _judge_absent(connection, MOVE if move else LINK)


def _judge_absent(connection: duckdb.DuckDBPyConnection, do: str) -> None:
    """The same for images that are not where their rows say."""
    _find_unclear(connection)
    is_ok = f"s.status = '{OK}'"
    best = f"arg_min(c, (length(c.cause), c.source)) FILTER ({is_ok})"
    # Single candidates are the rule; only of the others there is something to put together.
    connection.execute(f"""
        CREATE TABLE choices AS
        SELECT c.base, c.path, c.number, [c.source] AS sources, 1 AS different, s.status,
               if({is_ok}, c, NULL) AS best, if({is_ok}, s.format, NULL) AS format
        FROM candidates c LEFT JOIN seen s ON s.base = c.base AND s.path = c.source WHERE c.number = 1
        UNION ALL
        SELECT c.base, c.path, any_value(c.number), list_sort(list(c.source))[:3],
               count(DISTINCT coalesce(s.identity, c.source)), min(s.status),
               {best}, arg_min(s.format, (length(c.cause), c.source)) FILTER ({is_ok})
        FROM candidates c LEFT JOIN seen s ON s.base = c.base AND s.path = c.source
        WHERE c.number > 1 GROUP BY c.base, c.path;
        INSERT INTO outcomes
        SELECT base, path, if(is_lost, '{LOST}', '{REPAIR}'), coalesce(problem, best.cause),
               CASE WHEN is_lost THEN NULL
                    WHEN {_IS_JPEG.format("suffix")} AND format NOT IN ('JPEG', 'MPO') THEN '{ENCODE}'
                    ELSE '{do}' END,
               if(is_lost, NULL, best.source),
               CASE WHEN is_lost AND sources IS NOT NULL THEN
                    array_to_string(sources, ', ') || if(number > 3, ', ...', '')
                    || if(problem = '{MISSING}', ' (' || status || ')', '') ELSE '' END
        FROM (SELECT *, problem IS NOT NULL AS is_lost FROM (
            SELECT a.base, a.path, lower(a.suffix) AS suffix, c.* EXCLUDE (base, path), CASE
                WHEN number > {MAX_CANDIDATES} OR different > 1 THEN '{AMBIGUOUS}'
                WHEN best IS NULL THEN '{MISSING}'
                WHEN best.has_no_suffix AND best.is_extension THEN '{NO_EXTENSION}'
                WHEN best.is_anybodys THEN '{AMBIGUOUS}'
                WHEN best.is_outside OR p.is_outside THEN '{OUTSIDE}'
                WHEN named.path IS NOT NULL THEN '{CLAIMED}'
                WHEN best.wanted > 1 THEN '{AMBIGUOUS}'
                WHEN u.path IS NOT NULL THEN '{PADDING_UNCLEAR}' END AS problem
            FROM absent a JOIN placed p ON p.base = a.base AND p.path = a.path
            LEFT JOIN choices c ON c.base = a.base AND c.path = a.path
            LEFT JOIN unclear u ON u.base = a.base AND u.path = a.path AND u.source = best.source
            LEFT JOIN placed named ON named.base = a.base AND named.path = best.source));
    """)


def _find_unclear(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the table `unclear`: candidates whose number has other zeros, in a folder where that may be another name.

    Numbers that are padded all have one width; names such as ISBN have several, and there a zero is part of the name.
    """
    digits = "regexp_extract(lower(plain), '(?s)^(.*?)([0-9]+)$', ['head', 'digits'])"
    widths = """SELECT base, dir_key, number.head AS head, min(length(number.digits)) <> max(length(number.digits))
                AS is_mixed FROM (SELECT *, {digits} AS number FROM ({parts})) WHERE number.digits <> '' GROUP BY ALL"""
    connection.execute("CREATE TABLE unclear (base INTEGER, path VARCHAR, source VARCHAR)")
    if not connection.execute("SELECT count(*) FROM candidates WHERE is_padding").fetchall()[0][0]:
        return
    named = widths.format(digits=digits, parts=_parts("SELECT base, path FROM placed"))
    there = widths.format(digits=digits, parts=_parts("SELECT base, path FROM files"))
    connection.execute(f"""
        INSERT INTO unclear
        SELECT c.base, c.path, c.source FROM candidates c
        JOIN (SELECT *, {digits} AS number FROM absent) a ON a.base = c.base AND a.path = c.path
        JOIN (SELECT *, {digits} AS number FROM near) n ON n.base = c.base AND n.path = c.source
        JOIN ({named}) wa ON wa.base = a.base AND wa.dir_key = a.dir_key AND wa.head = a.number.head
        JOIN ({there}) wn ON wn.base = n.base AND wn.dir_key = n.dir_key AND wn.head = n.number.head
        WHERE c.is_padding AND (starts_with(a.number.digits, '0') AND wa.is_mixed
                                OR starts_with(n.number.digits, '0') AND wn.is_mixed)
    """)
