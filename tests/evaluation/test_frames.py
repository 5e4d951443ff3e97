"""Films by what their frames say: groups by hand, exact masks, and no nan where a group is empty."""

import numpy as np
import pytest

from evaluation import frames
from metrics import measures

LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
ODDS = np.array([-2, -1, 1, 3, -3, 0, 2, -1, 1, 40, 5, 6, 0.5])
DECISIONS = np.array([0, 1, 1, 0, 0, 0, 1, 1, 0, 1, 0, 1, 1])  # wrong: 1, 2, 8, 10


def films(**other) -> frames.Films:
    known = {"labels": LABELS, "odds": ODDS, "decisions": DECISIONS}
    known |= {"patients": np.array([f"p{k}" for k in range(len(LABELS))])}
    known |= dict.fromkeys(("whole", "hidden", "alone"), DECISIONS.astype(float))
    return frames.Films(**(known | other))


def test_groups_are_those_counted_by_hand():
    found = {key: np.flatnonzero(which).tolist() for key, which in frames.groups(LABELS, ODDS).items()}
    assert found == {
        (0, "all"): [0, 1, 2, 3, 4, 5],
        (0, "agrees"): [0, 1, 4],
        (0, "lies"): [2, 3],  # the odds of film 5 are 0, which is neither
        (0, "third"): [2, 3],
        (1, "all"): [6, 7, 8, 9, 10, 11, 12],
        (1, "agrees"): [6, 8, 9, 10, 11, 12],
        (1, "lies"): [7],
        (1, "third"): [7, 8, 12],  # 3 of 7: rounded up
        (2, "lies"): [2, 3, 7],
    }
    assert set(found) == set(frames.GROUPS)


def test_shares_and_intervals_are_those_computed_by_hand():
    rows = frames.measured(films())
    right = {key: (row["measure"], round(row["value"] * row["images"]), row["images"]) for key, row in rows.items()}
    assert right == {
        (0, "all"): ("specificity", 4, 6),
        (0, "agrees"): ("specificity", 2, 3),
        (0, "lies"): ("specificity", 1, 2),
        (0, "third"): ("specificity", 1, 2),
        (1, "all"): ("sensitivity", 5, 7),
        (1, "agrees"): ("sensitivity", 4, 6),
        (1, "lies"): ("sensitivity", 1, 1),
        (1, "third"): ("sensitivity", 2, 3),
        (2, "lies"): ("accuracy", 2, 3),
    }
    # Wilson of 1 of 2: (1/2 + z^2/4 +- z sqrt(1/8 + z^2/16)) / (1 + z^2/2) with z = 1.96
    assert [rows[0, "lies"][end] for end in ("low", "high")] == pytest.approx([0.0945, 0.9055], abs=1e-4)
    assert frames.worst(rows)["group"] == "normal, frame looks ill"
    said = frames.sentences(rows)
    assert said[0] == "normal films whose frame looks ill: 1 of 2 right, 50.0 [9, 91] %; all normal films: 66.7 %"
    assert said[2] == "worst group: normal, frame looks ill; 1 of 2 right, 50.0 [9, 91] %"
    alone = np.where(np.isin(np.arange(13), [2, 3]), "one", films().patients)
    again = frames.measured(films(patients=alone))[0, "lies"]
    assert again["patients"] == 1 and np.isnan(again["low"]), "one patient has no interval"


@pytest.mark.parametrize("odds", [np.where(LABELS, 3.0, -3.0), np.zeros(13), np.full(13, 2.0), np.full(13, -800.0)])
def test_an_empty_group_is_0_films_and_nothing_is_nan(odds):
    some = films(odds=odds)
    rows = frames.measured(some)
    areas, lying = frames.areas(some), frames.where_frames_lie(some)
    said = "\n".join([*frames.sentences(rows), *frames.without_lungs("x", areas, lying), frames.table(rows)])
    assert "nan" not in said
    empty = [row["group"] for row in rows.values() if not row["images"]]
    assert empty
    for group in empty:
        assert f"{group} " in said and said.split(f"{group} ")[-1].split()[:2] == ["0", "0"]
    if "normal, frame looks ill" in empty:
        assert "looks ill: 0 films; the third that look most so: 1 of 2 right" in said
    assert np.isfinite(frames.chance(odds)).all()


def test_no_line_is_wider_than_a_screen():
    many = frames.Films.pooled([films()] * 400)
    rows = frames.measured(many)
    assert max(map(len, frames.table(rows).split("\n"))) <= 100
    assert rows[0, "lies"]["images"] == 800 and rows[0, "lies"]["patients"] == 2


def test_networks_see_exactly_the_frame_and_exactly_the_middle():
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 20), np.uint8)
    shown = []
    parts = frames.in_parts(lambda some: shown.append(some) or some.mean((1, 2)) / 255, images)
    hidden, alone = shown
    assert list(parts) == ["hidden", "alone"] and np.array_equal(parts["alone"], alone.mean((1, 2)) / 255)
    middle = np.zeros((20, 20), bool)
    middle[4:16, 4:16] = True  # 60 % of the side
    for k, image in enumerate(images):
        grey = round(image.mean())
        assert np.array_equal(hidden[k], np.where(middle, grey, image))
        assert np.array_equal(alone[k], np.where(middle, image, grey))


def test_a_network_that_frames_mislead_is_told_by_the_films_whose_frame_lies():
    """One answers by the frame, and knows better by the middle; of the other frames do not matter."""
    truth = np.where(LABELS, 0.9, 0.1)
    leaning = films(whole=frames.chance(ODDS), alone=truth, hidden=frames.chance(ODDS))
    areas, lying = frames.areas(leaning), frames.where_frames_lie(leaning)
    won = 5 + 2.5 + 4.5 + 6 + 6 + 6 + 4  # by each pneumonia, of 6 normal films; a tie counts half
    assert areas["whole"]["value"] == areas["hidden"]["value"] == areas["frame"]["value"] == pytest.approx(won / 42)
    assert (lying["whole"]["value"], lying["alone"]["value"]) == (0.0, 1.0)
    other = frames.where_frames_lie(films(whole=truth, alone=truth))
    assert other["whole"] == other["alone"] and other["more"]["value"] == 0
    said = frames.without_lungs("x", areas, lying)
    assert said[1].startswith(f"what x says without lungs, the middle hidden: AUROC {won / 42:.3f}")


@pytest.mark.parametrize(("lean", "verdict"), [(2.0, "they mislead it"), (0.0, "no evidence that they mislead it")])
def test_it_is_said_whether_frames_mislead_it(lean, verdict):
    """120 films, frames of 80 lie: a network adds what the frame says to what it sees of the middle, or does not."""
    generator = np.random.default_rng(1)
    labels = np.arange(120) % 2
    odds = np.where(np.arange(120) < 80, -1.0, 1.0) * (2 * labels - 1)
    middle = generator.normal(1.5 * labels, 1)
    some = films(labels=labels, odds=odds, decisions=labels, patients=np.arange(120).astype(str),
                 whole=frames.chance(middle + lean * odds + generator.normal(0, 0.1, 120)),
                 alone=frames.chance(middle), hidden=frames.chance(odds))  # fmt: skip
    found = frames.where_frames_lie(some)
    areas = [measures.auroc(labels[:80], part[:80]) for part in (some.whole, some.alone)]
    assert [found[part]["value"] for part in ("whole", "alone", "more")] == [*areas, areas[1] - areas[0]]
    assert frames.without_lungs("x", frames.areas(some), found)[-1].endswith(f": {verdict}")
