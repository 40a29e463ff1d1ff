"""What the stages that write for a trainer share: which entries are ready, what was written, whose file it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prep.config import STAGE_FOLDERS, Entry
from prep.errors import ConfigError, DataError, UsageError
from prep.images.chunks import NOT_FETCHED
from prep.manifest import MANIFEST_NAME, Manifest, fingerprint, read_finished
from prep.stages.filter import TEXT_ONLY, effective_rules
from prep.trainers.lavida_o import Sampling, parse_sampling
from prep.workspace import CONFIG_NAME, LOCK_NAME, OWN_FILES, RULES_NAME, Workspace

_MARK = "# content "  # in our header: the fingerprint of what follows, to tell our own text from an edited one

Ready = tuple[Entry, Manifest]  # an entry, and the manifest of its table


@dataclass(frozen=True)
class Emission:
    """What was written, or would be.

    Attributes:
        path: the file that training is given.
        text: all of it; empty where it holds the rows themselves.
        state: `done`, `up to date` or `planned`.
        entries: the entries in it that come from this workspace.
        left_out: table -> why it is not in it: its data is not public, or (only with `partial`) it is not ready.
        notes: what a person should know.
        stage: the command's name.
        format: what was written.
        image_folder: what the rows' image paths are relative to; None where they are absolute.
    """

    path: Path
    text: str
    state: str
    entries: tuple[dict[str, Any], ...]
    left_out: dict[str, str]
    notes: tuple[str, ...]
    stage: str = "emit-yaml"
    format: str = "yaml"
    image_folder: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        of_lists = {} if self.image_folder is None else {"format": self.format, "image_folder": self.image_folder}
        return {
            "stage": self.stage,
            "path": str(self.path),
            "state": self.state,
            "entries": list(self.entries),
            "left_out": self.left_out,
            "notes": list(self.notes),
            **of_lists,
        }


def ready_entries(workspace: Workspace, stale: Mapping[str, str], partial: bool) -> tuple[list[Ready], dict[str, str]]:
    """Entries whose tables are ready, each with its table's manifest; and why the others are left out.

    Args:
        stale: tables that are not what the configuration says now -> what to say of them.
        partial: leave out what is not ready, instead of failing.

    Raises:
        DataError: a table is not ready, or (with `partial`) none is.
    """
    ready: list[Ready] = []
    left_out = {entry.table: f"not public: {entry.not_public}" for entry in workspace.not_public}
    for entry in workspace.entries:
        try:
            ready.append((entry, _ready(workspace, entry, stale)))
        except DataError as error:
            if not partial:
                raise
            left_out[entry.table] = error.message
    if not ready:
        raise DataError("no entry of the recipe is ready", "`prep status` shows what is missing; `prep run` does it.")
    return ready, left_out


def _ready(workspace: Workspace, entry: Entry, stale: Mapping[str, str]) -> Manifest:
    """The manifest of the entry's filtered table, if the trainer can have it."""
    table = entry.table
    manifest = read_finished(workspace.filtered(table))
    if manifest is None:
        raise DataError(f"table {table} is not filtered yet", "`prep run` does all that is missing.")
    if table in stale:
        raise DataError(f"table {table} is out of date: {stale[table]}", "`prep run` does all that is missing.")
    if not manifest.facts["has_images"]:
        raise DataError(
            f"the images of table {table} are not fetched yet",
            "`prep images`, then `prep filter` once more; or `prep run`.",
        )
    columns = tuple(manifest.facts["columns"])
    rules, _ = effective_rules(workspace.rules(table), columns)
    if rules.model_dump(mode="json", exclude_none=True) != manifest.facts["rules"]:
        raise DataError(
            f"the rules of table {table} changed since it was filtered", "`prep filter`, then the same command."
        )
    if rows_of(manifest) == 0:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(manifest.counts.items()))
        raise DataError(
            f"the filter left no row of table {table} ({reasons or 'it has none'}); the trainer stops at such an entry",
            "Loosen the rules (`prep filter --aes-cutoff ... --min-size ...`), or take the entry out of the recipe.",
        )
    return manifest


