"""The modules of the product as the code itself has them, for tests that read it."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def module_of(path: Path) -> str:
    """Dotted name of a file under ROOT."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for top in ("app", "services") for path in sorted((ROOT / top).rglob("*.py"))}


def imports(module: str) -> set[str]:
    """Modules that `module` imports at run time (names under TYPE_CHECKING left out)."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                assert child.level == 0, f"{module}: relative import"
                for alias in child.names:
                    deeper = f"{child.module}.{alias.name}"
                    found.add(deeper if deeper in MODULES else child.module)
            visit(child)

    visit(ast.parse(MODULES[module].read_text("utf-8")))
    return found
