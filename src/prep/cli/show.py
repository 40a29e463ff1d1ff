"""What commands print: data on stdout (or one JSON document), talk and progress on stderr."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from prep import progress
from prep.cli import document
from prep.progress import size
from prep.schema import AESTHETIC_SCORE, HEIGHT

if TYPE_CHECKING:
    from prep.add import Added
    from prep.config import Catalogue, Dataset, Recipe
    from prep.manifest import Manifest
    from prep.mixture import Ingredient
    from prep.preview import Shown
    from prep.stages.check import CheckReport
    from prep.stages.check_lists import ListsReport
    from prep.stages.emission import Emission
    from prep.stages.emit_s3_reader import EmittedReader
    from prep.stages.score_embeddings import FileScores
    from prep.stages.shards import Outcome
    from prep.workspace import Workspace

_STAGE_WIDTH = 10
_NAME_WIDTH = 17  # longer names push the rest of their line to the right


def _table(*columns: str, right: Sequence[str] = (), whole: Sequence[str] = ()) -> Table:
    """A plain table; columns in `whole` are not broken over lines."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column, justify="right" if column in right else "left", overflow="fold", no_wrap=column in whole
        )
    return table


def _print(renderable: Any) -> None:
    Console(markup=False, emoji=False).print(renderable)  # names are publishers' words


def talk(text: str) -> None:
    """Say something to the person, on stderr."""
    progress.say(text)


@contextmanager
def bars(as_json: bool) -> Iterator[None]:
    """Draw progress with rich on a terminal, say it now and then elsewhere, and as JSON lines beside JSON."""
    console = Console(stderr=True)
    if as_json:
        progress.use(progress.json_lines, progress.write_event)
        yield
        return

    def tell(facts: Mapping[str, Any]) -> None:
        if facts["event"] == "wait":
            text = f"{facts['host']} asks to wait {progress.duration(facts['seconds'])}"
            if console.is_terminal:
                console.print(text, markup=False, highlight=False)  # above the bar
            else:
                talk(text)

    if not console.is_terminal:
        progress.use(progress.heartbeat, tell)
        yield
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    @contextmanager
    def rich_bar(label: str, total: int | None, unit: str, items: int | None = None) -> Iterator[progress.Bar]:
        """A bar of rich's on stderr, gone when done."""
        meter = progress.Meter(label, total, unit, items)
        amounts = [DownloadColumn(), TransferSpeedColumn()] if unit == "B" else [MofNCompleteColumn()]
        files = [TextColumn("{task.fields[files]} files", markup=False)] if items is not None else []
        columns = [TextColumn("{task.description}", markup=False), BarColumn(), *files, *amounts, TimeRemainingColumn()]
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(label, total=total, files=f"0/{items}")

            def advance(amount: int, items: int = 0) -> None:
                meter(amount, items)
                bar.update(task, advance=amount, files=f"{meter.items_done}/{meter.items}")

            yield advance

    progress.use(rich_bar, tell)
    yield


# -- workspaces and datasets ---------------------------------------------------------------------------------


def recipes(catalogue: Catalogue, as_json: bool) -> None:
    """The recipes that come with prep."""
    from prep.config import Recipe, load

    found = [load(Recipe, catalogue.recipe_path(name)) for name in catalogue.recipe_names() if name != "empty"]
    if as_json:
        document.put([recipe.model_dump(mode="json") for recipe in found])
        return
    table = _table("recipe", "entries", "what it is", right=["entries"])
    for recipe in found:
        table.add_row(recipe.name, str(len(recipe.entries)), recipe.title)
    _print(table)


def recipe(recipe: Recipe, found: Sequence[Ingredient], as_json: bool) -> None:
    """A recipe, entry by entry."""
    if as_json:
        facts = {"recipe": recipe.name, "title": recipe.title, "notes": recipe.notes}
        document.put({**facts, "entries": [ingredient.as_json() for ingredient in found]})
        return
    from prep.cli.recipe_report import render

    _print(render(recipe, found))


