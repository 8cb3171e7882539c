"""Sounds from files and arrays, and the bytes that a model gets of them."""

import sys
import wave

import av
import numpy as np
import pytest

from tests.data import clips
from vlm_jax.data import audio
from vlm_jax.data.audio import AudioFile, AudioReader, Waveform, as_audio, no_picture, read
from vlm_jax.data.schema import DataError


def tone(seconds, hertz=440.0, rate=16_000):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype("f4")


def write(path, samples, rate=16_000, channels=1):
    """A WAV file of 16 bits; samples f32[n], the same in every channel."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        whole = np.round(32_767 * samples).astype("<i2")
        file.writeframes(np.repeat(whole, channels).tobytes())
    return str(path)


def pitch(samples, rate=16_000):
    """The loudest frequency, Hz."""
    return np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)


def test_a_file_gives_its_samples(tmp_path):
    samples = tone(0.5)
    found = read(write(tmp_path / "a.wav", samples))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, samples, atol=1e-4)
    encoded = (tmp_path / "a.wav").read_bytes()
    np.testing.assert_array_equal(read(encoded), found)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44_100, 2), (48_000, 1)])
def test_other_rates_and_channels_become_one_of_16_khz(tmp_path, rate, channels):
    path = write(tmp_path / "a.wav", tone(1.0, 700.0, rate), rate, channels)
    found = read(path)
    assert abs(len(found) - 16_000) < 100 and abs(pitch(found) - 700) < 2
    assert 0.45 < np.abs(found[2000:-2000]).max() < 0.55
    part = read(path, start=0.25, seconds=0.5)
    assert len(part) == 8000 and abs(pitch(part) - 700) < 2


def test_a_part_of_a_long_file_is_found_without_decoding_the_rest(tmp_path, monkeypatch):
    rate, seconds = 8000, 600
    second = [tone(1.0, 100.0 + i, rate) for i in range(seconds)]
    path = write(tmp_path / "long.wav", np.concatenate(second), rate)
    pieces, decoded = [], audio._decoded

    def counted(*args):
        for at, part in decoded(*args):
            pieces.append(len(part))
            yield at, part

    monkeypatch.setattr(audio, "_decoded", counted)
    found = read(path, start=500.0, seconds=1.0, rate=rate)
    np.testing.assert_allclose(found, second[500], atol=1e-3)
    assert sum(pieces) < 3 * rate
    assert len(AudioFile(path)(16_000, 2.0)) == 32_000


def test_more_than_fits_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "MAX_BYTES", 4000)
    path = write(tmp_path / "a.wav", tone(1.0))
    with pytest.raises(DataError, match="a.wav is more than 4,000 bytes of sound: read a part"):
        read(path)
    assert len(read(path, seconds=0.05)) == 800


def test_the_sound_of_a_video(tmp_path):
    path = clips.write(tmp_path / "c.mp4", [0.0, 0.5, 0.9], audio=True)
    assert np.abs(read(path)).max() < 1e-3


def bad_files(folder):
    """What is said about a file, and the file."""
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("not a sound at all")
    write(folder / "none.wav", tone(0.0))
    clips.write(folder / "mute.mp4", [0.0, 0.5])
    return {
        "no such file": folder / "absent.wav",
        "is a folder, not a sound": folder,
        "a sound of 0 bytes": folder / "empty.wav",
        "text.wav is not a sound": folder / "text.wav",
        "has no audio stream, only: video": folder / "mute.mp4",
        "none.wav holds no sound": folder / "none.wav",
    }


def test_files_without_a_sound_are_named(tmp_path):
    for message, path in bad_files(tmp_path).items():
        with pytest.raises(DataError, match=message):
            read(str(path))
    path = write(tmp_path / "a.wav", tone(0.5))
    with pytest.raises(DataError, match=r"a.wav lasts 0.50 s: there is nothing from 2.00 s on"):
        read(path, start=2.0)
    for wrong in (dict(rate=0), dict(start=-1.0), dict(seconds=0.0)):
        with pytest.raises(ValueError, match="a rate is at least 1"):
            read(path, **wrong)


def test_without_pyav_it_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", tone(0.1))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match="reading sounds needs PyAV; run: pip install av"):
        read(path)
    with pytest.raises(DataError, match="rate 8000 for a model of rate 16000 needs PyAV"):
        Waveform(tone(0.1), 8000)(16_000, 1.0)
    assert len(Waveform(tone(0.1), 16_000)(16_000, 1.0)) == 1600


def test_arrays_are_cut_scaled_and_resampled():
    whole = Waveform(np.round(32_767 * tone(1.0, 500.0, 8000)).astype(np.int16), 8000)
    found = whole(16_000, 0.5)
    assert found.dtype == np.float32 and abs(len(found) - 8000) < 64
    assert abs(pitch(found) - 500) < 4 and 0.45 < np.abs(found).max() < 0.55


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros((2, 5), np.float32), 16_000, r"of one channel .* float32 \[2, 5\]"),
        (np.zeros(0, np.float32), 16_000, "not empty"),
        (np.zeros(5, np.uint8), 16_000, "this is uint8"),
        (np.full(5, np.nan), 16_000, "NaN"),
        (np.zeros(5), 0, "rate=0 of a sound array"),
        (np.zeros(5), 44.1, "rate=44.1 of a sound array"),
    ],
)
def test_arrays_that_are_no_sound(samples, rate, message):
    with pytest.raises(DataError, match=message):
        Waveform(samples, rate)


def test_whatever_stands_for_a_sound(tmp_path):
    assert (
        as_audio("a.wav") == AudioFile("a.wav")
        and str(as_audio(tmp_path / "b.wav"))[-5:] == "b.wav"
    )
    assert as_audio((tone(0.1), 16_000)).rate == 16_000
    made = AudioFile("c.wav")
    assert as_audio(made) is made
    with pytest.raises(DataError, match="this is a list"):
        as_audio([0.0])
    with pytest.raises(DataError, match="a sound without a picture"):
        no_picture()


@pytest.mark.parametrize("centred", [True, False])
def test_a_model_gets_bytes_of_one_shape_whatever_the_length(centred):
    reader = AudioReader(0.5, dict(bins=32, centred=centred))
    short, long = (reader(Waveform(tone(seconds), 16_000)) for seconds in (0.2, 3.0))
    for found in (short, long):
        assert found.shape == reader.shape == (32, 50) and found.dtype == np.uint8
    np.testing.assert_array_equal(short[:, :18], long[:, :18])
    assert (short[:, 24:] == 0).all() and (long[5, 24:] > 150).all()


def test_a_reader_names_what_is_wrong():
    with pytest.raises(DataError, match="no sound, which this model listens to"):
        AudioReader(0.5)(None)
    with pytest.raises(ValueError, match="quiet=3.0 must be less"):
        AudioReader(0.5, quiet=3.0, loud=3.0)
    with pytest.raises(ValueError, match="less than one hop"):
        AudioReader(0.001)
    with pytest.raises(TypeError, match="config.data.audio.mel"):
        AudioReader(0.5, dict(bands=3))


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "a.flac"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(
            np.round(9000 * tone(2.0)).astype(np.int16)[None], format="s16", layout="mono"
        )
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    whole = path.read_bytes()
    assert len(read(whole)) == 32_000
    with pytest.raises(DataError, match="an encoded sound"):
        read(whole[:60])


def test_a_spectrogram_to_look_at_has_low_tones_at_the_bottom():
    low, high = (
        audio.picture(Waveform(tone(1.0, hertz), 16_000), 0.5) for hertz in (200.0, 3000.0)
    )
    assert low.shape == (80, 50, 3) and low.dtype == np.uint8
    assert low[:, 20, 0].argmax() > high[:, 20, 0].argmax()
