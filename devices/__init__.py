"""Where a network is computed: device and precision, our own kernels, recorded launches, several processes.

Nothing of data.
"""
