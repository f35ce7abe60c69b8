"""Name a chain of vertebral bodies: a probability for every way to do so.

The model is generative and small enough to be written out. A *hypothesis* says how many thoracic
(rib-bearing) and lumbar vertebrae this person has, and which vertebra the lowest body of the chain
is. Its posterior is its prior (how common the variant is) times the likelihood of what was seen:
ribs at each body, the sacrum below the last one, and, weakly, how the bodies' widths grow.

What "named right" means. An abdominal CT does not show the neck, so it cannot be determined whether
the last rib-bearing vertebra above five lumbar ones is the 12th, the 11th or the 13th thoracic one;
every reader calls it T12. Names are right here when L1 to L4 are the right bodies by this usage,
and T12 is the body above L1. The stricter probability, that the names also hold when counted from
the first rib, is reported beside it (``Naming.strict``).

Priors. Presacral vertebrae number 24 in 92 %, 25 in 4.3 % and 23 in 3.3 % of 418 whole-spine MRI;
another 3.3 % have a transitional lumbosacral vertebra (Tins & Balain, Insights Imaging 2016;7:199).
Their division: 12 thoracic and 5 lumbar in 90.4 %, 11 + 5 in 4.1 %, 11 + 6 in 1.7 % and 12 + 6 in
3.8 % of 293 volunteers (Yan et al., J Orthop Surg Res 2018;13:124). ``VARIANTS`` lies between both;
13 + 5 and 13 + 4, and short, one-sided and lumbar ribs, are set low by judgement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from monai_vfx.core.anatomy import LEVELS

VARIANTS: dict[tuple[int, int], float] = {
    (12, 5): 0.880,
    (11, 5): 0.030,
    (13, 5): 0.010,
    (12, 6): 0.035,
    (11, 6): 0.010,
    (12, 4): 0.030,
    (13, 4): 0.005,
}
"""(thoracic, lumbar) vertebrae → share of people; sources above."""

CERVICAL = tuple(f"C{n}" for n in range(1, 8))
SACRAL = "S1"
"""Name of a body below the last lumbar one: the sacrum's first segment, taken for a vertebra."""

WIDTHS_MM: dict[str, float] = {
    **{"C1": 17.0, "C2": 17.0, "C3": 17.0, "C4": 17.5, "C5": 18.0, "C6": 19.0, "C7": 22.0},
    **{"T1": 26.0, "T2": 26.5, "T3": 26.5, "T4": 26.5, "T5": 27.0, "T6": 28.5, "T7": 30.0},
    **{"T8": 31.5, "T9": 33.0, "T10": 35.0, "T11": 37.5, "T12": 40.5, "T13": 41.5},
    **{"L1": 42.5, "L2": 44.0, "L3": 46.0, "L4": 48.0, "L5": 49.5, "L6": 50.0, "S1": 50.0},
}
"""Level → width of the body, mm: means of both endplates after Panjabi et al., Spine 1991;16:888
(cervical), 1991;16:861 (thoracic) and 1992;17:299 (lumbar), rounded. Ratios count, not sizes."""

_RIBS, _NO_RIBS = (0.998, 0.001, 0.001), (0.0005, 0.0005, 0.999)  # both, one, none; anywhere else

_MIN = 1e-12  # the logarithm of an impossible observation stays finite

THRESHOLD = 0.95
"""Least confidence at which names are used. Above what the sacrum alone can give (0.92, the share
of people with five lumbar vertebrae), so that ribs must be seen where they are; below what ribs
and sacrum reach when they agree (0.99)."""


@dataclass(frozen=True)
class Rates:
    """How reliable the observations are; measured on cases with known truth."""

    rib_sensitivity: float = 0.97  # probability that a rib is seen at a side that has one
    rib_specificity: float = 0.985  # probability that none is seen where there is none
    rib_failure: float = 0.01  # probability that what is seen at a body, both sides, says nothing
    # probability that the body above the sacrum that is seen is the last lumbar one; the rest goes
    # half each to the sacrum's first segment taken for a body and to the last lumbar body taken for
    # sacrum
    sacrum_right: float = 0.98
    # probability that the sacrum is not seen though the chain ends right above
    sacrum_missed: float = 0.3
    # probabilities that the last thoracic vertebra shows both ribs, one, or none (absent, or too
    # short to be seen)
    last_rib: tuple[float, float, float] = (0.95, 0.03, 0.02)
    # likewise for the first lumbar vertebra
    lumbar_rib: tuple[float, float, float] = (0.005, 0.01, 0.985)
    # SD of the logarithm of a body's width about its level's, beside the common scale
    width_sd: float = 0.06
    # share of the widths' log likelihood that counts, as neighbours err alike
    width_weight: float = 0.3
    threshold: float = THRESHOLD  # least confidence


