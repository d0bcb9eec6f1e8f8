"""Pictures and networks in a GPU's memory: what the torch and TensorRT detectors and the NVDEC decoder are made of.

Belongs here: reading an ONNX file into torch, resampling pictures that lie on a device, boxes and suppression on a
device, JPEG shards by nvJPEG, several clips as one stream of batches.
Does not belong here: detectors themselves (`detectors/`), decoders of clips (`video/nvdec`).

Every module but `onnx_file` needs torch (the extra `torch`); nothing outside this folder imports them at module level
except the backends themselves. All of it runs on the processor too, which is how it is tested without a GPU.
"""
