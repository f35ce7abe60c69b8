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
_ARROW = re.compile(r'^\s*(\w+) -->(?:\|"([^"]+)"\|)? (\w+)\s*$', re.MULTILINE)
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


def test_there_is_a_picture_for_each_way() -> None:
    assert len(CHARTS) == WAYS


@pytest.mark.parametrize("title", CHARTS)
def test_every_file_of_a_way_exists(title: str) -> None:
    nodes = dict(_NODE.findall(CHARTS[title]))
    files = [label.split("<br/>")[0] for label in nodes.values() if ".py" in label]
    assert len(files) >= 4
    assert [name for name in files if not (PACKAGE / name).is_file()] == []


@pytest.mark.parametrize("title", CHARTS)
def test_every_arrow_between_files_is_an_import_or_a_config(title: str) -> None:
    nodes = {key: label.split("<br/>")[0] for key, label in _NODE.findall(CHARTS[title])}
    arrows = _ARROW.findall(CHARTS[title])
    assert {end for first, _, last in arrows for end in (first, last)} == set(nodes)
    for first, config, last in arrows:
        source, target = nodes[first], nodes[last]
        if not (source.endswith(".py") and target.endswith(".py")):
            continue  # what goes in and what comes out
        if config:
            text = (ROOT / config).read_text(encoding="utf-8")
            assert module(source) in text, (config, source)
            assert module(target) in text, (config, target)
        else:
            assert module(target) in imported(PACKAGE / source), (source, target)
