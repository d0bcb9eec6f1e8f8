"""Sound beside the pictures, where a policy keeps it: copied where MP4 can hold it, else encoded as AAC."""

from __future__ import annotations

from fractions import Fraction
from heapq import merge
from pathlib import Path
from typing import Any

import av
import av.error

from cv_platform.vision.anonymise.failures import NO_SPACE, AnonymisationFailed
from cv_platform.vision.anonymise.source import Geometry
from cv_platform.vision.video.probe import FORMATS

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
            av.open(
                f"file:{source.absolute()}",
                metadata_errors="replace",
                options={"protocol_whitelist": "file", "format_whitelist": ",".join(FORMATS)},
            ) as sounds,
        ):
            if not sounds.streams.audio:
                return video
            track = sounds.streams.audio[0]
            options = {"movflags": "+faststart", "fflags": "+bitexact"}
            with av.open(str(destination), "w", format="mp4", options=options) as out:
                _mux(out, pictures, sounds, track, geometry)
    except (av.error.FFmpegError, ValueError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) in NO_SPACE:
            raise AnonymisationFailed("disk_full") from None
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
    seen = (p for p in pictures.demux(video_in) if p.dts is not None)
    heard = (p for p in sounds.demux(track) if p.dts is not None or (not copied and p.size))
    for packet in merge(seen, heard, key=_when):
        if packet.stream is video_in:
            packet.stream = video_out
            out.mux(packet)
        elif copied:
            packet.stream = audio_out
            out.mux(packet)
        else:
            for frame in packet.decode():
                out.mux(audio_out.encode(frame))
    if not copied:
        for frame in track.codec_context.decode(None):
            out.mux(audio_out.encode(frame))
        out.mux(audio_out.encode(None))


def _when(packet: Any) -> Fraction:
    """When it is to be decoded, seconds: in this order a player has both at hand, and the muxer holds little back."""
    return Fraction((packet.dts if packet.dts is not None else packet.pts or 0) * packet.time_base)
