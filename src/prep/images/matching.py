"""How samples find their images in the index, as SQL: by exact key, or by the last steps of a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from prep import sql
from prep.schema import IMAGE_KEY, ROW

AMBIGUOUS = "ambiguous"  # status of a path whose end agrees with several images

# A path without its extension, marked; what follows another dot is part of a name (`v1.5_0001`).
_STEM = "(regexp_replace({0}, '(?i)\\.(jpe?g|jfif|png|webp|gif|bmp|tiff?)$', '') || '/')"
_FACTS = ("status", "path", "width", "height")
_TYPES = dict.fromkeys(("width", "height", "displayed_width", "displayed_height"), "INTEGER") | {"size_bytes": "BIGINT"}


class Indexed(NamedTuple):
    """The images of one dataset.

    Attributes:
        prefix: how references to them begin; empty, or followed by a slash.
        shards: of their index.
        root: folder, or address on S3, that the index's paths are below.
    """

    prefix: str
    shards: tuple[Path, ...]
    root: str


@dataclass(frozen=True)
class ImageFacts:
    """Common table expressions over the samples and the index.

    Attributes:
        tables: their text: `images` (a key as samples have it, and the facts of its image) and one for each column
            that lists images.
        columns: those columns.
    """

    tables: str
    columns: tuple[str, ...]

    def alias(self, column: str) -> str:
        """The table of a column's lists: `row`, `paths` (in the list's order), `status` (`ok`, or the first other)."""
        return f"images_{self.columns.index(column)}"


def image_facts(
    samples: str, columns: Sequence[str], index: Sequence[Indexed], match: str, more: Sequence[str] = ()
) -> ImageFacts:
    """What the index says of the images of `samples`.

    Args:
        samples: a table expression with `image_key`, `row` and the columns.
        columns: those that hold lists of keys.
        index: where images may be.
        match: `exact`; `stem`: the whole path, whatever its extension; or `suffix`: the whole path, or else the longest
            run of its last steps that some image has, the name alone only where one of the two has no folder.
            Extensions count between images that agree in all the rest.
        more: columns of the index that `images` is to have besides.
    """
    wanted = (*_FACTS, *more)
    known = " UNION ALL ".join(_known(one, wanted) for one in index) or _known(Indexed("", (), ""), wanted)
    if len(index) > 1:  # one key in two datasets is nobody's
        facts = ", ".join(f"if(count(*) = 1, first({fact}), NULL) AS {fact}" for fact in wanted if fact != "status")
        known = (
            f"SELECT {IMAGE_KEY}, if(count(*) = 1, first(status), '{AMBIGUOUS}') AS status, {facts} "
            f"FROM ({known}) GROUP BY {IMAGE_KEY}"
        )
    tables = [f"known AS ({known})"]
    tables += ["images AS (SELECT * FROM known)"] if match == "exact" else _by_ending(samples, columns, match, wanted)
    for number, column in enumerate(columns):
        name = sql.name(column)
        keys = f"SELECT {ROW}, unnest({name}) AS {IMAGE_KEY}, generate_subscripts({name}, 1) AS place FROM {samples}"
        status = "coalesce(arg_min(i.status, k.place) FILTER (coalesce(i.status, '') != 'ok'), 'ok')"
        absent = "bool_or(i.status IS NULL)"
        tables.append(
            f"images_{number} AS (SELECT k.{ROW}, list(i.path ORDER BY k.place) AS paths,"
            f" CASE WHEN {absent} THEN 'missing' ELSE {status} END AS status"
            f" FROM ({keys}) k LEFT JOIN images i ON i.{IMAGE_KEY} = k.{IMAGE_KEY} GROUP BY k.{ROW})"
        )
    return ImageFacts(", ".join(tables), tuple(columns))


def type_of(fact: str) -> str:
    """The DuckDB type of a column of the index."""
    return _TYPES.get(fact, "VARCHAR")


def _known(indexed: Indexed, facts: Sequence[str]) -> str:
    """SQL of a dataset's images, each once: the key as references have it, and its whole path."""
    if not indexed.shards:
        nothing = (f"CAST(NULL AS {type_of(name)}) AS {name}" for name in (IMAGE_KEY, *facts))
        return f"SELECT {', '.join(nothing)} WHERE false"
    prefix = f"{indexed.prefix.strip('/')}/" if indexed.prefix.strip("/") else ""
    root = sql.text(f"{indexed.root}/")
    path = f"if(starts_with(path, '/'), path, {root} || path)"
    once = f"SELECT DISTINCT ON ({IMAGE_KEY}) {IMAGE_KEY}, {', '.join(facts)} FROM {sql.parquet_files(indexed.shards)}"
    return f"SELECT * REPLACE ({sql.text(prefix)} || {IMAGE_KEY} AS {IMAGE_KEY}, {path} AS path) FROM ({once})"


