"""One thread for each process of the suite, so that processes side by side do not wait for each other's cores."""

import onnxruntime


class OneThread(onnxruntime.SessionOptions):
    def __init__(self) -> None:
        super().__init__()
        self.intra_op_num_threads = 1


def of_onnxruntime() -> None:
    """It does not read OMP_NUM_THREADS, and its threads spin while they wait, on cores that others need."""
    onnxruntime.SessionOptions = OneThread
