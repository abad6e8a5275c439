"""The speech that ships in data/: what is said, by whom, how loud, and that it can be made again."""

import itertools
import json
import re
from pathlib import Path

import pytest
import torch

from mmscratch.kit import data, make_data, system, world

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture(scope="module")
def spoken() -> list[data.Utterance]:
    return data.speech()


def pitch(utterance: data.Utterance) -> float:
    """The middle of the fundamental frequencies in Hz, by autocorrelation of 40 ms windows."""
    windows = utterance.waveform.unfold(0, 640, 320)
    windows = windows[windows.square().mean(1) > 0.3 * windows.square().mean()]
    power = torch.fft.rfft(windows - windows.mean(1, keepdim=True), 2048).abs().square()
    alike = torch.fft.irfft(power)[:, :640]
    lags = slice(16_000 // 400, 16_000 // 60)
    best = alike[:, lags].argmax(1) + lags.start
    return float((16_000 / best).median())


def test_every_voice_says_every_text(spoken):
    texts = make_data.SENTENCES + make_data.DIGITS
    said = [(u.voice, u.text) for u in spoken]
    assert said == list(itertools.product([voice.name for voice in make_data.VOICES], texts))
    assert 10 <= len(make_data.SENTENCES) <= 12 and len(make_data.DIGITS) == 10
    assert len(repr(spoken[0])) < 100  # a list of them can be printed


def test_utterances_are_mono_sound_of_sane_length_and_level(spoken):
    for u in spoken:
        assert u.rate == 16_000 and u.waveform.dtype == torch.float32 and u.waveform.ndim == 1
        syllables = len(re.findall(r"[aeiouy]+", u.text.replace("e ", " ")))
        assert 0.08 * syllables < u.seconds < 0.7 * syllables, u
        assert abs(u.waveform.abs().max() - 0.5) < 1e-4
        assert u.waveform.square().mean().sqrt() > 0.04
        assert abs(u.waveform.mean()) < 0.01


def test_silence_is_trimmed_and_no_utterance_is_cut(spoken):
    for u in spoken:
        loud = (u.waveform.abs() > 0.01 * u.waveform.abs().max()).nonzero().flatten()
        # 20 ms on either side, up to rounding, and quiet
        assert abs(loud[0] - 320) <= 1 and abs(len(u.waveform) - 1 - loud[-1] - 320) <= 1
        assert u.waveform[:32].abs().max() < 0.02 and u.waveform[-32:].abs().max() < 0.02, u


def test_a_voice_is_in_one_split_and_test_voices_are_new(spoken):
    voices = {split: {u.voice for u in spoken if u.split == split} for split in ("train", "test")}
    assert len(voices["train"]) >= 4 and len(voices["test"]) >= 1
    assert voices["train"].isdisjoint(voices["test"])
    accents, tracts = (
        {
            split: {name.split("+")[part] for name in names if name.count("+") >= part}
            for split, names in voices.items()
        }
        for part in (0, 1)
    )
    assert accents["train"].isdisjoint(accents["test"]) and tracts["train"].isdisjoint(tracts["test"])


def test_voices_differ_as_women_and_men_do(spoken):
    described = {voice.name: voice.description for voice in make_data.VOICES}
    pitches = {u.voice: pitch(u) for u in spoken if u.text == "how many red objects are there?"}
    female = [hertz for name, hertz in pitches.items() if "female" in described[name]]
    male = [hertz for name, hertz in pitches.items() if "female" not in described[name]]
    assert len(female) == len(male) == 3
    assert 70 < min(male) and max(male) + 20 < min(female) and max(female) < 260, pitches


def test_offsets_fit_the_words(spoken):
    # the same sentences are the long ones in every voice; a slip by one utterance would show
    lengths = torch.tensor([u.seconds for u in spoken]).view(len(make_data.VOICES), -1).log()
    assert torch.corrcoef(lengths).min() > 0.97
    slipped = torch.cat((lengths[:1], lengths[1:].roll(1, 1)))
    assert torch.corrcoef(slipped)[0, 1:].max() < 0.85


def test_no_two_voices_are_the_same_sound(spoken):
    # espeak-ng ignores in silence a setting that it cannot apply
    for a, b in itertools.combinations([u.waveform for u in spoken if u.text == "seven"], 2):
        assert len(a) != len(b) or not torch.allclose(a, b, atol=0.01)


def test_sentences_speak_about_the_tiny_world_with_every_colour_and_shape():
    known = {*world.VOCABULARY, *make_data.DIGITS}
    used = set(re.findall(r"\w+|\?", " ".join(make_data.SENTENCES + make_data.DIGITS)))
    assert used <= known, used - known
    assert {*world.COLOUR_NAMES, *world.SHAPES, *world.SIZES} <= used


def test_filters_choose_and_combine(spoken):
    assert [u.text for u in data.speech(voice="en-us")] == [u.text for u in spoken if u.voice == "en-us"]
    assert {u.split for u in data.speech(split="test")} == {"test"}
    (seven,) = data.speech(voice="en-gb-scotland", text="seven")
    same = next(u for u in spoken if (u.voice, u.text) == ("en-gb-scotland", "seven"))
    assert torch.equal(seven.waveform, same.waveform)
    assert len(data.speech(text="seven")) == len(data.speech(split="train", text="seven")) + 2


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"voice": "en-au"}, r"voice of speech must be one of 'en-us', 'en-us\+f3', .*, not 'en-au'"),
        ({"split": "dev"}, "split of speech must be one of 'train', 'test', not 'dev'"),
        ({"text": "ten"}, "text of speech must be one of 'a small red circle .*, not 'ten'"),
        ({"voice": "en-us", "split": "test"}, "voice 'en-us' is in split 'train', not in 'test'"),
    ],
)
def test_what_nobody_says_is_refused_with_what_there_is(filters, message):
    with pytest.raises(ValueError, match=message):
        data.speech(**filters)


