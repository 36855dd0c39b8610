"""Decoding media and the small inputs made of it: even frames, mono sound, thumbnails, log-mel spectrograms."""

from __future__ import annotations

import math
import shutil
import wave

import av
import numpy as np
import pytest

from laws import for_all
from mlecs_plugins.datasets.vast import media
from mlecs_plugins.datasets.vast.features import area_weights, log_mel, mel_filters, thumbnail
from mlecs_plugins.datasets.vast.inputs import spectrogram, thumbnails
from mlecs_plugins.datasets.vast.media import MediaError, even_positions, read_waveform, sample_frames
from vast_files import SOUND_RATE, noise, plain, shade, sound_frames, tone, truncate, write_media

CODEC_ERROR = 4  # grey levels


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """One second of video that gets brighter, with a tone."""
    return write_media(tmp_path_factory.mktemp("media") / "clip.mp4", sound=tone(1.0))


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """Three seconds of noise, its index at the start of the file."""
    path = tmp_path_factory.mktemp("media") / "long.mp4"
    return write_media(path, draw=noise, sound=tone(3.0), n_frames=90)


# Decoding


@for_all("total", [1, 2, 3, 4, 5, 30, 301])
@for_all("n", [1, 4])
def test_positions_are_the_middles_of_equal_stretches(total, n):
    assert even_positions(total, n) == [math.floor((k + 0.5) * total / n) for k in range(n)]
    assert max(even_positions(total, n)) < total


def test_frames_are_taken_at_even_times(clip):
    frames = sample_frames(clip, 4)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 4
    for frame, position in zip(frames, (3, 11, 18, 26), strict=True):
        assert np.abs(frame.astype(float) - shade(position)).max() <= CODEC_ERROR


def test_a_video_of_fewer_frames_repeats_some(tmp_path):
    frames = sample_frames(write_media(tmp_path / "short.mp4", n_frames=2), 4)
    shades = [round(float(frame.mean()) / 8) for frame in frames]
    assert shades == [0, 0, 1, 1]


def test_frames_are_chosen_again_when_packets_and_frames_differ(clip, monkeypatch):
    whole = sample_frames(clip, 4)
    counted = iter([60])
    true = media.even_positions
    monkeypatch.setattr(media, "even_positions", lambda total, n: true(next(counted, total), n))
    again = sample_frames(clip, 4)
    assert all(np.array_equal(a, b) for a, b in zip(again, whole, strict=True))


def test_sound_is_mono_at_the_wanted_rate(clip):
    waveform = read_waveform(clip, 16_000)
    assert waveform.dtype == np.float32
    assert abs(len(waveform) - 16_000) < 1600  # AAC pads
    spectrum = np.abs(np.fft.rfft(waveform[2000:14_000]))
    assert abs(spectrum.argmax() * 16_000 / 12_000 - 440) < 2
    assert np.abs(waveform[4000:12_000]).max() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("name", ["clip.mp3", "clip.avi", "clip.txt", "clip"])
def test_the_container_decides_and_not_the_name(clip, tmp_path, name):
    renamed = shutil.copy(clip, tmp_path / name)
    assert np.array_equal(read_waveform(renamed, 16_000), read_waveform(clip, 16_000))
    assert np.array_equal(sample_frames(renamed, 2), sample_frames(clip, 2))


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".mov"])
def test_other_containers_are_read(tmp_path, suffix):
    path = write_media(tmp_path / f"clip{suffix}", sound=tone(1.0))
    assert np.abs(sample_frames(path, 1)[0].astype(float) - shade(15)).max() <= CODEC_ERROR
    assert abs(len(read_waveform(path, 8000)) - 8000) < 800


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 8, 12])
def test_sound_is_the_mean_of_all_channels(tmp_path, channels):
    path = tmp_path / "clip.wav"
    samples = np.random.default_rng(channels).integers(-9000, 9000, (4000, channels)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    np.testing.assert_allclose(read_waveform(path, 16_000), samples.mean(axis=1) / 32_768, atol=1e-6)


def test_a_file_lacks_what_it_has_no_stream_of(tmp_path):
    silent = write_media(tmp_path / "silent.mp4")
    blind = write_media(tmp_path / "blind.mp4", draw=None, sound=tone(1.0))
    assert read_waveform(silent, 16_000) is None
    assert spectrogram(silent) is None
    assert sample_frames(blind, 4) is None
    assert thumbnails(blind) is None


def test_the_cover_of_a_sound_file_is_no_video(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        audio, cover = container.add_stream("aac", rate=SOUND_RATE), container.add_stream("mjpeg", rate=1)
        audio.layout = "stereo"
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(plain(9), format="rgb24").reformat(format="yuvj420p")))
        for frame in sound_frames(tone(1.0)):
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    assert sample_frames(path, 4) is None
    assert read_waveform(path, 16_000) is not None


