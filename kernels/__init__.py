"""Kernels for quantized and float transformer models: `packing` (the weights' layout) and one backend per device.

A backend is a module of functions on arrays (`linear`, `attention`, `rms_norm`, ...). `kernels.cpu` is C++ behind numpy
arrays. Nothing here imports the rest of edgereason.
"""