def created(workspace: Workspace, recipe: str | None, as_json: bool) -> None:
    """A new workspace."""
    if as_json:
        document.put(
            {"workspace": str(workspace.root), "recipe": workspace.recipe.name, "tables": workspace.table_names}
        )
        return
    print(f"A workspace for {workspace.recipe.name} is in {workspace.root}")
    by_hand = [dataset.name for dataset in workspace.datasets if dataset.source.kind == "manual"]
    gated = [dataset.name for dataset in workspace.datasets if dataset.gated]
    if workspace.not_public:
        count = _number(len(workspace.not_public), "entry is", "entries are")
        talk(f"{count} not public and left out (`prep recipe show` says why).")
    if gated:
        talk(f"Gated: {', '.join(gated)}. Accept their terms on the hub and set HF_TOKEN.")
    if by_hand:
        talk(f"To be fetched by hand: {', '.join(by_hand)} (`prep datasets NAME` says how).")
    talk("Next: " + ("prep run  (or: prep download --dry-run)" if recipe else "prep add FILE"))


def datasets(catalogue: Catalogue, as_json: bool) -> None:
    """All datasets, a line each."""
    found = catalogue.datasets()
    if as_json:
        document.put([dataset.model_dump(mode="json", exclude_none=True) for dataset in found])
        return
    table = _table("dataset", "from", "tables", "licence", "what it is", whole=["dataset", "tables"])
    for dataset in found:
        source = dataset.source.kind + (", gated" if dataset.gated else "")
        table.add_row(dataset.name, source, "\n".join(dataset.tables) or "images only", dataset.license, dataset.title)
    _print(table)


def dataset(dataset: Dataset, path: Path, as_json: bool) -> None:
    """One dataset, in full, and the file that says it."""
    data = dataset.model_dump(mode="json", exclude_defaults=True)
    if as_json:
        document.put(data)
        return
    import yaml

    print(f"# {path}")
    print(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100), end="")


def adding(added: Added, outcomes: Sequence[Outcome]) -> None:
    """What `prep add` prints with --json; `outcomes` may still grow."""
    document.put({"dataset": added.name, "path": added.path, "columns": added.columns, "outcomes": outcomes})


def added(added: Added, outcomes: Sequence[Outcome], dry_run: bool, as_json: bool) -> None:
    """A file of the user's that became a dataset."""
    if as_json:
        return
    if dry_run:
        print(f"# would be written to {added.path}\n{added.text}", end="")
        return
    columns = ", ".join(name if name == theirs else f"{name} from {theirs}" for name, theirs in added.columns.items())
    rows = outcomes[-1].manifest.rows if outcomes and outcomes[-1].manifest else 0
    print(f"{added.name}: {rows:,} rows ({columns}), described in {added.path}")
    rules = " --aes-cutoff 5.67" * (AESTHETIC_SCORE in added.columns) + " --min-size 512" * (HEIGHT in added.columns)
    talk(f"Next: prep filter {added.name}{rules}, then prep emit-yaml; or prep run")


# -- stages --------------------------------------------------------------------------------------------------


def outcomes(results: Iterable[Outcome], as_json: bool) -> list[Outcome]:
    """Each result as it comes, a line each."""
    found: list[Outcome] = []
    document.put({"outcomes": found})
    for outcome in results:
        found.append(outcome)
        if not as_json:
            one(outcome)
    return found


def one(outcome: Outcome) -> None:
    """One result, as a line."""
    print(_line(outcome), flush=True)


def _line(outcome: Outcome) -> str:
    what = _describe(outcome)
    note = f"  ({outcome.note})" if outcome.note else ""
    return f"{outcome.stage:{_STAGE_WIDTH}}{outcome.name:{_NAME_WIDTH}} {what}{note}"


