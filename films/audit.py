"""What is wrong with a data set, before anybody trains on it: leaks, duplicates, contradictions, broken films.

    check(...)          Dataset and split -> one report, which print_report prints and JSON can hold
    contact_sheet(...)  images as they are and as the network gets them -> PNG

Pixels are read in chunks from the memory map; no function here holds the whole table.
"""

import collections
import io
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from basics import problems
from basics.progress import Progress
from films import giveaways, looks, patients, sources

# Thresholds were measured on Kermany's 5,232 training images at 224 x 224; beside each stands what they have.
CONSTANT = 1.0  # standard deviation in grey levels; the images: 19.9 or more
NEARLY_BLACK = 25  # mean grey level; the images: 60.7 or more
SATURATED = 0.1  # share of pixels at 255; the images: 0.024 or less
INVERTED = -0.1  # correlation with FILM; the images: 0.21 or more, their negatives therefore -0.21 or less

# Chest films all look alike: hashes of 6,775 of 13,679,964 pairs of different patients differ in at most 28 of
# 256 bits, of two in 12; those of copies shifted by 1 % along both axes in at most 28 for 98 % of them, in 11
# for 9 %. So the hash proposes and `likeness` decides. One pair of different patients reaches 0.64 (perhaps one
# child under two numbers), the next 0.58; the least alike of 12,000 copies of 800 films, changed in 15 ways, had
# 0.70. At 96 and 64 pixels three pairs reach 0.6; at 32 it is 1,163, so there nothing is looked for.
HASH_LIMIT, ALIKE = 28, 0.6

COMPARED_AT_MOST = 20_000  # images: 200 million pairs, and among real films 100,000 that the hash proposes
PAIRS_AT_MOST = 200_000  # proposed pairs that are kept: thousands of blank images would fill the memory
FINE, REACH = 64, 1  # likeness compares 64 x 64 cells, shifted by up to one cell (1.6 %) along each axis
CLASSES = tuple(name.lower() for name in sources.CLASSES)
FEW = 10  # images of a class on a side, below which nothing is measured there
# A patient with a tenth of 50 images or more, or with 10 of each class, is more likely a name that many people share.
CROWD, ENOUGH, MANY = 0.1, 50, 10
WHO = "if that is not one person, a .csv manifest with a column patient says who is who"

# Where a film is bright (spine, heart, abdomen) and dark (lungs, air beside the child), on 16 x 16 cells.
FILM = np.zeros((16, 16), np.float32)
FILM[2:14, 7:9] = FILM[13:, 4:12] = 1
FILM[4:10, 3:6] = FILM[4:10, 10:13] = -0.5
FILM[:, [0, 15]] = -1

Sides = dict[str, np.ndarray]  # "train", "validation", "test" -> indices
Facts = Sequence[tuple[str, str, int, int | None]]  # see sources.count_facts
Dataset = Any  # that of data.py, which explains its fields, and imports this file


def shared_keys(keys: Sequence[str], sides: Sides) -> list[str]:
    """The keys (one an image) that occur on more than one side, sorted."""
    seen = collections.Counter(key for indices in sides.values() for key in {keys[i] for i in indices})
    return sorted(key for key, count in seen.items() if count > 1)


def identical_groups(pixel_hashes: Sequence[str]) -> list[list[int]]:
    """Groups of two or more images with identical pixels, in the order of their first images."""
    groups = collections.defaultdict(list)
    for i, digest in enumerate(pixel_hashes):
        groups[digest].append(i)
    return [group for group in groups.values() if len(group) > 1]


def contradictions(dataset: Dataset) -> list[list[int]]:
    """Groups of images with identical pixels that carry both labels."""
    return [group for group in identical_groups(dataset.pixel_hashes) if len(set(dataset.labels[group])) > 1]


def crowd(dataset: Dataset) -> tuple[int, str]:
    """How many images the patient with the most has, and a sentence that says so; (0, "") where none is known."""
    whose = _known(dataset)
    if not whose:
        return 0, ""
    patient, films = max(whose.items(), key=lambda item: len(item[1]))
    kind = "PatientID" if patient in dataset.pseudonyms else "patient"
    return len(films), (f"{len(films):,} of {len(dataset.files):,} images have one {kind} "
                        f"({problems.printable(patient)})")  # fmt: skip


