"""The certificate of a proof: what was measured, and PyTorch's answers, to measure again without PyTorch's network.

certificate(...)      a proof as one dict
remembered(...)       a reference of it again, with films that are drawn anew
check_metadata(...)   that a graph says what its certificate says
"""

import dataclasses
import secrets

import numpy as np

import data
from basics.problems import Problem, printable
from graphs import doubts, scoring, unusual
from graphs.proof import HALF, RESIZED, ROUNDED, TOLERANCE, Reference, odd_images, torch_squares
from graphs.unusual import pixel_hash


def text(logits: np.ndarray) -> str:
    return " ".join(str(value) for value in logits.astype(np.float32).reshape(-1))  # the shortest that is this float32


def doubts_text(found: doubts.Doubts) -> str:
    pairs = zip(found.distance.astype(np.float32), found.flags, strict=True)
    return " ".join(f"{distance} {flags}" for distance, flags in pairs)


def doubts_of(known: dict, squares: np.ndarray, line: str) -> doubts.Doubts:
    """Of (N, S, S) pixels, what a text of that kind says. Raises ValueError where it says something else."""
    values = np.array(line.split(), float).reshape(-1, 2)
    if len(values) != len(squares) or not np.isfinite(values).all():
        raise ValueError("its doubts are not two finite numbers an image")
    return doubts.Doubts(values[:, 0], values[:, 1].astype(np.int64), doubts.unsure_of(known, squares))


def logits_of(texts: list[str]) -> np.ndarray:
    """(N, 2) float32. Raises ValueError where there are not two finite numbers for each image."""
    logits = np.array([line.split() for line in texts], np.float32).reshape(-1, 2)
    if len(logits) != len(texts) or not np.isfinite(logits).all():
        raise ValueError("its logits are not two finite numbers an image")
    return logits


def certificate(expected: Reference, found: dict[str, list[dict]]) -> dict:
    """What was measured, and PyTorch's logits by image hash: enough to measure again without the checkpoint."""
    sides: dict[str, dict[str, str]] = {side: {} for side in dict.fromkeys(expected.sides.tolist())}
    for side, image, logits in zip(expected.sides.tolist(), expected.images, expected.logits, strict=True):
        sides[side][pixel_hash(image)] = text(logits)
    odd = zip(odd_images(expected.size), expected.odd_logits, strict=True)
    return {
        **found,
        "tolerances": {
            "fp32 and fp16": {f"{precision} on {provider}": value for (precision, provider), value in TOLERANCE.items()}
            | {"of": "|difference| of probability, and of logits as a part of the largest |logit|; a decision may "
               "differ only where PyTorch's probability is that close to the threshold"},
            "int8": scoring.INT8 | {"of": "|change| on validation and on test; accuracy: or one image, if more"},
            "resizing": {"grey levels beside Pillow": RESIZED, "grey levels beside PyTorch before it rounds": HALF,
                         "probability and logits of films that are resized": ROUNDED},
        },
        "reference": {
            "is": "PyTorch's logits of normal and pneumonia, in float32 on the CPU, by the first 16 hex digits of the "
            "SHA-256 of the image's pixels as the network sees them",
            **sides,
            "odd": {name: text(logits) for name, logits in odd},
        },
        "unusual": {
            "is": "PyTorch's logits of films of other shapes and looks, drawn by the seed from the bases, which are "
            "squares by their hash; with the hash of what PyTorch made of them",
            "seed": expected.seed,
            "bases": list(expected.bases),
            **lots_of(expected),
        },
        **({"doubts": doubts_kept(expected)} if expected.doubts and expected.odd_doubts else {}),
    }  # fmt: skip


def doubts_kept(expected: Reference) -> dict:
    """What PyTorch says of the images beside logits, in their order; that of unusual films stands with their logits."""
    assert expected.doubts is not None and expected.odd_doubts is not None
    by_image = {pixel_hash(image): doubts_text(expected.doubts[i : i + 1]) for i, image in enumerate(expected.images)}
    return {"is": "`unfamiliar` and `flags`, by the hash of the image's pixels",
            "odd": doubts_text(expected.odd_doubts),
            "tolerance": {"unfamiliar": f"{doubts.DISTANCE:g} times that of probability, of itself or of 1",
                          "flags": f"may differ where a value is that near to its limit: {doubts.UNSURE:g} of it"},
            "images": by_image}  # fmt: skip


def lots_of(expected: Reference) -> dict[str, dict[str, dict[str, str]]]:
    """PyTorch's answers to unusual films, by the hash of a lot's pixels, and those of originals by the film's."""
    kept: dict[str, dict[str, dict[str, str]]] = {"drawn": {}, "originals": {}}
    for lot in expected.lots:
        if lot.logits is not None:
            squares = pixel_hash(torch_squares(lot.films, expected.size, expected.fit))
            kept["originals" if lot.film else "drawn"][lot.film or lot.name] = {
                "kind": lot.kind,
                "squares": squares,
                "logits": text(lot.logits),
                **({"doubts": doubts_text(lot.doubts)} if lot.doubts else {}),
            }
    return kept


# ------------------------------------------------------------------------------------------------ read again