def _describe(outcome: Outcome) -> str:
    if outcome.state == "waiting":
        return "waits"
    if outcome.state == "planned":
        return f"{outcome.made} of {outcome.total} to do"
    if outcome.state == "partly":
        return f"{outcome.made} of {outcome.total} made"
    manifest = outcome.manifest
    if manifest is None:
        return "nothing to do"
    return ("" if outcome.state == "done" else "up to date: ") + _result(outcome.stage, manifest)


def _result(stage: str, manifest: Any) -> str:
    """What a finished stage holds, in a few words."""
    if stage == "download":
        return f"{_number(len(manifest.shards), 'part')}, {size(manifest.size_bytes)}"
    if stage == "images":
        failed = {status: count for status, count in manifest.counts.items() if status != "ok"}
        return f"{manifest.counts.get('ok', 0):,} images" + (f"; missing: {_counts(failed)}" if failed else "")
    if stage == "score":
        failed = {status: count for status, count in manifest.counts.items() if status != "ok"}
        return f"{manifest.counts.get('ok', 0):,} scored" + (f"; not: {_counts(failed)}" if failed else "")
    if stage == "dedup":
        return f"{manifest.rows:,} duplicates" + (f": {_counts(manifest.counts)}" if manifest.rows else "")
    if stage == "phash":
        failed = {status: count for status, count in manifest.counts.items() if status != "hashed"}
        return f"{manifest.counts.get('hashed', 0):,} hashed" + (f"; not: {_counts(failed)}" if failed else "")
    if stage == "filter":
        kept, reasons = _kept_and_dropped(manifest)
        dropped = sum(reasons.values())
        return f"{kept:,} kept, {dropped:,} dropped{f': {_counts(reasons)}' if dropped else ''}"
    return f"{manifest.rows:,} rows"


def _kept_and_dropped(manifest: Manifest) -> tuple[int, dict[str, int]]:
    """Rows that filter kept, those without an image among them, and reasons for the others."""
    from prep.stages.filter import TEXT_ONLY

    reasons = dict(manifest.counts)
    return manifest.rows + reasons.pop(TEXT_ONLY, 0), reasons


