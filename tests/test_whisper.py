"""What `mmscratch.whisper` promises beside equality with the libraries (`tests/parity/whisper.py`)."""

from __future__ import annotations

import functools
import itertools
import math
import random

import pytest
import refusals
import torch
import torch.nn.functional as F
from torch import Tensor

from mmscratch import whisper
from mmscratch.kit import data, reference
from mmscratch.transformer import KVCache
from mmscratch.whisper import Tokens, Whisper

END, START, EN, DE, SAY, TRANSLATE, SILENT, NO_TIMES = range(40, 48)
TIME0, V = NO_TIMES + 1, 61
TOKENS = Tokens(
    start=START, end=END, languages={"en": EN, "de": DE}, tasks={"transcribe": SAY, "translate": TRANSLATE},
    no_timestamps=NO_TIMES, no_speech=SILENT, latest_first=5,
)  # fmt: skip


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(seed: int = 0, **options) -> Whisper:
    shape = dict(n_mels=20, dim=24, depth=2, num_heads=4, audio_positions=15, text_positions=24) | options
    return reference.randomise(Whisper(V, **shape), seed).eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


# -- Fourier, mel, log


@pytest.mark.parametrize("n", [1, 2, 8, 256])
def test_fft_is_the_sum_it_stands_for_and_keeps_energy(n):
    x = noise(3, n).double()
    k = torch.arange(n, dtype=torch.float64)
    slow = (x[:, None] * torch.exp(-2j * math.pi * k[:, None] * k / n)).sum(-1)
    torch.testing.assert_close(whisper.fft(x), slow)
    torch.testing.assert_close(whisper.fft(x).abs().square().sum(1) / n, x.square().sum(1))


@pytest.mark.parametrize("scale", whisper.MEL_SCALES)
def test_mel_scales_are_inverted_rise_and_agree_at_a_thousand_hertz(scale):
    hertz = torch.linspace(0, 8000, 501, dtype=torch.float64)
    mel = whisper.to_mel(hertz, scale)
    torch.testing.assert_close(whisper.from_mel(mel, scale), hertz)
    assert (mel.diff() > 0).all()
    at = whisper.to_mel(torch.tensor(1000.0, dtype=torch.float64), scale)
    assert abs(at - {"slaney": 15, "htk": 1000}[scale]) < 0.02


@pytest.mark.parametrize("n_mels", [80, 128])
def test_every_band_is_one_triangle_and_centres_rise(n_mels):
    filters = whisper.mel_filters(n_mels)
    assert filters.shape == (n_mels, 201) and filters.min() == 0
    assert (filters.sum(1) > 0).all()  # no band falls between two frequencies
    peaks = filters.argmax(1)
    assert (peaks.diff() >= 0).all()
    for band in filters:
        where = band.nonzero().flatten()
        assert len(where) == where[-1] - where[0] + 1
        assert ((band[where].diff() > 0).int().diff() <= 0).all()  # rises, then falls


def test_the_library_has_the_same_filters():
    from transformers import WhisperFeatureExtractor

    for n_mels in (80, 128):
        theirs = torch.from_numpy(WhisperFeatureExtractor(feature_size=n_mels).mel_filters).T.float()
        torch.testing.assert_close(whisper.mel_filters(n_mels), theirs, atol=1e-9, rtol=1e-6)