def rows_of(manifest: Manifest) -> int:
    """Rows that the filter kept, those without an image among them."""
    return manifest.rows + text_only_rows(manifest)


def text_only_rows(manifest: Manifest) -> int:
    """Of those, the rows without an image; they are in a folder of their own."""
    return manifest.counts.get(TEXT_ONLY, 0)


def sampling_of(entry: Entry, rows: int) -> Sampling:
    """The entry's sampling, understood, for a table of `rows` rows.

    Raises:
        ConfigError: more rows are asked for than there are.
    """
    sampling = parse_sampling(entry.sampling)
    if sampling.word == "random" and sampling.rows(rows) > rows:
        raise ConfigError(
            f"entry {entry.label}: {entry.sampling} asks for more than the {rows} rows of {entry.table}",
            "Ask for fewer in the recipe; the trainer stops otherwise.",
        )
    return sampling


def not_fetched_notes(ready: Sequence[Ready]) -> tuple[str, ...]:
    """What to say of tables of which some images are still to come."""
    lacking = {entry.table: manifest.counts.get(NOT_FETCHED, 0) for entry, manifest in ready}
    return tuple(
        f"{table}: {count} rows pass the filter but have no image yet (`prep images`)"
        for table, count in lacking.items()
        if count
    )


# -- whose file it is ----------------------------------------------------------------------------------------


def check_place(
    workspace: Workspace,
    path: Path,
    what: str = "what a trainer reads",
    remedy: str = "Name another file with -o, or the trainer's own YAML with --append.",
) -> None:
    """Make sure that what is about to be written does not go where the workspace keeps something else.

    Args:
        what: what is written.
        remedy: what to type instead.

    Raises:
        UsageError: it does: a file that says what the workspace is or who is at work, a folder of a stage, or the image
            store.
    """
    place = path.resolve()
    files = {workspace.recipe_path, *(workspace.root / name for name in (CONFIG_NAME, RULES_NAME, LOCK_NAME))}
    folders = [workspace.root / name for name in STAGE_FOLDERS if name != "training"]
    folders += [] if workspace.image_root.startswith("s3://") else [Path(workspace.image_root)]
    steps = place.relative_to(workspace.root).parts if place.is_relative_to(workspace.root) else ()
    is_own = place.name == MANIFEST_NAME or any(step.startswith(OWN_FILES) for step in steps)
    is_own |= place in {own.resolve() for own in files}
    if is_own or any(place.is_relative_to(own.resolve()) for own in folders):
        raise UsageError(f"{path} belongs to the workspace itself, and is no place for {what}", remedy)


def marked(body: str) -> str:
    """The text with a first line by which `is_own` knows it."""
    return f"{_MARK}{fingerprint(body)}\n{body}"


def is_own(text: str) -> bool:
    """Whether the text is one of ours that nobody has edited."""
    mark, _, body = text.partition("\n")
    return mark == f"{_MARK}{fingerprint(body)}"


def refuse_to_clobber(path: Path, force: bool, replace_own: bool, remedy: str) -> None:
    """Make sure that what is about to be written replaces nothing that a person may want.

    Args:
        force: replace whatever is there.
        replace_own: replace it if it is still as `prep` wrote it.
        remedy: what to type instead.

    Raises:
        UsageError: it does.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder", f"Name the {path.suffix.lstrip('.').upper() or 'YAML'} file to write.")
    if force or not path.exists():
        return
    is_ours = is_own(path.read_text(encoding="utf-8", errors="replace"))
    if not (is_ours and replace_own):
        edited = "it is as prep wrote it" if is_ours else "it is edited, or for another machine"
        raise UsageError(f"{path} is there and differs ({edited})", remedy)
