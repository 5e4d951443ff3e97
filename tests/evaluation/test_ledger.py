"""ledger.py: how often test labels were read is counted, and nothing of it is lost in silence."""

import json

import pytest

from basics.problems import Problem
from evaluation import ledger


def note(folder, run: str, fingerprint: str = "abc", model: str = "simple", purpose: str = "evaluate.py") -> int:
    return ledger.note(folder, run, model, "0" * 64, "some films", fingerprint, purpose)


def entries(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / ledger.NAME).read_text().splitlines()]


def test_one_run_is_one_look_at_however_many_models(tmp_path):
    assert note(tmp_path, "first") == 1
    assert note(tmp_path, "first", model="resnet34") == 1
    assert note(tmp_path, "second") == 2
    assert note(tmp_path, "third") == 3
    assert note(tmp_path, "third", "other films") == 1
    found = entries(tmp_path)
    assert [entry["run"] for entry in found] == ["first", "first", "second", "third", "third"]
    assert set(found[0]) == {"time", "run", "model", "sha256", "data", "films", "purpose"}
    assert found[0]["time"].endswith("+00:00") and found[1]["model"] == "resnet34"


def test_lines_of_earlier_versions_count_where_the_data_has_the_same_name(tmp_path):
    """They knew a test set by the names of its files, which is no way to know films."""
    old = {"time": "", "run": "old", "model": "simple", "sha256": "0" * 64, "split": "abc", "purpose": "evaluate.py"}
    lines = [json.dumps({**old, "data": name}) + "\n" for name in ("some films", "others")]
    (tmp_path / ledger.NAME).write_text("".join(lines))
    assert note(tmp_path, "new", "abc") == 2
    assert note(tmp_path, "newer", "def") == 2


def test_a_proof_is_kept_in_the_ledger_and_is_no_look(tmp_path):
    assert note(tmp_path, "proof", purpose="export.py") == 0
    assert note(tmp_path, "first") == 1
    assert note(tmp_path, "again", purpose="export.py verify") == 1
    assert note(tmp_path, "second") == 2
    assert [entry["purpose"] for entry in entries(tmp_path)] == ["export.py", "evaluate.py", "export.py verify",
                                                                 "evaluate.py"]  # fmt: skip


@pytest.mark.parametrize(("purpose", "look"), [({"purpose": "export.py"}, 1), ({"purpose": "evaluate.py"}, 2), ({}, 2)])
def test_lines_of_earlier_versions_count_unless_they_are_of_a_proof(tmp_path, purpose, look):
    old = {"time": "", "run": "old", "model": "simple", "sha256": "0" * 64, "data": "some films", "films": "abc"}
    (tmp_path / ledger.NAME).write_text(json.dumps(old | purpose) + "\n")
    assert note(tmp_path, "new") == look


def test_looks_in_words():
    assert ledger.in_words(1) == "first look at these test images"
    assert ledger.in_words(4) == "look number 4 at these test images"


@pytest.mark.parametrize(
    "torn", [b'{"time": "2026-01-0', b"[]\n", b'{"run": "x"}\n', b"\n", b"\x00\x00\x00", b"\xff\xfe\n", b'"\xff"']
)
def test_a_torn_line_is_named_and_nothing_is_added_to_it(tmp_path, torn):
    note(tmp_path, "first")
    with open(tmp_path / ledger.NAME, "ab") as stream:
        stream.write(torn)
    before = (tmp_path / ledger.NAME).read_bytes()
    for _ in range(2):
        with pytest.raises(Problem, match=r"test-ledger.jsonl, line 2: not a line of a ledger .*; mend or remove it"):
            note(tmp_path, "second")
    assert (tmp_path / ledger.NAME).read_bytes() == before  # removing the line is all there is to mend
    (tmp_path / ledger.NAME).write_bytes(before.removesuffix(torn))
    assert note(tmp_path, "second") == 2


def test_a_line_that_only_lacks_its_end_is_not_joined_by_the_next(tmp_path):
    note(tmp_path, "first")
    file = tmp_path / ledger.NAME
    file.write_text(file.read_text().rstrip("\n"))  # as an editor may leave it
    assert note(tmp_path, "second") == 2
    assert note(tmp_path, "third") == 3


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match=r"cannot write .*file/runs/test-ledger.jsonl: Not a directory"):
        note(tmp_path / "file" / "runs", "first")
    (tmp_path / ledger.NAME).mkdir()
    with pytest.raises(Problem, match=r"cannot write .*test-ledger.jsonl: Is a directory"):
        note(tmp_path, "first")


def test_names_of_any_language_fit(tmp_path):
    assert note(tmp_path / "deep" / "er", "first", model="肺炎\n模型") == 1
    (entry,) = entries(tmp_path / "deep" / "er")
    assert entry["model"] == "肺炎\n模型"
