"""What a training is asked to do: the options of train.py, and nothing else."""

from dataclasses import FrozenInstanceError

import pytest

import train
from training.request import Request


def test_a_request_has_the_defaults_of_the_command_line_and_takes_no_other_name():
    assert Request(**vars(train.parse(["--arch", "simple"]))) == Request(arch="simple")
    assert Request(**vars(train.parse(["--arch", "simple", "--quick"]))).val == "random"  # 19 views are not quick
    assert Request(**vars(train.parse(["--arch", "simple", "--quick", "--val", "stress"]))).val == "stress"
    with pytest.raises(TypeError, match="epoch"):
        Request(epoch=3)
    with pytest.raises(FrozenInstanceError):
        Request().epochs = 3
