"""Whose films they are: names that only look different made one, and pseudonyms for those that nobody is to read.

normalised(name)          one text for all that a reader takes for the same name
common(name)              whether people elsewhere are likely to have the same name
folded(name)              the same without case and leading zeros: what two names that a slip parted have in common
secret(folder)            the 32 bytes that the pseudonyms of one cache folder are made with
pseudonym(secret, name)   what stands in a name's place
"""

import hashlib
import hmac
import os
import re
import secrets
import tempfile
import unicodedata
from pathlib import Path

from basics import disk
from basics.problems import Problem

DIGITS = 6  # of a name that is one person's alone: with fewer, two hospitals count through the same numbers
SECRET = "pseudonyms.key"  # in the cache folder
SECRET_BYTES = 32  # as many as SHA-256 gives


def normalised(name: str) -> str:
    """The name in Unicode's composed form, without invisible characters, without space around it; "" for none.

    Invisible is what Unicode calls a format character: zero-width spaces, byte order marks, soft hyphens, marks of
    direction. No-break and other spaces, tabs and the zeros that fill a DICOM field become plain spaces.
    """
    seen = "".join(" " if c.isspace() or c == "\0" else c for c in name if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFC", seen).strip()


def folded(name: str) -> str:
    """The name without case and without leading zeros in its numbers: "P007" and "p7" are both "p7"."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", name.casefold())


def common(name: str) -> bool:
    """Whether people elsewhere are likely to have the same name: "1", "P007", "person12", "anonymous".

    Names with six digits and more, leading zeros not counted, are taken for one person's alone: a hospital's numbers,
    dates with numbers, UUIDs.
    """
    return sum(len(number.lstrip("0")) for number in re.findall(r"\d+", name)) < DIGITS


def pseudonym(secret: bytes, name: str) -> str:
    """HMAC-SHA-256 of a name: the same for the same secret, and not to be found by trying names without it."""
    return "patient-" + hmac.new(secret, name.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()[:16]


def secret(folder: Path) -> bytes:
    """The secret of a cache folder: random bytes that are made once, and that only their owner may read.

    What it gives: pseudonyms are the same in every run with this folder, and whoever has one of them, from a table of
    predictions or a cache's listing, cannot find the id by trying all seven-digit numbers. What it does not give:
    whoever has this file can; and with another folder or on another machine the same patient has another pseudonym, so
    that a model from there knows films again by their pixels alone.

    Raises OSError where it cannot be written, Problem where it cannot be read or is none.
    """
    file = folder / SECRET
    if not file.exists():
        _make_secret(file)
    try:
        found = file.read_bytes()
    except OSError as error:
        raise Problem(f"{file}: cannot be read ({error.strerror}); --cache DIR takes another folder") from error
    if len(found) != SECRET_BYTES:
        raise Problem(f"{file}: not the secret that pseudonyms of patients are made with; remove it, and a new one is "
                      "made; caches that are there keep their pseudonyms")  # fmt: skip
    return found


def _make_secret(file: Path) -> None:
    """Of two processes at once the first one's counts; who is killed in the middle leaves none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".part")  # mode 0600
    try:
        with open(handle, "wb") as stream:
            stream.write(secrets.token_bytes(SECRET_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, file)  # unlike a rename it replaces nothing
        except FileExistsError:
            pass  # another process was first
        except OSError:  # a disk without links, such as a USB stick
            if not file.exists():
                os.rename(temporary, file)
        disk.sync_folder(file.parent)
    finally:
        Path(temporary).unlink(missing_ok=True)