def test_a_reader_may_change_a_waveform():
    (before,) = data.speech(voice="en-us", text="one")
    kept = before.waveform.clone()
    before.waveform.zero_()
    assert torch.equal(data.speech(voice="en-us", text="one")[0].waveform, kept)


def test_speech_stays_within_its_budget_and_says_what_made_it():
    entries = {name: entry for name, entry in data.manifest().items() if name.startswith("speech/")}
    sums = entries.pop("speech/fsdd.json")
    assert sums["licence"] == "CC-BY-4.0" and "CC BY-SA 4.0" in sums["credit"]
    assert len(entries) == len(make_data.VOICES) + 1 + len(make_data.READERS) + 1
    sizes = {name: entry["bytes"] for name, entry in entries.items()}
    assert sum(size for name, size in sizes.items() if "reading" in name) < 3_000_000
    assert sum(size for name, size in sizes.items() if "reading" not in name) < 3_000_000
    for entry in entries.values():
        assert entry["licence"] == "CC-BY-4.0" and entry["rebuild"].endswith("make_data speech")
        assert f"synthesised by this book with espeak-ng {make_data.ESPEAK_VERSION};" in entry["origin"]
    index = json.loads((DATA / "speech/speech.json").read_text())
    for kept, voice in zip(index["voices"], make_data.VOICES, strict=True):
        assert {key: kept[key] for key in voice._fields} == voice._asdict()


# -- the builder