@dataclass(frozen=True)
class Body:
    """What was seen of one body."""

    # probability, 0 to 1, of a rib at its (right, left) side under even odds; None where the joint
    # lies outside the image
    ribs: tuple[float | None, float | None] = (None, None)
    width_mm: float | None = None  # of the body; None where it is not known
    whole: bool = True  # whether both endplates are in the image


@dataclass(frozen=True)
class Chain:
    """What was seen of a spine."""

    bodies: tuple[Body, ...]  # neighbours without a gap, cranial to caudal
    sacrum: float  # probability, 0 to 1, that the sacrum lies right below the last body


@dataclass(frozen=True)
class Hypothesis:
    """One way to name a chain."""

    # thoracic, lumbar: vertebrae of this person
    thoracic: int
    lumbar: int
    names: tuple[str, ...]  # of the bodies, cranial to caudal
    probability: float  # posterior


@dataclass(frozen=True)
class Naming:
    """The posterior over all hypotheses, summed up."""

    names: tuple[str, ...]  # of the bodies by the most probable hypothesis, cranial to caudal
    # posterior that each body has its name, by the convention (see the module)
    probabilities: tuple[float, ...]
    # posterior that T12, L1, L2, L3 and L4 are the bodies that `names` says; 0 where one of them is
    # not among the names
    confidence: float
    strict: float  # the same when thoracic vertebrae are counted from the first rib
    in_chain: float  # posterior that the chain holds all five, by whatever hypothesis
    # most probable first; together at least 0.999
    hypotheses: tuple[Hypothesis, ...] = field(repr=False)


def name_bodies(chain: Chain, rates: Rates | None = None) -> Naming:
    """Return the posterior over the ways to name a chain, by the stated rates by default."""
    rates = rates or Rates()
    longest = max(len(spine_names(*variant)) for variant in VARIANTS)
    if not 1 <= len(chain.bodies) <= longest:
        raise ValueError(f"a chain of {len(chain.bodies)} bodies cannot be named")
    found = [
        (variant, names, np.log(prior) + log_likelihood(chain, names, variant, rates))
        for variant, share in VARIANTS.items()
        for names, prior in placements(len(chain.bodies), *variant, share)
    ]
    logs = np.array([log for _, _, log in found])
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    ranked = sorted(
        (
            Hypothesis(*variant, names, float(weight))
            for (variant, names, _), weight in zip(found, weights, strict=True)
        ),
        key=lambda each: -each.probability,
    )
    return _summed_up(ranked)


def placements(
    count: int, thoracic: int, lumbar: int, share: float
) -> list[tuple[tuple[str, ...], float]]:
    """Return every stretch of ``count`` neighbours of a spine, with its prior.

    A stretch may end with S1, where the sacrum's first segment was taken for a vertebra. Before
    anything is seen, every stretch of a person's spine is equally likely.

    >>> [names for names, _ in placements(2, 12, 5, 1.0)][-2:]
    [('L4', 'L5'), ('L5', 'S1')]
    """
    spine = spine_names(thoracic, lumbar)
    stretches = [spine[start : start + count] for start in range(len(spine) - count + 1)]
    return [(names, share / len(stretches)) for names in stretches]


def spine_names(thoracic: int, lumbar: int) -> tuple[str, ...]:
    """Return the names of a spine's vertebrae, C1 to S1."""
    return (
        *CERVICAL,
        *(f"T{n}" for n in range(1, thoracic + 1)),
        *(f"L{n}" for n in range(1, lumbar + 1)),
        SACRAL,
    )


def log_likelihood(
    chain: Chain, names: Sequence[str], variant: tuple[int, int], rates: Rates
) -> float:
    """Return the log likelihood of what was seen under names and counts (thoracic, lumbar)."""
    last_thoracic, last_lumbar = f"T{variant[0]}", f"L{variant[1]}"
    total = _width_log_likelihood(chain.bodies, names, rates)
    seen = _sacrum_likelihood(chain.sacrum, names[-1], last_lumbar, rates)
    total += np.log(max(seen, _MIN))
    for body, name in zip(chain.bodies, names, strict=True):
        if name == last_thoracic:
            shares = rates.last_rib
        elif name == "L1":
            shares = rates.lumbar_rib
        else:
            shares = _RIBS if name.startswith("T") else _NO_RIBS
        total += np.log(max(_rib_likelihood(body, shares, rates), _MIN))
    return float(total)


