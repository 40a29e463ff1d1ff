"""Every command of `prep`, thin: options, one library call, one printed result.

Imports of the library happen inside the commands, so that `prep --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

import prep
from prep.cli.boundary import boundary

if TYPE_CHECKING:
    from prep.cli.spread import Spread
    from prep.config import Dataset
    from prep.sources.slices import Slice
    from prep.stages.shards import Outcome
    from prep.workspace import Workspace

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    help="Public image-text datasets, all the way to what a multimodal trainer loads.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    epilog="Start with `prep demo`, or `prep init RECIPE` and `prep run`.",
)


recipe_app = typer.Typer(
    help="Show what recipes ask for.", rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True
)
app.add_typer(recipe_app, name="recipe")


class _Globals:
    """Options before the command."""

    folder = Path()
    debug = False


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(prep.__version__)
        raise typer.Exit


@app.callback()
def options(
    folder: Annotated[Path, typer.Option("-C", "--workspace", help="Work in this workspace.")] = Path(),
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Public image-text datasets, all the way to what a multimodal trainer loads."""
    _Globals.folder, _Globals.debug = folder, debug


def command(name: str, program: typer.Typer = app) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register a command of `program` inside the error boundary."""

    def register(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            with boundary(_Globals.debug, bool(kwargs.get("as_json"))):
                return function(*args, **kwargs)
            raise AssertionError("the boundary does not return")

        return program.command(name)(guarded)

    return register


def _complete_recipes(incomplete: str) -> list[str]:
    from prep.config import Catalogue

    return [name for name in Catalogue().recipe_names() if name.startswith(incomplete)]


def _complete_datasets(incomplete: str) -> list[str]:
    from prep.config import Catalogue

    return [name for name in Catalogue().dataset_names() if name.startswith(incomplete)]


def _complete_names(incomplete: str) -> list[str]:
    workspace = _workspace()
    names = [*(dataset.name for dataset in workspace.datasets), *workspace.table_names]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def _complete_kinds(incomplete: str) -> list[str]:
    from prep.schema import KINDS

    return [name for name in KINDS if name.startswith(incomplete)]


def _named_path(text: str) -> Path:
    """A path; an empty one, as of a variable that is not set, would be the folder one is in."""
    if not text:
        raise typer.BadParameter("its name is empty")
    return Path(text)


def _complete_scorers(incomplete: str) -> list[str]:
    from prep.scorers.scorer import SCORERS

    return [name for name in SCORERS if name.startswith(incomplete)]


Names = Annotated[
    list[str] | None,
    typer.Argument(help="Datasets or tables; all of the recipe by default.", autocompletion=_complete_names),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")]
DeleteParts = Annotated[
    bool, typer.Option("--delete-parts", help="Delete each archive once its images are stored and its records read.")
]
Force = Annotated[bool, typer.Option("--force", help="Do it again even where it is done.")]
Memory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="For all workers together, e.g. 8GB; by default half of what is free."),
]
Rank = Annotated[
    int | None, typer.Option(min=0, metavar="R", help="Do only this process's share: the R-th of W, from 0.")
]
WorldSize = Annotated[
    int | None, typer.Option("--world-size", min=1, metavar="W", help="How many processes share the work.")
]
Engine = Annotated[str, typer.Option(metavar="local|ray", help="Where tasks run: here, or on a Ray cluster.")]
Address = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Of the Ray cluster; by default the one this machine is in.")
]


def _workspace() -> Workspace:
    from prep.workspace import Workspace

    if not _Globals.folder.is_dir():
        from prep.errors import WorkspaceError

        raise WorkspaceError(f"there is no folder {_Globals.folder}", "Check what follows -C.")
    return Workspace.find(_Globals.folder)


# -- a workspace ---------------------------------------------------------------------------------------------


@command("init")
def init(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe; without one, an empty mixture.", autocompletion=_complete_recipes)
    ] = None,
    images: Annotated[str, typer.Option(help="Where image bytes go: a folder, or s3://bucket/prefix.")] = "images",
    list_: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a workspace for one recipe."""
    from prep.cli import show
    from prep.config import Catalogue
    from prep.workspace import Workspace

    catalogue = Catalogue()
    if list_:
        show.recipes(catalogue, as_json)
        return
    text = catalogue.recipe_path(recipe or "empty").read_text(encoding="utf-8")
    workspace = Workspace.create(_Globals.folder, text, images)
    show.created(workspace, recipe, as_json)


@command("list", recipe_app)
def recipe_list(as_json: AsJson = False) -> None:
    """List the recipes that come with prep."""
    from prep.cli import show
    from prep.config import Catalogue

    show.recipes(Catalogue(), as_json)


