"""What `score` writes and `filter` reads: a table's scores by one scorer, where they come from, and which count."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prep import sql
from prep.config import Rules, Table
from prep.errors import ConfigError, DataError, PrepError, UsageError
from prep.files import hash_file
from prep.manifest import Manifest, Shard, fingerprint, read_finished
from prep.schema import AESTHETIC_SCORE, ROW, Kind
from prep.scorers.scorer import CLIP_SIMILARITY, OK, SCORERS, Passport, ScorerInfo
from prep.stages.shards import fingerprint_in
from prep.trainers.lavida_o import S3_SCHEME
from prep.workspace import Workspace

VERSION = 1  # raise when the same inputs give other bytes
PASSPORTS = "prep.passports"  # in a score shard's metadata: those of its rows, oldest first, as a JSON list
PUBLISHED = "published"  # the rule `scorer` that takes the publisher's scores alone
FORCED = ".forced"  # beside shards of which all are to be made anew: the names of those that have been
DIFFERENCE = "LAION's V1 is a linear head and its V2 an MLP: 5.67 means something else on each"


def can_score(kind: Kind, info: ScorerInfo) -> bool:
    """Whether samples of a kind have what the scorer looks at, and a place for what it gives."""
    has_place = info.column == CLIP_SIMILARITY or kind.column(info.column) is not None
    return has_place and kind.image_path is not None and (kind.prompt is not None or not info.needs_text)


def below_store(path: str, image_root: str) -> str:
    """SQL of an image's path from the image store on, so that scores outlive the moving of a workspace."""
    roots = dict.fromkeys((f"{image_root}/", f"{image_root.removeprefix(S3_SCHEME)}/"))
    cases = " ".join(
        f"WHEN starts_with({path}, {sql.text(root)}) THEN substr({path}, {len(root) + 1})" for root in roots
    )
    return f"CASE {cases} ELSE {path} END"


def text_name(text: str) -> str:
    """SQL of a short name for a text: equal texts, equal names."""
    return f"substr(sha256({text}), 1, 32)"


def shard_task(passport: Passport, samples_sha256: str) -> str:
    """Fingerprint of a score shard; of one made from embeddings also of the samples whose order they are in."""
    return fingerprint([VERSION, passport.identity, samples_sha256 if passport.is_of_embeddings else ""])


def is_of(task: str | None, passports: Iterable[Passport], samples_sha256: str) -> bool:
    """Whether a score shard with this fingerprint and these passports holds for a shard of samples."""
    return task in {shard_task(passport, samples_sha256) for passport in passports}


def passports_in(path: Path) -> tuple[Passport, ...]:
    """The passports that a score shard carries; none for a file that is not there, not ours or not readable."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path).metadata or {}
        return _passports(json.loads(metadata.get(PASSPORTS.encode(), b"[]")))
    except (pa.ArrowException, OSError, ValueError, TypeError):
        return ()


def describe_shard(path: Path) -> Shard:
    """A shard of scores, with its rows by status.

    Raises:
        DataError: it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        statuses = pq.read_table(path, columns=["status"])["status"].value_counts().to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged: {error}", "Delete it; `prep score` computes its scores anew.") from error
    counts = {status["values"]: status["counts"] for status in statuses}
    task = fingerprint_in(path) or ""
    return Shard(path.name, task, sum(counts.values()), path.stat().st_size, hash_file(path), counts)