def test_one_hop_later_is_one_frame_later_and_louder_is_a_step_up():
    x = data.speech(voice="en-us", text="seven")[0].waveform
    quiet = whisper.log_mel(x)
    assert quiet.shape == (80, len(x) // 160)
    later = whisper.log_mel(F.pad(x, (160, 0)))
    torch.testing.assert_close(later[:, 4:-3], quiet[:, 3:-3], atol=1e-4, rtol=0)
    torch.testing.assert_close(whisper.log_mel(10 * x), quiet + 0.5, atol=1e-4, rtol=0)
    assert quiet.max() - quiet.min() <= 2 + 1e-6


def test_a_batch_is_its_rows_each_with_a_floor_of_its_own():
    waves = noise(3, 4000) * torch.tensor([[1.0], [1e-3], [0.0]])
    rows = torch.stack([whisper.log_mel(w) for w in waves])
    torch.testing.assert_close(whisper.log_mels(waves), rows, atol=1e-6, rtol=0)
    assert (rows[2] == rows[2, 0, 0]).all()  # silence is flat, and finite


@pytest.mark.parametrize("length", [201, 1000, 16_001, 500_000])
def test_any_length_of_any_number_type(length):
    x = noise(length)
    assert whisper.log_mel(x).shape == (80, length // 160)
    torch.testing.assert_close(whisper.log_mel(x.double()), whisper.log_mel(x))
    torch.testing.assert_close(whisper.log_mel(x.numpy()), whisper.log_mel(x))


@pytest.mark.parametrize(
    ("rate", "new_rate"), [(8000, 16_000), (44_100, 16_000), (48_000, 16_000), (16_000, 8000)]
)
def test_resampling_keeps_what_fits_and_stops_what_does_not(rate, new_rate):
    t, limit = torch.arange(rate, dtype=torch.float64) / rate, min(rate, new_rate) / 2
    inside = (t - 0.5).abs() < 0.4
    low = whisper.resample(torch.sin(2 * math.pi * 440 * t), rate, new_rate)
    assert len(low) == new_rate
    s = torch.arange(new_rate, dtype=torch.float64) / new_rate
    middle = (s - 0.5).abs() < 0.4
    torch.testing.assert_close(low[middle], torch.sin(2 * math.pi * 440 * s)[middle], atol=2e-3, rtol=0)
    if rate > new_rate:
        high = torch.sin(2 * math.pi * 1.15 * limit * t)
        kept = whisper.resample(high, rate, new_rate)[middle].square().mean()
        assert kept < 1e-3 * high[inside].square().mean()


def test_resampling_takes_batches_any_length_and_leaves_equal_rates_alone():
    x = noise(2, 3, 777)
    assert whisper.resample(x, 16_000) is x
    both = whisper.resample(x, 44_100)
    assert both.shape == (2, 3, math.ceil(777 * 160 / 441))
    torch.testing.assert_close(both[1, 2], whisper.resample(x[1, 2], 44_100))
    for length in range(1, 30):
        assert len(whisper.resample(noise(length), 11_025)) == math.ceil(length * 640 / 441)


# -- the network


def test_a_bias_on_keys_would_change_nothing():
    model, features = small(), noise(2, 20, 30)
    before = model.encode(features)
    qkv = model.encoder.stack.blocks[0].attention.qkv
    plain = torch.nn.Linear(24, 72)
    with torch.no_grad():
        plain.weight.copy_(qkv.weight)
        plain.bias.copy_(torch.cat([qkv.q_bias, noise(24), qkv.v_bias]))
    model.encoder.stack.blocks[0].attention.qkv = plain
    torch.testing.assert_close(model.encode(features), before, atol=1e-5, rtol=0)


def test_local_blocks_see_their_neighbours_and_whisper_has_none():
    torch.manual_seed(0)
    block = whisper.LocalBlock(6, kernel=5).eval()
    x = torch.randn(1, 6, 20)
    other = x.clone()
    other[0, :, 9] += 1
    changed = (block(x) - block(other)).abs().amax(dim=(0, 1)) > 0
    assert changed.nonzero().flatten().tolist() == [7, 8, 9, 10, 11]
    options = dict(n_mels=4, dim=8, depth=1, num_heads=2, audio_positions=6, text_positions=4)
    plain, local = (whisper.Whisper(6, local_blocks=n, **options).encoder for n in (0, 2))
    assert {name.split(".")[0] for name in local.state_dict().keys() - plain.state_dict().keys()} == {
        "norm1", "norm2", "local",
    }  # fmt: skip
    assert local.eval()(torch.randn(2, 4, 9)).shape == (2, 5, 8)


def test_frames_become_half_as_many_states_and_may_be_fewer_than_the_window():
    model = small()
    for frames in (1, 2, 7, 30):
        assert model.encode(noise(1, 20, frames)).shape == (1, -(-frames // 2), 24)


def test_the_decoder_sees_no_later_word_and_all_of_the_sound():
    model, features, ids = small(), noise(1, 20, 30), torch.randint(0, V, (1, 8), generator=seeded(0))
    before = model(features, ids)
    later = ids.clone()
    later[0, 5] = (later[0, 5] + 1) % V
    torch.testing.assert_close(model(features, later)[:, :5], before[:, :5])
    assert not torch.allclose(model(features, later)[:, 5:], before[:, 5:])
    other = features.clone()
    other[..., -1] += 1
    assert not torch.allclose(model(other, ids)[:, 0], before[:, 0])


def test_the_cache_gives_the_same_logits_and_reads_the_sound_once():
    model, ids = small(), torch.randint(0, V, (3, 9), generator=seeded(0))
    with torch.no_grad():
        states = model.encode(noise(3, 20, 30))
        whole = model.decode(ids, states)
        cache = KVCache(model.decoder, 3, 9)
        parts = [model.decode(ids[:, :4], states, cache)]
        kept = cache.layers[0].context
        parts += [model.decode(ids[:, t : t + 1], states, cache) for t in range(4, 9)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)
    assert cache.layers[0].context is kept


def test_shift_right_and_loss():
    labels = torch.tensor([[5, 6, 7], [8, -100, -100]])
    assert whisper.shift_right(labels, 1, 0).tolist() == [[1, 5, 6], [1, 8, 0]]
    logits = noise(2, 3, 9)
    chances = logits.log_softmax(-1)
    expected = -(chances[0, 0, 5] + chances[0, 1, 6] + chances[0, 2, 7] + chances[1, 0, 8]) / 4
    torch.testing.assert_close(whisper.transcript_loss(logits, labels), expected)


# -- what may be said


def test_prompts_say_language_task_and_times():
    assert TOKENS.prompt() == [START, EN, SAY]
    assert TOKENS.prompt("de", "translate", timestamps=False) == [START, DE, TRANSLATE, NO_TIMES]
    one = Tokens(start=1, end=0, languages={}, tasks={}, no_timestamps=2)
    assert one.prompt() == [1] and one.prompt(timestamps=False) == [1, 2]
    assert TOKENS.seconds(TIME0) == 0 and abs(TOKENS.seconds(TIME0 + 7) - 0.14) < 1e-9


def test_timestamp_rules_are_the_library_s():
    from transformers import GenerationConfig
    from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

    for latest in (None, 5):
        settings = GenerationConfig(eos_token_id=END)
        settings.no_timestamps_token_id, settings.max_initial_timestamp_index = NO_TIMES, latest
        theirs = WhisperTimeStampLogitsProcessor(settings, begin_index=3)
        tokens = Tokens(
            start=START, end=END, languages={"en": EN}, tasks={"transcribe": SAY}, no_timestamps=NO_TIMES,
            latest_first=latest,
        )  # fmt: skip
        g = seeded(0)
        for n, _ in itertools.product(range(7), range(40)):
            times = torch.randint(TIME0, V, (4, n), generator=g)
            words = torch.randint(0, V, (4, n), generator=g)
            said = torch.where(torch.rand(4, n, generator=g) < 0.5, times, words)
            logits = 3 * torch.randn(4, V, generator=g)
            expected = theirs(torch.cat([torch.full((4, 3), START), said], dim=1), logits)
            assert torch.equal(whisper.timestamp_rules(logits, said, tokens), expected)


def test_rules_leave_the_logits_they_were_given_alone():
    logits = noise(2, V)
    before = logits.clone()
    whisper.timestamp_rules(logits, torch.full((2, 1), TIME0), TOKENS)
    assert torch.equal(logits, before)


def test_suppressed_tokens_are_never_said_and_some_not_first():
    tokens = Tokens(
        start=START, end=END, languages={"en": EN}, tasks={"transcribe": SAY}, no_timestamps=NO_TIMES,
        suppress=(3, 4), suppress_first=(END, 5),
    )  # fmt: skip
    rules = whisper.output_rules(tokens, 4, timestamps=False)
    first = rules(torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, V))
    assert (first == -math.inf).nonzero()[:, 1].tolist() == [3, 4, 5, END]
    later = rules(torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, V))
    assert (later == -math.inf).nonzero()[:, 1].tolist() == [3, 4]


def test_a_wide_beam_finds_the_best_of_all_sentences():
    for seed in range(5):
        model = reference.randomise(
            Whisper(6, n_mels=4, dim=8, depth=1, num_heads=2, audio_positions=6, text_positions=4), seed
        ).eval()
        with torch.no_grad():
            states, scores = model.encode(noise(1, 4, 9, seed=seed)), {}
            for first, second in itertools.product(range(6), repeat=2):
                chances = model.decode(torch.tensor([[1, first]]), states).log_softmax(-1)[0]
                if first == 5:
                    scores[()] = chances[0, 5].item()
                else:
                    both = (chances[0, first] + chances[1, second]).item() / 2
                    scores[(first,) if second == 5 else (first, second)] = both
        found = whisper.beam_search(model, states, [1], end=5, beams=6, max_new_tokens=2)[0]
        assert tuple(found) == max(scores, key=scores.get)


@pytest.mark.parametrize(("beams", "timestamps"), list(itertools.product((1, 3), (True, False))))
def test_rows_of_a_batch_do_not_mix(beams, timestamps):
    model, features = small(), noise(4, 20, 30)
    options = dict(beams=beams, timestamps=timestamps, max_new_tokens=12)
    together = whisper.write(model, features, TOKENS, **options)
    alone = [whisper.write(model, features[i : i + 1], TOKENS, **options)[0] for i in range(4)]
    assert together == alone


# -- long sound


@functools.cache
def library(seed: int):
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=V, num_mel_bins=20, d_model=24, encoder_layers=2, encoder_attention_heads=4,
        encoder_ffn_dim=40, decoder_layers=2, decoder_attention_heads=3, decoder_ffn_dim=56,
        max_source_positions=15, max_target_positions=14, pad_token_id=0, bos_token_id=1, eos_token_id=END,
        decoder_start_token_id=START,
    )  # fmt: skip
    model = reference.randomise(WhisperForConditionalGeneration(config), seed).eval()
    with torch.no_grad():  # tied to the head: some models end early, some never
        model.proj_out.weight[END] += 0.4 * (seed % 3)
    settings = dict(
        decoder_start_token_id=START, eos_token_id=END, pad_token_id=END, no_timestamps_token_id=NO_TIMES,
        lang_to_id={"<|en|>": EN, "<|de|>": DE}, task_to_id={"transcribe": SAY, "translate": TRANSLATE},
        is_multilingual=True, max_initial_timestamp_index=5, suppress_tokens=[9], max_length=14,
        begin_suppress_tokens=[8, END],
    )  # fmt: skip
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("seed", "beams", "frames"), [*itertools.product(range(6), (1, 3), (30, 41)), (0, 1, 211), (1, 3, 130)]
)
def test_whole_transcripts_are_the_library_s_with_their_times(seed, beams, frames):
    model = library(seed)
    ours, tokens = whisper.from_transformers(model), whisper.tokens_of(model)
    features = noise(1, 20, frames, seed=seed)
    longer = dict(attention_mask=torch.ones(1, frames)) if frames > 30 else {}
    theirs = model.generate(
        features, return_timestamps=True, language="en", task="transcribe", num_beams=beams,
        return_segments=True, **longer,
    )["segments"][0]  # fmt: skip
    mine = whisper.transcribe_features(ours, features[0], tokens, no_speech=None, fill=0.0, beams=beams)
    assert [s.ids for s in mine] == [tuple(t["tokens"].tolist()) for t in theirs]
    for s, t in zip(mine, theirs, strict=True):
        assert abs(s.start - float(t["start"])) < 1e-6 and abs(s.end - float(t["end"])) < 1e-6


