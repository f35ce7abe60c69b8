"""What the documents say is what the code does."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from monai_vfx.cli import main
from monai_vfx.core.errors import REFUSALS, WARNINGS
from monai_vfx.core.rules import RULES
from monai_vfx.workflows.codes_page import rule_of, with_table

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


def test_the_table_of_codes_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8")
    assert page == with_table(page), "run `make docs`"
    listed = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", page, flags=re.MULTILINE))
    assert listed == {**REFUSALS, **WARNINGS}


def test_each_code_has_one_rule_and_fits_a_table() -> None:
    assert set(RULES) == set(REFUSALS) | set(WARNINGS)
    assert not set(REFUSALS) & set(WARNINGS)
    for code in RULES:
        row = f"{rule_of(code)}{REFUSALS.get(code, '')}{WARNINGS.get(code, '')}"
        assert not set("|{}\n") & set(row), code
        assert RULES[code].endswith("."), code


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("at most {dicom.stack.TILT_TOLERANCE_DEG} degrees", "at most 0.5 degrees"),
        ("{dicom.stack.SPACING_TOLERANCE:.0%}", "3%"),
        ("{label_schemes.STEP_MM} mm", "4 to 80 mm"),
        ("{label_schemes.STEP_MM[1]} mm", "80 mm"),
        ("{anatomy.LEVELS}", "T12, L1, L2, L3, L4"),
    ],
)
def test_constants_of_a_rule_are_looked_up(
    monkeypatch: pytest.MonkeyPatch, rule: str, text: str
) -> None:
    monkeypatch.setitem(RULES, "gantry_tilt", rule)
    assert rule_of("gantry_tilt") == text


@pytest.mark.parametrize("name", ["volumes.NO_SUCH_CONSTANT", "no_such_module.SIZE", "SIZE"])
def test_a_rule_with_an_unknown_constant_is_an_error(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(RULES, "gantry_tilt", f"at most {{{name}}}")
    with pytest.raises((AttributeError, ImportError)):
        rule_of("gantry_tilt")


def test_the_numbers_of_all_rules_come_without_torch() -> None:
    words = (
        "import sys; from monai_vfx.workflows.codes_page import table; "
        "table(); print('torch' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", words], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "False"


def _raised() -> set[str]:
    """The codes that stand as first argument of a refusal or warning, or may be handed to one."""
    found = set()
    for file in (ROOT / "monai_vfx").rglob("*.py"):
        if file.name == "errors.py":  # its examples raise nothing
            continue
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and call.args and _name(call.func) in RAISING:
                code = call.args[0]
                either = (code.body, code.orelse) if isinstance(code, ast.IfExp) else (code,)
                found |= {part.value for part in either if isinstance(part, ast.Constant)}
    return found


RAISING = ("CaseRefused", "CaseWarning", "access_refused")


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_codes_that_are_raised_are_those_that_are_registered() -> None:
    assert _raised() == set(REFUSALS) | set(WARNINGS)
