"""Damage for tests/fuzzing.py: to the bytes of any file, and to what checkpoints, tables and archives hold.

Every function draws from the generator that it is given, and from nothing else.
"""

import csv
import io
import json
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch

from training import checkpoints

HUGE = (0, 1, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1)
JUNK = (
    None,
    True,
    -1,
    0,
    -2,
    1e300,
    2**70,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    "x",
    "../../x",
    "a\nb",
    "x" * 9000,
    [],
    [1],
    [None],
    [float("nan"), 1.0],
    [0.5, 0.0],
    {},
    {"x": 1},
    {"name": None},
)


# -------------------------------------------------------------------------------------------------- any bytes


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
    """Flipped bits, a changed, lost, doubled or foreign piece, a cut or a longer end; of which one to three."""
    made = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = rng.randrange(8)
        at, length = rng.randrange(len(made) + 1), min(len(made), int(2 ** rng.uniform(0, 12)))
        if kind == 0 and made:
            for _ in range(rng.choice((1, 1, 4, 64))):
                made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            made[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            del made[at : at + length]
        elif kind == 3:
            made[at:at] = made[:length]
        elif kind == 4:
            made[at : at + length] = bytes(length)
        elif kind == 5:
            del made[at:]
        elif kind == 6:
            made += rng.randbytes(length)
        else:
            made[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(HUGE))
    return bytes(made)


def mutated_text(rng: random.Random, content: bytes) -> bytes:
    """Lines lost, doubled and exchanged; signs that are not text, or that mean something to a parser."""
    lines = content.splitlines(keepends=True) or [b""]
    at = rng.randrange(len(lines))
    odd = (
        b"\x00",
        b"\xff\xfe",
        b'"',
        b"'",
        b",",
        b"\\",
        b"\r",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"9" * 5000,
        b"x" * 200_000,
        "\u2028\u202e".encode(),
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"null",
        b"\xed\xa0\x80",
    )
    kind = rng.randrange(6)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif kind == 2:
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        place = rng.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:place] + rng.choice(odd) + lines[at][place:]
    elif kind == 4:
        return rng.choice(odd)
    else:
        return mutated_bytes(rng, content)
    return b"".join(lines)


def edited(rng: random.Random, value: object, deep: float = 0.6) -> object:
    """Nested dicts and lists with one value lost, or replaced by what it cannot be; tensors get other values."""
    if isinstance(value, dict) and value and rng.random() < deep:
        key = rng.choice(list(value))
        if rng.random() < 0.25:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: edited(rng, value[key], deep)}
    if isinstance(value, list) and value and rng.random() < deep:
        at = rng.randrange(len(value))
        return [*value[:at], edited(rng, value[at], deep), *value[at + 1 :]]
    if isinstance(value, torch.Tensor) and rng.random() < 0.8:
        return mutated_tensor(rng, value)
    return rng.choice(JUNK)


# ------------------------------------------------------------------------------------------------ checkpoints


