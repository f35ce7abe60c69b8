"""The claims of the experiment as rules on its tables: each is met, not met, or not measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from plan import FRESH

MIN_SHARE, MIN_CLINICAL = 0.80, 0.90
MAX_ERROR = 0.01
NULL, NO_GAIN = 0.05, 0.03


def claims(
    aurocs: pd.DataFrame, pairs: pd.DataFrame, saliency: pd.DataFrame, curve: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    """Yield claim, rule, what was measured, and whether it is met (empty: not measured).

    Args:
        aurocs: rows of ``aurocs.csv``.
        pairs: rows of ``pairs.csv``.
        saliency: rows of ``saliency.csv``; empty where no map was measured.
        curve: rows of ``clinical_curve.csv``; empty where it was not made.
    """
    yield from _about_scores(aurocs, pairs)
    yield from _about_size(curve)
    yield from _about_maps(saliency)


def _about_maps(saliency: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Judge GradCAM of each stage: above random weights', and above chance."""
    wanted = {"region": "body and muscle", "measure": "energy_ratio", "control": "randomised"}
    found = saliency
    if not saliency.empty:
        found = saliency[(saliency[list(wanted)] == pd.Series(wanted)).all(axis=1)]
        found = found[found["map"].str.startswith("gradcam")]
    rows = found.to_dict("records") or [{"map": "gradcam"}]
    for row in rows:
        heat = f"{row['map']}: energy ratio in body and muscle"
        yield _claim(heat, "> 1", row.get("trained_mean"), lambda v: v > 1)
        yield _claim(f"{heat} above that of random weights (lower end)", "> 0",
                     row.get("ci_low"), lambda v: v > 0)  # fmt: skip


def _about_scores(aurocs: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for test in ("held_out", FRESH):
        for model in ("bone", "bone_muscle"):
            row = _row(aurocs, test, model)
            yield _claim(f"{test}: {model}, share of the attainable excess", f">= {MIN_SHARE}",
                         row.get("share"), lambda v: v >= MIN_SHARE)  # fmt: skip
            yield _claim(f"{test}: {model}, standard error of the AUROC", f"<= {MAX_ERROR}",
                         row.get("se"), lambda v: v <= MAX_ERROR)  # fmt: skip
    for test in ("held_out", FRESH, "external"):
        pair = _pair(pairs, test, "bone_muscle", "bone")
        better = pair.get("difference", np.nan) > 0
        yield _claim(f"{test}: bone + muscle above bone-only, DeLong p", "< 0.05",
                     pair.get("p"), lambda v, better=better: better and v < 0.05)  # fmt: skip
    pair = _pair(pairs, "external", "bone", "clinical_D")
    better = pair.get("difference", np.nan) > 0
    yield _claim("external: bone-only above clinical D, DeLong p", "< 0.05",
                 pair.get("p"), lambda v, better=better: better and v < 0.05)  # fmt: skip
    names = aurocs["model"] if len(aurocs) else pd.Series(dtype=str)
    shuffled = aurocs[names.str.match(r"permuted_\d+$")]
    yield _claim("outcomes permuted between neighbours in risk: mean AUROC", f"0.5 ± {NULL}",
                 shuffled["auroc"].mean() if len(shuffled) else None,
                 lambda v: abs(v - 0.5) <= NULL)  # fmt: skip
    row = _row(aurocs, "held_out", "permuted")
    yield _claim("outcomes permuted freely, once: SD of the predicted probability", "< 0.05",
                 row.get("score_sd"), lambda v: v < 0.05)  # fmt: skip
    pair = _pair(pairs, "no_muscle_held_out", "bone_muscle", "bone")
    ends = [abs(pair.get(f"difference_ci_{end}", np.nan)) for end in ("low", "high")]
    yield _claim("muscle without signal: larger end of the gain's interval", f"<= {NO_GAIN}",
                 float(np.max(ends)), lambda v: v <= NO_GAIN)  # fmt: skip


def _about_size(curve: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Judge the clinical models at the least and the greatest number of patients fitted on.

    On the few thousand patients who have images the share of a model as weak as A has an
    interval of 0.25 either way; these are tested on more, and the mean is over sets of that size.
    """
    if curve.empty:
        return
    trees = curve[curve["kind"] == "xgboost"]
    for size in sorted({int(trees["patients"].min()), int(trees["patients"].max())}):
        found = trees[trees["patients"] == size]
        for name, share in zip(found["model"], found["share"], strict=True):
            who = f"{name.replace('_', ' ')} fitted on {size} patients"
            yield _claim(f"{who}: mean share of the excess", f">= {MIN_CLINICAL}",
                         share, lambda v: v >= MIN_CLINICAL)  # fmt: skip


def _claim(claim: str, rule: str, value: Any, met: Any) -> dict[str, Any]:
    known = value is not None and np.isfinite(value)
    measured = f"{value:.4g}" if known else ""
    answer = ("yes" if met(value) else "no") if known else "not measured"
    return {"claim": claim, "rule": rule, "measured": measured, "met": answer}


def _row(aurocs: pd.DataFrame, test: str, model: str) -> dict[Any, Any]:
    if aurocs.empty:
        return {}
    found = aurocs[(aurocs["set"] == test) & (aurocs["model"] == model)]
    return {} if found.empty else found.iloc[0].to_dict()


def _pair(pairs: pd.DataFrame, test: str, a: str, b: str) -> dict[Any, Any]:
    if pairs.empty:
        return {}
    found = pairs[(pairs["set"] == test) & (pairs["test"] == "delong")]
    found = found[(found["a"] == a) & (found["b"] == b)]
    return {} if found.empty else found.iloc[0].to_dict()