def odd_patients(dataset: Dataset) -> list[str]:
    """What looks wrong with the patients' names, in sentences: one for many people, and several for one."""
    whose, total, found = _known(dataset), len(dataset.files), []
    large = [patient for patient, films in whose.items() if total >= ENOUGH and len(films) >= CROWD * total]
    if large:
        more = f", and {len(large) - 1:,} more have {CROWD:.0%} or more each" if len(large) > 1 else ""
        found.append(f"{crowd(dataset)[1]}{more}: {WHO}")
    counts = {patient: np.bincount(dataset.labels[films], minlength=2).tolist() for patient, films in whose.items()}
    both = [patient for patient, of_class in counts.items() if min(of_class) >= MANY and patient not in large]
    if both:
        name, (normal, pneumonia) = problems.printable(both[0]), counts[both[0]]
        have = problems.numbered(len(both), "patient has", "patients have")
        found.append(f"{have} {MANY} images or more of each class, such as {name} with "
                     f"{normal:,} normal and {pneumonia:,} pneumonia: {WHO}")  # fmt: skip
    alike = collections.defaultdict(list)
    for patient in sorted(whose):
        alike[dataset.pseudonyms.get(patient) or patients.folded(patient)].append(patient)
    groups = [names for names in alike.values() if len(names) > 1]
    if groups:
        such = " and ".join(problems.printable(f"{name} ({dataset.files[whose[name][0]]})") for name in groups[0][:2])
        found.append(f"{sum(map(len, groups)):,} names of patients differ from another in nothing but case or leading "
                     f"zeros, such as {such}: each counts as a patient of its own")  # fmt: skip
    return found


def _known(dataset: Dataset) -> dict[str, list[int]]:
    """The images of each patient that is known: else the file's name stands for the patient."""
    found = collections.defaultdict(list)
    for i, (patient, file) in enumerate(zip(dataset.patients, dataset.files, strict=True)):
        if dataset.has_patients and patient != file:
            found[patient].append(i)
    return found


def near_duplicates(hashes: np.ndarray, limit: int = HASH_LIMIT) -> list[tuple[int, int, int]]:
    """(i, j, distance) of all pairs i < j of hashes (N, 4) that differ in at most `limit` bits, closest first.

    It takes N^2 / 2 comparisons, so look at COMPARED_AT_MOST first. Stops when it has PAIRS_AT_MOST pairs.
    """
    found: list[tuple[int, int, int]] = []
    for start in range(0, len(hashes), looks.CHUNK):
        block, rest = hashes[start : start + looks.CHUNK], hashes[start:]
        distance = np.zeros((len(block), len(rest)), np.uint16)
        for word in range(4):
            distance += np.bitwise_count(block[:, word, None] ^ rest[None, :, word])
        i, j = np.nonzero(distance <= limit)
        i, j = i[i < j], j[i < j]
        found += zip((i + start).tolist(), (j + start).tolist(), distance[i, j].tolist(), strict=True)
        if len(found) >= PAIRS_AT_MOST:
            break
    return sorted(found[:PAIRS_AT_MOST], key=lambda pair: (pair[2], pair[0], pair[1]))


def likeness(images: np.ndarray, pairs: Sequence[tuple[int, ...]]) -> np.ndarray:
    """(M,) float32, at most 1: how alike the two images of each pair (i, j, ...) are in their fine detail.

    The highest correlation, over shifts by up to REACH cells, of 64 x 64 means after each has lost the mean of its
    surroundings (5 x 5): what is left is ribs, vessels and edges, which differ from child to child, and not the
    shadow of a chest, which does not. 0 where an image has no detail.
    """
    if not pairs:
        return np.zeros(0, np.float32)
    used, place = np.unique([pair[:2] for pair in pairs], return_inverse=True)
    area = images.shape[1] * images.shape[2]
    chunks = looks.chunks(images, used, "looking at near duplicates")
    parts = [(looks.cell_sums(chunk, FINE, FINE) / area).round().astype(np.uint8) for chunk in chunks]
    cells = np.concatenate(parts)  # 4 kB an image
    ends = place.reshape(-1, 2).T  # (2, M)
    found = []
    with Progress(len(pairs), "comparing near duplicates", "pairs", leave=False, delay=2) as progress:
        for part in range(0, len(pairs), looks.CHUNK):
            some = ends[:, part : part + looks.CHUNK]
            found.append(_correlations(cells[some]))
            progress.update(some.shape[1])
    return np.concatenate(found)