@pytest.mark.parametrize(
    ("ids", "spans", "move"),
    [
        ([TIME0, 1, TIME0 + 9], [(0.0, 0.18, [TIME0, 1, TIME0 + 9])], 0.3),  # all was heard
        ([TIME0, 1, 2], [(0.0, 0.3, [TIME0, 1, 2])], 0.3),  # one open segment: all of it
        ([1, 2], [(0.0, 0.3, [1, 2])], 0.3),  # no times at all
        ([], [(0.0, 0.3, [])], 0.3),
        (
            [TIME0 + 1, 1, TIME0 + 4, TIME0 + 5, 2, 3],  # the second sentence was cut off
            [(0.02, 0.08, [TIME0 + 1, 1, TIME0 + 4, TIME0 + 5])],
            0.08,
        ),
        (
            [TIME0 + 1, 1, TIME0 + 4, TIME0 + 5, 2, TIME0 + 8],
            [(0.02, 0.08, [TIME0 + 1, 1, TIME0 + 4]), (0.1, 0.16, [TIME0 + 5, 2, TIME0 + 8])],
            0.3,
        ),
    ],
)
def test_a_window_is_cut_where_times_stand_in_pairs(ids, spans, move):
    found, moved = whisper.split_segments(ids, TOKENS, 0.3, offset=2.0)
    assert [(round(s.start, 6), round(s.end, 6), list(s.ids)) for s in found] == [
        (2.0 + a, 2.0 + b, piece) for a, b, piece in spans
    ]
    assert abs(moved - move) < 1e-9


