"""What a plan asks for and cannot have, found when it is read: nothing that costs work has begun by then, and nothing heavy is imported."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aoi.bench.anomalib.plan import PREFIX, check_couplings, check_names, objection
from aoi.bench.plan_options import ENSEMBLE, ENSEMBLE_HEAD, MIXED

OWN = ("patchcore", "padim")
"""The detectors of this package, whose code need not be imported to know their names."""


def check_pairs(detectors: Sequence[str], couplings: Sequence[str], generators: Sequence[str]) -> None:
    """Refuse unknown models of anomalib, and couplings that fit no detector and no generator of the plan.

    Raises:
        ValueError: saying why, and what to do.
    """
    check_names(detectors)
    check_couplings(detectors, couplings, generators)


def parts_of(generators: Sequence[str]) -> tuple[str, ...]:
    """What a mixture is made of: the generators of a plan that draw defects here and need no checkpoint, in its order."""
    from aoi.synth.registry import drawn_names

    drawn = drawn_names()
    return tuple(name for name in generators if name in drawn)


def check_mixture(generators: Sequence[str]) -> None:
    """Refuse a mixture of less than two.

    Raises:
        ValueError: saying what could be added.
    """
    parts = parts_of(generators)
    if MIXED in generators and len(parts) < 2:
        from aoi.synth.registry import drawn_names

        there = f"{parts[0]} alone" if parts else "none"
        more = ", ".join(name for name in drawn_names() if name not in parts)
        raise ValueError(
            f"{MIXED} is made of at least two drawn generators of the same plan, and this one has {there}; "
            f"add {'one' if parts else 'two'} of {more} to generators, or leave {MIXED} out"
        )


def check_detector_names(named: Iterable[str], detectors: Sequence[str], *, where: str) -> None:
    """Refuse settings of detectors that are none: they would be passed over without a word.

    Args:
        named: detectors that settings are given for; they need not take part.
        detectors: those of the plan.
        where: the key the settings stand under.

    Raises:
        ValueError: with the nearest name.
    """
    known = tuple(dict.fromkeys((*OWN, *detectors)))
    for name in named:
        if name.startswith(PREFIX):
            check_names([name])
        elif name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"{where} names {name!r}, which is no detector; " + (f"did you mean {near[0]}?" if near else f"use {OWN}"))


def company_of(detector: str, detectors: Sequence[str]) -> str | None:
    """The detector whose map an ensemble joins with that of `detector`: the other one of this package, where the plan has both."""
    others = [name for name in OWN if name != detector and name in detectors]
    return others[0] if detector in OWN and others else None


def check_company(detectors: Sequence[str], couplings: Sequence[str]) -> None:
    """Refuse an ensemble of one.

    Raises:
        ValueError: saying which detectors it takes.
    """
    joining = [coupling for coupling in (ENSEMBLE, ENSEMBLE_HEAD) if coupling in couplings]
    if joining and not set(OWN) <= set(detectors):
        others = ",".join(coupling for coupling in couplings if coupling not in joining)
        raise ValueError(
            f"the coupling {joining[0]} joins the maps of {' and '.join(OWN)}, and this plan has {', '.join(detectors)}; "
            f"name both among the detectors, or leave {' and '.join(joining)} out" + (f": --couplings {others}" if others else "")
        )


def check_candidates(candidates: Mapping[str, Sequence[Any]], detectors: Sequence[str]) -> None:
    """Refuse `select` where there is nothing to select from.

    Raises:
        ValueError: naming the detector without candidates.
    """
    for name in detectors:
        if objection(name, "select") is None and not candidates.get(name):
            raise ValueError(
                f"the coupling select has no candidates for {name}; list some under select: candidates: {name}, its own settings ({{}}) "
                "first, or leave select out"
            )
