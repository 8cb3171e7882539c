"""Spectrograms against the reference implementations, and what rounding them costs."""

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from vlm_jax.data.spectrogram import Mel, filters, from_bytes, log_mel, to_bytes, to_hertz, to_mel


def sound(samples, seed=0):
    """Two tones that come and go, and noise."""
    rng, time = np.random.default_rng(seed), np.arange(samples) / 16_000
    tones = np.sin(2 * np.pi * 440 * time) * (time < 0.1) + 0.3 * np.sin(2 * np.pi * 3000 * time)
    return (0.4 * tones + 0.01 * rng.standard_normal(samples)).astype(np.float32)


CASES = {
    "Whisper's": Mel(),
    "AST's sizes": Mel(fft=512, bins=64, low=20.0, centred=False, scale="htk", unit_area=False),
    "narrow": Mel(rate=8000, window=200, hop=77, fft=256, bins=23, low=100.0, high=3500.0),
    "htk with areas": Mel(bins=32, scale="htk"),
}


@pytest.mark.parametrize("mel", CASES.values(), ids=CASES)
def test_filters_and_powers_are_those_of_the_reference(mel):
    norm = "slaney" if mel.unit_area else None
    size = (mel.fft // 2 + 1, mel.bins, mel.low, mel.top, mel.rate)
    theirs = mel_filter_bank(*size, norm=norm, mel_scale=mel.scale)
    np.testing.assert_allclose(filters(mel), theirs.T, rtol=1e-9, atol=1e-12)
    x = sound(4321)
    expected = spectrogram(
        x.astype(np.float64),
        window_function(mel.window, "hann"),
        frame_length=mel.window,
        hop_length=mel.hop,
        fft_length=mel.fft,
        power=2.0,
        center=mel.centred,
        mel_filters=theirs,
        mel_floor=mel.floor,
        log_mel="log10",
        dtype=np.float64,
    )
    found = log_mel(x, mel)
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_same_as_whisper_sees():
    x = sound(8000)
    theirs = WhisperFeatureExtractor(feature_size=80, chunk_length=1)
    expected = theirs(x, sampling_rate=16_000, return_tensors="np")["input_features"][0]
    levels = log_mel(np.pad(x, (0, 8000)), Mel())[:, :-1]
    found = (np.maximum(levels, levels.max() - 8.0) + 4.0) / 4.0
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_pitch_goes_there_and_back(scale):
    hertz = np.linspace(0, 8000, 50)
    np.testing.assert_allclose(to_hertz(to_mel(hertz, scale), scale), hertz, atol=1e-6)
    assert (np.diff(to_mel(hertz, scale)) > 0).all()


def test_a_tone_is_loudest_in_its_filter():
    mel, time = Mel(bins=40), np.arange(8000) / 16_000
    for hertz in (300.0, 1000.0, 5000.0):
        levels = log_mel(np.sin(2 * np.pi * hertz * time), mel)[:, 10]
        assert filters(mel)[levels.argmax(), round(hertz / 40)] > 0


def test_bytes_lose_half_a_step_and_clip_what_is_beyond():
    levels = np.linspace(-7.0, 3.0, 1001)  # -70 to 30 dB
    lost = 10 * np.abs(from_bytes(to_bytes(levels, -70, 30), -70, 30) - levels)
    assert 0.15 < lost.max() < 100 / 510 + 1e-4
    assert to_bytes(np.array([-99.0, 99.0]), -70, 30).tolist() == [0, 255]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(scale="bark"), "scale='bark'"),
        (dict(fft=256), "fft=256 at least window"),
        (dict(low=9000.0), "must ascend between"),
        (dict(bins=200), "use fewer bins or a longer fft"),
    ],
)
def test_what_cannot_be_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        Mel(**given)


def test_sounds_that_have_no_frame():
    with pytest.raises(ValueError, match="at least one, not"):
        log_mel(np.zeros(0, np.float32), Mel())
    with pytest.raises(ValueError, match="shorter than a window"):
        log_mel(np.zeros(10, np.float32), Mel(centred=False))
