"""What a `where` names, and what is left of it without that: read off the tree that DuckDB itself parses.

A node of the tree is a JSON object with its `class`, and children under whatever keys.
"""

from __future__ import annotations

import json
from collections.abc import Set
from typing import Any

import duckdb

EVERY = "*"  # what `COLUMNS(...)` names
_TRUE = {"class": "CONSTANT", "type": "VALUE_CONSTANT", "alias": "", "literal": {"kind": "BOOLEAN", "text": "true"}}


def parsed_query(connection: duckdb.DuckDBPyConnection, query: str) -> Any:
    """The tree of a query.

    Raises:
        duckdb.Error: it is no query, or of a sort (PIVOT) that DuckDB gives no tree of.
    """
    tree = json.loads(connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0])
    if tree["error"]:
        raise duckdb.ParserException(tree["error_message"])
    return tree


def query_text(connection: duckdb.DuckDBPyConnection, tree: Any) -> str:
    """The query that a tree is of."""
    return str(connection.execute("SELECT json_deserialize_sql(?)", [json.dumps(tree)]).fetchall()[0][0])


def names_in(node: Any) -> frozenset[str]:
    """Names of columns below a node, as small letters: DuckDB takes either. Texts are no names."""
    if isinstance(node, list):
        return frozenset().union(*map(names_in, node))
    if not isinstance(node, dict):
        return frozenset()
    own = {name.lower() for name in node["column_names"]} if node.get("class") == "COLUMN_REF" else set()
    if node.get("class") == "STAR":
        own.add(EVERY)
    return names_in([*node.values()]) | own


def without(node: Any, names: Set[str | None]) -> Any:
    """The tree in which each part of an AND or OR that names one of these is true.

    So every row for which the whole can become true, whatever the columns turn out to be, is among its rows.
    """
    if isinstance(node, list):
        return [without(part, names) for part in node]
    if not isinstance(node, dict) or not names_in(node) & names:
        return node
    if "class" in node and node["class"] != "CONJUNCTION":
        return _TRUE
    return {key: without(value, names) for key, value in node.items()}