def test_sound_that_changes_its_form_on_the_way_is_read(clip, monkeypatch):
    frames = [*sound_frames(tone(0.5))]
    for part in np.split(tone(0.5)[: 1024 * 20], 20):
        frame = av.AudioFrame.from_ndarray((part * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = SOUND_RATE
        frames.append(frame)
    monkeypatch.setattr(media, "_frames", lambda container, stream: iter(frames))
    waveform = read_waveform(clip, 16_000)
    assert len(waveform) == pytest.approx(16_000 * (22_050 + 20_480) / SOUND_RATE, abs=40)
    assert np.abs(waveform[9000:14_000]).max() == pytest.approx(0.5, abs=0.03)


# Damage


def error_of(read, path) -> str:
    with pytest.raises(MediaError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def frames_of(path):
    return sample_frames(path, 4)


def sound_of(path):
    return read_waveform(path, 16_000)


@pytest.mark.parametrize("read", [frames_of, sound_of])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", bytes(5000)])
def test_what_is_no_media_file_is_named(tmp_path, read, content):
    (tmp_path / "clip.mp4").write_bytes(content)
    assert error_of(read, tmp_path / "clip.mp4").startswith("cannot be read (")


def test_a_playlist_reaches_no_other_file(clip, tmp_path):
    playlist = tmp_path / "clip.mp4"
    playlist.write_text(f"ffconcat version 1.0\nfile '{clip}'\n")
    assert error_of(frames_of, playlist).startswith("cannot be read (")


@pytest.mark.parametrize("read", [frames_of, sound_of])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.85])
def test_a_file_that_is_cut_short_is_damaged(long_clip, tmp_path, read, share):
    path = tmp_path / "cut.mp4"
    shutil.copy(long_clip, path)
    truncate(path, share)
    assert "cut short" in error_of(read, path)


def test_a_file_without_its_index_cannot_be_read(long_clip, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(long_clip.read_bytes()[:600])
    assert error_of(frames_of, path)


def test_overwritten_bytes_are_found(long_clip, tmp_path):
    path = tmp_path / "damaged.mp4"
    data = bytearray(long_clip.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    message = error_of(frames_of, path)
    assert message.startswith(("is damaged at frame ", "cannot be decoded after frame "))
    assert 1 < int("".join(c for c in message.split("frame ")[1] if c.isdigit())) < 90


def test_an_edit_list_does_not_count_as_damage(long_clip, tmp_path):
    path = tmp_path / "edited.mp4"
    with av.open(str(long_clip)) as source, av.open(str(path), "w") as container:
        streams = {s.index: container.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            shift = int(1 / packet.time_base)  # the first second is kept in the file and not shown
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, streams[packet.stream.index]
            container.mux(packet)
    assert abs(len(read_waveform(path, 16_000)) - 32_000) < 3200
    assert len(sample_frames(path, 4)) == 4


def test_sound_that_is_not_finite_is_damage(clip, monkeypatch):
    frame = av.AudioFrame.from_ndarray(np.full((1, 2000), np.nan, np.float32), format="flt", layout="mono")
    frame.sample_rate = 16_000
    monkeypatch.setattr(media, "_frames", lambda container, stream: iter([frame]))
    assert error_of(sound_of, clip) == "decodes to sound that is not finite"


def test_streams_without_content_are_damage(clip, monkeypatch):
    monkeypatch.setattr(media, "_frames", lambda container, stream: iter(()))
    assert error_of(sound_of, clip) == "has no sound in its audio stream"
    assert error_of(frames_of, clip) == "has no whole frame"


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert error_of(frames_of, tmp_path / "none.mp4") == "cannot be read (No such file or directory)"


# Pictures


@for_all(("height", "width"), [(48, 64), (16, 16), (50, 70), (37, 23), (7, 5), (1, 1), (360, 640)])
def test_thumbnails_are_exact_area_averages(height, width):
    picture = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows, columns = 16 // math.gcd(16, height), 16 // math.gcd(16, width)
    fine = np.repeat(np.repeat(picture, rows, axis=0), columns, axis=1)  # every cell is whole pixels now
    oracle = fine.reshape(16, height * rows // 16, 16, width * columns // 16, 3).mean(axis=(1, 3))
    made = thumbnail(picture)
    assert made.dtype == np.uint8
    assert np.abs(made - oracle).max() <= 0.5 + 1e-9


@for_all(("n_in", "n_out"), [(5, 3), (3, 5), (16, 16), (1, 4), (1080, 16)])
def test_area_weights_share_every_cell_out(n_in, n_out):
    weights = area_weights(n_in, n_out)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights.sum(axis=0), n_out / n_in)
    assert (weights >= 0).all()


def test_thumbnails_of_a_clip_have_the_shape_of_the_stand_in(clip):
    made = thumbnails(clip)
    assert (made.shape, made.dtype) == ((4, 16, 16, 3), np.uint8)
    for picture, position in zip(made, (3, 11, 18, 26), strict=True):
        assert np.abs(picture.astype(float) - shade(position)).max() <= CODEC_ERROR


# Sound


def mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def mel_oracle(waveform: np.ndarray) -> np.ndarray:
    """The spectrogram by loops over ticks, windows, bands and frequencies."""
    samples = [float(x) for x in waveform] + [0.0] * max(0, 400 - len(waveform))
    hann = [math.sin(math.pi * i / 400) ** 2 for i in range(400)]
    windows = [samples[s : s + 400] for s in range(0, len(samples) - 399, 160)]
    power = [np.abs(np.fft.fft([x * h for x, h in zip(w, hann, strict=True)], 512))[:257] ** 2 for w in windows]
    step = mel(8000) / 25
    out = np.zeros((24, 24))
    for tick in range(24):
        first = tick * len(power) // 24
        last = max(first + 1, (tick + 1) * len(power) // 24)
        for band in range(24):
            energy = 0.0
            corners = [700 * (10 ** (step * (band + c) / 2595) - 1) for c in range(3)]
            for k in range(257):
                f = k * 31.25
                up, down = (f - corners[0]) / (corners[1] - corners[0]), (corners[2] - f) / (corners[2] - corners[1])
                energy += max(0.0, min(up, down)) * sum(p[k] for p in power[first:last]) / (last - first)
            out[band, tick] = math.log10(max(energy, 1e-10))
    return (out - out.mean()) / out.std()


@for_all("n", [100, 400, 3000, 16_000, 20_123])
def test_the_spectrogram_is_what_loops_compute(n):
    generator = np.random.default_rng(n)
    sound = (generator.standard_normal(n) * np.linspace(0.01, 1, n)).astype(np.float32)
    made = log_mel(sound)
    assert (made.shape, made.dtype) == ((24, 24), np.float32)
    np.testing.assert_allclose(made, mel_oracle(sound), atol=1e-4)


def test_a_spectrogram_has_mean_0_and_sd_1_and_does_not_know_loudness():
    sound = np.random.default_rng(1).standard_normal(8000).astype(np.float32) * np.linspace(0, 1, 8000, dtype="f4")
    made = log_mel(sound)
    assert float(made.mean()) == pytest.approx(0, abs=1e-5)
    assert float(made.std()) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(log_mel(sound * np.float32(0.125)), made, atol=1e-4)


@for_all("n", [1, 500, 30_000])
def test_silence_is_zeros(n):
    assert not log_mel(np.zeros(n, np.float32)).any()


def test_flat_sound_is_not_blown_up():
    steady = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(32_000) / 16_000)
    louder = log_mel((steady * np.linspace(1, 1.05, 32_000)).astype(np.float32))
    assert np.isfinite(louder).all()
    np.testing.assert_array_equal(log_mel(np.full(2, 1e-9, np.float32)), np.zeros((24, 24), np.float32))


@for_all("hertz", [300, 1000, 3000, 6000])
def test_a_tone_shows_in_the_band_of_its_pitch_and_at_its_time(hertz):
    sound = np.sin(2 * np.pi * hertz * np.arange(48_000) / 16_000)
    sound[:24_000] = 0
    made = log_mel(sound.astype(np.float32))
    centres = [700 * (10 ** (mel(8000) / 25 * (b + 1) / 2595) - 1) for b in range(24)]
    expected = int(np.argmin([abs(mel(c) - mel(hertz)) for c in centres]))
    assert (made[:, 13:].argmax(axis=0) == expected).all()
    assert made[expected, 13:].min() > made[expected, :11].max() + 2


def test_every_band_hears_something_and_bands_overlap_only_with_neighbours():
    filters = mel_filters()
    assert filters.shape == (24, 257)
    assert (filters.sum(axis=1) > 0.5).all()
    overlap = filters @ filters.T
    assert not np.triu(overlap, 2).any()