def remembered(
    kept: dict, facts: dict, dataset: data.Dataset, limits: tuple[dict, tuple[float, float]] | None = None
) -> tuple[Reference, int]:
    """The reference of a certificate for those of its images that are in a dataset, and how many it has in all.

    limits: those of the graph, with its cut-offs (doubts.known_of), where it has any. Raises Problem when none of the
    images is there, or when the certificate is damaged.
    """
    known, cuts = limits or (None, (0.0, 1.0))
    try:
        stored = {side: dict(kept["reference"][side]) for side in ("validation", "test") if side in kept["reference"]}
        sides = {name: (side, logits) for side, table in stored.items() for name, logits in table.items()}
        odd = logits_of([kept["reference"]["odd"][name] for name in odd_images(dataset.images.shape[1])])
        found = [(i, *sides[name]) for i, name in enumerate(map(pixel_hash, dataset.images)) if name in sides]
        found.sort(key=lambda one: one[1] != "validation")
        logits = logits_of([line for _, _, line in found])
        if not found:
            raise Problem(f"{dataset.source}: none of the {len(sides):,} images of the certificate is there; "
                          "--data names the folder that has them")  # fmt: skip
        places = np.array([i for i, _, _ in found])
        lots = kept_lots(kept.get("unusual"), dataset, places, known)
        said: dict = {}
        if known is not None:
            size, fit = dataset.images.shape[1], dataset.fit
            squares = np.concatenate([torch_squares(image[None], size, fit) for image in odd_images(size).values()])
            lines = " ".join(kept["doubts"]["images"][pixel_hash(dataset.images[i])] for i in places)
            said = {"doubts": doubts_of(known, dataset.images[places], lines),
                    "odd_doubts": doubts_of(known, squares, kept["doubts"]["odd"])}  # fmt: skip
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise Problem(f"the certificate is damaged ({type(error).__name__}: {error})") from error
    seed = secrets.randbits(unusual.SEED_BITS)
    return Reference(
        dataset.images[places],
        [dataset.files[i] for i in places],
        np.array([side for _, side, _ in found]),
        dataset.labels[places],
        logits,
        odd,
        dataset.images.shape[1],
        dataset.fit,
        float(facts["temperature"]),
        float(facts["threshold"]),
        (*lots, *new_lots(seed, dataset, places)),
        seed,
        known=known,
        cuts=cuts,
        **said,
    ), len(sides)


def kept_lots(
    record: dict | None, dataset: data.Dataset, places: np.ndarray, known: dict | None = None
) -> list[unusual.Lot]:
    """The unusual films of a certificate, as far as what they were made of is here; of an earlier version none."""
    if record is None:
        return []
    here = {pixel_hash(dataset.images[i]): dataset.images[i] for i in places}
    bases, size = [here.get(name) for name in record["bases"]], dataset.images.shape[1]
    drawn = unusual.draw(int(record["seed"]), size, bases) if bases else []
    films = dict(record["originals"])
    own = unusual.originals(dataset, [int(i) for i in places if dataset.pixel_hashes[i] in films])
    lots = [(lot, record["drawn"][lot.name]) for lot in drawn if lot.name in record["drawn"]]
    lots += [(lot, films[lot.film]) for lot in own]
    made = []
    for lot, said in lots:
        values = said["logits"].split()
        logits = logits_of([" ".join(values[k : k + 2]) for k in range(0, len(values), 2)])
        if len(logits) != len(lot.films):
            raise ValueError("its logits are not two finite numbers an image")
        squares = torch_squares(lot.films, size, dataset.fit)
        same = pixel_hash(squares) == said["squares"]
        found = doubts_of(known, squares, said["doubts"]) if known else None
        made.append(dataclasses.replace(lot, logits=logits, doubts=found, same_squares=same))
    return made


def new_lots(seed: int, dataset: data.Dataset, places: np.ndarray) -> list[unusual.Lot]:
    """Films that no certificate knows: a graph that was built to pass one must be right on these too."""
    bases = places[unusual.choose_bases(seed, len(places))]
    drawn = unusual.draw(seed, dataset.images.shape[1], [dataset.images[i] for i in bases])
    return drawn + unusual.originals(dataset, unusual.choose_originals(seed, dataset, places))


def coverage(kept: dict, expected: Reference) -> str:
    """How many of a certificate's unusual films are held against PyTorch's answers, in words."""
    fresh = sum(len(lot.films) for lot in expected.lots if lot.logits is None)
    anew = f"{fresh:,} are drawn anew, and held against their squares"
    if "unusual" not in kept:
        return f"its certificate is of an earlier version, and has no films of other shapes and looks; {anew}"
    lots = kept["unusual"]["drawn"] | kept["unusual"]["originals"]
    total = sum(len(said["logits"].split()) // 2 for said in lots.values())
    count = sum(len(lot.films) for lot in expected.lots if lot.logits is not None)
    return f"of other shapes and looks {count:,} of {total:,} are made again; {anew}"


def check_metadata(kept: dict, facts: dict[str, str], but: tuple[str, ...] = ()) -> None:
    """Raises Problem that names the first key of which a graph says something else than its certificate.

    but: keys that may differ, as they do while a threshold is being changed.
    """
    if not facts:
        raise Problem("not a graph that export.py made: it has no metadata")
    stated = kept.get("metadata")
    if not isinstance(stated, dict):
        raise Problem("its certificate has no metadata: it was damaged, or is none that export.py wrote")
    for key in sorted({*stated, *facts} - {*but}):
        if stated.get(key) != facts.get(key):
            here, there = (printable(str(side.get(key, "nothing")))[:60] for side in (facts, stated))
            raise Problem(f"its metadata are not those of its certificate: {key} is {here}, and {there} there")
