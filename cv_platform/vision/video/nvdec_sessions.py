"""NVDEC decoders, kept open for the next clip of the same codec and size: opening one costs as much as many frames.

Every call of PyNvVideoCodec is here. A decoder is kept only after it gave all of a clip's frames without an error, and
taken again only for a clip that begins with a key frame, so that no picture of one clip is ever a reference of another.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Final

from av.packet import Packet

KEPT: Final = 32
"""Decoders that wait at most, of all kinds: each holds its pictures in the GPU's memory."""


class NvdecFailed(RuntimeError):
    """NVDEC does not open, or did not take what it was given; the message names the package's exception alone."""


class NvdecSession:
    """One open decoder. Used by one thread at a time.

    Args:
        codec: "h264" or "hevc".
        gpu: the GPU's number.

    Raises:
        NvdecFailed: it does not open.
    """

    def __init__(self, codec: str, *, gpu: int) -> None:
        import PyNvVideoCodec as nvc  # noqa: N813 - the package's own short name

        self._packet = nvc.PacketData
        try:
            self._decoder = nvc.CreateDecoder(
                gpuid=gpu,
                codec={"h264": nvc.cudaVideoCodec.H264, "hevc": nvc.cudaVideoCodec.HEVC}[codec],
                cudacontext=0,
                cudastream=0,
                usedevicememory=True,
            )
        except Exception as error:  # noqa: BLE001 - the package's exceptions share no base class
            raise NvdecFailed(f"NVDEC does not open: {type(error).__name__}") from None

    def decode(self, packet: Packet[Any] | None) -> list[Any]:
        """The frames that are ready after one more packet (Annex B), valid until the next call; None ends the stream.

        Raises:
            NvdecFailed: it did not take it.
        """
        data = self._packet()
        if packet is not None and packet.pts is not None:
            data.bsl_data, data.bsl, data.pts = packet.buffer_ptr, packet.buffer_size, packet.pts
        try:
            return list(self._decoder.Decode(data))
        except Exception as error:  # noqa: BLE001 - as above
            raise NvdecFailed(f"NVDEC stopped on this clip: {type(error).__name__}") from None


Kind = tuple[str, int, int, int]
"""Codec, the GPU's number, width, height."""


class NvdecSessions:
    """Decoders that wait for their next clip; the one that waited longest goes where there are too many.

    Args:
        most: how many wait at most; 0 keeps none.
    """

    def __init__(self, most: int = KEPT) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._waiting: OrderedDict[int, tuple[Kind, NvdecSession]] = OrderedDict()

    def take(self, kind: Kind, *, fresh: bool = False) -> NvdecSession:
        """One that waits, or a new one; always a new one where it has to be fresh."""
        with self._lock:
            found = next((key for key, (known, _) in self._waiting.items() if known == kind and not fresh), None)
            if found is not None:
                return self._waiting.pop(found)[1]
        return NvdecSession(kind[0], gpu=kind[1])

    def give_back(self, kind: Kind, session: NvdecSession) -> None:
        """Keep one that has ended its stream."""
        with self._lock:
            self._waiting[id(session)] = (kind, session)
            while len(self._waiting) > self._most:
                self._waiting.popitem(last=False)

    def close(self) -> None:
        """Let go of all that wait, and with them of their memory."""
        with self._lock:
            self._waiting.clear()

    def __len__(self) -> int:
        return len(self._waiting)


SESSIONS: Final = NvdecSessions()
"""This process's own."""
