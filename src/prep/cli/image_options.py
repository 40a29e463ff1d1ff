"""The options of `prep images`, as the stage takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prep.config import Dataset, Encode
    from prep.stages.images import ImageOptions
    from prep.workspace import Workspace


def encoding(max_side: int | None, format_: str | None, quality: int | None, as_published: bool) -> Encode:
    """What stored images have to be.

    Raises:
        UsageError: a format or a number that is none, or one beside --as-published.
    """
    from pydantic import ValidationError

    from prep.config import Encode
    from prep.errors import UsageError

    if as_published and (max_side, format_, quality) != (None, None, None):
        raise UsageError(
            "--as-published stores images as they came, --max-side and its like do not", "Give one of them."
        )
    try:
        lower = None if format_ is None else format_.lower()
        return Encode.model_validate({"max_side": max_side, "format": lower, "quality": quality})
    except ValidationError as error:
        problem = error.errors()[0]
        option = "--" + str(problem["loc"][0]).replace("_", "-")
        message = problem["msg"].removeprefix("Input should be ")
        raise UsageError(
            f"{option} {problem['input']}: must be {message}", "For example --max-side 1024 --format jpeg --quality 90."
        ) from error


def image_options(
    retry: str | None, all_rows: bool, verify: str | None, delete_parts: bool, min_success: float | None
) -> ImageOptions:
    """What one run is asked.

    Raises:
        UsageError: a status that no image can have, or another --verify than `decode`.
    """
    from prep.errors import UsageError
    from prep.stages.images import MIN_SUCCESS, ImageOptions

    if verify not in (None, "decode"):
        raise UsageError(f"--verify {verify}: must be decode", "Headers and ends of files are looked at in any case.")
    return ImageOptions(
        all_rows,
        _statuses(retry),
        verify is not None,
        delete_parts,
        MIN_SUCCESS if min_success is None else min_success,
    )


def _statuses(text: str | None) -> tuple[str, ...]:
    import re

    from prep.errors import UsageError
    from prep.images.statuses import OF_ADDRESSES, OF_ANY
    from prep.stages.image_urls import FAILED

    if text is None:
        return ()
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("--retry names no status", "For example --retry dns,timeout.")
    known = (OF_ADDRESSES | OF_ANY) - {"ok"} | {FAILED}
    for name in names:
        if name not in known and not re.fullmatch(r"http_[1-9][0-9]{2}", name):
            raise UsageError(
                f"--retry {name}: is no status of an address that failed",
                f"There are: {', '.join(sorted(known - {FAILED}))}, other http_ numbers, and `{FAILED}` for all.",
            )
    return tuple(names)


def with_addresses(workspace: Workspace, datasets: Sequence[Dataset]) -> list[Dataset]:
    """Those of the datasets whose images are behind addresses.

    Raises:
        UsageError: there are none.
    """
    from prep.config import UrlImages
    from prep.errors import UsageError

    chosen = [dataset for dataset in datasets if isinstance(workspace.images(dataset), UrlImages)]
    if not chosen:
        raise UsageError("no dataset here has images behind addresses", "Leave --retry out.")
    return chosen


def adopt_folder(workspace: Workspace, datasets: Sequence[Dataset], folder: Path, dry_run: bool) -> Workspace:
    """Write into prep.yaml that a dataset's images are in `folder`; the workspace as it is then.

    Raises:
        ConfigError: prep.yaml names another folder for it.
        UsageError: not exactly one dataset is named, or its images are in no archives.
        WorkspaceError: there is no such folder, or no image in it.
    """
    from prep.config import ArchiveImages, ParquetImages
    from prep.errors import UsageError, WorkspaceError
    from prep.files import write_text
    from prep.images.folder import list_images
    from prep.manifest import read_manifest
    from prep.workspace import CONFIG_NAME, Workspace
    from prep.yaml_edit import add_keys, read_exact

    if len(datasets) != 1:
        raise UsageError(
            f"--adopt is for one dataset, and this means {len(datasets)}",
            "For example `prep images coco-2017 --adopt ~/coco`.",
        )
    if not folder.is_dir():
        raise WorkspaceError(f"there is no folder {folder}", "Check what follows --adopt.")
    if dry_run:
        raise UsageError("--adopt writes into prep.yaml, and --dry-run writes nothing", "Give one of them.")
    if not isinstance(datasets[0].images, ArchiveImages | ParquetImages):
        raise UsageError(
            f"--adopt: the images of {datasets[0].name} are in no archives that a folder could stand for",
            "A table of your own with a column of paths is for `prep add`.",
        )
    raw = read_manifest(workspace.raw(datasets[0].name))
    if raw and any(part.freed_shares is not None for part in raw.shards):
        raise UsageError(
            f"--adopt: the images of {datasets[0].name} are stored, and --delete-parts deleted what they came out of",
            f"`prep download {datasets[0].name} --force` brings the archives back first.",
        )
    workspace.check_adopted(datasets[0], folder)
    if next(list_images(folder), None) is None:
        raise WorkspaceError(f"there are no images below {folder}", "Check what follows --adopt.")
    path = workspace.root / CONFIG_NAME
    place = {datasets[0].name: str(folder.resolve())}
    with workspace.exclusive():
        write_text(path, add_keys(read_exact(path), "image_folders", place), follow_links=True)
    return Workspace(workspace.root)