@command("show", recipe_app)
def recipe_show(
    name: Annotated[
        str | None, typer.Argument(help="A recipe; the workspace's by default.", autocompletion=_complete_recipes)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a recipe: where each entry comes from.

    And its place in the mixture, whether it can be made as published, and, of the workspace's own, how far it is."""
    from prep.cli import show
    from prep.config import Catalogue, Recipe, load
    from prep.mixture import ingredients

    if name is None:
        workspace = _workspace()
        recipe, found = workspace.recipe, ingredients(workspace.recipe, workspace.catalogue, workspace)
    else:
        catalogue = Catalogue()
        recipe = load(Recipe, catalogue.recipe_path(name))
        found = ingredients(recipe, catalogue)
    show.recipe(recipe, found, as_json)


@command("datasets")
def datasets(
    name: Annotated[str | None, typer.Argument(help="One dataset, in full.", autocompletion=_complete_datasets)] = None,
    as_json: AsJson = False,
) -> None:
    """List the known datasets, or describe one."""
    from prep.cli import show
    from prep.config import Catalogue
    from prep.errors import WorkspaceError

    try:
        catalogue = _workspace().catalogue
    except WorkspaceError:
        catalogue = Catalogue()
    if name is None:
        show.datasets(catalogue, as_json)
    else:
        show.dataset(catalogue.dataset(name), catalogue.dataset_path(name), as_json)


@command("add")
def add(
    file: Annotated[
        str,
        typer.Argument(
            help="A csv, parquet, .json or .jsonl file, a folder of parquet files, a .txt list of files, or an s3:// "
            "address of parquet."
        ),
    ],
    kind: Annotated[
        str, typer.Option(help="What its rows are; docs/own-data.md lists the kinds.", autocompletion=_complete_kinds)
    ] = "text-to-image",
    name: Annotated[str | None, typer.Option(help="The dataset's name; the file's by default.")] = None,
    map_: Annotated[
        list[str] | None, typer.Option("--map", metavar="COLUMN=THEIRS", help="e.g. caption=text; may be repeated.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="An S3 service other than AWS.")] = None,
    region: Annotated[str | None, typer.Option(help="Of the bucket, where the profile does not say it.")] = None,
    anonymous: Annotated[bool, typer.Option("--anonymous", help="Send no credentials: a public bucket.")] = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Read parquet on S3 where it lies; copy nothing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a dataset of that name added before.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Add your own data, ready for `prep filter`.

    Text-to-image rows: an image path (or address), a caption, and scores and sizes where there are any. Rows of
    another kind have that kind's columns."""
    from prep.add import add_file
    from prep.cli import show
    from prep.config import nearest
    from prep.errors import UsageError
    from prep.own_files import S3Options
    from prep.schema import KINDS
    from prep.stages.download import download
    from prep.stages.normalize import normalize
    from prep.workspace import Workspace

    workspace = _workspace()
    with workspace.exclusive(), show.bars(as_json):
        pairs = [_pair(text, "--map") for text in map_ or []]
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            raise UsageError("--map names one column twice", "Map each column once.")
        if kind not in KINDS:
            raise UsageError(f"--kind {kind!r} is unknown{nearest(kind, KINDS)}", f"There are: {', '.join(KINDS)}.")
        s3 = S3Options(endpoint, region, anonymous, in_place)
        added = add_file(
            workspace, file, name=name, mapping=mapping, kind=KINDS[kind], s3=s3, force=force, dry_run=dry_run
        )
        outcomes: list[Outcome] = []
        show.adding(added, outcomes)
        if not dry_run:
            workspace = Workspace(workspace.root)
            outcomes.append(download(workspace, workspace.catalogue.dataset(added.name)))
            outcomes.append(normalize(workspace, added.name))
        show.added(added, outcomes, dry_run, as_json)


# -- the stages ----------------------------------------------------------------------------------------------


@command("download")
def download_(
    names: Names = None,
    parts: Annotated[
        str | None, typer.Option(metavar="POSITIONS", help="Only these parts of each dataset, from 0: 0-3,7.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only parts whose path matches; may be repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many parts of each dataset.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every part again, after a slice of them.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Hash what is there; bring again what is damaged.")] = False,
    deadline: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop after this time: 8h, 90m, 3600s; what came stays.")
    ] = None,
    force: Force = False,
    rank: Rank = None,
    world_size: WorldSize = None,
    engine: Engine = "local",
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Bring publishers' files, verified.

    What is there already is not fetched again, and half a file is gone on with.

    --parts, --only and --limit (in this order) choose a slice, which later commands keep to until `--all`.
    """
    from functools import partial

    from prep.cli import download_report, show
    from prep.cli.spread import spread
    from prep.stages.download import download

    work = spread(rank, world_size, engine, address, alone={"--force": force})
    workspace = _workspace()
    stage = partial(
        download,
        choice=_slice(parts, only or [], limit, all_),
        verify=verify,
        deadline=_moment(deadline),
        ask_sizes=True,
    )
    tell = partial(download_report.dry_run, workspace) if dry_run else show.outcomes
    datasets = workspace.select_datasets(names or [])
    _run_stage(workspace, stage, datasets, as_json, work, tell=tell, force=force, dry_run=dry_run)


@command("images")
def images_(
    names: Names = None,
    retry: Annotated[
        str | None,
        typer.Option(metavar="STATUSES", help="Fetch again what has these statuses: dns,timeout; `failed` for all."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Fetch all rows' images, also of rows that are dropped.")] = False,
    verify: Annotated[
        str | None, typer.Option(metavar="decode", help="Read every stored image back and decode it.")
    ] = None,
    delete_parts: DeleteParts = False,
    max_side: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Store larger images smaller: their longest side.")
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="jpeg|webp", help="Store images of other formats as this one.")
    ] = None,
    quality: Annotated[int | None, typer.Option(help="Of what is encoded anew, 1 to 100; 95 by default.")] = None,
    as_published: Annotated[
        bool, typer.Option("--as-published", help="Forget --max-side, --format and --quality given before.")
    ] = False,
    adopt: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The images of one dataset are in this folder already.")
    ] = None,
    min_success: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Stop if a smaller share of the first addresses is good; 0.1 by default."),
    ] = None,
    force: Force = False,
    rank: Rank = None,
    world_size: WorldSize = None,
    engine: Engine = "local",
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Store and index image bytes.

    They come out of the parts, or from addresses.

    Addresses are fetched for rows that passed the filter: `prep filter` first, and once more afterwards.

    --max-side, --format and --quality stay for later runs until `--as-published`.
    """
    from itertools import chain

    from prep.cli import show
    from prep.cli.image_options import adopt_folder, encoding, image_options, with_addresses
    from prep.cli.spread import spread
    from prep.stages.images import fetched_duplicates, images

    alone = {"--force": force, "--delete-parts": delete_parts, "--adopt": adopt is not None}
    work = spread(rank, world_size, engine, address, alone=alone)
    workspace = _workspace()
    datasets: Sequence[Dataset] = workspace.select_datasets(names or [])
    given = encoding(max_side, format_, quality, as_published)
    options = image_options(retry, all_, verify, delete_parts, min_success)
    if options.retry and not names:
        datasets = with_addresses(workspace, datasets)
    if adopt is not None:
        workspace = adopt_folder(workspace, datasets, adopt, dry_run)
    before = workspace.given_rules()
    chosen = [dataset.name for dataset in datasets] if names else []
    workspace = workspace.with_given(before.with_encode(given, chosen, reset=as_published))

    def stage(workspace: Workspace, dataset: Dataset, **flags: bool) -> Outcome:
        return images(workspace, dataset, options=options, **flags)

    def keep() -> None:
        if workspace.given_rules() != before:
            for dataset in datasets:  # what is refused must not be remembered
                stage(workspace, dataset, force=force, dry_run=True)
            workspace.remember_rules(workspace.given_rules())

    if not as_json:
        for note in chain.from_iterable(fetched_duplicates(workspace, dataset) for dataset in datasets):
            show.talk(f"Note: {note}. `prep dedup`, then `prep filter` come first.")
    _run_stage(workspace, stage, datasets, as_json, work, before=keep, force=force, dry_run=dry_run)


@command("normalize")
def normalize_(
    names: Names = None,
    memory: Memory = None,
    force: Force = False,
    rank: Rank = None,
    world_size: WorldSize = None,
    engine: Engine = "local",
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Turn records into samples of one schema."""
    from functools import partial

    from prep.cli.memory_option import memory_option
    from prep.cli.spread import spread
    from prep.stages.normalize import normalize

    work = spread(rank, world_size, engine, address, alone={"--force": force})
    workspace = _workspace()
    _run_stage(
        workspace,
        partial(normalize, memory=memory_option(memory)),
        workspace.select_tables(names or [], to_normalize=True),
        as_json,
        work,
        force=force,
        dry_run=dry_run,
    )


@command("score")
def score_(
    names: Names = None,
    scorer: Annotated[
        str, typer.Option(help="Which scores; docs/scoring.md lists them.", autocompletion=_complete_scorers)
    ] = "aesthetic-v2",
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", parser=_named_path, help="The model's files are here; nothing is fetched."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="cpu|cuda|cuda:N", help="Run here; on every GPU by default, else on the CPU.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="fp32|bf16|fp16", help="Of the model; the device's best by default.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at once; found by itself on a GPU.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that read and decode; one per core by default.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Score rows that have the publisher's score too.")] = False,
    embeddings: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="CLIP ViT-L/14 embeddings (.npy) in place of images; may be repeated."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Without a table: where scores of --embeddings go."),
    ] = None,
    force: Force = False,
    rank: Rank = None,
    world_size: WorldSize = None,
    engine: Engine = "local",
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Score images whose publisher gives no score.

    The filter picks the scores up. What has a score is not scored again.

    Needs the extra `score` (torch and transformers)."""
    from prep.cli.score_options import (
        TorchLoading,
        embeddings_stage,
        score_files,
        score_stage,
        scorer_called,
    )
    from prep.cli.spread import spread
    from prep.errors import UsageError

    work = spread(rank, world_size, engine, address, alone={"--force": force, "--embeddings": bool(embeddings)})
    info = scorer_called(scorer)
    if embeddings and not names:
        score_files(info, weights, embeddings, output, dry_run=dry_run, as_json=as_json)
        return
    if output is not None:
        raise UsageError("--output is for --embeddings without a table", "A table's scores go to scores/.")
    workspace = _workspace()
    tables = workspace.select_tables(names or [])
    count = workspace.workers if workers is None else workers
    loading = TorchLoading(info.name, weights, device, dtype, batch_size, count, workspace.config.s3_endpoint)
    stage = score_stage(info, loading, is_named=bool(names), all_rows=all_)
    if embeddings:
        stage = embeddings_stage(info, weights, embeddings, tables)
    _run_stage(workspace, stage, tables, as_json, work, force=force, dry_run=dry_run)


@command("dedup")
def dedup_(
    names: Names = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="KEYS", help="What duplicates have in common, any of: url,caption,sha256,phash."),
    ] = None,
    distance: Annotated[
        int | None, typer.Option(help="Bits in which perceptual hashes of 64 may differ; 4 by default.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE", help="Remove what this table, or parquet file, has; it stays. May be repeated."),
    ] = None,
    within: Annotated[
        bool | None,
        typer.Option("--within/--not-within", help="With --against, also what the tables have twice themselves."),
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="score|largest|first", help="Which of several stays; the highest score.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Forget what was asked before.")] = False,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Find duplicates, also across tables.

    The filter drops them then: `prep filter` once before, so that only rows that pass count, and once afterwards.

    What is asked here stays for later runs until `--reset`.
    """
    from prep.cli import show
    from prep.cli.dedup_options import dedup_request, find_duplicates

    workspace = _workspace()
    request = dedup_request(workspace, names or [], by, distance, against, keep, within)
    with workspace.exclusive(), show.bars(as_json):
        find_duplicates(workspace, request, reset=reset, force=force, dry_run=dry_run, as_json=as_json)


@command("filter")
def filter_(
    names: Names = None,
    aes_cutoff: Annotated[
        float | None, typer.Option(help="Keep rows whose aesthetic score is strictly greater.")
    ] = None,
    min_size: Annotated[
        int | None, typer.Option(min=0, help="Keep rows whose height and width are both at least this.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Keep rows for which this DuckDB predicate is true.")
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(metavar="aesthetic-v1|aesthetic-v2|published", help="Whose aesthetic scores alone count."),
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Keep so much of what passes: 0.1%, or a number of rows; always the same."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another number, another --sample; 0 by default.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the rows left after each rule, in the order of judging.")
    ] = False,
    memory: Memory = None,
    reset: Annotated[bool, typer.Option("--reset", help="Forget rules given on the command line before.")] = False,
    force: Force = False,
    rank: Rank = None,
    world_size: WorldSize = None,
    engine: Engine = "local",
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Keep the rows that pass every rule.

    The others go to dropped/, each with its reason.

    Rules given here go over the recipe's, and stay for later runs until `--reset`.
    """
    from functools import partial

    from prep.cli import show
    from prep.cli.filter_report import explained
    from prep.cli.memory_option import memory_option
    from prep.cli.spread import spread
    from prep.config import Rules
    from prep.errors import ConfigError, PrepError
    from prep.stages.filter import filter_table

    given = _checked(
        Rules, aes_cutoff=aes_cutoff, min_size=min_size, where=where, sample=sample, seed=seed, scorer=scorer
    )
    alone = {"--force": force, "--reset": reset}
    work = spread(rank, world_size, engine, address, alone=alone, rules=given.model_dump(exclude_none=True))
    workspace = _workspace()
    tables = workspace.select_tables(names or [])
    total = memory_option(memory)
    remembered = workspace.given_rules().with_rules(given, tables if names else [], reset=reset)

    def stage(workspace: Workspace, table: str, **options: Any) -> Outcome:
        return filter_table(workspace, table, rules=workspace.rules(table, remembered), memory=total, **options)

    before = workspace.given_rules()

    def keep() -> None:
        for table in tables:  # a `where` that cannot be asked must not be remembered
            stage(workspace, table, dry_run=True)
        workspace.remember_rules(remembered)

    try:
        tell = partial(explained, workspace) if explain else show.outcomes
        _run_stage(workspace, stage, tables, as_json, work, before=keep, tell=tell, force=force, dry_run=dry_run)
    except PrepError as error:
        if not dry_run and before != remembered == workspace.given_rules():
            if where is not None and any(isinstance(one, ConfigError) for one in error.together):
                workspace.remember_rules(before)  # nor one that fails on a row
                show.talk("The rules are as before: what was given here is not kept.")
            else:
                show.talk("The rules given here are kept; the next `prep filter` or `prep run` applies them.")
        raise


@command("emit-yaml")
def emit_yaml_(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="By default training/<recipe>.yaml.")] = None,
    append: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Add the entries to this YAML; the rest of it stays.")
    ] = None,
    remap: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="Rewrite path prefixes for another machine; may be repeated."),
    ] = None,
    s3_reader: Annotated[
        Path | None,
        typer.Option("--s3-reader", metavar="FOLDER", help="Write there the module that opens images on S3."),
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Leave out entries that are not ready.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a YAML that is there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the YAML; write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the YAML that the trainer reads.

    For a recipe of ConvLLaVA, JSON lists and the YAML with which the LLaVA-NeXT family reads them."""
    from prep.cli import show
    from prep.errors import UsageError
    from prep.line import stale_tables
    from prep.stages.emit_s3_reader import check_s3_reader, emit_s3_reader
    from prep.stages.emit_yaml import emit_yaml

    if output is not None and append is not None:
        raise UsageError("-o and --append both name a file to write", "Give one of them.")
    workspace = _workspace()
    workspace.select_tables([])
    if workspace.recipe.trainer == "convllava":
        if append is not None or remap or s3_reader is not None:
            raise UsageError(
                "--append, --remap and --s3-reader are for LaViDa-O's YAML, and the recipe is for ConvLLaVA",
                "Leave them out; `prep emit` writes ConvLLaVA's own datasets.",
            )
        _emit(workspace, "llava-next", output, as_json, partial=partial, force=force, dry_run=dry_run)
        return
    with workspace.exclusive(), show.bars(as_json):
        if s3_reader is not None:
            check_s3_reader(workspace, s3_reader)
        pairs = [_pair(text, "--remap") for text in remap or []]
        emission = emit_yaml(
            workspace,
            output=output,
            append=append,
            remap=pairs,
            stale=stale_tables(workspace),
            partial=partial,
            force=force,
            dry_run=dry_run,
        )
        reader = None if s3_reader is None else emit_s3_reader(workspace, s3_reader, dry_run=dry_run)
        show.emission(emission, workspace, dry_run, as_json, reader)


@command("emit")
def emit(
    format_: Annotated[
        str,
        typer.Option(
            "--format", metavar="convllava|llava-json|llava-next", help="What to write; see docs/convllava.md."
        ),
    ] = "convllava",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="By default in training/.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images are in this tree (`prep layout`), not in the store.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Leave out entries that are not ready.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the module or YAML; write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write JSON lists, and what names them for ConvLLaVA.

    A Python module with the paths of each dataset (convllava), all rows as one list (llava-json), or the YAML of the
    LLaVA-NeXT family (llava-next)."""
    workspace = _workspace()
    workspace.select_tables([])
    _emit(workspace, format_, output, as_json, root=root, partial=partial, force=force, dry_run=dry_run)


@command("check")
def check(
    file: Annotated[
        Path | None, typer.Argument(help="A training YAML, a .py or a .json; the workspace's by default.")
    ] = None,
    images: Annotated[str, typer.Option(help="Images to open: a sample, all or none.")] = "sample",
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps, to say how often rows are seen.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="World batch size, for the same.")] = None,
    no_files: Annotated[
        bool, typer.Option("--no-files", help="Check what the YAML alone tells; open nothing that it names.")
    ] = False,
    s3_reader: Annotated[
        Path | None,
        typer.Option("--s3-reader", metavar="FOLDER", help="Open images on S3 with the module in this folder."),
    ] = None,
    image_folder: Annotated[
        Path | None, typer.Option("--image-folder", metavar="DIR", help="Of a .json: where its pictures are.")
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", metavar="v1|plain", help="ConvLLaVA's prompt format; v1 by default.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAMES", help="Of a .py: what ConvLLaVA is started with.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what the trainer will do with a file.

    LaViDa-O with a YAML; ConvLLaVA, and what else reads LLaVA's rows, with a .py that `prep emit` wrote or a .json."""
    from prep.cli import show
    from prep.cli.checking import run_check

    report = run_check(
        file or _workspace().training_file,
        images,
        steps=steps,
        batch=batch,
        no_files=no_files,
        s3_reader=s3_reader,
        image_folder=image_folder,
        version=version,
        dataset=dataset,
    )
    show.check(report, as_json)
    if report.errors:
        raise typer.Exit(1)


@command("layout")
def layout_(
    trainer: Annotated[str, typer.Argument(help="Whose tree: convllava.")],
    root: Annotated[
        str | None, typer.Option(metavar="DIR", help="The tree's folder; by default data/ of the workspace.")
    ] = None,
    link: Annotated[str, typer.Option(metavar="hard|soft", help="How stored images get their places.")] = "hard",
    extract: Annotated[
        bool, typer.Option("--extract", help="Unpack the archives that lie in the tree; they stay.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Move back all that was moved in the tree, remove what was unpacked.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the moves; write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put images and lists where a trainer's guide wants them.

    In a workspace by links to what is stored, never a second copy. A tree that is there already is mended by moves,
    with or without a workspace; nothing is replaced.
    """
    from contextlib import nullcontext

    from prep.cli import layout_report, show
    from prep.errors import UsageError
    from prep.layout import lay_out, tree_of
    from prep.layout.journal import undo as take_back

    if trainer != "convllava":
        raise UsageError(f"{trainer!r} has no tree", "`prep layout convllava` is the only one.")
    if link not in ("hard", "soft"):
        raise UsageError(f"--link {link}: must be hard or soft", "`prep layout convllava --link soft`.")
    if undo and extract:
        raise UsageError("--undo goes alone", "`prep layout convllava --undo`.")
    if root == "":
        raise UsageError("--root is empty", "Name the tree's folder: --root DIR; `--root .` is this one.")
    workspace, folder = tree_of(_Globals.folder, None if root is None else Path(root))
    with nullcontext() if workspace is None else workspace.exclusive(), show.bars(as_json):
        if undo:
            layout_report.undone(take_back(folder, dry_run=dry_run), dry_run, as_json)
        else:
            done = lay_out(folder, workspace, how=link, extract=extract, dry_run=dry_run)  # type: ignore[arg-type]
            layout_report.layout(done, as_json)


@command("preview")
def preview(
    table: Annotated[str, typer.Argument(help="A table of the recipe.", autocompletion=_complete_names)],
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, help="How many, spread evenly.")] = 12,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="By default preview/<table>.")
    ] = None,
    dropped: Annotated[bool, typer.Option("--dropped", help="Rows that were dropped, each with its reason.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show some samples on a page.

    Pictures with their boxes drawn, captions, answers and turns, for a person to see whether they are right.
    """
    from prep.cli import show
    from prep.errors import UsageError
    from prep.preview import page_folder, preview_table

    workspace = _workspace()
    tables = workspace.select_tables([table])
    if len(tables) != 1:
        several = "several tables" if tables else "pictures alone, no table in the recipe"
        raise UsageError(f"{table} has {several}", f"Name one: {', '.join(tables or workspace.table_names)}.")
    folder = output or page_folder(workspace, tables[0], dropped)
    show.preview(preview_table(workspace, tables[0], rows=rows, folder=folder, dropped=dropped), folder, as_json)


@command("report")
def report(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="By default report.html in the workspace.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps, to say how often rows are seen.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="World batch size, for the same.")] = None,
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Open no image; show none.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a page that shows what is in the workspace.

    Rows at every stage, what each rule took, histograms, failures, the mixture, licences, pictures. One HTML file that
    fetches nothing.
    """
    from prep.cli import report_text, show
    from prep.report.build import BATCH, STEPS, build_report
    from prep.report.write import report_path, write_report

    workspace = _workspace()
    path = report_path(workspace, output)
    with show.bars(as_json):
        found = build_report(workspace, steps=steps or STEPS, batch=batch or BATCH, pictures=not no_pictures)
        report_text.written(found, path, write_report(found, path), as_json)


@command("stats")
def stats(names: Names = None, as_json: AsJson = False) -> None:
    """Print what each rule took of a table, and histograms.

    Scores, sizes, shapes and lengths of its samples, kept and dropped ones apart."""
    from prep.cli import report_text, show
    from prep.report.build import filtered_tables, table_report

    workspace = _workspace()
    tables = workspace.select_tables(names or [])
    with show.bars(as_json):
        chosen = tables if names else filtered_tables(workspace)
        report_text.stats([table_report(workspace, name) for name in chosen], as_json)


@command("heal")
def heal(
    json_: Annotated[
        list[str] | None,
        typer.Option(
            "--json", metavar="FILE", help="A list of LLaVA's format; may be repeated, each with its --images."
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(metavar="FOLDER", help="What the list's image paths are relative to; one may serve all lists."),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="ConvLLaVA's tree: all lists in FOLDER/data or else in FOLDER; the workspace by default.",
        ),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Do the repairs, and write the lists without lost rows.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take back every repair made below the folders.")] = False,
    move: Annotated[
        bool, typer.Option("--move", help="Move a file that no row names, instead of giving it a second name.")
    ] = False,
    verify: Annotated[
        str | None, typer.Option(metavar="decode", help="Decode every image; by default its first and last bytes tell.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--as-json", help="Print one JSON document on stdout, as --json of other commands does.")
    ] = False,
) -> None:
    """Find and mend images that are not where a list says.

    Missing, misnamed, mis-extensioned, misplaced, empty or cut off: of any LLaVA-format JSON, in any folder.

    Without --apply it only says what it would do.
    """
    from prep.cli import heal_report, show
    from prep.cli.heal_options import heal_pairs
    from prep.errors import UsageError
    from prep.heal.heal import heal, undo_all

    if verify not in (None, "decode"):
        raise UsageError(f"--verify {verify}: must be decode", "`prep heal ... --verify decode`.")
    if undo and (apply or move or verify):
        raise UsageError("--undo goes alone", "`prep heal --images FOLDER --undo`.")
    pairs, folders = heal_pairs(json_ or [], images or [], root, lambda: _workspace().root, undo=undo)
    with show.bars(as_json):
        if undo:
            heal_report.undone(undo_all(folders), as_json)
        else:
            heal_report.healing(heal(pairs, apply=apply, move=move, decode=verify is not None), as_json)


# -- the whole line ------------------------------------------------------------------------------------------


@command("status")
def status(as_json: AsJson = False) -> None:
    """Show how far every dataset and table is."""
    from prep.cli import show
    from prep.line import status

    workspace = _workspace()
    show.status(workspace, status(workspace), as_json)


@command("run")
def run(
    delete_parts: DeleteParts = False,
    locked: Annotated[
        bool, typer.Option("--locked", help="Make exactly what prep.lock says, or say what differs and write no YAML.")
    ] = False,
    engine: Engine = "local",
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Do everything that is missing.

    From download to check; goes on wherever an earlier run stopped.

    With --delete-parts archives come and go a few at a time, for a disk that cannot hold them all.
    """
    from prep.cli import show
    from prep.cli.running import run_workspace
    from prep.cli.spread import spread

    work = spread(None, None, engine, address)
    workspace = _workspace()
    with work.holding(workspace), show.bars(as_json):
        errors = run_workspace(workspace, delete_parts=delete_parts, is_locked=locked, dry_run=dry_run, as_json=as_json)
    if errors:
        raise typer.Exit(1)


@command("lock")
def lock(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; end with 1 where prep.lock differs.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="With --check: read and hash every file too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write what is in the workspace into prep.lock.

    Revisions, hashes, rules, passports of scores, and which rows were kept; `prep run` does it at its end."""
    from prep.cli import lock_report, show
    from prep.errors import UsageError

    if verify and not check:
        raise UsageError("--verify goes with --check", "`prep lock --check --verify`.")
    workspace = _workspace()
    workspace.select_tables([])
    if check:
        with show.bars(as_json):
            comparison = lock_report.check_lock(workspace, verify=verify)
        lock_report.compared(comparison, as_json)
        if comparison.differences or comparison.notes:
            raise typer.Exit(1)
        return
    with workspace.exclusive(), show.bars(as_json):
        lock_report.locked(lock_report.lock_workspace(workspace), as_json)


@command("diff")
def diff(
    before: Annotated[Path, typer.Argument(metavar="LOCK", help="A prep.lock, or a folder that has one.")],
    after: Annotated[
        Path | None, typer.Argument(metavar="OTHER", help="Another; what is in this workspace by default.")
    ] = None,
    a: Annotated[
        Path | None, typer.Option("--a", metavar="DIR", help="The workspace of LOCK, if it does not lie in it.")
    ] = None,
    b: Annotated[
        Path | None, typer.Option("--b", metavar="DIR", help="The workspace of OTHER, if it does not lie in it.")
    ] = None,
    keys: Annotated[int, typer.Option(min=0, max=1000, help="Keys to show of rows that went the same way.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Say what differs between two lock files.

    Or between one and this workspace: revisions, rules, scores, rows; and, where both workspaces are there, which
    rows moved and why. Ends with 1 where something differs."""
    from prep.cli import lock_report, show
    from prep.errors import UsageError

    if b is not None and after is None:
        raise UsageError("--b goes with a second lock file", "`prep diff LOCK OTHER --b DIR`.")
    here = _workspace() if after is None else None
    with show.bars(as_json):
        comparison = lock_report.compare(before, after, (a, b), here, keys)
    lock_report.compared(comparison, as_json)
    if comparison.differences:
        raise typer.Exit(1)


@command("demo")
def demo(
    folder: Annotated[Path, typer.Argument(help="Where to make it.")] = Path("prep-demo"),
    as_json: AsJson = False,
) -> None:
    """Show the whole line in a minute.

    Publishers are imitated on this machine: no network, no credentials."""
    from prep.cli import show
    from prep.cli.running import run_demo

    with show.bars(as_json):
        errors = run_demo(folder, as_json=as_json)
    if errors:
        raise typer.Exit(1)


# -- shared --------------------------------------------------------------------------------------------------


def _emit(workspace: Workspace, format_: str, output: Path | None, as_json: bool, **options: Any) -> None:
    """Write JSON lists and what names them."""
    from prep.cli import show
    from prep.errors import UsageError
    from prep.line import stale_tables
    from prep.stages.emit_json import FORMATS, emit_json

    known = next((name for name in FORMATS if name == format_), None)
    if known is None:
        raise UsageError(f"--format {format_} is unknown", f"There are: {', '.join(FORMATS)}.")
    with workspace.exclusive(), show.bars(as_json):
        stale = stale_tables(workspace)
        emission = emit_json(workspace, format_=known, output=output, stale=stale, **options)
        show.emission(emission, workspace, options["dry_run"], as_json)


def _run_stage(
    workspace: Workspace,
    stage: Callable[..., Outcome],
    items: Sequence[Any],
    as_json: bool,
    work: Spread | None = None,
    before: Callable[[], None] = lambda: None,
    tell: Callable[[Iterable[Outcome], bool], list[Outcome]] | None = None,
    **options: bool,
) -> None:
    """Run one stage over datasets or tables, one result each; failures are told after the last."""
    from functools import partial

    from prep.cli import show
    from prep.cli.spread import Spread
    from prep.errors import Failures, UsageError, each

    failures = Failures()
    with (work or Spread()).holding(workspace), show.bars(as_json):
        if not options["dry_run"]:
            before()
        calls = (partial(stage, workspace, item, **options) for item in items)
        outcomes = (tell or show.outcomes)(each(calls, failures), as_json)
    failures.raise_all()
    if outcomes and all(outcome.state == "waiting" for outcome in outcomes):
        raise UsageError(
            f"{outcomes[0].stage} has nothing to work on yet: {outcomes[0].note}", "`prep run` does all in order."
        )
    show.next_step(workspace, outcomes, as_json)


def _slice(parts: str | None, only: Sequence[str], limit: int | None, is_all: bool) -> Slice | None:
    """The slice that options choose: None for no option, the empty one for --all."""
    from prep.errors import UsageError
    from prep.sources.slices import Slice

    if parts is None and not only and limit is None:
        return Slice() if is_all else None
    if parts is not None and not parts.strip():
        raise UsageError("--parts names no position", "For example --parts 0-3,7.")
    choice = Slice(parts or "", tuple(only), limit)
    if is_all:
        raise UsageError(f"--all brings every part, and {choice} only some", "Give one of them.")
    return choice


def _moment(text: str | None) -> float | None:
    """The moment of `time.monotonic()` that lies the time in `text` ahead."""
    import re
    import time

    from prep.errors import UsageError

    if text is None:
        return None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", text.strip())
    if found is None or float(found[1]) == 0:
        raise UsageError(f"--deadline {text}: is no time from now", "For example --deadline 8h, 90m or 3600s.")
    return time.monotonic() + float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def _pair(text: str, option: str) -> tuple[str, str]:
    from prep.errors import UsageError

    left, equals, right = text.partition("=")
    if not (left and equals and right):
        example = {"--map": "caption=text", "--remap": "/here/mixture=/there/mixture"}[option]
        raise UsageError(f"{option} {text}: must be two words with = between", f"For example {option} {example}.")
    return left, right


def _checked(model: Any, **values: Any) -> Any:
    """A model from command-line values; what it refuses is told as an option's error."""
    from pydantic import ValidationError

    from prep.errors import UsageError

    try:
        return model(**values)
    except ValidationError as error:
        problem = error.errors()[0]
        option = "--" + str(problem["loc"][0]).replace("_", "-")
        told = problem["msg"].removeprefix("Value error, ")
        raise UsageError(f"{option}: {told}", f"`prep filter --help` says what {option} takes.") from error