def test_the_window_moves_by_what_was_closed_and_all_sound_is_passed(monkeypatch):
    scripts = iter([[TIME0 + 1, 1, TIME0 + 10, TIME0 + 11], [TIME0, 2, TIME0 + 12], [3]])
    seen = []

    def write(model, features, tokens, **options):
        seen.append(features)
        return [next(scripts)]

    monkeypatch.setattr(whisper, "write", write)
    features = torch.arange(60.0).expand(20, 60)
    found = whisper.transcribe_features(small(), features, TOKENS, no_speech=None)
    assert [int(f[0, 0, 0]) for f in seen] == [0, 20, 50]  # 0.20 s, then a whole window
    assert all(f.shape == (1, 20, 30) for f in seen) and (seen[2][0, 0, 10:] == 0).all()
    assert [(round(s.start, 2), round(s.end, 2)) for s in found] == [(0.02, 0.2), (0.2, 0.44), (0.5, 0.6)]


def test_silent_windows_are_passed_over_only_where_asked(monkeypatch):
    monkeypatch.setattr(
        whisper, "silence", lambda model, window, tokens: 0.7 if window[0, 0, 0] < 30 else 0.1
    )
    monkeypatch.setattr(whisper, "write", lambda *inputs, **options: [[1]])
    features = torch.arange(60.0).expand(20, 60)
    for threshold, count in ((0.6, 1), (0.8, 2), (None, 2)):
        assert len(whisper.transcribe_features(small(), features, TOKENS, no_speech=threshold)) == count


