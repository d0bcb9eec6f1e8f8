"""Frames kept as JPEG in WebDataset shards: a tar a clip, two members a frame.

`00000007.jpg` is the picture, `00000007.json` its facts: index, pts_s (seconds, rounded to a float), pts (the same,
exact, "num/den"), width, height. The same frames give the same bytes: no times, no owners, members in order.
Source: the WebDataset convention (T. Breuel, 2019): members of one sample share a stem and follow each other.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import BinaryIO, Final

import cv2
import numpy as np
import numpy.typing as npt

from cv_platform.vision.video.decode import SampledFrame

JPEG_QUALITY: Final = 92


@dataclass(frozen=True)
class ShardFrame:
    """One frame of a shard, not yet decoded.

    Attributes:
        index: 0, 1, 2, … among the sampled frames.
        pts_s: exact seconds since the clip's first frame.
        width: pixels.
        height: pixels.
        jpeg: the picture's bytes.
    """

    index: int
    pts_s: Fraction
    width: int
    height: int
    jpeg: bytes

    def image(self) -> npt.NDArray[np.uint8]:
        """The picture: BGR, uint8 (height, width, 3).

        Raises:
            ValueError: no JPEG, or one of another size than the shard says.
        """
        decoded = cv2.imdecode(np.frombuffer(self.jpeg, np.uint8), cv2.IMREAD_COLOR)
        if decoded is None or decoded.shape != (self.height, self.width, 3):
            found = "no JPEG" if decoded is None else f"a picture of shape {decoded.shape}"
            raise ValueError(f"frame {self.index} holds {found}; expected ({self.height}, {self.width}, 3)")
        return np.asarray(decoded, dtype=np.uint8)

    def __repr__(self) -> str:
        return f"ShardFrame(index={self.index}, pts_s={self.pts_s}, {self.width}×{self.height}, {len(self.jpeg)} bytes)"


class ShardWriter:
    """Writes frames to a shard. A context manager: the shard is whole once it is left without an error."""

    def __init__(self, file: BinaryIO, *, jpeg_quality: int = JPEG_QUALITY) -> None:
        if not 1 <= jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality is {jpeg_quality}; allowed is 1 to 100")
        self.frames = 0
        self._tar = tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed on exit
        self._parameters = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]

    def add(self, frame: SampledFrame) -> None:
        """Append a frame; frames come in order of their index."""
        done, jpeg = cv2.imencode(".jpg", frame.image, self._parameters)
        if not done:
            raise ValueError(f"frame {frame.index} of shape {frame.image.shape} cannot be written as JPEG")
        height, width = frame.image.shape[:2]
        self.add_encoded(ShardFrame(frame.index, frame.pts_s, width, height, jpeg.tobytes()))

    def add_encoded(self, frame: ShardFrame) -> None:
        """Append a frame that is a JPEG file already; frames come in order of their index."""
        facts = {
            "index": frame.index,
            "pts_s": float(frame.pts_s),
            "pts": str(frame.pts_s),
            "width": frame.width,
            "height": frame.height,
        }
        self._member(f"{frame.index:08d}.jpg", frame.jpeg)
        self._member(f"{frame.index:08d}.json", json.dumps(facts, separators=(",", ":")).encode())
        self.frames += 1

    def _member(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        info.mode = 0o600
        self._tar.addfile(info, io.BytesIO(content))

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._tar.close()


def read_shard(source: BinaryIO | bytes) -> Iterator[ShardFrame]:
    """The frames of a shard in order, one in memory at a time.

    Args:
        source: the shard's bytes, or a file opened for reading bytes (it need not be seekable).

    Raises:
        ValueError: no shard, or one that is cut short.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    jpeg: tuple[str, bytes] | None = None
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                stem, _, kind = member.name.rpartition(".")
                file = tar.extractfile(member)
                if file is None or kind not in {"jpg", "json"}:
                    continue
                content = file.read()
                if kind == "jpg":
                    jpeg = (stem, content)
                elif jpeg is None or jpeg[0] != stem:
                    raise ValueError(f"the shard holds facts for frame {stem} without its picture before them")
                else:
                    facts = json.loads(content)
                    yield ShardFrame(
                        int(facts["index"]),
                        Fraction(facts["pts"]),
                        int(facts["width"]),
                        int(facts["height"]),
                        jpeg[1],
                    )
                    jpeg = None
    except tarfile.TarError as error:
        raise ValueError(f"the shard is damaged or cut short: {error}") from error
    if jpeg is not None:
        raise ValueError(f"the shard is cut short: frame {jpeg[0]} has no facts")