def passports_of(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Every passport in shards of scores, once."""
    found = {passport.as_json(): passport for path in paths for passport in passports_in(path)}
    return [asdict(found[text]) for text in sorted(found)]


def finished_scores(folder: Path) -> Manifest | None:
    """The manifest of finished scores; None while some are to be computed anew."""
    return None if (folder / FORCED).exists() else read_finished(folder)


def scores_there(folder: Path) -> Manifest | None:
    """What a manifest would say of the shards that an unfinished run, or the one before it, left; None without any."""
    paths = [path for path in sorted(folder.glob("*.parquet")) if passports_in(path)]
    shards = tuple(describe_shard(path) for path in paths)
    return Manifest("score", shards, {"passports": passports_of(paths)}) if shards else None


def _passports(data: Iterable[Mapping[str, Any]]) -> tuple[Passport, ...]:
    return tuple(Passport(**passport) for passport in data)


# -- which scores count ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Computed:
    """A table's scores by one scorer; while a run is unfinished, those that are there."""

    info: ScorerInfo
    folder: Path
    manifest: Manifest

    @property
    def passports(self) -> tuple[Passport, ...]:
        """Those of all its rows."""
        return _passports(self.manifest.facts["passports"])

    @property
    def scale(self) -> str:
        """What its scores can be compared with."""
        return self.passports[0].scale

    def shards(self, samples: Manifest) -> dict[str, Shard]:
        """Its shards by name; of embeddings only those of these very samples, whose order they are in."""
        shas = {shard.name: shard.sha256 for shard in samples.shards}
        return {
            shard.name: shard
            for shard in self.manifest.shards
            if shard.name in shas and is_of(shard.task, self.passports, shas[shard.name])
        }


@dataclass(frozen=True)
class ScoreColumn:
    """Where `filter` takes a column of scores from, if not from the publisher alone.

    Attributes:
        computed: the scores; None where there are none of those that are wanted.
        keeps_published: the publisher's go before them.
    """

    name: str
    computed: Computed | None
    keeps_published: bool

    @property
    def facts(self) -> dict[str, Any]:
        """For the manifest of `filter`."""
        by = {} if self.computed is None else {"scorer": self.computed.info.name, "scale": self.computed.scale}
        return by | {PUBLISHED: self.keeps_published}


@dataclass(frozen=True)
class ShardScores:
    """One column of scores for one shard of samples, as plain data for a worker.

    Attributes:
        shard, sha256: the scores; None where there are none of this shard.
        in_samples: the samples have a column of that name.
        keeps_published: what the samples say goes first.
        prompt: the column whose text has to be the one that was scored.
    """

    column: str
    shard: Path | None
    sha256: str
    in_samples: bool
    keeps_published: bool
    prompt: str | None

    @property
    def how(self) -> list[object]:
        """What a shard of `filter` depends on."""
        return [self.column, self.sha256, self.keeps_published]


def find_scores(
    workspace: Workspace, name: str, normalized: Manifest, rules: Rules
) -> tuple[list[ScoreColumn], list[str]]:
    """Columns of scores that do not come from the publisher alone, and what a person should know of them.

    Raises:
        ConfigError: scores of several scales would stand in one column.
    """
    _, table = workspace.table(name)
    found, notes = _found(workspace, name, table.shape)
    columns = []
    for column in dict.fromkeys(info.column for info in SCORERS.values()):
        computed = [scores for scores in found if scores.info.column == column]
        wanted = rules.scorer if column == AESTHETIC_SCORE and table.shape.column(column) else None
        published = normalized.counts.get(column, 0)
        if wanted == PUBLISHED or not (computed or wanted):
            continue
        if wanted is not None:
            computed = [scores for scores in computed if scores.info.name == wanted]
        elif len(computed) > 1:
            raise _two_scorers(name, computed)
        elif published and computed[0].scale != table.scores.get(column):
            raise _mixed(name, table, computed[0].info, computed[0].scale)
        chosen = _one_sort(name, computed[0]) if computed else None
        columns.append(ScoreColumn(column, chosen, keeps_published=wanted is None))
        if chosen is None:
            notes.append(f"no scores of {wanted} yet; `prep score {name} --scorer {wanted}` computes them")
    scales = [column.computed.scale for column in columns if column.computed]
    return columns, [*([f"scores: {', '.join(scales)}"] if scales else []), *notes]


def _found(workspace: Workspace, name: str, kind: Kind) -> tuple[list[Computed], list[str]]:
    """Scores that have any value, and notes about those that are unfinished or have none."""
    found, notes = [], []
    for info in SCORERS.values():
        if not can_score(kind, info):
            continue
        folder = workspace.scores(info.name, name)
        finished = finished_scores(folder)
        manifest = finished or scores_there(folder)
        if manifest is not None and manifest.counts.get(OK):
            found.append(Computed(info, folder, manifest))
        elif manifest is not None and manifest.rows:
            notes.append(f"{info.name} could score no image")
        if manifest is not None and finished is None:
            notes.append(f"scores of {info.name} are not finished; the same `prep score` goes on with them")
    return found, notes


def shard_scores(
    columns: Sequence[ScoreColumn], table: Table, normalized: Manifest
) -> Iterator[tuple[str, tuple[ShardScores, ...]]]:
    """Every shard of samples with the scores for it."""
    by_column = [column.computed.shards(normalized) if column.computed else {} for column in columns]
    for shard in normalized.shards:
        scores = []
        for column, shards in zip(columns, by_column, strict=True):
            own = shards.get(shard.name)
            computed = column.computed
            scores.append(
                ShardScores(
                    column.name,
                    computed.folder / own.name if computed and own else None,
                    own.sha256 if own else "",
                    column.name in normalized.counts,
                    column.keeps_published,
                    table.shape.prompt if computed and computed.info.needs_text else None,
                )
            )
        yield shard.name, tuple(scores)


def with_scores(facts: str, path: str, image_root: str, scores: Sequence[ShardScores]) -> str:
    """SQL of samples with their scores, where they are still those of the same image and the same text."""
    replaced: list[str] = []
    added: list[str] = []
    joins: list[str] = []
    for number, score in enumerate(scores):
        value, published = "CAST(NULL AS DOUBLE)", f"f.{sql.name(score.column)}"
        if score.shard is not None:
            alias = f"scores_{number}"
            joins.append(f"LEFT JOIN {sql.parquet_files([score.shard])} {alias} ON {alias}.{ROW} = f.{ROW}")
            same = f"({alias}.path IS NULL OR {alias}.path = {below_store(f'f.{path}', image_root)})"
            if score.prompt is not None:
                same += f" AND {alias}.text = {text_name(f'f.{sql.name(score.prompt)}')}"
            value = f"CASE WHEN {same} THEN {alias}.score END"
        if score.keeps_published and score.in_samples:
            value = f"coalesce({published}, {value})"
        (replaced if score.in_samples else added).append(f"{value} AS {sql.name(score.column)}")
    replace = f"REPLACE ({', '.join(replaced)})" if replaced else ""
    return f"SELECT f.* {replace}{''.join(f', {value}' for value in added)} FROM ({facts}) f {' '.join(joins)}"


# -- scales that do not go together ----------------------------------------------------------------------------------


def _two_scorers(name: str, computed: Sequence[Computed]) -> ConfigError:
    first, second = (scores.info.name for scores in computed[:2])
    if computed[0].info.column == AESTHETIC_SCORE:
        message = f"table {name} has scores of {first} and of {second}, and no rule says which count; {DIFFERENCE}"
        return ConfigError(message, f"`prep filter {name} --scorer {first}`, or the other.")
    message = f"table {name} has scores of {first} and of {second}, which cannot be compared with each other"
    return ConfigError(message, f"Remove one of {computed[0].folder} and {computed[1].folder}.")


def _mixed(name: str, table: Table, info: ScorerInfo, scale: str) -> ConfigError:
    """Computed scores that cannot stand in one column with the publisher's."""
    published = table.scores.get(info.column)
    theirs = f"of the scale {published}" if published else "of a scale that nobody has named"
    message = f"table {name}: its publisher's scores are {theirs}, and computed ones would be of {scale}"
    name_it = "" if published else f" If theirs are {scale}, say so under `scores` in the dataset's YAML."
    if info.column != AESTHETIC_SCORE:
        return ConfigError(message, f"Remove the computed ones (scores/{info.name}/{name}.parquet).{name_it}")
    return ConfigError(
        message if published == info.scale else f"{message}; {DIFFERENCE}",
        f"`prep filter {name} --scorer {PUBLISHED}` takes the publisher's alone. `prep score {name} --scorer "
        f"{info.name} --all`, then `prep filter {name} --scorer {info.name}`, takes computed ones alone.{name_it}",
    )


def _one_sort(name: str, computed: Computed) -> Computed:
    """The scores, if all of them can be compared with each other.

    Raises:
        ConfigError: they cannot.
    """
    first, *others = computed.passports
    other = next((passport for passport in others if passport.identity != first.identity), None)
    if other is None:
        return computed
    differ = [
        f"{what}: {one} and {two}"
        for what, one, two in (
            ("scale", first.scale, other.scale),
            ("weights", dict(first.weights), dict(other.weights)),
            ("preprocessing", first.preprocessing, other.preprocessing),
        )
        if one != two
    ]
    raise ConfigError(
        f"table {name}: its scores of {computed.info.name} cannot be compared with each other ({'; '.join(differ)})",
        f"`prep score {name} --scorer {computed.info.name} --force` computes all of them anew.",
    )


def refusal(
    workspace: Workspace, name: str, info: ScorerInfo, scale: str, *, all_rows: bool = False
) -> PrepError | None:
    """Why table `name` cannot be scored, if it cannot.

    Its samples have no image of their own, no text for it, or no place for the score; or `filter` would refuse scores
    of that scale beside the publisher's.
    """
    _, table = workspace.table(name)
    if not can_score(table.shape, info):
        return UsageError(
            f"table {name}: {table.kind} samples have no use for scores of {info.name}",
            "`prep score` without a name scores every table that has.",
        )
    normalized = read_finished(workspace.normalized(name))
    if normalized is None or not normalized.counts.get(info.column) or takes_all(workspace, name, info, all_rows):
        return None
    return None if table.scores.get(info.column) == scale else _mixed(name, table, info, scale)


def takes_all(workspace: Workspace, name: str, info: ScorerInfo, all_rows: bool) -> bool:
    """Whether rows are scored that their publisher gives a score."""
    return all_rows or workspace.rules(name).scorer == info.name