def test_silence_is_the_chance_of_its_token_after_start():
    model, features = small(), noise(1, 20, 30)
    chance = model(features, torch.tensor([[START]]))[0, 0].softmax(-1)[SILENT].item()
    assert abs(whisper.silence(model, features, TOKENS) - chance) < 1e-6


def test_transcribe_is_its_features_and_hears_any_length():
    model = small()
    x = 0.1 * noise(16_000)
    found = whisper.transcribe(model, x, TOKENS, no_speech=None, max_new_tokens=6)
    features = whisper.log_mel(x, 20)
    assert found == whisper.transcribe_features(model, features, TOKENS, no_speech=None, max_new_tokens=6)
    assert all(0 <= s.start <= s.end for s in found)


# -- CTC


def test_ctc_sums_over_every_alignment():
    chances = noise(1, 4, 3).double().log_softmax(-1)
    for labels in ([1], [2, 2], [1, 2], [1, 2, 1]):
        ways = [p for p in itertools.product(range(3), repeat=4) if whisper.ctc_collapse(list(p)) == labels]
        total = sum(math.exp(sum(chances[0, s, c].item() for s, c in enumerate(p))) for p in ways)
        found = whisper.ctc_loss(
            chances, torch.tensor([labels]), torch.tensor([4]), torch.tensor([len(labels)])
        )
        torch.testing.assert_close(found.item(), -math.log(total))


def torch_ctc(x: Tensor, labels: Tensor, frames: Tensor, lengths: Tensor) -> Tensor:
    """torch's loss from scores: its gradient takes what it is given for normalised."""
    return F.ctc_loss(x.log_softmax(-1).transpose(0, 1), labels, frames, lengths, reduction="none")


def our_ctc(x: Tensor, labels: Tensor, frames: Tensor, lengths: Tensor) -> Tensor:
    return whisper.ctc_loss(x.log_softmax(-1), labels, frames, lengths)


WRONG_CTC = {
    "blank is last": lambda x, *rest: our_ctc(x.roll(-1, -1), *rest),
    "all frames count": lambda x, y, f, n: our_ctc(x, y, torch.full_like(f, x.shape[1]), n),
    "all labels count": lambda x, y, f, n: our_ctc(x, y, f, torch.full_like(n, y.shape[1])),
    "scores not normalised": whisper.ctc_loss,
    "a doubled letter needs no blank": lambda x, y, *rest: our_ctc(x, y.clone().fill_(1), *rest),
}


@pytest.mark.parametrize(
    ("steps", "classes", "frames", "lengths"),
    [
        (17, 6, [17, 12, 15], [5, 2, 3]),
        (7, 4, [7, 5], [0, 0]),  # nothing was said
        (5, 9, [5, 4], [4, 4]),  # no frame to spare
        (1, 5, [1], [1]),
        (120, 29, [120] * 4, [30, 7, 19, 1]),
    ],
)
def test_ctc_and_its_gradient_are_torch_s(steps, classes, frames, lengths):
    B, T = len(frames), max(*lengths, 1)
    labels = (torch.rand(B, classes - 1, generator=seeded(3)).argsort(1) + 1).repeat(1, 2)[:, :T]
    if steps == 17:
        labels[0, 1] = labels[0, 0]  # doubled: needs a blank between
    inputs = 2 * noise(B, steps, classes).double(), labels, torch.tensor(frames), torch.tensor(lengths)
    wrong = WRONG_CTC if steps == 17 else {}
    reference.compare(
        "CTC", lambda _: our_ctc, torch_ctc, inputs, bound=1e-9,
        wrong={name: lambda _, change=change: change for name, change in wrong.items()},
    ).check()  # fmt: skip


