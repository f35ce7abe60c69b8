"""The house itself: its rooms, the size of its files, its words."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from benchmarks.quality import too_large

ROOT = Path(__file__).parents[2]
ROOMS = (
    *("cli", "workflows", "model", "analysis", "vertebrae", "transforms"),
    *("case", "outputs", "io", "simulation", "core"),
)
RETIRED: dict[str, str] = yaml.safe_load(
    Path(__file__).with_name("retired_words.yaml").read_text(encoding="utf-8")
)
_TEXT = (".py", ".md", ".yaml", ".j2", ".cfg", ".toml", ".json")
_ELSEWHERE = ("CHANGELOG.md", "retired_words.yaml", "equality.yaml", "equality.py")


def test_the_package_holds_its_rooms_and_nothing_beside() -> None:
    found = {p.name for p in (ROOT / "monai_vfx").iterdir() if p.name != "__pycache__"}
    assert found == {*ROOMS, "__init__.py", "py.typed"}


def test_tests_lie_in_rooms_of_the_same_names() -> None:
    found = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert found - {"benchmarks", "house", "support"} <= set(ROOMS)
    assert not list((ROOT / "tests").glob("test_*.py"))


def test_no_file_and_no_function_is_too_large() -> None:
    assert too_large() == []


def test_retired_words_are_gone() -> None:
    """Each word of ``retired_words.yaml`` has a better one in the glossary."""
    words = {word: re.compile(rf"(?i)(?<![a-z]){word}(?![a-z])") for word in RETIRED}
    found = []
    for top in (
        "monai_vfx",
        "bundles",
        "docs",
        "data_schemas",
        "examples",
        "benchmarks",
        "tests",
        "README.md",
        "setup.cfg",
    ):
        place = ROOT / top
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.suffix not in _TEXT or path.name in _ELSEWHERE or "results" in path.parts:
                continue
            text = path.read_text(encoding="utf-8")
            for word, pattern in words.items():
                for match in pattern.finditer(text):
                    line = text.count("\n", 0, match.start()) + 1
                    place_of = f"{path.relative_to(ROOT)}:{line}"
                    found.append(f"{place_of}: {match[0]} → {RETIRED[word]}")
    assert not found, "\n".join(found)
