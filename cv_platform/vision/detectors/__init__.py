"""Detectors: pictures in, `Detections` out, whatever finds them.

`base` is the protocol; `hog` and `onnx` are backends; `heads` turn a network's raw outputs into boxes, one function an
architecture; `build` makes a detector from names in the model registry.
"""