def test_ctc_of_the_impossible_is_infinite():
    chances = noise(1, 2, 3).log_softmax(-1)
    found = whisper.ctc_loss(chances, torch.tensor([[1, 1]]), torch.tensor([2]), torch.tensor([2]))
    assert found.item() > 1e6


def test_a_recogniser_spells_and_writes():
    model = whisper.Recogniser(small(), 5).eval()
    logits, spelling = model(noise(2, 20, 30), torch.randint(0, V, (2, 3)))
    assert logits.shape == (2, 3, V) and spelling.shape == (2, 15, 5)
    torch.testing.assert_close(spelling.exp().sum(-1), torch.ones(2, 15))
    spelt = model.spell(noise(2, 20, 30))
    assert len(spelt) == 2 and all(0 < i < 5 for row in spelt for i in row)


# -- errors and texts


def test_edit_distance_is_a_metric_that_counts_edits():
    rng = random.Random(0)
    assert whisper.edit_distance("kitten", "sitting") == 3 and whisper.edit_distance([1, 2], []) == 2
    for _ in range(100):
        a, b, c = (rng.choices("xyz", k=rng.randrange(8)) for _ in range(3))
        d = whisper.edit_distance
        assert d(a, b) == d(b, a) and d(a, a) == 0 and d(a, []) == len(a)
        assert (d(a, b) == 0) == (a == b) and abs(len(a) - len(b)) <= d(a, b) <= max(len(a), len(b))
        assert d(a, c) <= d(a, b) + d(b, c)


def test_error_rates_are_jiwer_s():
    jiwer = pytest.importorskip("jiwer")
    rng = random.Random(0)
    texts = [
        [" ".join(rng.choices(["red", "star", "a", "ring"], k=rng.randint(1, 8))) for _ in range(40)]
        for _ in range(2)
    ]
    texts[1][::7] = [""] * len(texts[1][::7])
    assert abs(whisper.word_error_rate(*texts) - jiwer.wer(*texts)) < 1e-12
    assert abs(whisper.character_error_rate(*texts) - jiwer.cer(*texts)) < 1e-12


def test_an_interval_holds_the_rate_and_narrows_with_more_texts():
    rng = random.Random(0)
    said = ["a b c d"] * 400
    heard = [rng.choice(["a b c d", "a b c", "a x c d"]) for _ in said]
    few, many = whisper.error_interval(said[:40], heard[:40]), whisper.error_interval(said, heard)
    for rate, low, high in (few, many):
        assert low <= rate <= high
    assert many[2] - many[1] < few[2] - few[1]
    assert whisper.error_interval(said, said) == (0.0, 0.0, 0.0)


def test_the_normaliser_is_whisper_s_basic_one():
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    theirs = BasicTextNormalizer()
    for text in (
        "What colour is it?", "Seven (laughs), two!", "[music] <noise> Ünïcode—and  ﬁ ligatures…", "3.5 %",
        "", "(a (b) c)", "Straße, naïve café", "tab\tand\nline",
    ):  # fmt: skip
        assert whisper.normalise(text) == theirs(text).strip()
    assert whisper.normalise("What COLOUR?", {"colour": "color"}) == "what color"


# -- templates


def test_time_warping_is_the_library_s_and_finds_a_stretched_copy():
    from transformers.models.whisper.generation_whisper import _dynamic_time_warping

    for shape in ((1, 1), (1, 7), (6, 1), (5, 9), (12, 4)):
        cost = noise(*shape).abs()
        total, path = whisper.dtw(cost)
        rows, columns = _dynamic_time_warping(cost.double().numpy())
        assert path == list(zip(rows.tolist(), columns.tolist(), strict=True))
        assert abs(total - sum(cost[i, j].item() for i, j in path)) < 1e-4
    x = noise(6, 3)
    assert (
        whisper.dtw(torch.cdist(x, x.repeat_interleave(3, 0), compute_mode="donot_use_mm_for_euclid_dist"))[0]
        < 1e-5
    )


