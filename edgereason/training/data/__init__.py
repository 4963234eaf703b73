"""Making training data: guidance that a teacher writes, of which only what a student should learn from is kept.

`teacher` writes, `leaks` and `duplicates` say what is not kept, `guidance_writing` is the file, `conversion` brings
public data sets into the form of training data, and `calibration_text` makes what quantizers are calibrated on.
"""
