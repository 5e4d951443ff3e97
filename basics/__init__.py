"""What every script needs: names that people type, errors for people, files that are never half-written.

Nothing of X-rays.
"""
