"""README and docs say what the program does: commands, keys, columns, reasons, findings and links are compared."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.main import get_command

from prep import config, workspace
from prep.cli.app import app
from prep.config import Catalogue, Dataset, Model, Recipe, Records, Table, WorkspaceConfig, load
from prep.datasets import turns
from prep.images.chunks import NOT_FETCHED
from prep.images.index import SCHEMA
from prep.images.matching import AMBIGUOUS
from prep.images.statuses import OF_ADDRESSES, OF_ANY, OF_FILES
from prep.progress import Meter
from prep.readers.json import BAD_JSON
from prep.schema import KINDS, Kind
from prep.stages.dedup_facts import REASONS
from prep.stages.normalize import NormalizeTask, needed_columns
from prep.stages.sampling import SAMPLED_OUT
from prep.trainers import convllava, convllava_rows, lavida_o
from prep.workspace import RulesFile
from worlds import prep as run_prep

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "prep"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
PROGRAM: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]  # of Typer's group
# `init` -> its command; of a group also `recipe show`.
COMMANDS = PROGRAM | {
    f"{name} {sub}": c for name, p in PROGRAM.items() for sub, c in getattr(p, "commands", {}).items()
}
YAML_MODELS: dict[str, type[Model]] = {
    "dataset": Dataset,
    "recipe": Recipe,
    "prep.yaml": WorkspaceConfig,
    "rules.yaml": RulesFile,
}


def name_of(page: Path) -> str:
    return page.name


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """Fenced blocks of a page whose info string is one of `languages`."""
    for language, body in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield body


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def section(page: Path, heading: str) -> str:
    """What stands under a heading, up to the next of any level."""
    _, found, rest = prose(page).partition(f"\n{heading}\n")
    assert found, f"{page.name} has no {heading!r}"
    return re.split(r"\n#+ ", rest)[0]


def first_cells(table: str) -> list[str]:
    """First cells of a Markdown table's rows, without its head."""
    rows = [line for line in table.splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", row)[1].strip() for row in rows[2:]]


def spans(text: str) -> list[str]:
    """Code spans of a text."""
    return [span.strip() for _, span in CODE_SPAN.findall(text)]


# -- commands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", sorted(DOCS.glob("generate_*.py")), ids=name_of)
def test_generated_pages_are_current(generator: Path) -> None:
    command = [sys.executable, str(generator), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_commands_page_has_every_command_and_option() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^##+ prep ([\w -]+)\n(.*?)(?=^##+ |\Z)", text, re.MULTILINE | re.DOTALL))
    assert list(sections) == list(COMMANDS)
    for name, command in COMMANDS.items():
        for param in command.params:
            names = param.opts if param.opts[0].startswith("-") else [param.name.upper()]
            for option in names:
                assert f"`{option}`" in sections[name], (name, option)


def command_lines(page: Path) -> Iterator[list[str]]:
    """Words of every `prep` command line in the page's shell blocks."""
    for body in blocks(page, "sh"):
        yield from _prep_lines(body.splitlines())
    for body in blocks(page, "console"):
        yield from _prep_lines(line.removeprefix("$ ") for line in body.splitlines() if line.startswith("$ "))


def joined(words: list[str]) -> list[str]:
    """A command's words, a group and its command as one."""
    name = " ".join(words[:2])
    return [name, *words[2:]] if name in COMMANDS and len(words) > 1 else words


def _prep_lines(lines: Any) -> Iterator[list[str]]:
    for line in lines:
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if words and words[0].rsplit("/", 1)[-1] == "prep":
                yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_is_understood(page: Path) -> None:
    for words in command_lines(page):
        rest = joined(words[2:] if words[0] == "-C" else words)
        assert rest[0] in COMMANDS, words
        COMMANDS[rest[0]].make_context(rest[0], list(rest[1:]))  # raises for an option or value it does not know
        if rest[0] == "init" and rest[1:] and not rest[1].startswith("-"):
            assert rest[1] in Catalogue().recipe_names(), words


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_text_are_known(page: Path) -> None:
    for span in spans(prose(page)):
        words = span.split()
        rest = words[2:] if words[1:2] == ["--debug"] else words[1:]
        if words[0] != "prep" or not rest or not rest[0].replace("-", "").islower():
            continue
        rest = joined(rest)
        assert rest[0] in COMMANDS, span
        known = {option for param in COMMANDS[rest[0]].params for option in param.opts} | {"--help"}
        assert {word for word in rest[1:] if word.startswith("-")} <= known, span


def test_every_make_target_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    lines = [line for page in PAGES for body in blocks(page, "sh") for line in body.splitlines()]
    named = {line.split()[1] for line in lines if line.startswith("make ")}
    assert named and named <= targets


# -- links and YAML --------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_yaml_loads(page: Path, tmp_path: Path) -> None:
    for kind, model in YAML_MODELS.items():
        for number, body in enumerate(blocks(page, f"yaml {kind}")):
            path = tmp_path / f"{number}.yaml"
            path.write_text(body, encoding="utf-8")
            load(model, path)
            for entry in yaml.safe_load(body).get("entries", []):
                assert entry["table"] in known_tables(), entry


def known_tables() -> set[str]:
    """Tables of the datasets that come with `prep`, and of those that the pages make."""
    texts = [body for page in PAGES for body in blocks(page, "yaml dataset")]
    shown = {table for text in texts for table in yaml.safe_load(text).get("tables", ())}
    return shown | {table for dataset in Catalogue().datasets() for table in dataset.tables}


# -- the format ------------------------------------------------------------------------------------------------


def test_data_format_has_exactly_the_keys_of_the_models() -> None:
    models = {
        name: model
        for module in (config, workspace)
        for name, model in vars(module).items()
        if isinstance(model, type) and issubclass(model, Model) and model is not Model
    }
    documented = _marked_tables("keys")
    assert documented.keys() == models.keys()
    for name, model in models.items():
        keys = [field.alias or key for key, field in model.model_fields.items()]
        assert spans("\n".join(first_cells(documented[name]))) == keys, name


def test_data_format_has_exactly_the_columns() -> None:
    documented = _marked_tables("columns")
    assert documented.keys() == {*KINDS, "index"}
    rows = {name: [row.split("|")[1:] for row in table.splitlines()[2:]] for name, table in documented.items()}
    columns = {name: [(row[0].strip(" `"), row[1].strip()) for row in table] for name, table in rows.items()}
    assert columns.pop("index") == [(field.name, str(field.type)) for field in SCHEMA]
    assert columns == {name: [(c.name, c.type) for c in kind.columns] for name, kind in KINDS.items()}
    for name, kind in KINDS.items():
        assert [row[2].strip() == "yes" for row in rows[name]] == [column.required for column in kind.columns]
        assert f"`{lavida_o.FUNCTION_OF_KIND[name]}`" in section(DOCS / "data-format.md", f"### {name}")


def _marked_tables(mark: str) -> dict[str, str]:
    text = (DOCS / "data-format.md").read_text(encoding="utf-8")
    return dict(re.findall(rf"^<!-- {mark}: (\S+) -->\n((?:\|.*\n)+)", text, re.MULTILINE))


# -- statuses and reasons --------------------------------------------------------------------------------------


Assigned = dict[str, list[ast.expr]]  # what the names of a function are assigned


def strings(node: ast.AST, assigned: Assigned) -> Iterator[str]:
    """String constants that an expression can be, through the names of its function; of an f-string its start."""
    if isinstance(node, ast.Name):
        for value in assigned.get(node.id, []):
            yield from strings(value, {})
    elif isinstance(node, ast.IfExp):
        yield from strings(node.body, assigned)
        yield from strings(node.orelse, assigned)
    elif isinstance(node, ast.JoinedStr):
        yield from strings(node.values[0], {})
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def functions(path: Path) -> Iterator[tuple[ast.AST, Assigned]]:
    """Functions of a module (methods too), each with what its names are assigned."""
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            assigned: Assigned = {}
            assigns = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
            for target, value in ((target, assign.value) for assign in assigns for target in assign.targets):
                if isinstance(target, ast.Name):
                    assigned.setdefault(target.id, []).append(value)
            yield function, assigned


def calls(node: ast.AST, *names: str) -> Iterator[ast.Call]:
    """Calls of functions or methods called one of `names`."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            function = call.func
            called = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            if called in names:
                yield call


def statuses_in_code() -> set[str]:
    found: set[str] = set()
    for path in [*(SOURCE / "images").glob("*.py"), *(SOURCE / "stages").glob("image_*.py")]:
        for function, assigned in functions(path):
            for call in calls(function, "Fetched", "Probe"):
                found.update(strings(call.args[0], assigned))
            for call in calls(function, "IndexRow"):
                found.update(strings(call.args[1], assigned) if len(call.args) > 1 else ())
    return {re.sub(r"^http_$", "http_404", status) for status in found}


def test_every_image_status_is_documented() -> None:
    known = OF_ANY | OF_ADDRESSES | OF_FILES
    cells = first_cells(section(DOCS / "images.md", "## Statuses"))
    assert {span for cell in cells for span in spans(cell)} == known
    assert statuses_in_code() <= known
    texts = [path.read_text() for path in [*(SOURCE / "images").glob("*.py"), *(SOURCE / "stages").glob("image_*.py")]]
    rest = "".join(text for text in texts if "OF_ADDRESSES = " not in text)
    assert [status for status in known if f'"{status}"' not in rest and not status.startswith("http_")] == []


def reasons_in_code() -> set[str]:
    """Every reason that a row can be dropped for; `image_` and `bad_` stand for those that go on."""
    rules = (SOURCE / "stages" / "filter.py").read_text(encoding="utf-8")
    found = set(re.findall(r"THEN '(\w+)'", rules)) | {
        NOT_FETCHED,
        SAMPLED_OUT,
        f"image_{AMBIGUOUS}",
        BAD_JSON,
        *turns.REASONS,
    }
    found |= {*REASONS.values()}
    found |= {f"image_{status}" for status in re.findall(r"missing = \"'(\w+)'\"", rules)}
    # Those of text-to-image and grounded-caption have rows of their own; `no_` stands for the other columns.
    needed = {word for kind in KINDS.values() for images in ("url", "given") for word in needed_words(kind, images)}
    found |= {f"no_{word}" if word in ("url", "image", "caption", "loc_caption") else "no_" for word in needed}
    found -= {turns.NO_CONVERSATIONS}
    normalize = (SOURCE / "stages" / "normalize.py").read_text(encoding="utf-8")
    found |= {"image_", *re.findall(r"'(bad_)", normalize)}
    for path in (SOURCE / "datasets").glob("*.py"):
        for function, assigned in functions(path):
            given = [
                word.value for call in calls(function, "_Scene") for word in call.keywords if word.arg == "drop_reason"
            ]
            for value in [*given, *assigned.get("reason", [])]:
                found.update(strings(value, {}))
    for dataset in Catalogue().datasets():
        found.update(reason for table in dataset.tables.values() for reason in table.drop)
    added = (SOURCE / "add.py").read_text(encoding="utf-8")
    return found | set(re.findall(r'table\["drop"\] = \{"(\w+)"', added))


def needed_words(kind: Kind, images: str) -> Iterator[str]:
    """What normalize says of columns that a sample of this kind cannot do without."""
    table = Table(kind=kind.name, records=Records(parts="*", format="parquet"), select={})
    nothing = Path()
    task = NormalizeTask(nothing, "", "", table, images, "", (), (), nothing)
    yield from needed_columns(task).values()


def test_every_reason_is_documented() -> None:
    cells = first_cells(section(DOCS / "filtering.md", "## Reasons"))
    assert {spans(cell)[0] for cell in cells} == reasons_in_code()


# -- findings of check -----------------------------------------------------------------------------------------

CONSTANTS = vars(lavida_o) | vars(convllava) | vars(convllava_rows)  # by which messages name keys
GENERIC = 8  # letters; a message with fewer of its own says too little to be told by them


def message(node: ast.AST, assigned: Assigned) -> str:
    """The text of a message, with … for what varies; empty for what is no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(message(value, assigned) for value in node.values)
    if isinstance(node, ast.FormattedValue):
        return message(node.value, assigned) or "…"
    if isinstance(node, ast.Name) and node.id.isupper():
        return str(CONSTANTS.get(node.id, ""))
    if isinstance(node, ast.IfExp):
        return message(node.body, {})  # of two wordings the first
    if isinstance(node, ast.Name) and node.id in assigned:
        return message(assigned[node.id][-1], {})
    return ""


def findings_in_code(paths: Iterable[Path]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found.update(message(call.args[1], {}) for call in calls(tree, "RowFault") if len(call.args) > 1)
        for function, assigned in functions(path):
            names = ["error", "warning", "note", "DataError"]
            if getattr(function, "name", "") == "parse_sampling":
                names.append("ConfigError")
            found.update(message(call.args[0], assigned) for call in calls(function, *names) if call.args)
            found.update(f"… {message(call.args[1], assigned)}" for call in calls(function, "_fault"))
            if getattr(function, "name", "") == "_turns":  # gives what is wrong with a conversation's turns
                returns = (node.value for node in ast.walk(function) if isinstance(node, ast.Return))
                found.update(f"… {message(pair.elts[1], {})}" for pair in returns if isinstance(pair, ast.Tuple))
    return {text for text in map(shortened, found) if text.strip("… ")}


def shortened(text: str) -> str:
    """A message without what hangs on at its end: a nearest name, counts in brackets."""
    return re.sub(r"…+", "…", re.sub(r"[…, :]*( \([^()]*\)?)?[…, :]*$", "", text))


def is_told(code: str, documented: str) -> bool:
    """Whether the page's wording is this message."""
    if len(code.replace("…", "").strip()) < GENERIC:
        return code == shortened(documented)
    return re.fullmatch(".*".join(map(re.escape, code.split("…"))), shortened(documented)) is not None


OF_CONVLLAVA = [*(SOURCE / "trainers").glob("convllava*.py"), SOURCE / "readers" / "json_list.py"]
OF_LAVIDA_O = [*{*(SOURCE / "trainers").glob("*.py")} - {*OF_CONVLLAVA}, SOURCE / "stages" / "check.py"]


@pytest.mark.parametrize(
    ("name", "paths", "number"), [("training-yaml.md", OF_LAVIDA_O, 50), ("convllava.md", OF_CONVLLAVA, 35)]
)
def test_every_finding_of_check_is_documented(name: str, paths: list[Path], number: int) -> None:
    page = DOCS / name
    headings = [heading for heading in re.findall(r"^### .+$", prose(page), re.MULTILINE) if "Findings" in heading]
    documented = [span for h in headings for cell in first_cells(section(page, h)) for span in spans(cell)]
    known = findings_in_code(paths)
    assert len(known) > number
    assert [code for code in known if not any(is_told(code, text) for text in documented)] == []
    assert [text for text in documented if not any(is_told(code, text) for code in known)] == []


# -- the README's examples do what it says ---------------------------------------------------------------------


def test_own_data_in_four_commands_writes_the_entry_shown(tmp_path: Path) -> None:
    readme = ROOT / "README.md"
    shown = next(body for body in blocks(readme, "yaml") if "datasets:" in body)
    listing = next(body for body in blocks(DOCS / "own-data.md", "text") if body.startswith("s3_path,"))
    (tmp_path / "our-dataset.csv").write_text(listing, encoding="utf-8")
    four = next(body for body in blocks(readme, "sh") if "prep add" in body).splitlines()
    assert len(four) == 4
    for line in four:
        done = run_prep(tmp_path, *shlex.split(line)[1:])
        assert done.returncode == 0, done.stderr
    written = yaml.safe_load((tmp_path / "training" / "mixture.yaml").read_text(encoding="utf-8"))
    assert written == yaml.safe_load(shown.replace("/data/mixture", str(tmp_path)))


@pytest.fixture(scope="module")
def six_lines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A workspace with the README's dataset of six lines, and what `prep run` printed in it."""
    folder = tmp_path_factory.mktemp("six_lines")
    collection, root = folder / "street-signs", folder / "workspace"
    collection.mkdir()
    sides = (511, 512)
    for side in sides:
        Image.new("RGB", (side, 600)).save(collection / f"{side}.png")
    rows = [{"file": f"{side}.png", "text": f"A sign of {side}", "w": side, "h": 600} for side in sides]
    pq.write_table(pa.Table.from_pylist(rows), collection / "part-0.parquet")
    (root / "datasets").mkdir(parents=True)
    assert run_prep(root, "init").returncode == 0
    text = next(blocks(ROOT / "README.md", "yaml dataset"))
    (root / "datasets" / "street-signs.yaml").write_text(text.replace("/data/street-signs", str(collection)))
    entries = re.search(r"`(entries: \[.*?\])`", prose(ROOT / "README.md"))
    assert entries
    (root / "recipe.yaml").write_text(f"name: mixture\n{entries[1]}\n")
    done = run_prep(root, "run")
    assert done.returncode == 0, done.stderr
    return root, done.stdout


def test_six_lines_make_a_dataset(six_lines: tuple[Path, str]) -> None:
    text = next(blocks(ROOT / "README.md", "yaml dataset"))
    assert len(text.splitlines()) == 6
    assert text == next(blocks(DOCS / "adding-a-dataset.md", "yaml dataset"))
    assert "filter    street-signs      1 kept, 1 dropped: 1 min_size" in six_lines[1]
    assert six_lines[1].endswith("Training would start: nothing found.\n")


def test_tables_and_manifests_are_as_documented(six_lines: tuple[Path, str]) -> None:
    page, root = DOCS / "data-format.md", six_lines[0]
    of_kind = {column.name for column in KINDS["text-to-image"].columns}
    own = [name for cell in first_cells(section(page, "### normalized")) for name in spans(cell) if name != "extra"]
    shard = "street-signs.parquet/shard-00000.parquet"
    written = [name for name in pq.read_schema(root / "normalized" / shard).names if name not in of_kind]
    assert written == [name for name in own if name != "url"]
    kept = [name for name in pq.read_schema(root / "filtered" / shard).names if name not in of_kind]
    assert kept == written[:-1]
    assert all(f"`{name}`" in section(page, "### filtered") for name in kept)
    dropped = pq.read_schema(root / "dropped" / shard).names
    assert {*dropped} == {"key", "row", "s3_path", "reason"}
    _assert_manifests_are_documented(page, root)


# Facts of other sources, and of what is not wholly here.
ELSEWHERE = (
    *("repo", "revision", "folder", "documents_left_out", "slice", "adopted", "missing"),
    *("scores", "sample", "dedup", "judged"),
)


def _assert_manifests_are_documented(page: Path, root: Path) -> None:
    text = section(page, "### Manifests")
    facts = {
        row.split("|")[1].strip(" `"): spans(row.split("|")[2]) for row in text.splitlines() if row.count("|") == 3
    }
    for path in root.glob("*/*/_manifest.json"):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        told = [name for name in facts[manifest["stage"]] if name not in ELSEWHERE]
        assert [*manifest["facts"]] == told, path
        keys = {name for cell in first_cells(text) for name in spans(cell)}
        assert {*manifest, *manifest["shards"][0]} <= keys


def test_plans_are_as_documented(six_lines: tuple[Path, str]) -> None:
    done = run_prep(six_lines[0], "download", "--dry-run", "--force", "--json")
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    (outcome,), text = planned["outcomes"], section(DOCS / "data-format.md", "### Plans")
    keys = [name for cell in first_cells(text) for name in spans(cell)]
    assert [*outcome["plan"]] == [name for name in keys if name != "slice"]
    of_a_part = next(line for line in text.splitlines() if line.startswith("| `parts` |"))
    assert {*outcome["plan"]["parts"][0]} <= {*spans(of_a_part)}
    assert {*planned["totals"]} <= {*spans(text.partition("`totals`")[2])}


def test_events_are_as_documented() -> None:
    text = section(DOCS / "data-format.md", "### Events")
    fields = {row.split("|")[1].strip(" `"): spans(row.split("|")[3]) for row in text.splitlines() if row[:3] == "| `"}
    meter = Meter("download x", 1, "B", 1)
    assert ["event", *fields["start"]] == [*meter.facts("start")] == [*meter.facts("end")]
    assert ["event", *fields["start"], *fields["progress"]] == [*meter.facts("progress")]
    uncounted = {*Meter("filter x", 1, "shards").facts("progress")} - {*meter.facts("progress")}
    assert uncounted <= {*spans(text)} and uncounted == {"done", "total", "unit"}
