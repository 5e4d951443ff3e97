"""Names are kept apart from what they stand for, which takes seconds to import: here both are held together."""

import torch

import models
from basics import terms
from devices import hardware
from studies.candidates import CANDIDATES
from studies.variants import CANDIDATE_NAMES, VARIANTS
from training.recipes import RECIPES
from training.schema import RULES


def test_names_that_people_type_are_those_of_what_there_is():
    assert tuple(RECIPES) == terms.RECIPES
    assert all(tuple(recipes) == terms.ARCHITECTURES for recipes in RECIPES.values())
    assert tuple(CANDIDATES) == CANDIDATE_NAMES and not set(CANDIDATES) & set(VARIANTS)
    for architecture in terms.ARCHITECTURES:
        assert isinstance(models.build(architecture, 32), torch.nn.Module) and RULES["architecture"][0](architecture)
    assert all(RULES["validation"][0](name) for name in terms.VALIDATIONS)
    assert all(RULES["precision"][0]({"name": name}) for name in terms.PRECISIONS)
    assert hardware.pick_device("auto").type in terms.DEVICES
