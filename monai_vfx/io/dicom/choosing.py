"""Which CT series of an input is taken, and why each other one is not.

The rule, one criterion after the other; what fails one is out, as long as something is left:

1. CT images that form a volume and pass the checks of their headers;
2. long enough for T12-L4, and BodyPartExamined is not plainly another part of the body;
3. axial; 4. ImageType ORIGINAL, then none stated, then DERIVED;
5. a kernel for soft tissue, then one that is unknown, then a sharp one (:mod:`.kernels`);
6. the thinnest slices; 7. the longest; 8. the most closely spaced.

A tie is refused: two phases of one scan are not told apart by chance.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from monai_vfx.core.errors import CaseRefused, CaseWarning
from monai_vfx.io.dicom.archives import Source
from monai_vfx.io.dicom.candidates import Candidate, Finding, SeriesRefused, Stacked, describe
from monai_vfx.io.dicom.files import OTHER_FILES, Found, Lost, Scan
from monai_vfx.io.dicom.kernels import Kind
from monai_vfx.io.dicom.values import text

MAX_SLICE_SPACING_MM = 10.0
"""Slice distance above which a vertebral body would hold fewer than three slices."""
MIN_LENGTH_MM = 150.0
"""Length along the body that T12-L4 of a small adult takes."""
SAME_THICKNESS_MM = 0.05
"""Slices that differ by less are equally thick."""
SAME_LENGTH_MM = 20.0
"""Series that differ by less are equally long."""
ELSEWHERE = (
    *("HEAD", "BRAIN", "SKULL", "FACE", "ORBIT", "SINUS", "JAW", "EAR", "IAC", "HEADNECK", "NECK"),
    *("CSPINE", "SHOULDER", "ARM", "ELBOW", "FOREARM", "WRIST", "HAND", "HEART", "CORONARY"),
    *("LEG", "THIGH", "KNEE", "CALF", "ANKLE", "FOOT", "EXTREMITY"),
)
"""Terms of BodyPartExamined that T12-L4 are no part of."""

_ORIGIN: dict[str | None, int] = {"ORIGINAL": 0, None: 1, "DERIVED": 2}
_KERNEL: dict[Kind | None, int] = {"soft": 0, None: 1, "sharp": 2}


T = TypeVar("T", bound=Stacked)
_Files = list[tuple[Source, Any]]


@dataclass
class _Group(Generic[T]):
    """A series on trial."""

    facts: Candidate
    series: T | None
    refusal: CaseRefused | None

    @property
    def uid(self) -> str:
        return self.facts.series_uid


def choose(
    scan: Scan, series_uid: str | None, check: Callable[[_Files], T]
) -> tuple[T, Finding, tuple[CaseWarning, ...]]:
    """Take the series that was asked for, or the one that the rule leaves.

    ``check`` checks the headers of one series. Returned are the checked series, what else there
    is, and warnings for the reader.
    """
    groups = _groups(scan, series_uid, check)
    chosen, refusal = None, _refusal_of_lost(scan, series_uid)
    if refusal is None:
        chosen, refusal = _taken(scan, groups, series_uid)
    uid = chosen.uid if chosen is not None else None
    facts = [replace(g.facts, chosen=g is chosen) for g in groups]
    facts.sort(key=lambda c: (not c.chosen, c.patient, c.study, c.number or 0, c.series_uid))
    finding = Finding(uid, len(_people(scan)), tuple(facts), _other_files(scan))
    if refusal is not None or chosen is None or chosen.series is None:
        refusal = refusal or CaseRefused("no_image", "the series has no image")
        raise SeriesRefused(refusal, finding) from refusal
    return chosen.series, finding, _warnings(scan, finding, chosen.facts)


def _groups(scan: Scan, series_uid: str | None, check: Callable[[_Files], T]) -> list[_Group[T]]:
    """Check every series that has CT images, and the one that was asked for."""
    images: dict[str, list[Found]] = defaultdict(list)
    for item in scan.found:
        if item.is_image:
            images[item.series_uid].append(item)
    lost: dict[str, list[Lost]] = defaultdict(list)
    for gone in (*scan.damaged, *scan.missing):
        if gone.series_uid is not None and (gone.may_be_ct or gone.series_uid == series_uid):
            lost[gone.series_uid].append(gone)
    people, studies = _people(scan), _numbered(_study(item.header) for item in scan.found)
    groups = []
    for uid in dict.fromkeys((*images, *lost)):
        members = [item for item in images[uid] if item.kind in ("ct", "other_modality")]
        if not any(item.kind == "ct" for item in members) and not lost[uid]:
            if uid != series_uid:
                continue
            members = images[uid]
        files = [(item.source, item.header) for item in members]
        series, refusal = _checked(files, lost[uid], check)
        patient = people[_patient(members[0].header)] if members else 0
        study = studies[_study(members[0].header)] if members else 0
        facts = describe(uid, files, series, patient, study)
        if refusal is not None:
            facts = replace(facts, lost_by=f"{refusal.code}: {refusal.message}")
        groups.append(_Group(facts, series, refusal))
    return groups


def _checked(
    files: _Files, lost: Sequence[Lost], check: Callable[[_Files], T]
) -> tuple[T | None, CaseRefused | None]:
    """Return the series, or why it is refused."""
    try:
        _check_whole(lost, len(files))
        series = check(files)
        step = float(np.linalg.norm(series.affine[:3, 2]))
        if step > MAX_SLICE_SPACING_MM:
            raise CaseRefused(
                "slices_too_thick",
                f"slices lie {step:.1f} mm apart, must be at most {MAX_SLICE_SPACING_MM:.0f} mm",
            )
    except CaseRefused as refusal:
        return None, refusal
    return series, None


def _check_whole(lost: Sequence[Lost], whole_files: int) -> None:
    """Refuse a series of which files are damaged or missing."""
    missing = [item for item in lost if item.missing]
    damaged = [item for item in lost if not item.missing]
    if damaged:
        raise CaseRefused(
            "file_truncated",
            f"{len(damaged)} of {len(damaged) + whole_files} DICOM files are damaged; "
            f"the first: {damaged[0].message}",
        )
    if missing:
        raise CaseRefused(
            "files_missing", f"{len(missing)} files that the DICOMDIR names are not there"
        )


def _refusal_of_lost(scan: Scan, series_uid: str | None) -> CaseRefused | None:
    """Return why an input is refused of which files are lost that any series may need.

    A file that is not there may be the better series' own, so that none is chosen by rule then.
    """
    strays = [item for item in scan.damaged if item.series_uid is None]
    gone = [
        item
        for item in scan.missing
        if item.may_be_ct and (series_uid is None or item.series_uid in (None, series_uid))
    ]
    try:
        _check_whole((*strays, *gone), len(scan.found))
    except CaseRefused as refusal:
        return refusal
    return None


def _taken(
    scan: Scan, groups: Sequence[_Group[T]], series_uid: str | None
) -> tuple[_Group[T] | None, CaseRefused | None]:
    """Return the series that is taken, or why none is."""
    if series_uid is None:
        return _by_rule(scan, groups)
    for group in groups:
        if group.uid != series_uid and group.refusal is None:
            group.facts = replace(group.facts, lost_by="series: another one was asked for")
    named = [group for group in groups if group.uid == series_uid]
    if named:
        return (None, named[0].refusal) if named[0].refusal else (named[0], None)
    of_study = {g.uid for g in groups} & {
        item.series_uid for item in scan.found if _study(item.header) == series_uid
    }
    if of_study:
        return None, CaseRefused(
            "no_image",
            f"{series_uid} is the UID of a study, not of a series; its CT series are "
            + ", ".join(sorted(of_study)),
        )
    count = len({item.series_uid for item in scan.found if item.is_image})
    return None, CaseRefused("no_image", f"series {series_uid} is not among the {count} found")


def _by_rule(
    scan: Scan, groups: Sequence[_Group[T]]
) -> tuple[_Group[T] | None, CaseRefused | None]:
    """Return the one series that is left by all criteria, or why there is none."""
    if not groups:
        return None, _no_ct(scan)
    left = [group for group in groups if group.refusal is None]
    if not left:
        return None, _all_refused(groups)
    for criterion in _CRITERIA:
        best = min(criterion.score(group.facts) for group in left)
        for group in left:
            if criterion.score(group.facts) > best + criterion.tolerance:
                group.facts = replace(group.facts, lost_by=criterion.words(group.facts))
        left = [group for group in left if group.facts.lost_by is None]
    if len(left) == 1:
        return left[0], None
    for group in left:
        group.facts = replace(group.facts, lost_by="tie: no criterion tells it from another series")
    listed = "; ".join(sorted(group.facts.words for group in left))
    return None, CaseRefused(
        "several_series", f"{len(left)} CT series are equal by all criteria: {listed}"
    )


def _no_ct(scan: Scan) -> CaseRefused:
    images = [item for item in scan.found if item.is_image]
    if not images:
        count = len(scan.found) + sum(scan.others.values())
        return CaseRefused("no_image", f"no DICOM image among {count} files")
    kinds = Counter(item.kind for item in images)
    if kinds["other_modality"]:
        found = {text(i.header, "Modality") for i in images if i.kind == "other_modality"}
        named = ", ".join(sorted(modality or "none" for modality in found))
        return CaseRefused("not_ct", f"modality is {named}, must be CT")
    named = ", ".join(OTHER_FILES[kind] for kind in kinds)
    return CaseRefused("not_ct", f"there are {named}, but no CT images")


def _all_refused(groups: Sequence[_Group[T]]) -> CaseRefused:
    """Return the one reason why no series is accepted, or a list of them."""
    refusals = [group.refusal for group in groups if group.refusal is not None]
    telling = [refusal for refusal in refusals if refusal.code != "too_few_slices"]
    if len(refusals) == 1 or len({refusal.code for refusal in telling}) == 1:
        return (telling or refusals)[0]
    listed = "; ".join(
        sorted(f"{g.facts.words}: {g.refusal.code}" for g in groups if g.refusal is not None)
    )
    return CaseRefused(
        "several_series", f"{len(groups)} CT series were found, and none is accepted: {listed}"
    )


def _thickness(facts: Candidate) -> float:
    return max(facts.spacing_mm or 0.0, facts.thickness_mm or 0.0)


def _is_elsewhere(facts: Candidate) -> bool:
    return facts.body_part in ELSEWHERE


def _fits(facts: Candidate) -> bool:
    return (facts.length_mm or 0.0) >= MIN_LENGTH_MM and not _is_elsewhere(facts)


def _lacks_cover(facts: Candidate) -> str:
    if _is_elsewhere(facts):
        return f"cover: the body part is {facts.body_part}"
    return (
        f"cover: {facts.length_mm or 0:.0f} mm along the body, T12-L4 take {MIN_LENGTH_MM:.0f} mm"
    )


@dataclass(frozen=True)
class _Criterion:
    """The least score stays, and what is worse by no more than the tolerance."""

    score: Callable[[Candidate], float]
    words: Callable[[Candidate], str]
    tolerance: float = 0.0


_CRITERIA = (
    _Criterion(lambda c: not _fits(c), _lacks_cover),
    _Criterion(lambda c: not c.axial, lambda c: "axial: slices do not lie across the body"),
    _Criterion(
        lambda c: _ORIGIN[c.origin],
        lambda c: f"original: ImageType is {c.origin or 'not stated'}, another's ORIGINAL",
    ),
    _Criterion(
        lambda c: _KERNEL[c.kernel_kind],
        lambda c: f"kernel: {c.kernel or 'not stated'} ({c.kernel_kind or 'unknown'})",
    ),
    _Criterion(
        _thickness, lambda c: f"thickness: slices of {_thickness(c):.3g} mm", SAME_THICKNESS_MM
    ),
    _Criterion(
        lambda c: -(c.length_mm or 0.0),
        lambda c: f"length: {c.length_mm or 0:.0f} mm along the body",
        SAME_LENGTH_MM,
    ),
    _Criterion(
        lambda c: c.spacing_mm or 0.0,
        lambda c: f"spacing: a slice every {c.spacing_mm or 0:.3g} mm",
        SAME_THICKNESS_MM,
    ),
)


def _study(header: Any) -> str:
    return text(header, "StudyInstanceUID")


def _patient(header: Any) -> str:
    """Return what tells patients apart; without an ID two studies cannot be said to be of one."""
    return text(header, "PatientID") or f"of study {_study(header)}"


def _people(scan: Scan) -> dict[str, int]:
    """Return the number of each patient."""
    return _numbered(_patient(item.header) for item in scan.found)


def _numbered(keys: Iterable[str]) -> dict[str, int]:
    return {key: number for number, key in enumerate(dict.fromkeys(keys), start=1)}


def _other_files(scan: Scan) -> dict[str, int]:
    """Count the files that are no slice of a candidate, by kind."""
    counts = Counter(scan.others)
    counts.update(item.kind for item in scan.found if item.kind != "ct")
    counts["damaged"] += len(scan.damaged)
    counts["missing"] += len(scan.missing)
    return {kind: counts[kind] for kind in OTHER_FILES if counts[kind]}


def _warnings(scan: Scan, finding: Finding, taken: Candidate) -> tuple[CaseWarning, ...]:
    found = []
    series = {item.series_uid for item in scan.found if item.is_image}
    series |= {candidate.series_uid for candidate in finding.candidates}
    if len(series) > 1:
        words = f"{len(series) - 1} other series were left aside"
        found.append(CaseWarning("other_series_ignored", words))
    if finding.patients > 1:
        words = (
            f"the input holds {finding.patients} patients; series {taken.series_uid} of "
            f"patient {taken.patient} was taken"
        )
        found.append(CaseWarning("several_patients", words))
    return tuple(found)
