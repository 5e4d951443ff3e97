"""What films/download.py does with a zip that has arrived."""

import io
import random
import stat
import struct
import zipfile

import pytest
from downloads import FILES, XRAYS, files_below, make_zip, member, names, serving, zip_source

from basics.problems import Problem
from films import download


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch) as running:
        yield running


@pytest.mark.parametrize("inside", ["", "chest_xray/", "archive/more/"])
def test_a_zip_becomes_its_folder_and_is_deleted(server, tmp_path, capsys, inside):
    folder = download.fetch(zip_source(server, make_zip(inside=inside)), tmp_path / "my data")
    assert folder == tmp_path / "my data" / "chest_xray"
    assert files_below(folder) == FILES
    assert (folder / "test/NORMAL/1.jpeg").read_bytes() == b"test/NORMAL 1" * 50
    assert names(tmp_path / "my data") == ["chest_xray"]
    assert capsys.readouterr().out == (
        f"{folder}: 8 files (xrays.zip is unpacked and deleted); next: python data.py check --data '{folder}'\n"
    )


def test_a_zip_without_a_folder_around_the_images_becomes_the_folder(server, tmp_path):
    bare = {name.removeprefix("chest_xray/"): content for name, content in XRAYS.items()}
    assert files_below(download.fetch(zip_source(server, make_zip(bare)), tmp_path)) == FILES


def test_the_outer_one_of_two_nested_copies_is_used(server, tmp_path):
    nested = {name.replace("chest_xray/", "chest_xray/chest_xray/", 1): content for name, content in XRAYS.items()}
    folder = download.fetch(zip_source(server, make_zip(nested | XRAYS)), tmp_path)
    assert files_below(folder) == sorted(FILES + [f"chest_xray/{file}" for file in FILES])
    assert names(tmp_path) == ["chest_xray"]


def test_a_zip_that_was_put_there_by_hand_is_used(server, tmp_path):
    source = zip_source(server, make_zip())
    (tmp_path / "xrays.zip").write_bytes(server.content)
    assert files_below(download.fetch(source, tmp_path)) == FILES
    assert server.requests == []


def test_an_unpacked_folder_is_left_as_it_is(server, tmp_path, capsys):
    source = zip_source(server, make_zip())
    folder = download.fetch(source, tmp_path)
    (folder / "train/NORMAL/0.jpeg").unlink()
    assert download.fetch(source, tmp_path) == folder
    assert len(server.requests) == 1 and len(files_below(folder)) == 7
    assert capsys.readouterr().out.endswith(f"{folder}: already there, nothing to do\n")


def test_another_folder_under_the_name_is_named_and_left_alone(server, tmp_path):
    (tmp_path / "chest_xray" / "train").mkdir(parents=True)
    with pytest.raises(Problem, match="chest_xray is there without .*move it away"):
        download.fetch(zip_source(server, make_zip()), tmp_path)
    assert server.requests == [] and names(tmp_path) == ["chest_xray"]


def test_what_a_killed_process_had_half_unpacked_is_replaced(server, tmp_path):
    (tmp_path / "chest_xray.part" / "train").mkdir(parents=True)
    (tmp_path / "chest_xray.part" / "train" / "stray.jpeg").write_bytes(b"x")
    assert files_below(download.fetch(zip_source(server, make_zip()), tmp_path)) == FILES
    assert names(tmp_path) == ["chest_xray"]


def test_a_zip_with_the_wrong_hash_is_not_unpacked(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_unpack", lambda *_: pytest.fail("unpacked"))
    source = zip_source(server, make_zip())
    server.content += b"x"
    with pytest.raises(Problem, match="not the right file"):
        download.fetch(source, tmp_path)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("../evil", b"x"), "'../evil' has a path that leaves"),
        (("chest_xray/../../evil", b"x"), "leaves the folder"),
        (("chest_xray/..", b"x"), "leaves the folder"),
        ((member("/evil"), b"x"), "'/evil' has a path that leaves"),
        ((member("C:evil"), b"x"), "leaves the folder"),
        ((member("C:/evil"), b"x"), "leaves the folder"),
        ((member("..\\evil"), b"x"), "leaves the folder"),
        ((member("\\\\host\\evil"), b"x"), "leaves the folder"),
        ((member("a.jpeg\0.exe"), b"x"), "leaves the folder"),
        (("__MACOSX/../../evil", b"x"), "leaves the folder"),
        ((member(""), b"x"), "'' has no name"),
        ((member("link", stat.S_IFLNK | 0o777), b"/etc/passwd"), "'link' is a link or a device"),
        ((member("device", stat.S_IFCHR | 0o666), b""), "is a link or a device"),
        ((member("pipe", stat.S_IFIFO | 0o666), b""), "is a link or a device"),
        (("chest_xray//train/NORMAL/0.jpeg", b"x"), "occurs twice"),
        (("chest_xray/train", b"x"), "chest_xray/?.*(Is a directory|File exists)"),
    ],
)
def test_a_member_that_is_not_a_file_in_the_folder_is_refused(server, tmp_path, extra, message):
    out = tmp_path / "a" / "b"
    with pytest.raises(Problem, match=message) as caught:
        download.fetch(zip_source(server, make_zip(extra=[extra])), out)
    assert "\n" not in str(caught.value)
    assert names(out) == ["xrays.zip"] and names(tmp_path) == ["a"] and names(tmp_path / "a") == ["b"]


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_name_that_occurs_twice_is_refused(server, tmp_path):
    with pytest.raises(Problem, match="'chest_xray/train/NORMAL/0.jpeg' has a name that occurs twice"):
        download.fetch(zip_source(server, make_zip(extra=[("chest_xray/train/NORMAL/0.jpeg", b"x")])), tmp_path)
    assert names(tmp_path) == ["xrays.zip"]


