import numpy as np
import pytest

from vlm_jax.data.notes import WAVES, Note, synthesise

RATE = 16_000


def play(*notes, seconds=9.0, noise=0.0, seed=0):
    return synthesise(notes, RATE, seconds, noise, np.random.default_rng(seed))


@pytest.mark.parametrize("timbre", WAVES)
def test_a_note_sounds_when_it_should_within_bounds(timbre):
    found = play(Note(timbre, 400.0, 0.2, 0.3, 1.0))
    assert found.dtype == np.float32 and len(found) == round(0.5 * RATE)
    assert np.abs(found).max() <= 1 and not found[: round(0.2 * RATE)].any()
    assert np.abs(found[round(0.25 * RATE) : round(0.45 * RATE)]).max() > 0.1


def test_no_harmonic_comes_back_from_above_half_the_rate():
    for timbre in WAVES:
        spectrum = np.abs(np.fft.rfft(play(Note(timbre, 1700.0, 0.0, 1.0, 1.0))))
        assert spectrum.argmax() * RATE / (2 * len(spectrum)) < 5200


def test_timbres_differ_at_equal_pitch():
    spectra = [np.abs(np.fft.rfft(play(Note(name, 500.0, 0.0, 0.5, 1.0)))) for name in WAVES]
    levels = [20 * np.log10(np.maximum(x / x.max(), 0.03)) for x in spectra]  # 30 dB
    for i, one in enumerate(levels):
        assert all(np.abs(one - other).max() > 8 for other in levels[:i])


def test_the_seed_and_the_limit():
    note = Note("pure", 400.0, 0.0, 0.3, 0.5)
    np.testing.assert_array_equal(play(note, noise=0.1), play(note, noise=0.1))
    assert (play(note, noise=0.1) != play(note, noise=0.1, seed=1)).any()
    assert len(play(note, seconds=0.1)) == 1600 and len(play()) == 1
