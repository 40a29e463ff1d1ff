"""Write docs/commands.md from the program's own commands, so that the two cannot differ.

python docs/generate_commands.py           write the file
python docs/generate_commands.py --check   fail when the file is not what would be written
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

from generated_page import write_page
from typer.main import get_command

from prep.cli.app import app

PAGE = Path(__file__).with_name("commands.md")
HEAD = """\
# Commands

<!-- Written by docs/generate_commands.py (`make docs`); do not edit. -->

Results go to stdout, talk and errors to stderr. Every command knows `--help`. Exit codes are in
[data-format.md](data-format.md#exit-codes).
"""
_WORDS = {int: "NUMBER", float: "NUMBER", Path: "PATH", str: "TEXT"}


def render() -> str:
    """The whole page."""
    program: Any = get_command(app)
    sections = [HEAD, _section("prep", program.help, _own(program), _types(app.registered_callback))]
    sections += _commands("prep", app, program)
    for info in app.registered_groups:
        group = program.commands[info.name]
        sections += [
            _section(f"prep {info.name}", group.help),
            *_commands(f"prep {info.name}", info.typer_instance, group),
        ]
    return "\n".join(sections)


def _commands(name: str, app: Any, program: Any) -> Iterator[str]:
    """A section for each of a program's own commands."""
    for info in app.registered_commands:
        command = program.commands[info.name]
        yield _section(f"{name} {info.name}", command.help, _own(command), _types(info))


def _own(command: Any) -> list[Any]:
    """The command's arguments and options, without those that Typer adds to every program."""
    return [param for param in command.params if not param.name.endswith("_completion")]


def _types(info: Any) -> dict[str, Any]:
    """Parameter -> its annotated type."""
    return get_type_hints(info.callback)


def _section(name: str, text: str, params: list[Any] | None = None, types: dict[str, Any] | None = None) -> str:
    """A program's or command's section; a group of commands has no parameters of its own."""
    params, types = params or [], types or {}
    usage = " ".join([name, *_usage(params), *(["COMMAND"] if name == "prep" or not params else [])])
    level = "#" * max(2, len(name.split()))
    lines = [f"{level} {name}", "", text.strip(), "", "```text", usage, "```", ""]
    if params:
        lines += ["| argument or option | default | |", "| --- | --- | --- |"]
        lines += _rows(params, types)
        lines.append("")
    return "\n".join(lines)


def _usage(params: Iterable[Any]) -> Iterator[str]:
    params = list(params)
    if any(_is_option(param) for param in params):
        yield "[OPTIONS]"
    for param in params:
        if not _is_option(param):
            word = param.name.upper() + ("..." if param.nargs == -1 else "")
            yield word if param.required else f"[{word}]"


def _rows(params: Iterable[Any], types: dict[str, Any]) -> Iterator[str]:
    for param in sorted(params, key=_is_option):
        names = ", ".join(f"`{name}`" for name in param.opts) if _is_option(param) else f"`{param.name.upper()}`"
        if _is_option(param) and not param.is_flag:
            names += f" {param.metavar or _word(types[param.name])}"
        default = "" if param.default in (None, False) or callable(param.default) else f"`{param.default}`"
        default = "required" if param.required else default
        yield f"| {names} | {default} | {_escaped(param.help or '')} |"


def _escaped(text: str) -> str:
    """`text` for a cell of a table: no bar that ends it, nothing that reads as a tag."""
    return text.replace("|", r"\|").replace("<", "&lt;")


def _is_option(param: Any) -> bool:
    return bool(param.opts[0].startswith("-"))


def _word(kind: Any) -> str:
    """What to type for a value of this type: of `list[str] | None`, TEXT."""
    while kind not in _WORDS:
        kind = next(inner for inner in get_args(kind) if inner is not type(None))
    return _WORDS[kind]


if __name__ == "__main__":
    write_page(PAGE, render(), __file__)
