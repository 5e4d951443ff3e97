"""result.py: what results.json holds of a model, in which order; a wrong name fails where it is written."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest
from results import make_result

from evaluation.result import Result

# Others read results.json: these names are the same from version to version.
KEYS = ["name", "kind", "file", "sha256", "architecture", "seed", "initial_weights", "quick", "data",
        "trained_on_synthetic", "recorded", "left_out",
        "split", "temperature", "images", "patients", "positives", "estimates", "decides", "points",
        "subgroups", "corrected", "aurc", "referral", "shortcut_audit",
        "notes", "stress", "training", "checkpoint_sha256"]  # fmt: skip
OTHERS = ["files", "labels", "probabilities", "patient_ids", "history", "worst", "checkpoint"]


def test_results_json_holds_these_keys_in_this_order():
    result = make_result()
    found = result.for_json()
    assert list(found) == KEYS
    assert all(value is getattr(result, key) for key, value in found.items())
    assert [field.name for field in fields(Result)] == KEYS + OTHERS


def test_a_misspelt_field_is_neither_written_nor_read():
    result = make_result()
    with pytest.raises(AttributeError, match="probabilites"):
        result.probabilites  # noqa: B018
    with pytest.raises(TypeError, match="probabilites"):
        replace(result, probabilites=result.probabilities)
    with pytest.raises(FrozenInstanceError):
        result.probabilites = result.probabilities
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'checkpoint'"):
        Result(**{key: value for key, value in vars(result).items() if key != "checkpoint"})
