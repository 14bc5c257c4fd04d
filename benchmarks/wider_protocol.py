"""How long the WIDER FACE protocol takes, and what it yields.

    python benchmarks/wider_protocol.py DETECTIONS GROUND_TRUTH

Single-threaded. On RetinaFace's published detections the official tool gives 0.94484, 0.92447 and 0.81533.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy is imported

from tinydet.evaluation import evaluate_wider_face, read_detections  # noqa: E402
from tinydet.evaluation.wider_face import read_ground_truth  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detections", type=Path, help="folder of <event>/<image>.txt")
    parser.add_argument("ground_truth", type=Path, help="folder of wider_face_val.mat and the three subsets")
    paths = parser.parse_args()

    times = [time.perf_counter()]
    ground_truth = read_ground_truth(paths.ground_truth)
    times.append(time.perf_counter())
    read = read_detections(paths.detections, ("face",), ground_truth)
    times.append(time.perf_counter())
    result = evaluate_wider_face(ground_truth, read.detections)
    times.append(time.perf_counter())

    count = sum(map(len, read.detections.values()))
    print(f"{len(ground_truth)} images, {count} detections")
    for what, start, end in zip(("ground truth", "detections", "protocol"), times, times[1:]):
        print(f"{what:<13} {end - start:6.2f} s")
    print(f"{'total':<13} {times[-1] - times[0]:6.2f} s")
    for subset, ap in result.ap.items():
        print(f"{subset:<7} AP {ap:.7f}  ({result.faces[subset]} faces)")


if __name__ == "__main__":
    main()
