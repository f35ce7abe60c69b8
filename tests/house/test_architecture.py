"""The architecture page is true: every file exists, every arrow is an import or a config."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "monai_vfx"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
WAYS = 6
_NODE = re.compile(r'^\s*(\w+)[\[(]+"([^"]+)"[\])]+\s*$', re.MULTILINE)
_ARROW = re.compile(r"^\s*(\w+) --> (\w+)\s*$", re.MULTILINE)
_TARGET = re.compile(r"\bmonai_vfx(?:\.\w+)+")
CHARTS = {
    title.strip(): body
    for title, body in re.findall(r"(?ms)^### ([^\n]+)\n.*?```mermaid\n(.*?)```", PAGE)
}


def imported(path: Path) -> set[str]:
    """Return the names of all modules that a file of the package imports, functions included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def module(name: str) -> str:
    """Return the dotted name of a file named from the package on.

    >>> module("io/volume.py")
    'monai_vfx.io.volume'
    """
    return "monai_vfx." + name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def named_in(config: Path) -> set[str]:
    """Return the modules whose names a config uses, itself or by a package that offers them."""
    found: set[str] = set()
    text = config.read_text(encoding="utf-8")
    shorthand = dict(re.findall(r"import (monai_vfx[.\w]+) as (\w+)", text))
    for package, alias in shorthand.items():
        text = re.sub(rf"\b{alias}\.", f"{package}.", text)
    for dotted in _TARGET.findall(text):
        owner, _, name = dotted.rpartition(".")
        found |= {owner, dotted}
        face = ROOT / owner.replace(".", "/") / "__init__.py"
        if face.is_file():
            for node in ast.walk(ast.parse(face.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and name in {a.name for a in node.names}:
                    found.add(str(node.module))
    return found


def test_there_is_a_picture_for_each_way() -> None:
    assert len(CHARTS) == WAYS


@pytest.mark.parametrize("title", CHARTS)
def test_every_file_of_a_way_exists(title: str) -> None:
    labels = [label.split("<br/>")[0] for _, label in _NODE.findall(CHARTS[title])]
    files = [PACKAGE / name for name in labels if name.endswith(".py")]
    configs = [ROOT / name for name in labels if name.startswith("bundles/")]
    assert len(files) >= 4
    assert [file for file in (*files, *configs) if not file.is_file()] == []


@pytest.mark.parametrize("title", CHARTS)
def test_every_arrow_is_an_import_or_a_name_in_a_config(title: str) -> None:
    nodes = {key: label.split("<br/>")[0] for key, label in _NODE.findall(CHARTS[title])}
    arrows = _ARROW.findall(CHARTS[title])
    assert {end for arrow in arrows for end in arrow} == set(nodes)
    for source, target in ((nodes[first], nodes[last]) for first, last in arrows):
        if not target.endswith(".py"):
            continue  # a config that is run, or what comes out
        if source.endswith(".py"):
            assert module(target) in imported(PACKAGE / source), (source, target)
        elif source.startswith("bundles/"):
            assert module(target) in named_in(ROOT / source), (source, target)
