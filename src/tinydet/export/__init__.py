"""From a torch detector to one file that runs without torch: ONNX, or the packed file.

The graph takes resized pixels, `image`: `[1, H, W, C]` uint8, and gives `boxes`: `[N, 4]` float32 in these pixels,
`scores`: `[N]` float32 and `labels`: `[N]` int64, best first.
"""

from tinydet.export.agreement import Agreement, Tolerance
from tinydet.export.export import ExportFormat, ExportReport, export_detector
from tinydet.export.network import build_onnx

__all__ = ["Agreement", "ExportFormat", "ExportReport", "Tolerance", "build_onnx", "export_detector"]
