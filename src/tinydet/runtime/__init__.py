"""The light half: a packed file or an ONNX file and an image to detections, without PyTorch."""

from tinydet.runtime.decoding import ImageLike, decode
from tinydet.runtime.description import ModelDescription
from tinydet.runtime.detector import Detector, EngineName
from tinydet.runtime.model_file import ModelFile, read_model

__all__ = ["Detector", "EngineName", "ImageLike", "ModelDescription", "ModelFile", "decode", "read_model"]
