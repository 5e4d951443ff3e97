"""From files to grey squares, and how these are varied: sources, decoding, the cache, the audit, the download.

Nothing of splits or networks.
"""
