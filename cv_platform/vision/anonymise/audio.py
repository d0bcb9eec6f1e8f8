"""Sound beside the pictures, where a policy keeps it: copied where MP4 can hold it, else encoded as AAC."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from cv_platform.vision.anonymise.failures import AnonymisationFailed
from cv_platform.vision.anonymise.source import Geometry

_COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac")


def add_audio(video: Path, source: Path, destination: Path, geometry: Geometry) -> Path:
    """Write the video's pictures and the source's first sound track into `destination`, without metadata.

    Returns:
        `destination`, or `video` where the source has no sound.

    Raises:
        AnonymisationFailed: the sound cannot be read or written.
    """
    try:
        with (
            av.open(str(video)) as pictures,
            av.open(f"file:{source.absolute()}", metadata_errors="replace") as sounds,
        ):
            if not sounds.streams.audio:
                return video
            track = sounds.streams.audio[0]
            options = {"movflags": "+faststart", "fflags": "+bitexact"}
            with av.open(str(destination), "w", format="mp4", options=options) as out:
                _mux(out, pictures, sounds, track, geometry)
    except (av.error.FFmpegError, ValueError, UnicodeDecodeError) as error:
        raise AnonymisationFailed("encode_failed", f"the sound cannot be kept: {type(error).__name__}") from None
    return destination


def _mux(out: Any, pictures: Any, sounds: Any, track: Any, geometry: Geometry) -> None:
    video_in = pictures.streams.video[0]
    video_out = out.add_stream_from_template(video_in)
    video_out.metadata.clear()
    video_out.time_base = Fraction(1, geometry.timescale)
    copied = track.codec_context.codec.canonical_name in _COPIED
    if copied:
        audio_out = out.add_stream_from_template(track)
    else:
        audio_out = out.add_stream("aac", rate=track.codec_context.sample_rate)
        audio_out.layout = track.codec_context.layout
    audio_out.metadata.clear()
    for packet in pictures.demux(video_in):
        if packet.dts is not None:
            packet.stream = video_out
            out.mux(packet)
    for packet in sounds.demux(track):
        if copied:
            if packet.dts is not None:
                packet.stream = audio_out
                out.mux(packet)
        else:
            for frame in packet.decode():
                out.mux(audio_out.encode(frame))
    if not copied:
        out.mux(audio_out.encode(None))
