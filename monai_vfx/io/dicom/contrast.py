"""Which contrast phase the headers speak of: from tags, from times, then from words.

What stands in a description is matched against the word lists below and leaves only what it means:
text of a header may hold anything, a patient's name included, so it is neither kept nor shown.
Nothing is decided by majority: where two places contradict each other, the phase is not known and
the contradiction is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from monai_vfx.io.dicom.values import items, text

NONE, GIVEN = "none", "given"
PHASES: tuple[str, ...] = (NONE, "arterial", "portal_venous", "delayed")
"""Phases, as the column ``contrast_phase`` of a cohort table has them."""
DELAYS_S: dict[str, tuple[float, float]] = {
    "arterial": (15.0, 45.0),
    "portal_venous": (55.0, 100.0),
    "delayed": (150.0, 1200.0),
}
"""Phase → seconds from the start of the injection to that of the scan. Between them: not known."""

_PHASE_TAG = {
    "PRE_CONTRAST": NONE,
    "ARTERIAL": "arterial",
    "VENOUS": "portal_venous",
    "PORTAL_VENOUS": "portal_venous",
    "DELAYED": "delayed",
}
_TEXTS = ("SeriesDescription", "ProtocolName", "ImageComments", "StudyDescription")
# "Non-ionic" is a kind of agent, not the lack of one.
_NO_AGENT = re.compile(r"^(no|none|non(?![- ]?ion)|n|nil|without|w/o|nativ|native|0|plain)\b")
_VASCULAR = re.compile(r"\bi\.?v\b|\b(?:intra)?(?:ven|arter|vasc)")
_NOT_VASCULAR = re.compile(r"\boral|\brect|\bp\.?o\b|\bper os\b|intrathec|articul|intravesic")
# Words of English, German, French, Spanish and Italian; the first that is found is taken out of
# the text, so that "without contrast" does not also say "contrast".
_WORDS: tuple[tuple[str, str], ...] = (
    (
        NONE,
        r"\b(?:un|non) ?enhan\w*|\b(?:non|no|without|w/o|wo|ohne|sans|sin|senza) ?"
        r"(?:iv ?)?(?:contrast\w*|contraste|contrasto|km|ce|cm|injection|mdc)\b|"
        r"\b(?:pre|prä) ?contrast\w*|\bncct\b|\bnative?\b|\bplain\b|\bw/o\b",
    ),
    ("arterial", r"\barteri\w*|\bart (?:phase|ph)\b|\baortic phase\b|\bcta\b|\bangio\w*"),
    ("portal_venous", r"\bporto? ?ven\w*|\bportal\w*|\bven(?:ous|oes|ös|euse?|osa)\w*|\bpv ?p?\b"),
    ("delayed", r"\bdelay\w*|\blate phase\b|\bexcretory\b|\bspät\w*|\btardiv\w*"),
    (
        GIVEN,
        r"\bpost ?contrast\w*|\bcontrast\w*|\benhanc\w*|\b(?:with|w/|mit|avec|con) ?"
        r"(?:iv ?)?(?:ce|km|cm|injection|mdc)\b|\bce\b|\bcect\b|\+ ?c\b|\bc ?\+",
    ),
)


@dataclass(frozen=True)
class Contrast:
    """What the headers say of contrast medium.

    Attributes:
        phase: one of :data:`PHASES`; None where it is not known.
        source: what decided it: ``tag``, ``timing`` or ``text``.
        given: whether medium was given into a vessel; None where not known, or contradictory.
        delay_s: from the start of the injection to the first slice.
        hints: what each place says, such as ``series_description: given``.
        contradictory: two places say opposite things.
    """

    phase: str | None = None
    source: str | None = None
    given: bool | None = None
    delay_s: float | None = None
    hints: tuple[str, ...] = ()
    contradictory: bool = False


def words_of(description: str) -> set[str]:
    """Return what a description says: some of :data:`PHASES` and ``given``.

    >>> sorted(words_of(",CE,Axial,3.0,,WITH CE,")), words_of("CT Abdo UnEnhan")
    (['given'], {'none'})
    >>> words_of("Abdomen  WITH ROI IN AORTA"), sorted(words_of("ABD_PORTAL-VENOUS"))
    (set(), ['portal_venous'])
    >>> sorted(words_of("without and with contrast"))
    ['given', 'none']
    """
    rest = re.sub(r"[^0-9a-zà-ÿ+/]+", " ", description.lower()).strip()
    found = set()
    # "without and with contrast" names the medium once.
    if re.search(r"\b(?:without|w/o|wo|ohne) (?:and|und|/|\+|&)? ?(?:with|w|mit)\b", rest):
        return {NONE, GIVEN}
    for meaning, pattern in _WORDS:
        rest, count = re.subn(pattern, " ", rest)
        if count:
            found.add(meaning)
    return found


def read_contrast(headers: list[Any]) -> Contrast:
    """Judge the headers of the slices of one series."""
    first = headers[0]
    said = {name: found for name in _TEXTS if (found := words_of(text(first, name)))}
    agent = series_agent(headers)
    # An Enhanced object's Contrast/Bolus Agent Phase (PS3.3, C.8.15.3.4).
    tag = _PHASE_TAG.get(text(first, "ContrastBolusAgentPhase").upper())
    delay = _delay_s(headers)
    hints = [f"agent: {GIVEN if agent else NONE}"] if agent is not None else []
    hints += [f"phase_tag: {tag}"] if tag else []
    for name, found in said.items():
        place = re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()  # such as series_description
        hints.append(f"{place}: {', '.join(sorted(found))}")
    by_text = _phase_of_texts(said)
    timed = None
    if delay is not None:
        timed = next((p for p, (low, high) in DELAYS_S.items() if low <= delay <= high), None)
    votes = {phase != NONE for phase in (tag, timed, by_text) if phase}
    votes |= {agent} if agent is not None else set()
    votes |= {NONE not in found for found in said.values() if found == {NONE} or NONE not in found}
    named = {phase for phase in (tag, timed, by_text) if phase}
    contradictory = len(votes) > 1 or len(named) > 1
    phase, source = next(
        ((p, s) for p, s in ((tag, "tag"), (timed, "timing"), (by_text, "text")) if p),
        (NONE, "tag") if agent is False else (None, None),
    )
    if contradictory:
        phase, source = None, None
    given = votes.pop() if len(votes) == 1 else None
    return Contrast(phase, source, given, delay, tuple(hints), contradictory)


def _phase_of_texts(said: dict[str, set[str]]) -> str | None:
    """Return the phase that the place nearest to the series names alone."""
    for found in said.values():
        phases = found - {GIVEN}
        if len(phases) == 1 and not (NONE in phases and GIVEN in found):
            return phases.pop()
    return None


def agent_given(header: Any) -> bool | None:
    """Return whether an agent was given into a vessel: by name and route, then by codes.

    An Enhanced object has code sequences for them (PS3.3, C.7.6.4 and C.7.6.4b). True where any
    agent was, else False where one is said not to have been given; None where no agent is named,
    or only such as were given by mouth.

    >>> agent_given({"ContrastBolusAgent": "Ultravist"}), agent_given({"ContrastBolusAgent": "NO"})
    (True, False)
    >>> agent_given({}), agent_given({"ContrastBolusAgent": "Oral contrast"})
    (None, None)
    """
    named = [(text(header, "ContrastBolusAgent"), text(header, "ContrastBolusRoute"))]
    for agent in items(header, "ContrastBolusAgentSequence"):
        routes = items(agent, "ContrastBolusAdministrationRouteSequence")
        name = text(agent, "CodeMeaning") or text(agent, "CodeValue")
        named.append((name, " ".join(text(route, "CodeMeaning") for route in routes)))
    found = {_is_agent_given(name.lower(), route.lower()) for name, route in named}
    return True if True in found else False if False in found else None


def series_agent(headers: Iterable[Any]) -> bool | None:
    """Return the same of the headers of a series: True where any of them says so."""
    found = {agent_given(header) for header in headers}
    return True if True in found else False if False in found else None


def _is_agent_given(agent: str, route: str) -> bool | None:
    if not agent:
        return None
    if _NO_AGENT.match(agent):
        return False
    words = f"{agent} {route}"
    return None if _NOT_VASCULAR.search(words) and not _VASCULAR.search(words) else True


def _delay_s(headers: list[Any]) -> float | None:
    """Return the seconds from the injection to the first slice; None unless both are stated."""
    start = _seconds(text(headers[0], "ContrastBolusStartTime"))
    scans = [s for h in headers if (s := _seconds(text(h, "AcquisitionTime"))) is not None]
    if start is None or not scans:
        return None
    delay = min(scans) - start
    return round(delay, 1) if delay >= 0 else None


def _seconds(time: str) -> float | None:
    """Return a DICOM time as seconds of the day.

    >>> _seconds("120130.5"), _seconds("")
    (43290.5, None)
    """
    found = re.fullmatch(r"(\d{2})(\d{2})(\d{2}(?:\.\d+)?)\s*", time)
    if found is None:
        return None
    hours, minutes, seconds = (float(part) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds
