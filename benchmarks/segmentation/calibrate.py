"""How reliable the segmentation's observations are, and the threshold that follows, from a run.

    python -m benchmarks.segmentation.synthetic --series calibration --cases 400 --out calibration
    python -m benchmarks.segmentation.calibrate calibration --out calibrated

Reads what naming saw (``evidence/*.json`` of synthetic.py), measures the rates of
``monai_vfx.vertebrae.segmentation.naming.Rates`` on bodies whose true names are known, and chooses
the least confidence at which at least 99 % of the accepted cases have all of T12-L4 named right.
Writes ``calibration.json``: the rates (to be written into ``Rates``), all counts, the numbers
before and after, and those on cases left out of the fit. No network runs.

Shares of anatomical variants (``last_rib``, ``lumbar_rib``) stay those of the literature: measured
here they would be those of the simulation. Synthetic CT are easier than real ones, so measured
error rates are taken at their upper 95 % bound and multiplied by ``--doubt``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

from benchmarks.segmentation.assessment import (
    Acceptance,
    acceptance,
    calibration_error,
    choose_threshold,
)
from monai_vfx.analysis.evaluation.discrimination import auroc, roc_curve
from monai_vfx.core.anatomy import LEVELS
from monai_vfx.core.files import write_json
from monai_vfx.vertebrae.segmentation.naming import WIDTHS_MM, Body, Chain, Rates, name_bodies

MIN_RIB_MM = 30.0
"""A shorter rib counts as absent in the simulation's truth, as the prior of last ribs has it."""
SEEN = 0.5
IN_CHAIN = 0.5
"""Below this posterior that all of T12-L4 are in view a case is refused, whatever the names."""
MAX_ERROR = 0.3
"""No rate is taken for worse than this; a detector so bad is to be mended, not calibrated."""


@dataclass(frozen=True)
class Seen:
    """One case as naming saw it, with its truth.

    Attributes:
        chain: bodies and sacrum.
        names: true name of each body by the reader's convention; None where there is none.
        strict: the same counted from the first rib.
        ribs: (right, left) whether each body truly bears a rib.
        last_lumbar: true name of the lowest lumbar vertebra.
        in_view: T12-L4 are in the image and not cut.
    """

    chain: Chain
    names: tuple[str | None, ...]
    ribs: tuple[tuple[bool, bool] | None, ...]
    last_lumbar: str
    in_view: bool


def read_case(document: dict[str, Any]) -> Seen | None:
    """Return a case of synthetic.py, or None where no chain was found."""
    if not document["bodies"]:
        return None
    bodies, names, ribs = [], [], []
    for body in document["bodies"]:
        right, left = body["ribs"]
        bodies.append(Body((right, left), body["width_mm"], body["whole"]))
        names.append(conventional(body["true"], document["thoracic"]))
        lengths = document["ribs_mm"].get(body["true"], (0.0, 0.0))
        known = body["true"] is not None
        ribs.append((lengths[0] >= MIN_RIB_MM, lengths[1] >= MIN_RIB_MM) if known else None)
    return Seen(
        Chain(tuple(bodies), document["sacrum"]),
        tuple(names),
        tuple(ribs),
        f"L{document['lumbar']}",
        document["in_view"],
    )


def conventional(name: str | None, thoracic: int) -> str | None:
    """Return a true name, counted from the first rib, as if the body above L1 were T12."""
    if name is None or not name.startswith("T"):
        return name
    return f"T{int(name[1:]) + 12 - thoracic}"


def upper_error(errors: int, n: int, doubt: float) -> float:
    """Return the one-sided 95 % upper bound of an error rate (Clopper-Pearson), times ``doubt``."""
    bound = 1.0 if errors >= n else float(beta.ppf(0.95, errors + 1, n - errors))
    return min(MAX_ERROR, doubt * bound)


def measure(cases: Sequence[Seen], doubt: float) -> tuple[Rates, dict[str, Any]]:
    """Return the rates that these cases show, and the counts behind them."""
    sides: dict[bool, list[bool]] = {True: [], False: []}
    both_wrong = observed = 0
    for case in cases:
        for body, truth in zip(case.chain.bodies, case.ribs, strict=True):
            if truth is None or None in body.ribs:
                continue
            wrong = [(seen >= SEEN) != there for seen, there in zip(body.ribs, truth, strict=True)]
            observed += 1
            both_wrong += all(wrong)
            if all(wrong):
                continue  # a failure of the body, not of one side
            for is_wrong, there in zip(wrong, truth, strict=True):
                sides[there].append(is_wrong)
    above_sacrum = [case for case in cases if case.chain.sacrum >= SEEN]
    misjudged = sum(case.names[-1] != case.last_lumbar for case in above_sacrum)
    at_end = [case for case in cases if case.names[-1] == case.last_lumbar]
    missed = sum(case.chain.sacrum < SEEN for case in at_end)
    counts = {
        "cases": len(cases),
        "sides_with_rib": len(sides[True]),
        "ribs_missed": sum(sides[True]),
        "sides_without_rib": len(sides[False]),
        "ribs_made_up": sum(sides[False]),
        "bodies_with_both_sides": observed,
        "bodies_wrong_at_both_sides": both_wrong,
        "sacra_seen": len(above_sacrum),
        "sacra_seen_below_another_body": misjudged,
        "chains_to_the_last_lumbar": len(at_end),
        "of_these_no_sacrum_seen": missed,
        "width_sd": width_sd(cases),
        "rib_cut": rib_cut(cases),
    }
    rates = Rates(
        rib_sensitivity=1 - upper_error(sum(sides[True]), len(sides[True]), doubt),
        rib_specificity=1 - upper_error(sum(sides[False]), len(sides[False]), doubt),
        # Of failures, in which both sides say anything, a quarter is wrong at both.
        rib_failure=upper_error(4 * both_wrong, max(observed, 4 * both_wrong), doubt),
        sacrum_right=1 - upper_error(misjudged, len(above_sacrum), doubt),
        sacrum_missed=(missed + 0.5) / (len(at_end) + 1),
        width_sd=max(counts["width_sd"], Rates().width_sd),
    )
    return rates, counts