def _by_ending(samples: str, columns: Sequence[str], match: str, known_facts: Sequence[str]) -> list[str]:
    keys = [f"SELECT {IMAGE_KEY} FROM {samples}"]
    keys += [f"SELECT unnest({sql.name(name)}) FROM {samples}" for name in columns]
    wanted = f"SELECT DISTINCT {IMAGE_KEY} FROM ({' UNION ALL '.join(keys)}) WHERE {IMAGE_KEY} IS NOT NULL"
    told = (fact for fact in known_facts if fact != "status")
    facts = ", ".join(f"if(chosen.images = 1, known.{fact}, NULL) AS {fact}" for fact in told)
    return [
        f"wanted AS (SELECT {IMAGE_KEY}, unnest(ends) AS ending, generate_subscripts(ends, 1) AS rank"
        f" FROM (SELECT {IMAGE_KEY}, {_endings(match, is_known=False)} AS ends FROM ({wanted})))",
        f"endings AS (SELECT ending, count(DISTINCT {IMAGE_KEY}) AS images, any_value({IMAGE_KEY}) AS known_key"
        f" FROM (SELECT {IMAGE_KEY}, unnest({_endings(match, is_known=True)}) AS ending FROM known"
        f" WHERE {_name()} IN (SELECT {_name()} FROM wanted)) GROUP BY ending)",
        f"chosen AS (SELECT {IMAGE_KEY}, unnest(arg_min(struct_pack(images, known_key), rank))"
        f" FROM wanted JOIN endings USING (ending) GROUP BY {IMAGE_KEY})",
        f"images AS (SELECT chosen.{IMAGE_KEY}, if(chosen.images > 1, '{AMBIGUOUS}', known.status) AS status, {facts}"
        f" FROM chosen JOIN known ON known.{IMAGE_KEY} = chosen.known_key)",
    ]


def _name() -> str:
    """SQL of a key's last step without its extension: images of other names need not be looked at."""
    return _STEM.format(f"regexp_replace({IMAGE_KEY}, '^.*/', '')")


def _endings(match: str, *, is_known: bool) -> str:
    """SQL of the ends of a path: the whole of it, then the longest first, with and without its extension.

    A slash in front marks the whole, one behind an end without extension: neither is taken for another sort. A name
    alone is marked too, by whether folders stand before it: two paths with folders have to agree in one of these.
    """
    steps = f"list_filter(string_split({IMAGE_KEY}, '/'), lambda step: step NOT IN ('', '.'))"
    whole = f"'/' || array_to_string({steps}, '/')"
    if match == "stem":
        return f"[{whole}, {_STEM.format(whole)}]"
    ends = f"list_transform(range(1, len({steps})), lambda i: array_to_string({steps}[i:], '/'))"
    is_alone = f"len({steps}) = 1"
    marks = f"if({is_alone}, ['any:', 'alone:'], ['any:'])" if is_known else f"[if({is_alone}, 'any:', 'alone:')]"
    names = f"list_transform({marks}, lambda mark: mark || {steps}[-1])"
    both = f"lambda e: [e, {_STEM.format('e')}]"
    return f"list_prepend({whole}, flatten(list_transform({ends} || {names}, {both})))"
