"""From labels and probabilities to numbers, intervals and tests, by numpy alone.

Nothing of models, files or tables.
"""
