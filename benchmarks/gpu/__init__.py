"""How near to the decoder's own speed detection runs on a GPU, and what it gains over the processor and plain torch.

    python -m benchmarks.gpu.make_clips DIR                        noisy 1080p clips of its own making
    python -m benchmarks.gpu --clips DIR --model-dir DIR [--parts clips,answers,…] [--json FILE]

One part a module, each with a docstring and `measure(rig)`. A module whose name begins with `_` is no part. All
contenders of a part take turns in one process with the same number of decoding threads, over the same clips, the
opening of every file counted in; rates are frames (decoded) a second, the median of the rounds.
"""
