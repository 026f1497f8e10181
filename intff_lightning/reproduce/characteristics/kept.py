"""Measurements that are kept in files, so that a network is not measured twice by the same code."""

import ast
import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from intff_lightning.files import atomic_write
from intff_lightning.reproduce.characteristics import reading


@functools.cache
def code_of(function: Callable[..., Any]) -> str:
    """Return a hash of the code of a function's module and of :mod:`reading`, without comments and docstrings."""
    digest = hashlib.sha256()
    for module in (inspect.getmodule(function), reading):
        assert module is not None
        tree = ast.parse(inspect.getsource(module))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                body[0] = ast.Pass()
        digest.update(ast.unparse(tree).encode())
    return digest.hexdigest()


def keep(path: Path, rows: Sequence[dict[str, Any]], code: str) -> None:
    """Write rows, and by which code they were measured."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps({"code": code, "rows": rows}, indent=1) + "\n")


def kept(path: Path, code: str) -> list[dict[str, Any]] | None:
    """Return the rows of a file; ``None`` if there is none, or if other code measured them."""
    found = json.loads(path.read_text()) if path.is_file() else {}
    return found["rows"] if isinstance(found, dict) and found.get("code") == code else None