def _correlations(cells: np.ndarray) -> np.ndarray:
    """(2, M, F, F) uint8 -> (M,): the correlation of each pair's fine detail at the shift where it is highest."""
    near = (np.abs(np.subtract.outer(np.arange(FINE), np.arange(FINE))) <= 2).astype(np.float32)
    near /= near.sum(1, keepdims=True)
    one, other = cells - near @ cells.astype(np.float32) @ near.T

    def normalised(detail: np.ndarray, y: int, x: int) -> np.ndarray:
        flat = detail[:, y : y + FINE - 2 * REACH, x : x + FINE - 2 * REACH].reshape(len(detail), -1)
        flat = flat - flat.mean(1, keepdims=True)
        return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1)

    middle, shifts = normalised(other, REACH, REACH), range(2 * REACH + 1)
    return np.max([(normalised(one, y, x) * middle).sum(1) for y in shifts for x in shifts], axis=0)


def flags(images: np.ndarray) -> dict[str, list[int]]:
    """(N, S, S) uint8 -> indices of images that are no films, or not as films are shown, by what is odd.

    "constant", "nearly black", "saturated", and "inverted-looking": dark where a film is bright, like a negative.
    With the thresholds above there was no false alarm on 5,232 images, and all of their negatives were found.
    """
    masks: dict[str, list] = {"constant": [], "nearly black": [], "saturated": [], "inverted-looking": []}
    pattern = (FILM - FILM.mean()) / np.linalg.norm(FILM - FILM.mean())
    for chunk in looks.chunks(images, doing="looking for odd images"):
        mean = chunk.mean((1, 2))
        constant = np.array([image.std() for image in chunk]) < CONSTANT  # one by one: std makes float64 copies
        cells = looks.cell_sums(chunk, 16, 16) / (chunk.shape[1] * chunk.shape[2]) - mean[:, None, None]
        alike = (cells * pattern).sum((1, 2)) / np.maximum(np.linalg.norm(cells, axis=(1, 2)), 1)
        masks["constant"].append(constant)
        masks["nearly black"].append(mean < NEARLY_BLACK)
        masks["saturated"].append((chunk == 255).mean((1, 2)) > SATURATED)
        masks["inverted-looking"].append(~constant & (alike < INVERTED))
    return {flag: np.flatnonzero(np.concatenate(parts)).tolist() for flag, parts in masks.items()}


# ------------------------------------------------------------------------------------------------ the report


SECTIONS = {  # key in the report -> title; what is printed and what JSON holds are the same rows
    "sides": "Split", "found": "Images in the source", "unreadable": "Unreadable files",
    "sizes": "Original sizes", "modes": "Modes", "identical": "Identical pixels", "near": "Near duplicates",
    "patients": "Patients", "shared": "Patients on several sides", "flags": "Flagged images",
    "giveaways": "Without lungs",
}  # fmt: skip
SHOWN = 10  # rows of a table that are printed; JSON has all


