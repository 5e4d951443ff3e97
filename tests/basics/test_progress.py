"""What moves while work is long: counted with a clock that stands still but where the test moves it."""

import io

import pytest

from basics import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines(clock: list, capsys, seconds: list[float], **options) -> list[str]:
    with progress.Progress(1000, "decoding", **options) as bar:
        for later in seconds:
            clock[0] += later
            bar.update(20)
    return capsys.readouterr().err.splitlines()


def test_without_a_terminal_a_line_comes_every_ten_seconds(clock, capsys):
    assert lines(clock, capsys, [1.0] * 9) == []
    assert lines(clock, capsys, [1.0] * 20) == [
        "decoding: 200 of 1,000 images, 20 images/s", "decoding: 400 of 1,000 images, 20 images/s"]  # fmt: skip
    assert lines(clock, capsys, [40.0], start=100) == ["decoding: 120 of 1,000 images, 0.5 images/s"]
    assert lines(clock, capsys, [40.0], quiet=True) == []


def test_what_else_is_printed_puts_the_line_off_and_what_waits_has_no_rate(clock, capsys):
    with progress.Progress(100, "training") as bar:
        bar.update(50)
        clock[0] += 9
        bar.heard()
        clock[0] += 9
        bar.update(0)
        assert capsys.readouterr().err == ""
        clock[0] += 1
        bar.label = "epoch 1/2, validation"
        bar.update(0)
    assert capsys.readouterr().err == "epoch 1/2, validation: 50 of 100 images\n"


def test_on_a_terminal_it_is_a_bar(clock, monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with progress.Progress(100, "decoding") as bar:
        clock[0] += 60
        bar.update(50)
    assert "decoding:  50%" in stream.getvalue() and "50 of 100" not in stream.getvalue()


def test_short_stages_of_a_command_are_not_silent_together(clock, capsys):
    def stages() -> list[str]:
        for name in ("first", "second", "third"):
            with progress.Progress(8, name) as bar:
                for _ in range(4):
                    clock[0] += 2.0
                    bar.update(2)
        return capsys.readouterr().err.splitlines()

    assert stages() == []  # nobody calls it long
    with progress.command():
        assert stages() == ["second: 2 of 8 images, 1.0 images/s", "third: 4 of 8 images, 1.0 images/s"]
    assert stages() == []