def patched(content: bytes, name: str, offset: int, value: bytes) -> bytes:
    """The zip with some bytes of a member's entry in the directory replaced."""
    at = -1
    while True:
        at = content.index(b"PK\x01\x02", at + 1)
        if content[at + 46 :].startswith(name.encode()):
            return content[: at + offset] + value + content[at + offset + len(value) :]


NAME = "chest_xray/train/NORMAL/0.jpeg"  # 700 bytes


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (8, b"\x01\x00", "is encrypted"),
        (8, b"\x41\x00", "is encrypted"),
        (10, b"\x0e\x00", "in a way other than deflate"),  # LZMA
        (16, b"\0\0\0\0", "Bad CRC-32"),
        (24, struct.pack("<I", 699), "Bad CRC-32"),  # the directory announces less than there is
        (24, struct.pack("<I", 701), "shorter than the zip says|Bad CRC-32"),
        (42, struct.pack("<I", 7), "Bad magic number"),  # a wrong place in the zip
    ],
)
def test_an_entry_that_is_encrypted_or_lies_is_refused(server, tmp_path, offset, value, message):
    content = patched(make_zip(), NAME, offset, value)
    with pytest.raises(Problem, match=f"xrays.zip: .*({message}).*; nothing was unpacked"):
        download.fetch(zip_source(server, content), tmp_path)
    assert names(tmp_path) == ["xrays.zip"]


def test_no_more_than_the_announced_size_is_written(server, tmp_path):
    content = make_zip()
    shorter = XRAYS[NAME][:100]
    content = patched(content, NAME, 16, struct.pack("<I", zipfile.crc32(shorter)))
    content = patched(content, NAME, 24, struct.pack("<I", 100))
    folder = download.fetch(zip_source(server, content), tmp_path)
    assert (folder / "train/NORMAL/0.jpeg").read_bytes() == shorter


def test_a_bomb_is_refused(server, tmp_path):
    stream = io.BytesIO(make_zip())
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as zipped, zipped.open("bomb", "w") as file:
        for _ in range(101):
            file.write(bytes(1_000_000))
    with pytest.raises(Problem, match="'bomb' would grow from [0-9,]+ to 101,000,000 bytes"):
        download.fetch(zip_source(server, stream.getvalue()), tmp_path)
    assert names(tmp_path) == ["xrays.zip"]


@pytest.mark.parametrize(("limit", "value", "message"), [
    ("MAX_MEMBERS", 9, "10 members, at most 9 are allowed"),
    ("MAX_UNPACKED", 1000, r"unpacks to [\d,]+ bytes, at most 1,000 are allowed"),
])  # fmt: skip
def test_too_many_members_or_bytes_are_refused(server, tmp_path, monkeypatch, limit, value, message):
    monkeypatch.setattr(download, limit, value)
    with pytest.raises(Problem, match=message):
        download.fetch(zip_source(server, make_zip()), tmp_path)
    assert names(tmp_path) == ["xrays.zip"]


def test_what_is_no_zip_of_xrays_is_a_problem(server, tmp_path):
    with pytest.raises(Problem, match="File is not a zip file; nothing was unpacked, delete it"):
        download.fetch(zip_source(server, b"<html>log in</html>"), tmp_path / "a")
    with pytest.raises(Problem, match="no folder in it holds train/NORMAL"):
        download.fetch(zip_source(server, make_zip({"train/NORMAL/0.jpeg": b"x"})), tmp_path / "b")
    assert names(tmp_path / "b") == ["xrays.zip"]


def test_a_full_disk_while_unpacking_keeps_the_zip(server, tmp_path, monkeypatch):
    def full(zipped, info, target):
        if target.name == "1.jpeg":
            raise OSError(28, "No space left on device", str(target))
        extract(zipped, info, target)

    extract = download._extract
    monkeypatch.setattr(download, "_extract", full)
    source = zip_source(server, make_zip())
    with pytest.raises(Problem, match="1.jpeg: No space left on device; what has arrived is kept"):
        download.fetch(source, tmp_path)
    assert names(tmp_path) == ["xrays.zip"]
    monkeypatch.undo()
    assert files_below(download.fetch(source, tmp_path)) == FILES
    assert len(server.requests) == 1


def test_any_damage_to_a_zip_is_a_problem_or_harmless(server, tmp_path):
    good, chance = make_zip(), random.Random(0)
    for i in range(100):
        content = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        out = tmp_path / str(i)
        try:
            out.mkdir()
            (out / "xrays.zip").write_bytes(content)
            download.fetch(zip_source(server, bytes(content)), out)
        except Problem as problem:
            assert "\n" not in str(problem) and names(out) == ["xrays.zip"]
        assert len(names(tmp_path)) == i + 1