def check(dataset: Dataset, sides: Sides, how: str, facts: Facts = (), groups: Sequence[str] | None = None) -> dict:
    """Everything that is known about a data set and its split, as plain dicts, lists, strings and numbers.

    how: "patient", "official" or "image" as in data.split; by image, leaks are its point, and only warned of.
    facts: see sources.count_facts; compared with Kermany's counts only where every file has one of its names.
    groups: what of each film belongs together, by default its patient; for giveaways.measured.

    "errors" lists what makes results wrong: a patient or identical pixels on two sides, identical pixels with both
    labels, a side without a class. "warnings" lists what a person should look at. Each key of SECTIONS has the
    rows of one table. In file names control characters are escaped, so that each stays on its line.
    """
    names = [problems.printable(file) for file in dataset.files]
    side_of = dict.fromkeys(range(len(names)), "-") | {int(i): side for side in sides for i in sides[side]}
    kermany = not dataset.synthetic and all(sources.patient_of(file) for file in dataset.files)
    flagged = {flag: [names[i] for i in found] for flag, found in flags(dataset.images).items()}
    report: dict[str, Any] = {
        "name": problems.printable(dataset.name),
        "source": problems.printable(dataset.source),
        "synthetic": bool(dataset.synthetic),
        "split": how,
        "sides": [_side(dataset, side, indices) for side, indices in sides.items()],
        "found": [{"side": side or "-", "class": etiology, "found": found,
                   "expected": expected if kermany else None} for side, etiology, found, expected in facts],
        "unreadable": [{"file": problems.printable(f), "reason": problems.printable(why)} for f, why in dataset.bad],
        "sizes": _sizes(dataset),
        "modes": [{"mode": m, "images": count} for m, count in collections.Counter(dataset.modes).most_common()],
        **_identical(dataset, names, side_of),
        **_near(dataset, names, side_of),
        **_patients(dataset, sides),
        "flags": [{"what": flag, "images": len(files), "such as": "\n".join(files[:5])}
                  for flag, files in flagged.items() if files],
        "flagged": flagged,
        **_giveaways(dataset, sides, groups or dataset.patients),
    }  # fmt: skip
    shared = [row["patient"] for row in report["shared"]]
    leaks = _say(len(shared), "patients on several sides", "".join(shared[:1]))
    leaks += _way(report, "on several sides")
    errors, warnings = ([], leaks) if how == "image" else (leaks, [])
    return {**report, "errors": errors + _errors(report), "warnings": warnings + _warnings(dataset, report)}


def _side(dataset: Dataset, side: str, indices: np.ndarray) -> dict:
    normal, pneumonia = np.bincount(dataset.labels[indices], minlength=2).tolist()
    share = f"{100 * pneumonia / len(indices):.1f} %" if len(indices) else None
    patients = len({dataset.patients[i] for i in indices}) if dataset.has_patients else None
    return {"side": side, "normal": normal, "pneumonia": pneumonia, "images": len(indices),
            "share of pneumonia": share, "patients": patients}  # fmt: skip


def _sizes(dataset: Dataset) -> list[dict]:
    shape = dataset.widths / dataset.heights
    rows = {"width": dataset.widths, "height": dataset.heights, "width / height": shape}
    # Classes of other shapes are told apart by what making them square leaves: drawn out, bordered, or cut.
    rows |= {
        f"width / height, {name.lower()}": shape[dataset.labels == label] for label, name in enumerate(sources.CLASSES)
    }
    names = ("minimum", "median", "maximum")
    found = {what: np.quantile(values, (0, 0.5, 1), method="nearest").round(2) for what, values in rows.items()
             if len(values)}  # fmt: skip
    return [{"": what, **dict(zip(names, values.tolist(), strict=True))} for what, values in found.items()]


def _identical(dataset: Dataset, names: list[str], side_of: dict[int, str]) -> dict:
    """Groups of identical images, and how many of them lie across what should be apart."""
    groups = identical_groups(dataset.pixel_hashes)
    people = [len({dataset.patients[i] for i in group}) if dataset.has_patients else 0 for group in groups]
    ways = {
        "all": groups,
        "of one patient": [group for group, count in zip(groups, people, strict=True) if count == 1],
        "of several patients": [group for group, count in zip(groups, people, strict=True) if count > 1],
        "on several sides": [group for group in groups if len({side_of[i] for i in group}) > 1],
        "with both labels": contradictions(dataset),
    }
    rows = [{"identical images": way, "groups": len(found), "images": sum(map(len, found)),
             "such as": "\n".join(names[i] for group in found[:1] for i in group[:2]) or None}
            for way, found in ways.items() if groups]  # fmt: skip
    return {"identical": rows, "identical_groups": [[names[i] for i in group] for group in groups]}


