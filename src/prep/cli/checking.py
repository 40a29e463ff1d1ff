"""`prep check`: which check a file is for, and the options that go with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from prep.errors import DataError, UsageError
from prep.stages.check import CheckReport, check_yaml
from prep.stages.check_lists import SUFFIXES, ListsReport, check_json, check_module, check_next, next_lists
from prep.trainers.convllava_rows import VERSIONS, Version
from prep.trainers.lavida_o_sample import reader_on_path

ImageChoice = Literal["sample", "all", "none"]


def run_check(
    path: Path,
    images: str,
    *,
    steps: int | None = None,
    batch: int | None = None,
    no_files: bool = False,
    s3_reader: Path | None = None,
    image_folder: Path | None = None,
    version: str | None = None,
    dataset: str | None = None,
) -> CheckReport | ListsReport:
    """Check a training YAML for LaViDa-O or the LLaVA-NeXT family, or a Python module or JSON list for ConvLLaVA.

    Raises:
        UsageError: options that do not go together, or not with such a file.
        DataError: there is no such file.
    """
    choice = next((choice for choice in get_args(ImageChoice) if choice == images), None)
    if choice is None:
        raise UsageError(
            f"--images {images}: must be sample, all or none", "`prep check --images all` opens every one."
        )
    of_yaml = {"--steps": steps, "--batch": batch, "--no-files": no_files or None, "--s3-reader": s3_reader}
    of_lists = {"--version": version, "--image-folder": image_folder, "--dataset": dataset}
    is_module, is_list = path.suffix == ".py", path.suffix.lower() in SUFFIXES
    lists = None if is_module or is_list or not path.is_file() else next_lists(path)
    if is_module or is_list or lists is not None:
        _refuse(of_yaml, path, "a training YAML of LaViDa-O's")
        return _check_lists(path, lists, choice, image_folder, version, dataset)
    _refuse(of_lists, path, "a .py or .json file of ConvLLaVA's")
    if (steps is None) != (batch is None):
        raise UsageError("--steps and --batch go together", "`prep check --steps 10000 --batch 256`.")
    if no_files and (choice != "sample" or steps is not None):
        raise UsageError(
            "--no-files opens nothing, so --images, --steps and --batch go without it", "`prep check FILE --no-files`."
        )
    _need(path)
    with reader_on_path(s3_reader):
        return check_yaml(path, images=choice, steps=steps, batch=batch, files=not no_files)


def _check_lists(
    path: Path,
    named: Mapping[str, str] | None,
    images: ImageChoice,
    image_folder: Path | None,
    version: str | None,
    dataset: str | None,
) -> ListsReport:
    """Check a module, or a list, or the lists that a YAML names."""
    is_module = path.suffix == ".py"
    of_other = {"--image-folder": image_folder} if is_module else {"--dataset": dataset}
    _refuse(of_other, path, "a list" if is_module else "a Python module")
    chosen = _version(version)
    _need(path)
    if is_module:
        return check_module(path, version=chosen, images=images, option=dataset)
    if named is not None:
        return check_next(path, named, image_folder, version=chosen, images=images)
    return check_json(path, image_folder, version=chosen, images=images)


def _version(version: str | None) -> Version:
    known: dict[str, Version] = {name: name for name in VERSIONS}
    if version is not None and version not in known:
        raise UsageError(
            f"--version {version}: must be {' or '.join(VERSIONS)}", "The trainer's published scripts use v1."
        )
    return known[version or "v1"]


def _refuse(options: Mapping[str, object], path: Path, of: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{given[0]} is for {of}, and {path} is none", f"Leave {' and '.join(given)} out.")


def _need(path: Path) -> None:
    if not path.is_file():
        command = "prep emit" if path.suffix.lower() in (".py", *SUFFIXES) else "prep emit-yaml"
        what = f"{path} is no file" if path.exists() else f"there is no {path}"
        raise DataError(what, f"`{command}` writes the workspace's; or name another file.")
