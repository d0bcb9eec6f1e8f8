"""Compiled kernels: the inner loops that NumPy cannot express without N×N arrays or a copy a step.

Belongs here: functions of plain arrays and numbers under `cv_platform.vision.compiled`. A kernel trusts its caller.
Does not belong here: checks of arguments, defaults, public names; those are one floor up, beside the docstrings that
users read.
"""