def rib_cut(cases: Sequence[Seen]) -> dict[str, float] | None:
    """Return where the probability of a rib parts best, and how well; None without both kinds.

    A cut far from 0.5 shows that ``RIB_ML`` of :mod:`monai_vfx.vertebrae.segmentation.refine`, the
    volume at which a rib is as likely as none, does not fit these networks.
    """
    seen, there = [], []
    for case in cases:
        for body, truth in zip(case.chain.bodies, case.ribs, strict=True):
            for probability, is_there in zip(body.ribs, truth or (), strict=False):
                if probability is not None:
                    seen.append(probability)
                    there.append(is_there)
    if len(set(there)) < 2:
        return None
    false_positive, true_positive, thresholds = roc_curve(there, seen)
    best = int(np.argmax(true_positive - false_positive))
    return {
        "cut": min(1.0, float(thresholds[best])),  # the curve begins at infinity
        "sensitivity": float(true_positive[best]),
        "specificity": 1 - float(false_positive[best]),
        "auroc": auroc(there, seen).value,
    }


def width_sd(cases: Sequence[Seen]) -> float:
    """Return the SD of the logarithm of widths about their levels', each case's scale apart."""
    total, freedom = 0.0, 0
    for case in cases:
        apart = [
            np.log(body.width_mm / WIDTHS_MM[name])
            for body, name in zip(case.chain.bodies, case.names, strict=True)
            if body.width_mm is not None and body.whole and name in WIDTHS_MM
        ]
        if len(apart) > 1:
            total += float(((apart - np.mean(apart)) ** 2).sum())
            freedom += len(apart) - 1
    return float(np.sqrt(total / freedom)) if freedom else 0.0


def judge(cases: Sequence[Seen], rates: Rates) -> tuple[list[float], list[bool]]:
    """Return each case's confidence, NaN where a study level is not whole, and if it is right."""
    confidence, right = [], []
    for case in cases:
        naming = name_bodies(case.chain, rates)
        place = {name: n for n, name in enumerate(naming.names)}
        usable = naming.in_chain >= IN_CHAIN and all(
            level in place and case.chain.bodies[place[level]].whole for level in LEVELS
        )
        confidence.append(naming.confidence if usable else float("nan"))
        right.append(usable and all(case.names[place[level]] == level for level in LEVELS))
    return confidence, right


def left_out(
    cases: Sequence[Seen], doubt: float, target: float, bounded: bool, parts: int = 5
) -> Acceptance:
    """Return acceptance where each part is judged by rates and threshold of the others."""
    accepted, right = [], []
    for part in range(parts):
        others = [case for n, case in enumerate(cases) if n % parts != part]
        rates, _ = measure(others, doubt)
        threshold = choose_threshold(*judge(others, rates), target=target, bounded=bounded).value
        confidence, true = judge(cases[part::parts], rates)
        accepted += [bool(value >= threshold) for value in confidence]
        right += true
    return acceptance(accepted, right)


def tally(cases: Sequence[Seen], rates: Rates) -> dict[str, Any]:
    """Return what becomes of the cases under these rates and their threshold."""
    confidence, right = judge(cases, rates)
    accepted = [bool(value >= rates.threshold) for value in confidence]
    usable = [case.in_view for case in cases]
    return {
        "rates": asdict(rates),
        "acceptance": asdict(acceptance(accepted, right)),
        "accepted_of_those_with_T12_to_L4_in_view": [
            int(sum(a and u for a, u in zip(accepted, usable, strict=True))),
            int(sum(usable)),
        ],
        "calibration_error": calibration_error(confidence, right),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="+", help="folder of synthetic.py; several add up")
    parser.add_argument("--out", type=Path, default=Path("segmentation_calibration"))
    parser.add_argument("--target", type=float, default=0.99, help="share right of the accepted")
    parser.add_argument(
        "--share-only", action="store_true", help="the share, not its 95 %% bound, reaches target"
    )
    parser.add_argument("--doubt", type=float, default=2.0, help="factor on measured error rates")
    parser.add_argument("--least", type=float, default=0.9, help="no threshold below this")
    arguments = parser.parse_args()
    paths = [path for run in arguments.run for path in sorted((run / "evidence").glob("*.json"))]
    read = [read_case(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    cases = [case for case in read if case is not None]
    if len(cases) < 20:
        parser.error(f"{len(cases)} cases with evidence; at least 20 are needed")
    rates, counts = measure(cases, arguments.doubt)
    bounded = not arguments.share_only
    chosen = choose_threshold(*judge(cases, rates), target=arguments.target, bounded=bounded)
    rates = replace(rates, threshold=max(arguments.least, chosen.value))
    facts = {
        "runs": [run.name for run in arguments.run],
        "without_a_chain": len(read) - len(cases),
        "counts": counts,
        "doubt": arguments.doubt,
        "target": arguments.target,
        "target_by_lower_bound": bounded,
        "target_met": chosen.met,
        "threshold_by_target": chosen.value,
        "before": tally(cases, Rates()),
        "after": tally(cases, rates),
        "left_out": asdict(left_out(cases, arguments.doubt, arguments.target, bounded)),
    }
    write_json(arguments.out / "calibration.json", json.loads(json.dumps(facts, default=float)))
    print(json.dumps(facts, indent=2, default=float))


if __name__ == "__main__":
    main()