def _near(dataset: Dataset, names: list[str], side_of: dict[int, str]) -> dict:
    """Pairs of different pixels that look like one film, the most alike first."""
    # Identical images have a table of their own: here one of each group stands for all.
    first = np.sort(np.unique(np.array(dataset.pixel_hashes), return_index=True)[1])
    if len(first) > COMPARED_AT_MOST or min(dataset.images.shape[1], np.median(dataset.widths)) < FINE:
        return {"near": [], "near_note": "not looked for: too many images, or too few pixels"}
    found = near_duplicates(looks.perceptual_hash(dataset.images)[first])
    pairs = [(int(first[i]), int(first[j]), distance) for i, j, distance in found]
    scored = sorted(zip(likeness(dataset.images, pairs).tolist(), pairs, strict=True), reverse=True)
    one = {True: "yes", False: "no"} if dataset.has_patients else dict.fromkeys((True, False), "?")
    rows = [{"images": f"{names[i]}\n{names[j]}", "likeness": round(score, 3), "bits apart": distance,
             "one patient": one[dataset.patients[i] == dataset.patients[j]],
             "sides": " ".join(sorted({side_of[i], side_of[j]})),
             "classes": " ".join(CLASSES[label] for label in sorted({*dataset.labels[[i, j]].tolist()}))}
            for score, (i, j, distance) in scored if score >= ALIKE]  # fmt: skip
    return {"near": rows, "near_note": "only some were looked at, too many" if len(pairs) == PAIRS_AT_MOST else ""}


def _patients(dataset: Dataset, sides: Sides) -> dict:
    shared = shared_keys(dataset.patients, sides) if dataset.has_patients else []
    counts = np.bincount([min(n, 4) for n in collections.Counter(dataset.patients).values()], minlength=5).tolist()
    rows = zip(("1", "2", "3", "4 or more", "any number"), (*counts[1:], sum(counts)), strict=True)
    rows = [{"images of one patient": number, "patients": count} for number, count in rows]
    return {"patients": rows if dataset.has_patients else [],
            "shared": [{"patient": problems.printable(key)} for key in shared]}  # fmt: skip


def _giveaways(dataset: Dataset, sides: Sides, groups: Sequence[str]) -> dict:
    """What a cheap model tells of the class without lungs. Test films have no part in it: it makes people choose."""
    chosen = np.sort(np.concatenate([indices for side, indices in sides.items() if side != "test"]))
    rows = giveaways.measured(dataset, chosen, groups)
    note = giveaways.said(rows) if rows else giveaways.too_few(dataset.labels[chosen], [groups[i] for i in chosen])
    return {"giveaways": rows, "giveaways_note": note}


def _say(count: int, what: str, example: str) -> list[str]:
    return [f"{what}: {count:,}, such as " + example.replace("\n", " and ")] if count else []


def _way(report: dict, way: str) -> list[str]:
    rows = [row for row in report["identical"] if row["identical images"] == way]
    row: dict[str, Any] = rows[0] if rows else {"groups": 0, "such as": ""}
    return _say(row["groups"], f"sets of identical images {way}", row["such as"])


def _errors(report: dict) -> list[str]:
    found = _way(report, "with both labels")
    for row in report["sides"]:
        # A source without a test set can still be trained on, and then it is only a warning.
        needed = row["images"] or row["side"] != "test" or report["split"] != "official"
        found += [f"the {row['side']} side has no {name} image" for name in CLASSES if needed and not row[name]]
    return found


def _warnings(dataset: Dataset, report: dict) -> list[str]:
    wrong = [row for row in report["found"] if row["expected"] not in (None, row["found"])]
    found = [f"not a complete copy of Kermany's data: {row['side']} {row['class']} {row['found']:,} "
             f"images instead of {row['expected']:,}".replace(": - ", ": ") for row in wrong]  # fmt: skip
    bad = [f"{row['file']}: {row['reason']}" for row in report["unreadable"]]
    found += _say(len(bad), "files that cannot be read", bad[0] if bad else "")
    for row in report["sides"]:
        few = [name for name in CLASSES if 0 < row[name] < FEW]
        found += [f"only {problems.numbered(row[name], f'{name} image')} on the {row['side']} side" for name in few]
        if row["side"] == "test" and not row["images"]:
            found.append("there are no test images: this split can be trained on, but not tested")
    if not dataset.has_patients:
        found.append("nothing says which images belong to one patient: leaks of patients cannot be seen")
    elif dataset.unknown_patients:
        images = problems.numbered(dataset.unknown_patients, "image")
        found.append(f"nothing says of {images} who their patient is: each counts as a patient of its own")
    found += odd_patients(dataset)
    found += _way(report, "of several patients")
    for column in ("sides", "classes"):
        # Phantoms share one drawing of the ribs: alike or not, they are no duplicates.
        across = [row["images"] for row in report["near"] if " " in row[column] and not report["synthetic"]]
        found += _say(len(across), f"pairs that look like one film, on two {column}", "".join(across[:1]))
    found += [f"near duplicates: {report['near_note']}"] if report["near_note"] else []
    if report["giveaways"] and giveaways.worst(report["giveaways"])["AUROC"] > giveaways.TELLING:
        found.append(f"without lungs, {report['giveaways_note']}")
    return found + [line for flag, files in report["flagged"].items() if files
                    for line in _say(len(files), f"{flag} images", files[0])]  # fmt: skip


