"""Noise, rooms and telephones (`mmscratch.kit.sound`)."""

import math

import pytest
import torch

from mmscratch.kit import data, sound


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    found = [data.speech(voice=voice, text="zero")[0].waveform[:6000] for voice in ("en-us", "en+f1")]
    return torch.stack(found)


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_noise_has_power_one_and_the_slope_asked_for(slope):
    x = sound.noise(3, 32_768, slope=slope, generator=seeded())
    torch.testing.assert_close(sound.power(x), torch.ones(3, 1))
    spectrum = torch.fft.rfft(x).abs().square().mean(0)
    octaves = torch.stack([spectrum[2**k : 2 ** (k + 1)].mean() for k in range(5, 14)]).log2()
    assert abs(-octaves.diff().mean() - slope) < 0.1


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
def test_noise_is_added_at_the_ratio_asked_for(speech, snr):
    noisy = sound.add_noise(speech, snr, generator=seeded())
    ratio = 10 * torch.log10(sound.power(speech) / sound.power(noisy - speech))
    torch.testing.assert_close(ratio, torch.full_like(ratio, snr), atol=1e-3, rtol=0)


def test_each_row_may_have_its_own_ratio_and_silence_stays_silent(speech):
    noisy = sound.add_noise(speech, torch.tensor([0.0, 30.0]), generator=seeded())
    ratio = 10 * torch.log10(sound.power(speech) / sound.power(noisy - speech))[:, 0]
    torch.testing.assert_close(ratio, torch.tensor([0.0, 30.0]), atol=1e-3, rtol=0)
    assert not sound.add_noise(torch.zeros(2, 100), 10.0).any()


def test_a_room_keeps_length_and_power_and_dies_away(speech):
    wet = sound.add_room(speech, decay=0.5, generator=seeded())
    assert wet.shape == speech.shape
    torch.testing.assert_close(sound.power(wet), sound.power(speech))
    click = torch.zeros(1, 16_000)
    click[0, 0] = 1
    echo = sound.add_room(click, decay=0.4, generator=seeded())[0]
    early, late = (echo[a : a + 800].square().mean() for a in (400, 4400))  # 0.25 s apart: 37.5 dB
    assert abs(10 * math.log10(early / late) - 37.5) < 3
    near = sound.add_room(speech, distance=0.0, generator=seeded())
    torch.testing.assert_close(near, speech, atol=1e-5, rtol=0)


def test_a_telephone_passes_its_band_alone(speech):
    narrow = sound.band_limit(speech, 3400, low=300)
    spectrum, hertz = torch.fft.rfft(narrow).abs(), torch.fft.rfftfreq(6000, 1 / 16_000)
    outside = (hertz < 299) | (hertz > 3401)
    assert spectrum[:, outside].max() < 1e-3
    torch.testing.assert_close(
        torch.fft.rfft(narrow)[:, ~outside], torch.fft.rfft(speech)[:, ~outside], atol=1e-3, rtol=0
    )


def test_the_same_generator_makes_the_same_sound(speech):
    for change in (
        lambda g: sound.add_noise(speech, 5.0, generator=g),
        lambda g: sound.add_room(speech, generator=g),
    ):
        assert torch.equal(change(seeded(3)), change(seeded(3)))
        assert not torch.equal(change(seeded(3)), change(seeded(4)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: sound.noise(1), "noise of at least two samples"),
        (lambda x: sound.add_noise(x, float("nan")), "one finite snr or"),
        (lambda x: sound.add_noise(x, torch.zeros(3)), "one finite snr or"),
        (lambda x: sound.add_noise(x.short(), 0.0), "floating waveforms"),
        (lambda x: sound.add_room(x, decay=0.0), "decay > 0"),
        (lambda x: sound.band_limit(x, 9000), "high <= 8000 Hz, got 0.0 and 9000"),
        (lambda x: sound.band_limit(x, 100, low=300), "low < high"),
    ],
)
def test_nonsense_is_refused(speech, call, message):
    with pytest.raises(ValueError, match=message):
        call(speech)
