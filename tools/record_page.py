"""Write the tables of docs/records.md from the record's schema: python -m tools.record_page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "mlecs_bench" / "records" / "record.schema.json"
PAGE = ROOT / "docs" / "records.md"
BEGIN, END = "<!-- tables: python -m tools.record_page -->\n", "<!-- end of tables -->\n"

Node = dict[str, Any]
WORDS = {"string": "text", "boolean": "true or false", "integer": "integer", "number": "number", "null": "null"}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}


@dataclass(frozen=True)
class Field:
    """One row: where a value stands (names in capitals stand for any), what it can be, what it means."""

    path: str
    values: str
    meaning: str
    always: bool = True


class Schema:
    """The schema as the page reads it: references resolved, objects with a title explained in tables of their own."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self.shared = {name: node for name, node in root["$defs"].items() if "title" in node}

    def node(self, node: Node) -> Node:
        """Return a node with what it refers to; where it may also be null, `nullable` says so."""
        if "oneOf" in node:
            other = next(choice for choice in node["oneOf"] if choice != {"type": "null"})
            return self.node(other) | {"nullable": True} | _without(node, "oneOf")
        if "$ref" not in node:
            return node
        return self.node(self.root["$defs"][node["$ref"].removeprefix("#/$defs/")]) | _without(node, "$ref")

    def fields(self, parent: Node, path: str = "") -> Iterator[Field]:
        """Yield the fields below an object, outer before inner."""
        for name, child in parent["properties"].items():
            place, node = self._value(f"{path}{name}", self.node(child))
            yield Field(place, self.values(node), node.get("description", ""), name in parent.get("required", ()))
            if "properties" in node and node.get("title") not in self.shared:
                yield from self.fields(node, f"{place}.")

    def _value(self, path: str, node: Node) -> tuple[str, Node]:
        """Follow maps and lists of objects down to what they hold."""
        meaning = {"description": node["description"]} if "description" in node else {}
        if isinstance(node.get("additionalProperties"), dict):
            key = node.get("propertyNames", {}).get("title", "name").upper()
            return self._value(f"{path}.{key}", self.node(node["additionalProperties"]) | meaning)
        if "properties" in node.get("items", {}):
            return self._value(f"{path}[]", self.node(node["items"]) | meaning)
        return path, node

    def values(self, node: Node) -> str:
        """Say in words what a value can be."""
        null = " or null" if node.get("nullable") or "null" in node.get("type", ()) else ""
        if "const" in node:
            return f"`{node['const']}`"
        if "enum" in node:
            return " or ".join(f"`{value}`" for value in node["enum"])
        if node.get("title") in self.shared:
            return f"a {node['title']}{null}"
        kind = next(kind for kind in _listed(node["type"]) if kind != "null")
        if kind == "array":
            items = self.node(node["items"])
            inner = self.values(items).replace("list of", "lists of", 1) if items["type"] == "array" else ""
            return f"list of {inner or WORDS[items['type']] + 's'}{null}"
        bounds = "".join(f" {sign} {node[bound]}" for bound, sign in BOUNDS.items() if bound in node)
        return WORDS.get(kind, kind) + bounds.replace(" ≤", " and ≤") + null


def _without(node: Node, key: str) -> Node:
    return {name: value for name, value in node.items() if name != key}


def _listed(kind: str | list[str]) -> list[str]:
    return [kind] if isinstance(kind, str) else kind


def table(fields: Iterable[Field]) -> str:
    """Return fields as a Markdown table."""
    rows = [f"| `{f.path}` | {f.values} | {'always' if f.always else ''} | {f.meaning} |" for f in fields]
    return "\n".join(["", "| field | value | there | meaning |", "| --- | --- | --- | --- |", *rows, ""])


def tables(root: Node) -> str:
    """Return the tables of the page: the record, each of its objects, and the shared objects."""
    schema = Schema(root)
    top = {name: schema.node(child) for name, child in root["properties"].items()}
    plain = [Field(name, schema.values(node), node["description"]) for name, node in top.items()]
    parts = ["### The record", table(plain)]
    for name, node in top.items():
        if "properties" in node:
            parts += [f"### {name}", table(schema.fields(node))]
    for name, node in schema.shared.items():
        parts += [f"### A {name}", table(schema.fields(node))]
    return "\n".join(parts)


def page(text: str) -> str:
    """Return the page `text` with its tables made anew."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{tables(json.loads(SCHEMA.read_text(encoding='utf-8')))}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