def test_a_matcher_reads_rows_of_stretched_words_and_a_penalty_makes_fewer():
    words = {name: noise(9, 5, seed=i) for i, name in enumerate("abcd")}
    matcher = whisper.TemplateMatcher(list(words.items()))
    row = torch.cat([words[name].repeat_interleave(2, 0) for name in "bdda"])
    assert matcher.recognise(row, 0.5) == list("bdda")
    noisy = row + 0.3 * noise(*row.shape, seed=9)
    assert len(matcher.recognise(noisy, 1e6)) == 1


# -- bad input

SETUP = """
import json, sys
from mmscratch.whisper import *
foreign = {"transformers", "jiwer", "scipy", "matplotlib", "soundfile", "mmscratch.kit"} & sys.modules.keys()
assert not foreign, f"importing mmscratch.whisper also loads {foreign}"
import torch
from torch import nn, zeros, ones, tensor, randn
x = randn(16000)
bad = x.clone(); bad[3] = float("nan"); bad[5] = float("inf")
tokens = Tokens(start=41, end=40, languages={"en": 42}, tasks={"transcribe": 44}, no_timestamps=47)
model = Whisper(61, n_mels=20, dim=8, depth=1, num_heads=2, audio_positions=15, text_positions=12).eval()
f = randn(20, 30)
"""
WAVE = {
    "stereo": ("randn(2, 16000)", "ValueError: one channel (L,), got (2, 16000): average the channels"),
    "stereo, as files have it": ("randn(16000, 2)", "ValueError: one channel (L,), got (16000, 2)"),
    "integers": (
        "ones(16000, dtype=torch.int16)",
        "ValueError: floating samples in [-1, 1], got torch.int16: divide",
    ),
    "empty": ("zeros(0)", "ValueError: at least one sample, got an empty waveform"),
    "nan": ("bad", "ValueError: expected finite samples, got 2 that are nan or infinite"),
    "a list of words": ("'seven'", "TypeError: "),
}
RATE = "ValueError: expected 16000 samples a second, got 44100: resample(waveform, 44100) first"
CASES = {  # exported name: {wrong use: error and message, ".*" for anything between}
    "fft": {"fft(zeros(12))": "ValueError: a power of two as length, got 12"},
    "to_mel": {"to_mel(x, 'bark')": "ValueError: scale to be one of slaney, htk, got 'bark'"},
    "from_mel": {"from_mel(x, 'bark')": "ValueError: scale to be one of slaney, htk, got 'bark'"},
    "mel_filters": {"mel_filters(0)": "ValueError: n_mels >= 1, got 0"},
    "check_waveform": {f"check_waveform({source})": message for source, message in WAVE.values()}
    | {"check_waveform(x, 44100)": RATE},
    "log_mel": {f"log_mel({source})": message for source, message in WAVE.values()}
    | {
        "log_mel(x, rate=44100)": RATE,
        "log_mel(x[:200])": "ValueError: more than 200 samples, which are mirrored .*got (1, 200)",
        "log_mel(x, pad_to=8000)": "ValueError: at most 8000 samples, got 16000: transcribe() moves a window",
    },
    "log_mels": {"log_mels(x)": "ValueError: waveforms (B, L) .*got (16000,)"},
    "resample": {
        "resample(x, 0)": "ValueError: rates >= 1 .*got rates 0 and 16000",
        "resample(x.long(), 8000)": "ValueError: floating waveforms .*torch.int64",
        "resample(zeros(0), 8000)": "ValueError: floating waveforms (..., L), got .*(0,)",
    },
    "sinusoids": {"sinusoids(5, 7)": "ValueError: an even dim >= 4, got 7"},
    "Whisper": {
        "model(randn(1, 20, 31), tensor([[1]]))": "ValueError: at most 30 frames (0.3 s), got 31: trans",
        "model(randn(1, 80, 30), tensor([[1]]))": "ValueError: expected features (B, 20, L), got (1, 80, 30)",
        "model(f, tensor([[1]]))": "ValueError: expected features (B, 20, L), got (20, 30)",
        "model(randn(1, 20, 30), ones(1, 13).long())": "ValueError: at most max_positions 12 tokens, got 13",
        "Whisper(61, dim=10, num_heads=4)": "ValueError: dim 10 is not a multiple of num_heads 4",
    },
    "LocalBlock": {"LocalBlock(8, 4)": "ValueError: an odd kernel >= 1, got 4"},
    "Encoder": {"model.encoder(randn(1, 20, 0))": "ValueError: features (B, 20, L), got (1, 20, 0)"},
    "shift_right": {"shift_right(tensor([1, 2]), 1, 0)": "ValueError: labels (B, T), T >= 1, got (2,)"},
    "transcript_loss": {
        "transcript_loss(randn(2, 3, 5), ones(2, 4).long())": "ValueError: got (2, 3, 5) and (2, 4)"
    },
    "Tokens": {
        "tokens.prompt('fr')": "ValueError: language to be one of en, got 'fr'",
        "tokens.prompt(task='sing')": "ValueError: task to be one of transcribe, got 'sing'",
        "tokens.seconds(47)": "ValueError: a timestamp, an id above 47, got 47",
    },
    "timestamp_rules": {
        "timestamp_rules(randn(2, 61), ones(3, 1).long(), tokens)": "ValueError: got (2, 61) and (3, 1)",
        "timestamp_rules(randn(2, 40), ones(2, 1).long(), tokens)": "ValueError: logits (B, V > 48)",
    },
    "beam_search": {
        "beam_search(model, randn(1, 15, 8), [41], end=40, beams=0)": "ValueError: beams >= 1 .*got 0",
        "beam_search(model, randn(1, 15, 8), [41], end=40, max_new_tokens=0)": "ValueError: got 5 and 0",
    },
    "write": {
        "write(model, randn(1, 20, 31), tokens)": "ValueError: at most 30 frames",
        "write(model, randn(1, 20, 30), tokens, language='fr')": "ValueError: language to be one of en",
    },
    "transcribe_features": {
        "transcribe_features(model, f[None], tokens)": "ValueError: features (F, L), got (1, 20, 30)",
        "transcribe_features(model, randn(20, 31), tokens, timestamps=False)": "ValueError: L <= 30, as only "
        "timestamps move the window, got (20, 31)",
    },
    "transcribe": {f"transcribe(model, {source}, tokens)": message for source, message in WAVE.values()}
    | {
        "transcribe(model, x, tokens, rate=44100)": RATE,
        "transcribe(model, x, tokens, timestamps=False)": "ValueError: as only timestamps move the window",
    },
    "ctc_loss": {
        "ctc_loss(randn(3, 4), ones(3, 2).long(), tensor(4), tensor(2))": "ValueError: got (3, 4) and (3, 2)"
    },
    "word_errors": {
        "word_errors('a b', 'a b')": "ValueError: two lists of texts",
        "word_errors(['a'], ['a', 'b'])": "ValueError: two lists of texts of one length",
    },
    "word_error_rate": {"word_error_rate([''], ['a'])": "ValueError: at least one word in the references"},
    "character_error_rate": {"character_error_rate('ab', 'ab')": "ValueError: two lists of texts"},
    "error_interval": {"error_interval(['', ''], ['a', 'b'])": "ValueError: at least one word"},
    "dtw": {
        "dtw(zeros(0, 3))": "ValueError: finite costs (N, M), got (0, 3)",
        "dtw(zeros(3))": "ValueError: finite costs (N, M), got (3,)",
        "dtw(bad[None])": "ValueError: finite costs",
    },
    "TemplateMatcher": {
        "TemplateMatcher([])": "ValueError: at least one template, got none",
        "TemplateMatcher([('a', zeros(3, 4))]).recognise(zeros(2, 5))": "ValueError: T >= 1, got (2, 5)",
    },
    "from_transformers": {"from_transformers(nn.Linear(1, 1))": "TypeError: Generation, got Linear"},
}  # fmt: skip
WITHOUT_CASE = {
    "FROM_WHISPER": "a table",
    "HOP": "a number",
    "MEL_SCALES": "a table",
    "NoKeyBias": "a linear layer: torch checks",
    "N_FFT": "a number",
    "Recogniser": "its Whisper checks",
    "SAMPLE_RATE": "a number",
    "Segment": "what transcribe returns",
    "WhisperConfig": "checked where Whisper is built",
    "ctc_collapse": "takes any list",
    "drop_key_bias": "called by Whisper with its own stacks",
    "edit_distance": "takes any sequences",
    "join_keys_and_values": "called by from_transformers",
    "normalise": "takes any text",
    "output_rules": "what it returns is checked by timestamp_rules",
    "rate_of": "called by the error rates",
    "silence": "its Whisper checks",
    "sinc_filters": "called by resample, which checks",
    "split_segments": "takes any list of ids",
    "tokens_of": "reads what the library checked",
}

test_bad_input_is_refused, test_every_name_is_given_bad_input = refusals.tests(
    whisper, SETUP, CASES, WITHOUT_CASE
)
