"""Who can be matched, and the tables of what was chosen and what was not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit

from monai_vfx.analysis.groups import connected_groups
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Matched:
    """What matching chose, and what it could not match.

    Attributes:
        frame: the chosen rows, each once, in the table's order, with ``pair_id``: the name of the
            case. Cases that share a control (replacement, risk sets) share one pair.
        links: one row a member of a set: ``set`` (name of the index case), ``case_id``, ``role``
            (``case`` or ``control``), ``distance`` (of the logits; empty for risk sets).
        unmatched_cases: ``case_id`` and ``reason``.
        unusable_controls: ``case_id`` and ``reason`` of non-cases with an unknown matching
        variable.
        propensity: (n,) probability to be a case, by ``case_id``; empty where no model was fitted.
        caliper_logit: the caliper in units of the logit; None without one.
        ratio: controls that a case should have.
    """

    frame: pd.DataFrame
    links: pd.DataFrame
    unmatched_cases: pd.DataFrame
    unusable_controls: pd.DataFrame
    propensity: pd.Series[float]
    caliper_logit: float | None
    ratio: int

    def expanded(self) -> pd.DataFrame:
        """Return one row a member of a set: what a comparison of matched groups must be made on.

        A control that serves two cases is there twice, and a control that fractures later has
        ``fracture`` = 0 in the set in which it is a control.
        """
        if self.links.empty:
            return self.frame.copy()
        rows = self.frame.set_index("case_id").loc[self.links["case_id"]].reset_index()
        rows["pair_id"] = self.links["set"].to_numpy()
        rows["fracture"] = (self.links["role"] == "case").astype(int).to_numpy()
        return rows

    def to_json(self) -> Json:
        """Return the counts, with a reason for everybody who was not matched."""
        controls = self.links[self.links["role"] == "control"]
        sizes = controls["set"].value_counts()
        return {
            "cases_matched": len(sizes),
            "controls_chosen": len(controls),
            "controls_distinct": int(controls["case_id"].nunique()),
            "cases_with_fewer_controls": int((sizes < self.ratio).sum()),
            "cases_unmatched": _reasons(self.unmatched_cases),
            "controls_unusable": _reasons(self.unusable_controls),
            "caliper_logit": self.caliper_logit,
        }


@dataclass(frozen=True)
class Pool:
    """Who can be matched, as row positions in an order that only names and seed decide.

    Attributes:
        cases: rows of the cases with all matching variables.
        controls: rows of those who may be controls.
        unknown_cases: row of a case that cannot be matched → why.
        unknown_controls: likewise of the non-cases.
        patients: (n,) number of the patient of every row.
    """

    cases: Ints
    controls: Ints
    unknown_cases: dict[int, str]
    unknown_controls: dict[int, str]
    patients: Ints

    @classmethod
    def of(
        cls, frame: pd.DataFrame, variables: tuple[str, ...], seed: int, later_cases: bool = False
    ) -> Pool:
        """Find who has all variables; with ``later_cases`` cases may serve as controls too."""
        names = frame["case_id"].astype(str)
        order = np.argsort(names.to_numpy(str), kind="stable")
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
        order = order[rng.permutation(order.size)]
        is_case = frame["fracture"].to_numpy() == 1
        unknown = _unknown(frame, variables)
        usable = np.array([row not in unknown for row in range(len(frame))], dtype=bool)
        cases = order[is_case[order] & usable[order]]
        controls = order[(later_cases | ~is_case[order]) & usable[order]]
        if not cases.size or not (~is_case[controls]).any():
            raise CaseRefused(
                "cohort_invalid",
                f"of {is_case.sum()} patients with and {(~is_case).sum()} without a fracture, "
                f"{cases.size} and {(~is_case[controls]).sum()} have all matching variables; "
                "both groups are needed",
            )
        patients = frame["patient_id"].fillna(names) if "patient_id" in frame else names
        return cls(
            cases=cases,
            controls=controls,
            unknown_cases={row: why for row, why in unknown.items() if is_case[row]},
            unknown_controls={row: why for row, why in unknown.items() if not is_case[row]},
            # Numbers compare far faster than names, and every case is compared with everyone.
            patients=np.unique(patients.to_numpy(str), return_inverse=True)[1].astype(np.int64),
        )

    def allowed_pairs(self, follow_up: Floats | None) -> Callable[[int], Bools]:
        """Return a function: row of a case → (controls,) true for those it may have at all.

        They are other patients, followed at least as long where ``follow_up``, (n,) years, is
        given.
        """

        def allowed(case: int) -> Bools:
            other = np.asarray(self.patients[self.controls] != self.patients[case])
            if follow_up is None:
                return other
            return np.asarray(other & (follow_up[self.controls] >= follow_up[case]), dtype=bool)

        return allowed


def matching_variables(frame: pd.DataFrame, variables: tuple[str, ...]) -> pd.DataFrame:
    """Return the variables as numbers: sex as female 0/1, scan year, categories as indicators.

    Returns:
        (n, variables), NaN where a value is unknown; a category as one column for every level
        but the first.
    """
    columns = ["case_id", "fracture", *("scan_date" if n == "scan_year" else n for n in variables)]
    missing = [name for name in columns if name not in frame]
    if missing:
        raise CaseRefused(
            "cohort_invalid", f"matching needs columns that are missing: {', '.join(missing)}"
        )
    parts = []
    for name in variables:
        if name == "scan_year":
            values = pd.to_datetime(frame["scan_date"]).dt.year.astype(float).rename(name)
        elif name == "sex":
            values = frame["sex"].map({"F": 1.0, "M": 0.0}).rename(name)
        elif pd.api.types.is_numeric_dtype(frame[name]):
            values = frame[name].astype(float)
        else:
            indicators = pd.get_dummies(frame[name], prefix=name, dtype=float).iloc[:, 1:]
            parts.append(indicators)
            continue
        parts.append(values.to_frame())
    return pd.concat(parts, axis=1)


def _unknown(frame: pd.DataFrame, variables: tuple[str, ...]) -> dict[int, str]:
    """Return the rows with an unknown variable and which it is."""
    columns = ["scan_date" if name == "scan_year" else name for name in variables]
    gaps = frame[columns].isna().to_numpy()
    names = np.array(variables)
    return {
        int(row): ", ".join(names[gaps[row]]) + " not known"
        for row in np.flatnonzero(gaps.any(axis=1))
    }


def gather_matched(
    frame: pd.DataFrame,
    pool: Pool,
    chosen: list[tuple[int, int, float]],
    reasons: dict[int, str],
    propensity: pd.Series[float],
    caliper: float | None,
    ratio: int,
) -> Matched:
    """Put what was chosen into tables, in the order of the table's rows.

    ``chosen`` holds (row of the case, row of its control, distance of their logits), ``reasons``
    row of an unmatched case → why; the caliper is in units of the logit.
    """
    names = frame["case_id"].to_numpy(object)
    members: list[tuple[int, int, str, float]] = []
    for case, row, far in sorted(chosen, key=lambda choice: choice[0]):
        if not members or members[-1][0] != case:
            members.append((case, case, "case", np.nan))
        members.append((case, row, "control", far))
    links = pd.DataFrame(
        [(names[case], names[row], role, far) for case, row, role, far in members],
        columns=["set", "case_id", "role", "distance"],
    )
    pair = _shared_pairs(members, names)
    rows = sorted(pair)
    selected = frame.iloc[rows].reset_index(drop=True).assign(pair_id=[pair[row] for row in rows])
    return Matched(
        frame=selected,
        links=links,
        unmatched_cases=_listing(names, {**pool.unknown_cases, **reasons}),
        unusable_controls=_listing(names, pool.unknown_controls),
        propensity=propensity,
        caliper_logit=caliper,
        ratio=ratio,
    )


def _shared_pairs(
    members: list[tuple[int, int, str, float]], names: npt.NDArray[np.object_]
) -> dict[int, str]:
    """Return for each chosen row its pair: of the cases that sets tie it to, the first by name."""
    sets, rows = [case for case, *_ in members], [row for _, row, *_ in members]
    group = connected_groups(sets, rows, names.size)
    first: dict[int, str] = {}
    for case in sorted(set(sets), key=lambda row: str(names[row])):
        first.setdefault(int(group[case]), str(names[case]))
    return {int(row): first[int(group[row])] for row in rows}


def leave_unmatched(frame: pd.DataFrame, ratio: int) -> Matched:
    """Return the whole table, with the pairs it already names or none."""
    copy = frame.reset_index(drop=True)
    if "pair_id" not in copy:
        copy["pair_id"] = None
    links = pd.DataFrame(columns=["set", "case_id", "role", "distance"])
    empty = _listing(np.empty(0, object), {})
    propensity = probabilities(frame, np.empty(0), np.empty(0, dtype=np.int64))
    return Matched(copy, links, empty, empty.copy(), propensity, None, ratio)


def probabilities(frame: pd.DataFrame, logits: Floats, known: Ints) -> pd.Series[float]:
    """Return the propensity scores by case, of the rows in ``known``."""
    names = frame["case_id"].to_numpy(object)[known]
    return pd.Series(expit(logits[known]), index=pd.Index(names, name="case_id"), name="propensity")


def _listing(names: npt.NDArray[np.object_], reasons: dict[int, str]) -> pd.DataFrame:
    rows = [(names[row], reasons[row]) for row in sorted(reasons)]
    return pd.DataFrame(rows, columns=["case_id", "reason"])


def _reasons(listing: pd.DataFrame) -> list[Json]:
    """Count the rows of a listing by reason."""
    counts = listing["reason"].value_counts().sort_index()
    return [{"reason": str(reason), "n": int(n)} for reason, n in counts.items()]
