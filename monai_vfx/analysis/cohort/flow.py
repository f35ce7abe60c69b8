"""Eligibility: the rules in the study's order, and the flow of participants that they make.

Every excluded row is counted once, at the first rule that it breaks. A value that a rule needs and
that is not known is a reason of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields

import pandas as pd

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError

Rule = tuple[str, "pd.Series[bool]"]
"""A reason and the rows it leaves out."""


@dataclass(frozen=True)
class Eligibility:
    """Which CTs are analysed; the defaults are the study's. Both limits belong to the range.

    Args:
        min_age: years at the CT, None for no limit; ``max_age`` likewise.
        max_age: an age of 80.3 years is above a limit of 80.
        min_follow_up_years: to the fracture, the death or the last imaging; None for no limit.
        exclude_baseline_fracture: leave out who has a compression fracture at the CT.
        exclude_spinal_surgery: leave out who had spinal surgery before the CT.
        first_scan_only: of several CTs of a patient, take the earliest.
        need_image_quality: leave out CTs of inadequate quality or protocol.

    Raises:
        SettingError: names the setting, its value and the rule.
    """

    min_age: float | None = 50
    max_age: float | None = 80
    min_follow_up_years: float | None = 1.0
    exclude_baseline_fracture: bool = True
    exclude_spinal_surgery: bool = True
    first_scan_only: bool = True
    need_image_quality: bool = True

    def __post_init__(self) -> None:
        for name in ("min_age", "max_age", "min_follow_up_years"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and 0 <= value < float("inf")):
                raise SettingError(f"{name} ({value!r}) must be a number of years from 0, or null")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool) and not isinstance(value, bool):
                raise SettingError(f"{field.name} ({value!r}) must be true or false")
        if self.min_age is not None and self.max_age is not None and self.min_age > self.max_age:
            raise SettingError(f"min_age ({self.min_age}) must not be above max_age")


@dataclass(frozen=True)
class Step:
    """One box of the flow: its name, its label in the figure, and the CTs that remain.

    ``excluded`` holds (reason, CTs, CTs with a fracture) of those left out just before this box;
    ``events`` counts the CTs with a fracture among the ``n`` that remain.
    """

    name: str
    label: str
    excluded: tuple[tuple[str, int, int], ...]
    n: int
    events: int


@dataclass(frozen=True)
class Flow:
    """The participants step by step; the first step is the whole table.

    ``excluded`` holds (case, step, reason) of every row left out, by step, in the table's order.
    """

    steps: tuple[Step, ...]
    excluded: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def start(cls, frame: pd.DataFrame) -> Flow:
        """Begin with a whole table; simulated patients are called so, in figures too."""
        simulated = "simulated" in frame and bool((frame["simulated"] == 1).any())
        label = "Abdominal CT (simulated patients)" if simulated else "Abdominal CT"
        return cls((Step("all", label, (), len(frame), int(frame["fracture"].sum())),))

    def leave_out(
        self, name: str, label: str, frame: pd.DataFrame, rules: Iterator[Rule] | list[Rule]
    ) -> tuple[pd.DataFrame, Flow]:
        """Return the rows that remain after a step, in their order, and the flow with the step.

        The rules are reasons with their rows, (n,) each; a row counts at the first that holds.
        """
        reason = pd.Series("", index=frame.index, dtype=object)
        counts: list[tuple[str, int, int]] = []
        for words, broken in rules:
            rows = broken & (reason == "")
            if rows.any():
                reason[rows] = words
                counts.append((words, int(rows.sum()), int(frame.loc[rows, "fracture"].sum())))
        left = frame[reason == ""]
        gone = zip(frame.loc[reason != "", "case_id"], reason[reason != ""], strict=True)
        step = Step(name, label, tuple(counts), len(left), int(left["fracture"].sum()))
        listed = tuple((str(case), name, words) for case, words in gone)
        return left, Flow((*self.steps, step), self.excluded + listed)

    def to_json(self) -> Json:
        """Return the flow as ``flow.json`` holds it: n and events (fractures) at every number."""
        names = ("reason", "n", "events")
        steps: list[Json] = []
        for step in self.steps:
            excluded = [dict(zip(names, entry, strict=True)) for entry in step.excluded]
            steps.append(asdict(step) | {"excluded": excluded})
        return {"steps": steps}


def select_eligible(
    frame: pd.DataFrame, rules: Eligibility, flow: Flow | None = None
) -> tuple[pd.DataFrame, Flow]:
    """Apply the rules of eligibility in the study's order.

    The order: one CT a patient, age, follow-up, fracture or surgery at baseline. What remains is
    analysed. Then image quality, as the last step of the flow: see :func:`with_adequate_images`.
    A given flow ends in these rows; by default it begins with them.

    Returns:
        The analysed rows, in the table's order, including those with inadequate images (they belong
        to the population that the study describes), and the flow.

    Raises:
        SettingError: the table lacks a column that a rule needs; names every such rule and the
            setting that switches it off.

    >>> table = pd.DataFrame({"case_id": ["a", "b", "c"], "patient_id": ["a", "b", "c"],
    ...                       "fracture": [0, 1, 0], "age": [49.0, 60.0, None]})
    >>> loose = Eligibility(min_follow_up_years=None, exclude_baseline_fracture=False,
    ...                     exclude_spinal_surgery=False, need_image_quality=False)
    >>> analysed, flow = select_eligible(table, loose)
    >>> list(analysed["case_id"]), flow.excluded
    (['b'], (('a', 'age', 'Younger than 50 years'), ('c', 'age', 'Age not known')))
    """
    _check_columns(frame, rules)
    flow = Flow.start(frame) if flow is None else flow
    steps: tuple[tuple[bool, str, str, Callable[[pd.DataFrame, Eligibility], Iterator[Rule]]], ...]
    followed = f"Followed for at least {_years(rules.min_follow_up_years or 0)}"
    baseline = _baseline_words(rules)
    intact = f"No {' or '.join(baseline.values())} at baseline"
    steps = (
        (rules.first_scan_only, "first_scan", "Earliest CT of each patient", _scans),
        (_limits_age(rules), "age", _age_label(rules), _ages),
        (rules.min_follow_up_years is not None, "follow_up", followed, _follow_ups),
        (bool(baseline), "baseline", intact, _baseline),
    )
    left = frame
    for holds, name, words, reasons in steps:
        if holds:
            left, flow = flow.leave_out(name, words, left, reasons(left, rules))
    if rules.need_image_quality:
        label = "Image quality and protocol adequate"
        _, flow = flow.leave_out("image_quality", label, left, _image_quality(left))
    return left, flow


def with_adequate_images(analysed: pd.DataFrame, rules: Eligibility) -> pd.DataFrame:
    """Return the analysed rows whose images can be used: from them cases and controls come."""
    if not rules.need_image_quality:
        return analysed
    return analysed[analysed["image_adequate"] == 1]


def _check_columns(frame: pd.DataFrame, rules: Eligibility) -> None:
    several = bool(frame["patient_id"].duplicated().any())
    wanted = (
        ("age", _limits_age(rules), "min_age=null and max_age=null"),
        ("follow_up_years", rules.min_follow_up_years is not None, "min_follow_up_years=null"),
        *(
            (column, getattr(rules, f"exclude_{column}"), f"exclude_{column}=false")
            for column in ("baseline_fracture", "spinal_surgery")
        ),
        ("image_adequate", rules.need_image_quality, "need_image_quality=false"),
        ("scan_date", rules.first_scan_only and several, "first_scan_only=false"),
    )
    missing = [
        f"the rule {off.split('=')[0]} needs the column {column} (or switch it off: {off})"
        for column, holds, off in wanted
        if holds and column not in frame
    ]
    if missing:
        raise SettingError("the table does not have what eligibility needs: " + "; ".join(missing))


def _scans(frame: pd.DataFrame, _: Eligibility) -> Iterator[Rule]:
    """Of patients with several CTs, leave out the undated ones, then all but the earliest."""
    several = frame["patient_id"].duplicated(keep=False)
    if not several.any():
        return
    undated = several & frame["scan_date"].isna()
    yield "Several CTs, date of this one not known", undated
    dated = frame[several & ~undated].sort_values("scan_date", kind="stable")
    later = dated.index[dated["patient_id"].duplicated()]
    yield "Later CT of the same patient", pd.Series(frame.index.isin(later), index=frame.index)


def _limits_age(rules: Eligibility) -> bool:
    return rules.min_age is not None or rules.max_age is not None


def _age_label(rules: Eligibility) -> str:
    if rules.min_age is not None and rules.max_age is not None:
        return f"Age {rules.min_age:g} to {rules.max_age:g} years"
    if rules.min_age is not None:
        return f"Age {rules.min_age:g} years or more"
    return f"Age {rules.max_age or 0:g} years or less"


def _ages(frame: pd.DataFrame, rules: Eligibility) -> Iterator[Rule]:
    if rules.min_age is not None:
        yield f"Younger than {rules.min_age:g} years", frame["age"] < rules.min_age
    if rules.max_age is not None:
        yield f"Older than {rules.max_age:g} years", frame["age"] > rules.max_age
    yield "Age not known", frame["age"].isna()


def _years(number: float) -> str:
    return f"{number:g} year" + ("" if number == 1 else "s")


def _follow_ups(frame: pd.DataFrame, rules: Eligibility) -> Iterator[Rule]:
    limit = rules.min_follow_up_years or 0
    yield f"Followed for less than {_years(limit)}", frame["follow_up_years"] < limit
    yield "Follow-up not known", frame["follow_up_years"].isna()


def _baseline_words(rules: Eligibility) -> dict[str, str]:
    words = {}
    if rules.exclude_baseline_fracture:
        words["baseline_fracture"] = "compression fracture"
    if rules.exclude_spinal_surgery:
        words["spinal_surgery"] = "spinal surgery"
    return words


def _baseline(frame: pd.DataFrame, rules: Eligibility) -> Iterator[Rule]:
    words = _baseline_words(rules)
    for column, what in words.items():
        yield f"{what.capitalize()} at baseline", frame[column] == 1
    for column, what in words.items():
        yield f"{what.capitalize()} at baseline not known", frame[column].isna()


def _image_quality(frame: pd.DataFrame) -> Iterator[Rule]:
    yield "Image quality or protocol inadequate", frame["image_adequate"] == 0
    yield "Image quality not known", frame["image_adequate"].isna()
