"""Quantization to 4 or 8 bits: round to nearest, GPTQ, mixed precision, calibration text."""
