"""A whole study as one HTML page that needs nothing else, with its tables, figures and a PDF.

The page holds no script and makes no request. Every table on it is also a CSV, every figure also
a file; all numbers come from the study's folder, and each says from which file of it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from monai_vfx.core.errors import MissingDependencyError
from monai_vfx.workflows.study.report.blocks import Picture, Section, Table
from monai_vfx.workflows.study.report.data import StudyFolder
from monai_vfx.workflows.study.report.sections import all_sections
from monai_vfx.workflows.study.report.supplement import failed_checks
from monai_vfx.workflows.study.report.text import cautions

TEMPLATE = "study.html.j2"
STYLE = "study.css"


def write_study_report(
    study_folder: str | Path, out: str | Path | None = None, pdf: bool = False
) -> Path:
    """Write the report of a study from the files of its folder.

    Args:
        study_folder: what ``vfx study`` wrote: ``study.json`` and, where there is data,
            ``cohort/``, ``evaluation/``, ``calibration/`` and so on. Parts without data are left
            out of the report and listed in it as such.
        out: folder for ``index.html``, ``tables/``, ``figures/`` and ``report.pdf``; by default
            ``report`` in the study's folder.
        pdf: also write ``report.pdf``.

    Returns:
        The path of ``index.html``.

    Raises:
        SettingError: the folder is no study's, or a file in it cannot be read.
        MissingDependencyError: ``pdf`` without WeasyPrint, or without the libraries it needs;
            all else is written by then.
    """
    study = StudyFolder(Path(study_folder))
    target = Path(out) if out is not None else study.root / "report"
    sections = all_sections(study)
    text = _page(study, sections)
    tables, figures = target / "tables", target / "figures"
    for folder in (tables, figures):
        folder.mkdir(parents=True, exist_ok=True)
    for block in (block for section in sections for block in section.blocks):
        if isinstance(block, Table):
            (tables / f"{block.key}.csv").write_bytes(block.to_csv())
        elif isinstance(block, Picture):
            block.write(figures)
    page = target / "index.html"
    page.write_text(text, encoding="utf-8")
    if pdf:
        _write_pdf(text, target / "report.pdf")
    return page


def _page(study: StudyFolder, sections: Sequence[Section]) -> str:
    folder = resources.files("monai_vfx.workflows.study.report")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template: Any = environment.from_string(folder.joinpath(TEMPLATE).read_text(encoding="utf-8"))
    rendered: str = template.render(
        name=study.about.get("name") or "A study of vertebral fracture risk",
        simulated=study.simulated,
        failed=failed_checks(study),
        cautions=cautions(study),
        sections=sections,
        style=Markup(folder.joinpath(STYLE).read_text(encoding="utf-8")),
    )
    return rendered


def require_pdf() -> None:
    """Say early that the report cannot be a PDF here.

    Raises:
        MissingDependencyError: WeasyPrint, or Pango beneath it, is not there.
    """
    try:
        import weasyprint  # noqa: F401 - the import is the check
    except ImportError as error:
        raise MissingDependencyError("weasyprint", "pdf", "for the report as PDF") from error
    except OSError as error:  # WeasyPrint is there, the system's Pango is not
        raise MissingDependencyError(
            "weasyprint with the system's Pango library",
            "pdf",
            "for the report as PDF (on Debian also: apt install libpango-1.0-0 libpangoft2-1.0-0)",
        ) from error


def _write_pdf(text: str, path: Path) -> None:
    """Set a page on paper.

    Raises:
        MissingDependencyError: WeasyPrint, or Pango beneath it, is not there.
    """
    require_pdf()
    import weasyprint

    # The page holds all its images; nothing may be fetched, not even by a name that slipped in.
    fetcher = weasyprint.urls.URLFetcher(allowed_protocols={"data"}, fail_on_errors=True)
    log = logging.getLogger("weasyprint")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of every rule that is meant for screens only
    try:
        weasyprint.HTML(string=text, url_fetcher=fetcher).write_pdf(path)
    finally:
        log.setLevel(level)
