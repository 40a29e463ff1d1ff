"""Check: what ConvLLaVA's dataset class will do with every row of JSON lists, before a GPU is rented.

Nothing is written, and of a Python module nothing is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from prep.errors import ConfigError, DataError
from prep.trainers.convllava import FOLDER_LINE, read_module
from prep.trainers.convllava_list import ImageChoice, ListReport, check_list, check_names, chosen_names
from prep.trainers.convllava_rows import Version
from prep.trainers.findings import STOPS, Finding, Notes
from prep.trainers.lavida_o import DATA_PATH, DATASETS
from prep.yaml_file import read_yaml

SUFFIXES = (".json", ".jsonl")  # of lists


@dataclass
class ListsReport:
    """What the trainer will do with one JSON list, or with those that a module names.

    Attributes:
        path: the list or the module.
        version: prompt format that training is started with.
        lists: in the module's order.
        findings: of the module first, then list by list.
    """

    path: Path
    version: Version
    lists: list[ListReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    files: ClassVar[bool] = True  # the lists are always looked into

    @property
    def errors(self) -> list[Finding]:
        """Findings that stop the run, or may."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """Findings of things the trainer does silently."""
        return [finding for finding in self.findings if finding.level == "warning"]

    def as_json(self) -> dict[str, Any]:
        """The report as plain values that JSON holds."""
        return {**asdict(self), "path": str(self.path)}


def check_module(
    path: Path, *, version: Version = "v1", images: ImageChoice = "sample", option: str | None = None
) -> ListsReport:
    """Find out what ConvLLaVA does with the datasets of a Python module such as `prep emit` writes.

    Args:
        images: open the pictures of the first row and 16 others of each list, of all rows, or none.
        option: the text of the trainer's --dataset; by default what the module says. Lists of other names are not
            looked at: training opens none of them.

    Raises:
        UsageError: the module has to be run to know its datasets.
    """
    report, notes = ListsReport(path, version), Notes()
    try:
        paths, said = read_module(path)
    except DataError as error:
        notes.error(error.message, STOPS, error.next_step)
        report.findings = notes.findings
        return report
    option = said if option is None else option
    check_names(paths, option, notes)
    report.findings = notes.findings
    for name, (json_path, image_folder) in paths.items():
        if name not in chosen_names(option, paths):
            continue
        of_list, findings = check_list(name, json_path, image_folder, version, images)
        report.lists.append(of_list)
        report.findings += findings
    return report


def next_lists(path: Path) -> dict[str, str] | None:
    """Name -> JSON list of a YAML of the LLaVA-NeXT family's; None for anything else, such as LaViDa-O's."""
    try:
        data = read_yaml(path).data
    except ConfigError:
        return None
    entries = data.get(DATASETS) if isinstance(data, dict) else None
    if not isinstance(entries, list) or not entries:
        return None
    named = (entry.get(DATA_PATH) if isinstance(entry, dict) else None for entry in entries)
    paths = [each for each in named if isinstance(each, str) and Path(each).suffix in SUFFIXES]
    return {Path(each).name: each for each in paths} if len(paths) == len(entries) else None


def check_next(
    path: Path,
    lists: Mapping[str, str],
    image_folder: Path | None,
    *,
    version: Version = "v1",
    images: ImageChoice = "sample",
) -> ListsReport:
    """The same of the lists that a YAML of the LLaVA-NeXT family names, whose rows are those of LLaVA too.

    Args:
        image_folder: by default what the YAML's first lines say, where `prep` wrote it.
    """
    said = re.search(f"(?m)^# {re.escape(FOLDER_LINE)}(/.*)$", path.read_text(encoding="utf-8", errors="replace"))
    folder = str(image_folder.absolute()) if image_folder is not None else said[1] if said else None
    report = ListsReport(path, version)
    for name, json_path in lists.items():
        of_list, findings = check_list(name, json_path, folder, version, images)
        report.lists.append(of_list)
        report.findings += findings
    return report


def check_json(
    path: Path, image_folder: Path | None, *, version: Version = "v1", images: ImageChoice = "sample"
) -> ListsReport:
    """The same of one JSON list; where nobody says where its pictures are, none is looked for."""
    folder = None if image_folder is None else str(image_folder.absolute())
    of_list, findings = check_list(path.name, str(path.absolute()), folder, version, images)
    return ListsReport(path, version, [of_list], findings)
