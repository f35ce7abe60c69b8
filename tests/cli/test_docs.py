"""What the documents say is what the code does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from monai_vfx.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
    if not language
    for line in block.replace("\\\n", " ").splitlines()
]
VFX = [line for line in COMMANDS if line.startswith(".venv/bin/vfx")]
BUNDLE = [line for line in COMMANDS if line.startswith("python -m monai.bundle run")]


@pytest.mark.parametrize("line", VFX)
def test_vfx_lines_of_the_readme_name_commands_and_options_that_exist(line: str) -> None:
    _, name, *words = shlex.split(line)
    known = {option for parameter in main.commands[name].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_vfx_in_running_text_names_commands_and_options_that_exist() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.yaml")]
    seen = set()
    for page in pages:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for name, rest in re.findall(r"(?m)(?:`|^|# +)vfx (\w+)([^`\n]*)", text):
            known = {option for p in main.commands[name].params for option in p.opts}
            used = set(re.findall(r"(?<![\w-])--[\w-]+", rest))
            seen.add(name)
            assert used <= known, (page.name, name, used - known)
    assert seen >= {"cohort", "clinical", "evaluate", "calibrate", "morphometry", "study"}


def test_readme_shows_every_step_with_a_bundle_line() -> None:
    assert len(VFX) >= 5
    assert {re.search(r"run (\w+)", line).group(1) for line in BUNDLE} == {  # type: ignore[union-attr]
        "training",
        "inference",
        "explaining",
    }


@pytest.mark.parametrize("line", BUNDLE)
def test_bundle_lines_name_configs_and_ids_that_exist(line: str) -> None:
    folder = ROOT / "bundles" / "vertebral_fracture_risk_ct_classification"
    files = re.findall(r"configs/\w+\.\w+", line)
    texts = [(folder / file).read_text(encoding="utf-8") for file in files]
    settings = re.findall(r"--(\w+)", line)
    for name in [*settings, re.search(r"run (\w+)", line).group(1)]:  # type: ignore[union-attr]
        if name not in ("config_file", "meta_file"):
            assert any(re.search(rf"^{name}:", text, re.MULTILINE) for text in texts), name


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("bundles/*/docs/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), (page, target)
