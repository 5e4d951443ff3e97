"""From a split and a recipe to a run folder: batches, the loop, the validation that chooses, checkpoints.

Nothing of test images.
"""