def _rib_likelihood(body: Body, shares: tuple[float, float, float], rates: Rates) -> float:
    """Return the likelihood of the ribs seen at both sides of a body, up to a common factor.

    ``shares`` say how often such a vertebra has both ribs, one (either side alike), or none.
    """
    given_rib, given_none = [], []  # right, left
    for seen in body.ribs:
        even = 0.5 if seen is None else seen
        hit, false = rates.rib_sensitivity, 1 - rates.rib_specificity
        given_rib.append(2 * (even * hit + (1 - even) * (1 - hit)))
        given_none.append(2 * (even * false + (1 - even) * (1 - false)))
    both, one, none = shares
    seen_right = (
        both * given_rib[0] * given_rib[1]
        + one * (given_rib[0] * given_none[1] + given_none[0] * given_rib[1]) / 2
        + none * given_none[0] * given_none[1]
    )
    return rates.rib_failure + (1 - rates.rib_failure) * seen_right


def _sacrum_likelihood(seen: float, last: str, last_lumbar: str, rates: Rates) -> float:
    """Return the likelihood of seeing the sacrum, or none, below the last body."""
    before = f"L{int(last_lumbar[1:]) - 1}"
    wrong = (1 - rates.sacrum_right) / 2
    tiny = 1e-5
    shown = {last_lumbar: rates.sacrum_right, before: wrong, SACRAL: wrong}.get(last, tiny)
    hidden = {last_lumbar: rates.sacrum_missed, SACRAL: tiny}.get(last, 1.0)
    return seen * shown + (1 - seen) * hidden


def _width_log_likelihood(bodies: Sequence[Body], names: Sequence[str], rates: Rates) -> float:
    """Return the log likelihood of the widths, with a common scale left free.

    Logarithms of the widths are normal about those of the levels plus one unknown scale; that is
    integrated out with a flat prior, up to a constant that all hypotheses share.
    """
    apart = np.array(
        [
            np.log(body.width_mm / WIDTHS_MM[name])
            for body, name in zip(bodies, names, strict=True)
            if body.width_mm is not None and body.whole
        ]
    )
    if apart.size < 2:
        return 0.0
    scatter = float(((apart - apart.mean()) ** 2).sum())
    return -rates.width_weight * scatter / (2 * rates.width_sd**2)


def _summed_up(ranked: list[Hypothesis]) -> Naming:
    """Sum the posterior over hypotheses that give the same names."""
    best = ranked[0]
    # Only where the neck is in view can another count than 12 win; names are then meant strictly.
    usual = best.thoracic == 12
    places = [n for n, name in enumerate(best.names) if name in LEVELS]
    complete = len(places) == len(LEVELS)
    agreed = np.zeros(len(best.names))
    confidence = strict = in_chain = 0.0
    for each in ranked:
        called = conventional_names(each) if usual else each.names
        same = np.array(called) == np.array(best.names)
        agreed += each.probability * same
        in_chain += each.probability * (set(LEVELS) <= set(conventional_names(each)))
        if complete:
            confidence += each.probability * same[places].all()
            strict += each.probability * all(each.names[n] == best.names[n] for n in places)
    total = np.cumsum([each.probability for each in ranked])
    shown = int(np.searchsorted(total, 0.999)) + 1
    return Naming(
        names=best.names,
        probabilities=tuple(float(p) for p in np.minimum(agreed, 1.0)),
        confidence=min(float(confidence), 1.0),
        strict=min(float(strict), 1.0),
        in_chain=min(float(in_chain), 1.0),
        hypotheses=tuple(ranked[:shown]),
    )


def conventional_names(hypothesis: Hypothesis) -> tuple[str, ...]:
    """Return the names of a hypothesis when its last thoracic vertebra is called T12.

    >>> conventional_names(Hypothesis(11, 5, ("T10", "T11", "L1"), 0.5))
    ('T11', 'T12', 'L1')
    """
    more = 12 - hypothesis.thoracic
    return tuple(
        f"T{int(name[1:]) + more}" if name.startswith("T") else name for name in hypothesis.names
    )