def print_report(report: dict) -> None:
    """Prints what `check` found: a table or a line a section, then errors, warnings, and "ok" or "N errors"."""
    print(f"{report['name']}\n{report['source']}, split by {report['split']}")
    for key, title in SECTIONS.items():
        rows = report[key]
        more = f" (the first {SHOWN} of {len(rows):,})" if len(rows) > SHOWN else ""
        note = report.get(f"{key}_note") or ("" if rows else "none")
        print(f"\n{title}{more}" + (f": {note}" if note else ""))
        if rows:  # numbers stay as they are written: a file may be called 1e5
            numeric = [any(isinstance(row[name], int | float) for row in rows) for name in rows[0]]
            align = ["right" if number else "left" for number in numeric]
            print(tabulate(rows[:SHOWN], "keys", disable_numparse=True, colalign=align, missingval="-"))
    print()
    for what in ("errors", "warnings"):
        print(f"{what}:" if report[what] else f"{what}: none")
        for line in report[what]:
            print(f"  {line}")
    count = len(report["errors"])
    print(problems.numbered(count, "error") if count else "ok")


def contact_sheet(
    originals: np.ndarray, augmented: np.ndarray, names: Sequence[str], labels: Sequence[int], title: str
) -> bytes:
    """A PNG of images, each beside what the network gets of it, three pairs a row, one block a class.

    originals: (M, S, S) uint8; augmented: (M, S, S) uint8, or float in [0, 1]. A title that begins with SYNTHETIC
    is red. Raises ValueError where there is no image.
    """
    import matplotlib  # for drawing alone: checking, and training, which checks, should not wait for it
    from matplotlib.figure import Figure

    blocks = [np.flatnonzero(np.asarray(labels) == label) for label in np.unique(labels)]
    if not blocks:
        raise ValueError("a contact sheet needs at least one image")
    scaled = [pixels / 255 if pixels.dtype == np.uint8 else pixels for pixels in (originals, augmented)]
    gap = np.full((*originals.shape[:2], max(originals.shape[2] // 40, 1)), np.nan)  # nothing is drawn there
    pairs = np.concatenate([scaled[0], gap, scaled[1]], axis=2)
    heights = [2.15 * -(-len(indices) // 3) + 0.35 for indices in blocks]  # inches: rows of pairs, and the heading
    figure = Figure(figsize=(12, 0.4 + sum(heights)), layout="constrained")
    colour = "#B00020" if title.startswith("SYNTHETIC") else "black"
    figure.suptitle(_drawable(title, 120), color=colour, parse_math=False)
    parts = figure.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, indices in zip(parts, blocks, strict=True):
        heading = f"{sources.CLASSES[labels[indices[0]]]}: each image, and beside it what the network gets"
        part.suptitle(heading, x=0.008, ha="left", weight="bold", fontsize=11)
        grid = part.subplots(-(-len(indices) // 3), 3, squeeze=False).ravel()
        for axes in grid:
            axes.axis("off")
        for axes, i in zip(grid, indices, strict=False):
            axes.imshow(pairs[i], cmap="gray", vmin=0, vmax=1)
            axes.set_title(_drawable(names[i], 70), y=0, pad=-10, fontsize=7.5, parse_math=False)
    stream = io.BytesIO()
    with matplotlib.rc_context({"savefig.dpi": 110}):
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _drawable(text: str, length: int) -> str:
    """What matplotlib's own font can draw, other letters escaped; of a long text the beginning and the end."""
    text = problems.printable(unicodedata.normalize("NFC", text))
    text = text.encode("latin-1", "backslashreplace").decode("latin-1")
    half = (length - 3) // 2
    return text if len(text) <= length else f"{text[:half]}...{text[-half:]}"
