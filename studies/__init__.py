"""What the documents report of ourselves: ablations, candidates, speed.

Nothing that training, testing or deploying needs.
"""