def mutated_tensor(rng: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    """Other values, types, shapes and layouts; also a shape of terabytes over a few bytes."""
    kind = rng.randrange(9)
    if kind == 0 and tensor.is_floating_point():
        return torch.full_like(tensor, rng.choice((float("nan"), float("inf"))))
    if kind == 1:
        return tensor.to(rng.choice((torch.float64, torch.float16, torch.int8, torch.complex64, torch.bool)))
    if kind == 2:
        return tensor.reshape(-1)[: tensor.numel() // 2].clone()
    if kind == 3:
        return tensor[None].clone()
    if kind == 4:
        return torch.zeros(1).expand(*rng.choice(((10**12,), (10**9,), (40_000, 40_000))))
    if kind == 5:
        return torch.zeros(1, dtype=tensor.dtype).expand(tensor.shape or (1,))
    if kind == 6:
        return torch.zeros(max(tensor.dim(), 1) * (3,)).to_sparse()
    if kind == 7:
        return torch.empty(tensor.shape, device="meta")
    return torch.empty(0)


def doubled(levels: int) -> object:
    """A list that holds another one twice, and so on: small in a file, and 2^levels values."""
    value: object = [1]
    for _ in range(levels):
        value = [value, value]
    return value


def in_itself() -> list:
    value: list = []
    value.append(value)
    return value


def mutated_checkpoint(rng: random.Random, content: bytes) -> bytes:
    """Damaged bytes; or a checkpoint with right sums and a wrong value; or another archive or pickle altogether."""
    if rng.random() < 0.3:
        return mutated_bytes(rng, content)
    checkpoint = torch.load(io.BytesIO(content), weights_only=True)
    kind = rng.randrange(10)
    if kind == 0:
        return foreign_archive(rng, content)
    if kind == 1:
        checkpoint["state"] = edited(rng, checkpoint["state"], 1.0)
    elif kind == 2:
        checkpoint |= rng.choice(
            (
                {"format": 2},
                {"format": "1"},
                {"classes": ["PNEUMONIA", "NORMAL"]},
                {"architecture": "resnet34"},
                {"size": 64},
                {"size": 2048},
                {"size": 10**6},
                {"size": 32.0},
                {"temperature": float("nan")},
                {"temperature": 0.0},
                {"threshold": float("nan")},
                {"threshold": 2.0},
                {"normalisation": [0.5, 0.0]},
                {"fit": "pads"},
                {"normalisation": [float("inf"), 1.0]},
                {"name": "../../x"},
                {"name": "a/b"},
                {"name": 7},
                {"epoch": 99},
                {"epoch": 0},
                {"history": []},
                {"operating_points": {}},
                {"operating_points": {"0.5": {"threshold": "x"}}},
                {"split": {"how": "patient"}},
                {"data": {}},
                {"seen_images": None},
                {"training": {}},
                {"training": [1]},
                {"recipe": doubled(60)},
                {"history": doubled(25)},
                {"more": in_itself()},
            )
        )
    else:
        checkpoint = edited(rng, checkpoint, rng.choice((0.9, 0.6)))
        if not isinstance(checkpoint, dict):
            stream = io.BytesIO()
            torch.save(checkpoint, stream)
            return stream.getvalue()
    return resaved(rng, checkpoint)


def resaved(rng: random.Random, checkpoint: dict) -> bytes:
    """The file with the right sums where they can be made, and a tenth of the time with the old ones."""
    stream = io.BytesIO()
    if rng.random() < 0.9:
        for key, value in (
            ("weights_sha256", checkpoint.get("state")),
            ("training_sha256", checkpoint.get("training")),
        ):
            try:
                if key in checkpoint:
                    tensors = value if key.startswith("weights") else checkpoints.tensors_in(value)
                    big = any(tensor.numel() > 10**8 for tensor in tensors.values())
                    checkpoint = checkpoint if big else {**checkpoint, key: checkpoints.state_sha256(tensors)}
            except (AttributeError, RuntimeError, TypeError, NotImplementedError):
                pass
    torch.save(checkpoint, stream)
    return stream.getvalue()


def foreign_archive(rng: random.Random, content: bytes) -> bytes:
    """The records of the archive lost, packed, doubled or damaged with the right sums; or another kind of file."""
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice(
            (b"", b"PK", b"\x80\x02}q\x00.", b"not a checkpoint", json.dumps({"format": 1}).encode(), bytes(10_000))
        )
    if kind == 1:
        stream = io.BytesIO()
        torch.save({"format": 1, "state": {}}, stream, _use_new_zipfile_serialization=False)
        return mutated_bytes(rng, stream.getvalue())
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        names = old.namelist()
        which = rng.choice(names)
        for name in names:
            record = old.read(name)
            if name == which and kind == 2:
                continue
            if name == which or (kind == 4 and name.endswith("data.pkl")):
                record = bytes(300_000_000) if kind == 3 and rng.random() < 0.3 else mutated_bytes(rng, record)
            new.writestr(name, record, zipfile.ZIP_DEFLATED if kind == 3 else zipfile.ZIP_STORED)
    return stream.getvalue()


def mutated_state(rng: random.Random, content: bytes) -> bytes:
    """last.pt: as a checkpoint, and what the optimizer and the generators go on from."""
    if rng.random() < 0.4:
        return mutated_checkpoint(rng, content)
    checkpoint = torch.load(io.BytesIO(content), weights_only=True)
    if rng.random() < 0.2:
        change = rng.choice(
            (
                {"epoch": -1},
                {"epoch": 10**9},
                {"step": 10**6},
                {"step": -1},
                {"epochs": 0},
                {"anchor": [1]},
                {"anchor": [2.0, 9]},
                {"generators": []},
                {"generators": [torch.zeros(3)]},
                {"seconds": "x"},
            )
        )
        checkpoint["training"] |= change
    elif rng.random() < 0.2:
        checkpoint |= rng.choice(
            (
                {"architecture": "resnet34"},
                {"seed": 5},
                {"quick": True},
                {"fit": "pad"},
                {"initial_weights": "x"},
                {"split": {**checkpoint["split"], "fingerprint": "x" * 12}},
                {"size": 64},
                {"data": {**checkpoint["data"], "fingerprint": "x" * 12}},
                {"recipe": {}},
            )
        )
    else:
        checkpoint["training"] = edited(rng, checkpoint["training"], 0.9)
    return resaved(rng, checkpoint)


# ---------------------------------------------------------------------------------------- tables and archives


def mutated_manifest(rng: random.Random) -> bytes:
    """A manifest of folders.make_folder's films, damaged as text or in one cell."""
    rows = [{"path": f"{name}/{stem}-0001.jpeg" if name == "NORMAL" else f"{name}/{stem}_virus_1.jpeg", "label": name,
             "patient": stem, "split": rng.choice(("train", "val", "test")), "etiology": ""}
            for i in range(2) for name, stem in (("NORMAL", f"IM-{i:04d}"), ("PNEUMONIA", f"person{i}"))]  # fmt: skip
    if rng.random() < 0.5:
        odd = (
            "",
            "..",
            "/",
            "/dev/zero",
            "/etc",
            "a\0b",
            "\\",
            "NORMAL\\IM-0000-0001.jpeg",
            "x" * 5000,
            "\ud7ff",
            "é",
            "a\nb",
            "-1",
            "2",
            "nan",
            "NORMAL/../NORMAL/IM-0000-0001.jpeg",
            "~",
            "C:\\x.jpeg",
            "//host/x",
            " ",
            "1.0",
            "TRUE",
        )
        rng.choice(rows)[rng.choice(list(rows[0]))] = rng.choice(odd)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=rng.choice(",,,,;\t"))
    writer.writeheader()
    writer.writerows(rows)
    content = stream.getvalue().encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig")))
    return mutated_text(rng, content) if rng.random() < 0.6 else content


def mutated_zip(rng: random.Random, film: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(
        stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
    ) as made:
        for i in range(2):
            made.writestr(f"NORMAL/IM-{i:04d}-0001.jpeg", film)
            made.writestr(f"PNEUMONIA/person{i}_virus_1.jpeg", film)
        if rng.random() < 0.3:
            made.writestr(
                rng.choice(
                    (
                        "../../x.jpeg",
                        "/NORMAL/x.jpeg",
                        "NORMAL/../x.jpeg",
                        "NORMAL//x.jpeg",
                        "NORMAL\\x.jpeg",
                        "NORMAL/.jpeg",
                    )
                ),
                film,
            )
        if rng.random() < 0.1:
            made.writestr("NORMAL/bomb.jpeg", bytes(rng.choice((10**6, 600_000_000))), zipfile.ZIP_DEFLATED)
    return mutated_bytes(rng, stream.getvalue()) if rng.random() < 0.8 else stream.getvalue()


def mutated_arrays(rng: random.Random) -> bytes:
    """MedMNIST's arrays with one of another type or shape, one whose header lies, or damaged bytes."""
    arrays = {}
    for side in ("train", "val", "test"):
        arrays |= {
            f"{side}_images": np.zeros((4, 28, 28), np.uint8),
            f"{side}_labels": np.array([[0], [1], [0], [1]], np.uint8),
        }
    key = rng.choice(list(arrays))
    if rng.random() < 0.4:
        arrays[key] = rng.choice(
            (
                np.zeros(3),
                np.array(5),
                np.zeros((4, 0, 0), np.uint8),
                np.zeros((4, 28, 28, 3), np.uint8),
                np.array(["a"] * 4),
                np.full((4, 1), np.nan),
                np.zeros((0, 28, 28), np.uint8),
            )
        )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as made:
        for name, values in arrays.items():
            record = io.BytesIO()
            np.lib.format.write_array(record, values)
            content = record.getvalue()
            if name == key and rng.random() < 0.4:
                shape = rng.choice((b"(10000000000, 28, 28)", b"(-4, 28, 28)", b"(4, 99999)", b"((", b"(9**9**9,)"))
                at, end = content.index(b"(", 10), content.index(b")", 10) + 1
                content = content[:at] + shape + content[end:]
            made.writestr(f"{name}.npy", mutated_bytes(rng, content) if name == key and rng.random() < 0.3 else content)
    return mutated_bytes(rng, stream.getvalue()) if rng.random() < 0.4 else stream.getvalue()


def mutated_json(rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.5:
        return mutated_text(rng, content)
    return json.dumps(edited(rng, json.loads(content), rng.choice((0.6, 0.9)))).encode()


def mutated_cache(rng: random.Random, folder: Path) -> None:
    """One of its files is damaged, or both; or lost."""
    for file in rng.sample(sorted(folder.iterdir()), rng.choice((1, 1, 2))):
        if rng.random() < 0.1:
            file.unlink()
        else:
            change = mutated_json if file.suffix == ".json" else mutated_bytes
            file.write_bytes(change(rng, file.read_bytes()))


def mutated_record(rng: random.Random, content: bytes) -> bytes:
    return mutated_json(rng, content) if content.startswith(b"{") else mutated_text(rng, content)


def mutated_ledger(rng: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True) * 3
    if rng.random() < 0.5:
        return mutated_text(rng, b"".join(lines))
    lines[rng.randrange(len(lines))] = mutated_json(rng, lines[0].strip()) + b"\n"
    return b"".join(lines)


def mutated_certificate(rng: random.Random, content: bytes) -> bytes:
    return mutated_json(rng, content)
