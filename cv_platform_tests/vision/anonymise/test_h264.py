"""H.264 bitstreams taken apart: every cut is an error of one kind, and what an encoder writes is read back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cv_platform.vision.anonymise import h264
from cv_platform.vision.anonymise.h264 import AvcConfig, BitReader, Sps
from cv_platform_tests.vision.anonymise.scripted import write_squares


def test_what_has_no_start_code_has_no_units() -> None:
    assert h264.split_annexb(b"") == h264.split_annexb(b"no start code") == []
    with pytest.raises(ValueError, match="no parameter sets"):
        AvcConfig.parse(b"no start code")


nals = st.lists(st.binary(min_size=1, max_size=40).filter(lambda b: b"\0\0" not in b and b[-1] != 0), max_size=6)


def as_bits(codes: Sequence[tuple[str, int]]) -> bytes:
    """Fixed-length and Exp-Golomb codes as bytes, the last one filled up with ones."""
    bits = ""
    for kind, value in codes:
        if kind == "u8":
            bits += f"{value:08b}"
            continue
        code = value if kind == "ue" else (2 * value - 1 if value > 0 else -2 * value)
        digits = f"{code + 1:b}"
        bits += "0" * (len(digits) - 1) + digits
    bits += "1" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def protected(payload: bytes) -> bytes:
    """With emulation prevention, as an encoder writes it."""
    out, zeros = bytearray(), 0
    for byte in payload:
        if zeros == 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(out)


@given(nals)
def test_units_behind_start_codes_come_back(units: list[bytes]) -> None:
    assert h264.split_annexb(b"".join(b"\0\0\0\1" + unit for unit in units)) == units


@given(nals, st.sampled_from([1, 2, 4]))
def test_units_behind_lengths_come_back_and_a_cut_is_noticed(units: list[bytes], size: int) -> None:
    data = b"".join(len(unit).to_bytes(size, "big") + unit for unit in units)
    assert h264.split_lengths(data, size) == units
    if units:
        with pytest.raises(ValueError, match="ends after its sample"):
            h264.split_lengths(data[:-1], size)


codes = st.lists(
    st.one_of(
        st.tuples(st.just("u8"), st.integers(0, 255)),
        st.tuples(st.just("ue"), st.integers(0, 2**31)),
        st.tuples(st.just("se"), st.integers(-(2**30), 2**30)),
    ),
    max_size=12,
)


@given(codes)
def test_codes_are_read_as_they_were_written(written: list[tuple[str, int]]) -> None:
    reader = BitReader(protected(as_bits(written)))
    for kind, value in written:
        assert (reader.bits(8) if kind == "u8" else getattr(reader, kind)()) == value


def test_an_endless_code_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        BitReader(b"\x00" * 8).ue()
    with pytest.raises(ValueError, match="ends early"):
        BitReader(b"\x00").ue()


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> tuple[AvcConfig, list[list[bytes]]]:
    """An encoder's configuration, and the NAL units of each of its samples."""
    clip = write_squares(
        tmp_path_factory.mktemp("h264") / "in.mp4",
        lambda n: [(n, 30, 24)],
        frames=20,
        size=(172, 132),  # not whole macroblocks: cropped
        options={"crf": "20", "bf": "2", "g": "10", "colorprim": "bt709", "preset": "fast"},
    )
    with av.open(str(clip)) as container:
        config = AvcConfig.parse(bytes(container.streams.video[0].codec_context.extradata or b""))
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    return config, [h264.split_lengths(packet, config.length_size) for packet in packets]


def test_what_an_encoder_says_of_itself(encoded: tuple[AvcConfig, list[list[bytes]]]) -> None:
    config, samples = encoded
    sps = Sps.parse(config.sps[0])
    left, right, top, bottom = sps.crop
    assert (sps.width_mbs * 16 - 2 * (left + right), sps.height_mbs * 16 - 2 * (top + bottom)) == (172, 132)
    assert (sps.profile, sps.level, sps.chroma, sps.depth) == (config.profile, config.level, 1, 8)
    assert sps.frame_mbs_only
    assert sps.reorder in (1, 2)
    pps = {h264.pps_ids(nal)[0] for nal in config.pps}
    slices = [nal for nals_ in samples for nal in nals_ if h264.nal_type(nal) in h264.VCL]
    assert len(slices) >= 20
    assert {h264.slice_pps_id(nal)[2] for nal in slices} <= pps
    assert {h264.slice_pps_id(nal)[1] for nal in slices} == {0, 1, 2}  # P, B, I
    assert {h264.nal_type(nal) for nal in samples[0]} & set(h264.VCL) == {h264.IDR}


def test_a_configuration_comes_back(encoded: tuple[AvcConfig, list[list[bytes]]]) -> None:
    config, _ = encoded
    assert AvcConfig.parse(config.dump()) == config
    behind_start_codes = b"".join(b"\0\0\0\1" + nal for nal in (*config.sps, *config.pps))
    again = AvcConfig.parse(behind_start_codes)
    assert (again.sps, again.pps, again.length_size) == (config.sps, config.pps, 0)
    assert (again.profile, again.compatibility, again.level) == (config.profile, config.compatibility, config.level)


@settings(max_examples=80)
@given(st.data())
def test_damage_is_one_kind_of_error(encoded: tuple[AvcConfig, list[list[bytes]]], data: st.DataObject) -> None:
    config, _ = encoded
    for content, parse in ((config.dump(), AvcConfig.parse), (config.sps[0], Sps.parse), (config.pps[0], h264.pps_ids)):
        damaged = bytearray(content[: data.draw(st.integers(1, len(content)))])
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        with suppress(ValueError):
            parse(bytes(damaged))  # type: ignore[operator]


def test_units_of_another_type_are_refused(encoded: tuple[AvcConfig, list[list[bytes]]]) -> None:
    config, _ = encoded
    with pytest.raises(ValueError, match="not an SPS"):
        Sps.parse(config.pps[0])
    with pytest.raises(ValueError, match="not a PPS"):
        h264.pps_ids(config.sps[0])