def test_builder_says_how_to_get_espeak_and_refuses_another_version(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(make_data.BuildError, match="espeak-ng is missing .* sudo apt-get install espeak-ng"):
        make_data.build_speech()
    program = tmp_path / "espeak-ng"
    program.write_text("#!/bin/sh\necho 'eSpeak NG text-to-speech: 1.52.0  Data at: /usr/share'\n")
    program.chmod(0o755)
    with pytest.raises(make_data.BuildError, match="espeak-ng 1.51 is needed .* found: .* 1.52.0"):
        make_data.build_speech()


@pytest.fixture
def espeak():
    """The very espeak-ng that made the speech, or the test is skipped."""
    if system.find("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    pytest.importorskip("scipy")
    try:
        make_data.check_espeak()
    except make_data.BuildError as other:
        pytest.skip(str(other))


def test_the_same_espeak_says_the_same_to_the_byte(espeak):
    voice = make_data.VOICES[-1]
    content, ends = make_data.speak_all(voice, make_data.SENTENCES + make_data.DIGITS)
    kept = json.loads((DATA / "speech/speech.json").read_text())["voices"][-1]
    assert ends == kept["ends"] and content == (DATA / kept["file"]).read_bytes()


# -- readings, for training


@pytest.fixture(scope="module")
def readings() -> list[data.Utterance]:
    return data.readings()


def test_readers_are_in_one_split_and_training_voices_share_neither_accent_nor_tract(readings):
    voices = {s: {u.voice for u in readings if u.split == s} for s in ("train", "dev", "test")}
    assert [len(names) for names in voices.values()] == [18, 2, 4]
    rest = voices["dev"] | voices["test"]
    assert voices["dev"].isdisjoint(voices["test"])
    for part in (0, 1):
        ours, theirs = (
            {name.split("+")[part] for name in names if name.count("+") >= part}
            for names in (voices["train"], rest)
        )
        assert ours.isdisjoint(theirs), part


def test_no_text_but_a_word_is_read_twice_and_training_readers_say_every_word(readings):
    texts = [u.text for u in readings if u.kind != "word"]
    assert len(set(texts)) == len(texts) == 24 * (make_data.READ_SENTENCES + make_data.READ_DIGITS)
    words = make_data.reading_words()
    for voice in {u.voice for u in readings if u.split == "train"}:
        assert [u.text for u in data.readings(voice=voice, kind="word")] == words
    assert {u.split for u in readings if u.kind == "word"} == {"train"}
    assert {w for text in texts for w in re.findall("[a-z]+", text)} <= set(words)
    assert set(make_data.DIGITS) <= set(words) and data.DIGIT_WORDS == make_data.DIGITS


def test_readings_are_mono_sound_of_sane_length_and_begin_where_they_should(readings):
    for u in readings:
        assert u.rate == 16_000 and u.waveform.ndim == 1 and u.waveform.dtype == torch.float32
        syllables = len(re.findall(r"[aeiouy]+", u.text.replace("e ", " ")))
        assert 0.06 * syllables < u.seconds < 0.8 * syllables, u
        assert 0.2 < u.waveform.abs().max() <= 1
        # Opus smears a little into the 20 ms of silence at the ends
        assert u.waveform[:160].abs().max() < 0.15 and u.waveform[-160:].abs().max() < 0.15, u


def test_readings_can_be_chosen_and_refused(readings):
    chosen = data.readings(split="test", kind="digits")
    assert [u.text for u in chosen] == [u.text for u in readings if (u.split, u.kind) == ("test", "digits")]
    for filters, message in (
        ({"split": "valid"}, "split of readings must be one of 'train', 'dev', 'test', not 'valid'"),
        ({"kind": "song"}, "kind of readings must be one of 'sentence', 'digits', 'word', not 'song'"),
        ({"voice": "en-au"}, "voice of readings must be one of 'en-us', .*, not 'en-au'"),
        (
            {"split": "test", "kind": "word"},
            "no reading is in split 'test', of kind 'word' and by voice None",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            data.readings(**filters)


def test_the_same_texts_are_drawn_again():
    index = json.loads((DATA / "speech/readings.json").read_text())
    said: set[str] = set()
    for number, (kept, voice) in enumerate(zip(index["voices"], make_data.READERS, strict=True)):
        assert {key: kept[key] for key in voice._fields} == voice._asdict()
        if number < 3:
            texts, kinds = make_data.reading_texts(number, said)
            assert (texts, kinds) == (kept["texts"], kept["kinds"])


def test_the_same_espeak_reads_the_same_again_to_the_byte(espeak):
    kept = json.loads((DATA / "speech/readings.json").read_text())["voices"][-1]
    content, ends = make_data.speak_all(make_data.READERS[-1], kept["texts"], opus=True)
    assert ends == kept["ends"]
    if content != (DATA / kept["file"]).read_bytes():  # another processor may round the codec otherwise
        import io

        import soundfile

        again, _ = soundfile.read(io.BytesIO(content))
        before, _ = soundfile.read(DATA / kept["file"])
        assert abs(again - before).max() < 1e-3


# -- real digits


def test_real_digits_are_looked_for_locally_and_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "_cache", lambda: tmp_path / "cache")

    def unreachable(*_):
        raise ConnectionError("no network")

    monkeypatch.setattr(data, "_retrieve", unreachable)
    monkeypatch.setenv("MMSCRATCH_DATA_DIR", str(tmp_path))
    folder = tmp_path / "fsdd/recordings"
    folder.mkdir(parents=True)
    (folder / "0_george_0.wav").write_bytes(b"not the recording")
    assert data.real_digits() == []
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "skipped (ConnectionError; set MMSCRATCH_DATA_DIR" in said


def test_real_digits_are_fetched_file_by_file_with_their_checksums(tmp_path, monkeypatch):
    asked = []

    def retrieve(url, sha256, destination):
        asked.append((url, sha256))
        destination.parent.mkdir(parents=True, exist_ok=True)
        import soundfile

        soundfile.write(destination, [0.0, 0.1, 0.0], 8000)

    monkeypatch.setattr(data, "_cache", lambda: tmp_path)
    monkeypatch.setattr(data, "_retrieve", retrieve)
    monkeypatch.delenv("MMSCRATCH_DATA_DIR", raising=False)
    found = data.real_digits("train", speaker="theo")
    assert len(found) == len(asked) == 50 and {u.text for u in found} == set(data.DIGIT_WORDS)
    index = json.loads((DATA / "speech/fsdd.json").read_text())
    assert asked[0] == (
        "https://raw.githubusercontent.com/Jakobovski/free-spoken-digit-dataset/"
        f"{index['commit']}/recordings/0_theo_5.wav",
        index["sha256"]["0_theo_5"],
    )


def test_real_digits_refuse_what_there_is_not():
    with pytest.raises(ValueError, match="split of real digits must be one of 'train', 'test', not 'dev'"):
        data.real_digits("dev")
    with pytest.raises(ValueError, match="speaker of real digits must be one of 'george', .*, not 'anna'"):
        data.real_digits(speaker="anna")


def test_a_local_copy_of_the_real_digits_is_read_where_there_is_one():
    found = data.real_digits()
    if not found:
        pytest.skip("no copy of the recordings here")
    assert len(found) == 300 and {u.rate for u in found} == {8000} and len({u.voice for u in found}) == 6
    assert all(0.1 < u.seconds < 2.5 and u.waveform.abs().max() <= 1 for u in found)
