"""The leak guard: no test image, by content, among what a detector, a generator or a head learns from."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aoi.data.content import file_hash, pixel_hash
from aoi.data.files import read_jsonl
from aoi.data.images import read_image
from aoi.data.nearness import miniature
from aoi.data.parts import siblings
from aoi.data.progress import Progress, silent, tracked
from aoi.data.sample import Sample
from aoi.errors import DataError

_LEARNT = "training_images.jsonl"
"""What `aoi synth train` writes beside a model: the real images it learnt from or was chosen on."""
_COPIED = ("reference_sha256", "reference_pixels")
"""What a row says of the real defect that was copied, whose file is its `reference`."""
SHOWN = 5
"""Pairs named in an error."""
OWN_GROUND = "draw defects on the good training images of this data set, or name the data set that these were drawn on"
APART = "move these images out of one of the two sets, then run again"


@dataclass(frozen=True, slots=True)
class Contents:
    """What images hold, whatever they are called: hashes of their bytes and of their decoded pixels."""

    owners: dict[str, Path]
    """Hash to the first file that has it; both kinds of hash together, they cannot collide."""
    keys: Mapping[Path, tuple[str, ...]] = field(default_factory=dict)
    """The hashes of each file."""
    miniatures: Mapping[Path, np.ndarray] = field(default_factory=dict)
    """Of each readable file, for near-duplicates; see `aoi.data.nearness.miniature`."""

    def shared(self, other: Contents) -> list[tuple[Path, Path]]:
        """Pairs (file here, file there) of equal content, each pair once, sorted."""
        return sorted({(self.owners[key], other.owners[key]) for key in self.owners.keys() & other.owners.keys()})

    def of(self, paths: Iterable[Path]) -> Contents:
        """What these files among them hold."""
        return gathered([(path, self.keys[path], self.miniatures.get(path)) for path in paths])

    def without(self, paths: Collection[Path]) -> Contents:
        """What the others hold."""
        return self.of(path for path in self.keys if path not in paths)


def contents(paths: Sequence[Path], *, progress: Progress = silent) -> Contents:
    """Hash the bytes and the pixels of image files; an unreadable one counts by what can be read of it."""
    with ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 1)) as pool:
        return gathered(list(tracked(pool.map(_content, paths), "leak guard", len(paths), progress)))


Found = tuple[Path, tuple[str, ...], np.ndarray | None]
"""A file, its hashes, and its miniature where it can be read."""


def gathered(found: Iterable[Found]) -> Contents:
    """What some files hold."""
    found = list(found)
    owners: dict[str, Path] = {}
    for path, hashes, _ in found:
        for key in hashes:
            owners.setdefault(key, path)
    return Contents(owners, {path: hashes for path, hashes, _ in found}, {path: small for path, _, small in found if small is not None})


def _content(path: Path) -> Found:
    try:
        image = read_image(path)
        return path, (file_hash(path), pixel_hash(image)), miniature(image)
    except DataError:
        return path, (file_hash(path),) if path.is_file() else (), None


def check_disjoint(test: Contents, train: Contents, *, what: str = "a test image is also a training image", hint: str = APART) -> None:
    """Stop a run whose test images are also among what is learnt from.

    Args:
        what: the error's sentence.
        hint: what to do about it.

    Raises:
        DataError: naming the pairs.
    """
    pairs = test.shared(train)
    if pairs:
        raise _leak(what, pairs, hint)


def check_readable(*sets: Contents) -> None:
    """Refuse images that cannot be read, for callers who cannot do without one.

    Raises:
        DataError: naming the first and how many there are.
    """
    bad = [path for each in sets for path in each.keys if path not in each.miniatures]
    if not bad:
        return
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    try:
        read_image(bad[0])
    except DataError as error:
        raise DataError(f"{error.message}{more}", hint="`aoi data check` lists every unreadable file; replace or delete them") from error
    raise DataError(f"{bad[0]} could not be read a moment ago{more}", hint="run the command again")


def check_normals(normals: Contents, test: Contents) -> None:
    """Stop a run whose generated normals are test images.

    Raises:
        DataError: naming the pairs.
    """
    pairs = normals.shared(test)
    if pairs:
        raise _leak("a generated normal is also a test image", pairs)


def check_sources(manifest: Path, test: Contents, train: Contents) -> None:
    """Stop a run whose synthetic defects were drawn on a test image, or on anything that is not a good training image.

    Args:
        manifest: `manifest.jsonl` of the synthetic data set; its rows carry the hashes of their sources.
        test: contents of the test images.
        train: contents of the good training images.

    Raises:
        DataError: naming the pairs.
    """
    rows = [row for row in read_jsonl(manifest) if row.get("accepted")]
    made = [
        (manifest.parent / str(row["image"]), {str(row.get("source_sha256")), str(row.get("source_pixels"))}, str(row["source"]))
        for row in rows
    ]
    check_traced(made, test, train)


def check_traced(made: Iterable[tuple[Path, Collection[str], str]], test: Contents, train: Contents) -> None:
    """Stop a run one of whose defects was drawn on a test image, or on anything that is not a good training image.

    Args:
        made: each defect's image, the hashes of the good image it was drawn on, and that one's name; without hashes nothing can be told.
        test: contents of the test images.
        train: contents of the good training images.

    Raises:
        DataError: naming the pairs.
    """
    leaked, strangers = [], []
    for image, hashes, source in made:
        leaked += [(image, test.owners[key]) for key in sorted(test.owners.keys() & hashes)[:1]]
        if hashes and train.owners.keys().isdisjoint(hashes):
            strangers.append((image, Path(source)))
    if leaked:
        raise _leak("a synthetic defect was drawn on a test image", leaked)
    if strangers:
        raise _leak("a synthetic defect was drawn on an image outside train/good", strangers, OWN_GROUND)


def check_choice(images: Sequence[Path], test: Contents, *, what: str, protocol: str = "clean") -> None:
    """Stop a network that would be trained, or whose epoch would be chosen, on test images.

    Args:
        images: what it learns from or is judged on.
        test: contents of the test images.
        what: `trained` or `chosen`, for the error.
        protocol: `legacy` is the one leak that a plan may ask for by name, and only for the choice.

    Raises:
        DataError: naming the pairs.
    """
    if protocol == "legacy" and what == "chosen":
        return
    pairs = contents(images).shared(test)
    if pairs:
        raise _leak(f"a network would be {what} on test images", pairs)


def check_learnt(manifest: Path, test: Contents) -> None:
    """Stop a run whose synthetic defects come from a generator that learnt from, or was chosen on, a test image, or are copies of one's.

    Another picture of the same physical part counts as the test image does.

    Args:
        manifest: `manifest.jsonl` of the synthetic data set; its rows name the checkpoint and the adapters, or the defect that was copied.
        test: contents of the test images.

    Raises:
        DataError: naming the pairs.
    """
    named: set[str] = set()
    copied: dict[str, Path] = {}
    for row in read_jsonl(manifest):
        if row.get("accepted"):
            drawn = row.get("parameters") or {}
            named |= {str(each) for each in (row.get("model"), *drawn.get("adapters", ())) if each}
            copied |= {str(drawn[name]): Path(str(drawn.get("reference"))) for name in _COPIED if name in drawn}
    _check_seen(copied, test, "a synthetic defect was copied from")
    for model in sorted(named):
        _check_seen(learnt(model), test, "the generator learnt from")


def _check_seen(seen: Mapping[str, Path], test: Contents, what: str) -> None:
    leaked = sorted({(image, test.owners[key]) for key, image in seen.items() if key in test.owners})
    if leaked:
        raise _leak(f"{what} a test image", leaked)
    related = taught([Sample(path, "test", path.parent.name) for path in test.keys], test, seen)
    if related:
        raise _leak(f"{what} another picture of a part that is tested", [(image, path) for path, image in related.items()], sign="~")


def learnt(model: str) -> dict[str, Path]:
    """Hashes of the pixels of the real images that a checkpoint learnt from or was chosen on, with their files; empty if none is listed.

    Raises:
        DataError: the list is damaged.
    """
    found: dict[str, Path] = {}
    for folder in (Path(model), Path(model).parent):  # beside the checkpoint's folder, or inside it
        listed = folder / _LEARNT
        if listed.is_file():
            rows = read_jsonl(listed)
            if any("source_pixels" not in row or "image" not in row for row in rows):
                raise DataError(f"{listed} is damaged: what the generator learnt from cannot be told", hint="train the generator again")
            found |= {str(row["source_pixels"]): Path(row["image"]) for row in rows}
    return found


def taught(samples: Sequence[Sample], known: Contents, seen: Mapping[str, Path]) -> dict[Path, Path]:
    """The samples that show what was learnt from, or another picture of the same part, each with a picture that was learnt from.

    Args:
        samples: test images.
        known: their contents.
        seen: by the hash of their pixels, the files that were learnt from; see `learnt`. Of one that is not among the samples, only its
            name and its folder's tell which part it shows.
    """
    here = {sample.path for sample in samples if not seen.keys().isdisjoint(known.keys[sample.path])}
    elsewhere = {path for pixels, path in seen.items() if pixels not in known.owners}
    strangers = [Sample(path, "test", path.parent.name) for path in sorted(elsewhere - {sample.path for sample in samples})]
    found = siblings([*samples, *strangers], here | {sample.path for sample in strangers})
    return {sample.path: found[sample.path] for sample in samples if sample.path in found}


def _leak(what: str, pairs: list[tuple[Path, Path]], hint: str = APART, sign: str = "=") -> DataError:
    named = "; ".join(f"{first} {sign} {second}" for first, second in pairs[:SHOWN])
    more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
    return DataError(f"{what}: {named}{more}", hint=hint)
