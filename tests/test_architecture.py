"""The house keeps its order: imports run downward only, and nothing heavy hides at the top of a module."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vim_train"
FILES = sorted(PACKAGE.rglob("*.py"))

MAY_IMPORT = {
    "cli": {"config", "tasks", "data", "ops"},
    "tasks": {"config", "engine", "data", "models", "report", "ops"},
    "engine": {"config", "ops"},
    "data": {"config", "ops"},
    "report": {"config", "ops"},
    "models": {"ops"},
    "ops": set(),
    "config": set(),
}
"""Parts that a part may import beside itself; `cli` reaches below tasks for the tools that train nothing."""

HEAVY = {"torch", "torchvision", "timm", "numpy", "PIL", "wandb", "rich", "matplotlib", "safetensors"}


def part(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of every import in a tree, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def top_level(tree: ast.Module) -> ast.Module:
    """The module without the bodies of its functions."""
    body = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return ast.Module(body=body, type_ignores=[])


@pytest.mark.parametrize("file", [f for f in FILES if part(f) in MAY_IMPORT], ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_run_downward(file: Path) -> None:
    allowed = MAY_IMPORT[part(file)] | {part(file)}
    for line, name in imports(ast.parse(file.read_text())):
        parts = [*name.split("."), ""]
        if parts[0] == "vim_train" and parts[1] in MAY_IMPORT:
            assert parts[1] in allowed, f"{file.name}:{line}: {part(file)} imports {name}"


@pytest.mark.parametrize("name", ["cli", "config", "__init__.py", "__main__.py", "_timm_hook.py"])
def test_command_line_modules_import_nothing_heavy_at_the_top(name: str) -> None:
    for file in (f for f in FILES if part(f) == name):
        for line, module in imports(top_level(ast.parse(file.read_text()))):
            assert module.split(".")[0] not in HEAVY, f"{file.name}:{line}: imports {module}"


def test_every_part_of_the_package_is_known_here() -> None:
    folders = {part(file) for file in FILES if file.relative_to(PACKAGE).parts[1:]}
    assert folders <= set(MAY_IMPORT)
