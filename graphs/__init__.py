"""From a checkpoint to a proven ONNX graph: what it computes and says of itself, its precisions, the proof.

Nothing of tables.
"""
