"""int8: calibrated weights and activations, the layers that it harms kept float, and fine-tuning where AP still falls.

    quantize_detector(detector, "student_int8.tinydet", calibration=train_samples[:64], test=test_samples)

writes the file, or refuses where accuracy falls by more than the tolerance. `aware.QuantizationAwareStep` is the
training step that learns weights with which it does not.
"""

from tinydet.int8.quantize import QuantizeConfig, QuantizeReport, quantize_detector

__all__ = ["QuantizeConfig", "QuantizeReport", "quantize_detector"]