def _counts(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{count:,} {name}" for name, count in ordered[:5])
    return shown + (f", {sum(count for _, count in ordered[5:]):,} more" if len(ordered) > 5 else "")


def _number(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


_NEXT = {
    "download": "prep images",
    "images": "prep normalize",
    "normalize": "prep filter",
    "dedup": "prep filter, which now drops the duplicates",
    "score": "prep filter, which now judges by the scores",
}


def emit_command(workspace: Workspace) -> str:
    """The command that writes for the recipe's trainer."""
    return "prep emit" if workspace.recipe.trainer == "convllava" else "prep emit-yaml"


def next_step(workspace: Workspace, outcomes: Sequence[Outcome], as_json: bool) -> None:
    """The command that usually follows."""
    from prep.config import ArchiveImages
    from prep.stages.dedup_facts import comes_first

    if as_json or not outcomes:
        return
    stage = outcomes[0].stage
    waiting = next((outcome for outcome in outcomes if outcome.state == "waiting"), None)
    is_made = any(outcome.manifest for outcome in outcomes)
    if any(outcome.state == "planned" for outcome in outcomes):
        talk(f"Next: prep {stage}")
    elif any(outcome.state == "partly" for outcome in outcomes):
        talk(f"The last rank ends it; if one was lost, run its command again, or `prep {stage}` without --rank.")
    elif stage == "filter" and any(outcome.manifest and comes_first(workspace, outcome.name) for outcome in outcomes):
        talk("Next: prep dedup, then prep filter")
    elif waiting and not is_made:
        talk(f"Next: prep run, which does all in order; {waiting.name} waits ({waiting.note})")
    elif stage == "filter" and any(
        outcome.manifest and not outcome.manifest.facts["has_images"] for outcome in outcomes
    ):
        talk("Next: prep images, then prep filter once more (rows kept so far passed on the publisher's word alone)")
    elif stage == "images" and any(
        outcome.manifest and outcome.manifest.shards and "-shard-" in outcome.manifest.shards[0].name
        for outcome in outcomes
    ):
        talk("Next: prep filter, which now judges what was really fetched")
    elif stage == "filter" and workspace.training_file.exists():
        talk(f"Next: {emit_command(workspace)} --force, which replaces {workspace.training_file}")
    elif stage == "download" and not any(
        isinstance(workspace.catalogue.dataset(outcome.name).images, ArchiveImages) for outcome in outcomes
    ):
        talk("Next: prep normalize")  # addresses are fetched for rows that pass the filter, given images not at all
    elif stage == "score" and not is_made:
        talk(f"Next: {emit_command(workspace)}")  # no row needs a score
    else:
        talk(f"Next: {_NEXT.get(stage) or emit_command(workspace)}")


def file_scores(scores: FileScores) -> None:
    """Scores of a file of embeddings, as a line."""
    none = {status: count for status, count in scores.counts.items() if status != "ok"}
    numbers = f"{scores.counts.get('ok', 0):,} scored" + (f"; not: {_counts(none)}" if none else "")
    if scores.mean is not None:
        numbers += f"; {scores.low:.3f} to {scores.high:.3f}, mean {scores.mean:.3f}"
    print(f"{scores.output}: {numbers}", flush=True)


def kept_table(outcomes: Iterable[Outcome]) -> None:
    """Rows in, kept and dropped of every filtered table."""
    last = {outcome.name: outcome for outcome in outcomes if outcome.stage == "filter" and outcome.manifest}
    if not last:
        return
    table = _table("table", "rows", "kept", "dropped", "why", right=["rows", "kept", "dropped"])
    for name, outcome in last.items():
        manifest = outcome.manifest
        assert manifest is not None
        kept, reasons = _kept_and_dropped(manifest)
        dropped = sum(reasons.values())
        rows_in = manifest.facts["rows_in"]
        table.add_row(name, f"{rows_in:,}", f"{kept:,}", f"{dropped:,}", _counts(reasons))
    print()
    _print(table)


def status(workspace: Workspace, outcomes: Sequence[Outcome], as_json: bool) -> None:
    """How far everything is."""
    if as_json:
        document.put({"workspace": str(workspace.root), "outcomes": outcomes})
        return
    print(f"{workspace.recipe.name} in {workspace.root}")
    for outcome in outcomes:
        print(_line(outcome))
    unfinished = any(outcome.state != "up to date" for outcome in outcomes)
    file, there = workspace.training_file, workspace.training_file.is_file()
    print(f"training {'YAML' if file.suffix == '.yaml' else 'module'}: {file if there else 'not written yet'}")
    talk("Next: prep run" if unfinished else "Next: prep check" if there else f"Next: {emit_command(workspace)}")


# -- for the trainer ------------------------------------------------------------------------------------------


def emission(
    emission: Emission, workspace: Workspace, dry_run: bool, as_json: bool, reader: EmittedReader | None = None
) -> None:
    """The YAML that was, or would be, written, and the module that opens images on S3."""
    if as_json:
        document.put(emission.as_json() | ({} if reader is None else {"s3_reader": reader.as_json()}))
        return
    for note in emission.notes:
        talk(f"Note: {note}")
    for table, reason in emission.left_out.items():
        talk(f"Left out: {table} ({reason})")
    if dry_run and emission.text:
        print(emission.text, end="")
        return
    if emission.image_folder is not None:
        _lists(emission, workspace)
        return
    state = "is up to date" if emission.state == "up to date" else "written"
    print(f"{emission.path} {state}: {_number(len(emission.entries), 'entry', 'entries')}")
    check = "prep check" + ("" if emission.path == workspace.training_yaml else f" {emission.path}")
    if reader is not None:
        print(f"{reader.module} written: {_number(reader.images or 0, 'image')} in its index")
        folder = shlex.quote(str(reader.folder))
        check += f" --s3-reader {folder}; and where training starts: export PYTHONPATH={folder}:$PYTHONPATH"
    talk(f"Next: {check}")


def _lists(emission: Emission, workspace: Workspace) -> None:
    """JSON lists, what names them, and where their images are."""
    states = {"done": "written", "planned": "would be written", "up to date": "is up to date"}
    print(f"{emission.path} {states[emission.state]}: {_number(len(emission.entries), 'dataset')}")
    table = _table("dataset", "rows", "list", right=["rows"])
    for entry in emission.entries:
        table.add_row(entry["name"], f"{entry['rows']:,}", entry["json_path"])
    _print(table)
    print(f"image folder: {emission.image_folder}")
    if emission.format == "convllava":
        names = ",".join(entry["name"] for entry in emission.entries)
        other = "" if emission.path == workspace.training_file else f" {shlex.quote(str(emission.path))}"
        talk(f"Next: prep check{other}; the module says how the trainer gets its paths. Train with --dataset {names}")
    else:
        folder = f" --image-folder {shlex.quote(str(emission.image_folder))}" if emission.format == "llava-json" else ""
        talk(f"Next: prep check {shlex.quote(str(emission.path))}{folder}")


def check(report: CheckReport | ListsReport, as_json: bool) -> None:
    """What the trainer's loader will do."""
    if as_json:
        document.put(report.as_json())
        return
    from prep.cli import check_report, list_report
    from prep.stages.check import CheckReport

    _print(check_report.render(report) if isinstance(report, CheckReport) else list_report.render(report))


def preview(rows: Iterable[Shown], folder: Path, as_json: bool) -> None:
    """The rows of a preview as they come, a line each, and where its page is."""
    page = folder.absolute() / "index.html"
    found: list[Shown] = []
    document.put({"page": str(page), "rows": found})
    for row in rows:
        found.append(row)
        if not as_json:
            print(f"{row.picture or 'no image':10}{_number(row.boxes, 'box', 'boxes'):>9}  {row.key}", flush=True)
            for problem in row.problems:
                print(f"{'':10}{problem}")
    if not as_json:
        print(page)


# -- the whole line ------------------------------------------------------------------------------------------


def run_result(
    outcomes: Sequence[Outcome],
    emission: Emission | None,
    report: CheckReport | ListsReport | None,
    is_new: bool,
    as_json: bool,
) -> None:
    """The end of a run: what was kept, where the YAML is, what the loader will do with it."""
    if as_json:
        data: dict[str, Any] = {"outcomes": outcomes}
        data["training"] = emission.as_json() if emission else None
        data["check"] = report.as_json() if report else None
        document.put(data)
        return
    if emission is None or report is None:
        if all(outcome.state == "up to date" for outcome in outcomes):
            print("Nothing to do: everything is up to date.")
        return
    if not is_new:
        print("Nothing to do: everything is up to date.")
        if not report.errors:
            kept_table(outcomes)
            print(f"\n{emission.path}")
            talk("Next: prep check")
            return
    kept_table(outcomes)
    print(f"\n{emission.path}: {_number(len(emission.entries), 'entry', 'entries')}\n")
    check(report, as_json)


def demo_end(workspace: Workspace, seconds: float) -> None:
    """What to look at after a demo, and what to type next."""
    print(f"\nThe demo took {seconds:.0f} s. The YAML is {workspace.training_yaml}")
    prep = "prep" if shutil.which("prep") else str(Path(sys.argv[0]).absolute())
    talk(
        f"""
Next, in the demo's workspace:
  cd {workspace.root}
  {prep} status
  {prep} filter coyo-700m --aes-cutoff 6 && {prep} emit-yaml --force && {prep} check
And for real:
  mkdir my-mixture && cd my-mixture && {prep} init lavida-o-start && {prep} download --dry-run"""
    )
