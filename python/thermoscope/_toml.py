"""Values of Python as the command reads them: TOML."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def value(of: Any) -> str:
    """One value, in one line."""
    if hasattr(of, "tolist"):
        # Numbers and arrays of NumPy, tensors.
        of = of.tolist()
    match of:
        case bool():
            return "true" if of else "false"
        case int() if abs(of) >= 2**63:
            # TOML ends there; seeds go further, in quotes.
            return f'"{of}"'
        case int():
            return str(of)
        case float():
            return repr(of)
        case str():
            return json.dumps(of, ensure_ascii=False)
        case os.PathLike():
            return json.dumps(os.fspath(of), ensure_ascii=False)
        case Mapping():
            return "{" + ", ".join(f"{_key(name)} = {value(inner)}" for name, inner in of.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(value, of)) + "]"
    raise TypeError(f"{of!r} is no value of a configuration: numbers, strings, booleans, lists and dicts are")


def document(table: Mapping[str, Any]) -> str:
    """A whole file."""
    return "".join(f"{_key(name)} = {value(inner)}\n" for name, inner in table.items())


def settings(table: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """``key=value`` for everything in a table of tables, keys with dots."""
    for name, inner in table.items():
        if isinstance(inner, Mapping):
            yield from settings(inner, f"{before}{_key(name)}.")
        else:
            yield f"{before}{_key(name)}={value(inner)}"
