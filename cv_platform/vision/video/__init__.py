"""Video: what a clip is, its frames with exact times, and how they are kept.

Belongs here: probing, decoding, the sandbox in which both happen to untrusted files, JPEG shards.
Does not belong here: what is done with the frames (detectors, tracking, anonymise), and who asks for it.

Use `sandbox.extract_frames` and `sandbox.probe_clip_sandboxed` for uploads; `probe.probe_clip` and
`decode.decode_sampled` do the same work in the caller's own process, for footage that is trusted.
"""
