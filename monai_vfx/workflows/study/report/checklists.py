"""Reporting checklists, filled as far as software can: TRIPOD+AI and CLAIM.

Items are data (``report/data/*.yaml``): the number, a short paraphrase of ours, whether the report
answers it (``auto``), answers a part (``partial``) or only people can (``author``), and where.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

import pandas as pd
import yaml

from monai_vfx.core.arrays import Json
from monai_vfx.workflows.study.report.blocks import Table

CHECKLISTS = ("tripod_ai", "claim")
STATUSES = ("auto", "partial", "author")


def read_checklist(name: str) -> Json:
    """Return a checklist: ``name``, ``source`` and ``items``.

    >>> len(read_checklist("tripod_ai")["items"]), len(read_checklist("claim")["items"])
    (52, 44)
    """
    text = (
        resources.files("monai_vfx.workflows.study.report")
        .joinpath(f"data/{name}.yaml")
        .read_text("utf-8")
    )
    document: Json = yaml.safe_load(text)
    return document


def checklist_table(name: str, sections: Mapping[str, str]) -> Table:
    """Return a checklist with what this report answers.

    Args:
        name: one of :data:`CHECKLISTS`.
        sections: anchor → title of the sections that this report has. What an item needs and the
            report lacks does not count: an item without any of its sections is the author's, and
            one that lacks some is only partly answered.
    """
    document = read_checklist(name)
    rows = []
    for item in document["items"]:
        needed = item.get("where", [])
        there = [sections[key] for key in needed if key in sections]
        status = item["status"]
        if not there:
            status = "author"
        elif len(there) < len(needed):
            status = "partial"
        where = "; ".join(there) if there else "not in this report"
        rows.append(
            {
                "Item": item["item"],
                "Topic": item["topic"],
                "What it asks (paraphrased)": item["asks"],
                "Status": status,
                "Answered in": where,
            }
        )
    tally = ", ".join(f"{sum(r['Status'] == s for r in rows)} {s}" for s in STATUSES)
    return Table(
        f"checklist_{name}",
        f"{document['name']}: {tally}",
        pd.DataFrame(rows),
        "the sections of this report",
        notes=(
            f"Items after {document['source']}, in our own words. auto: answered here; partial: "
            "in part; author: only the authors can. Read the checklist itself before submitting.",
        ),
    )
