"""`mmscratch.whisper` against transformers, torch and scipy: features, logits, losses, over awkward sizes.

Bands, frames, states, words, heads and widths all differ from one another, so that a swapped axis shows. Each
mutant breaks ours in one way; the comparison must notice.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import nn

from mmscratch.kit.reference import Case, mutants


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------------------------
# Log-mel features. The library works in NumPy, so inputs are numbers that a waveform is made from.


@functools.cache
def wave(length):
    """Noise under a tone that comes and goes, with a silent stretch: (length,)."""
    t = torch.arange(length) / 16_000
    x = 0.2 * torch.sin(2 * torch.pi * (300 + 900 * t) * t) * torch.sin(5 * t)
    x = x + 0.01 * torch.randn(length, generator=seeded(length))
    x[length // 3 : length // 2] = 0
    return x


def extractor(n_mels):
    def build():
        from transformers import WhisperFeatureExtractor

        return WhisperFeatureExtractor(feature_size=n_mels)

    return build


def extract(fe, length, padding):
    options = dict(sampling_rate=16_000, padding=padding, truncation=False, return_tensors="pt")
    found = fe(wave(length).numpy(), **options)
    return found.input_features[0]


def ears(fe):
    from mmscratch import whisper

    def features(length, padding):
        pad_to = 480_000 if padding == "max_length" else None
        return whisper.log_mel(wave(length), fe.feature_size, pad_to=pad_to)

    return features


def wrong_ears(
    *, scale="slaney", clamp=8.0, periodic=True, exponent=2, log=torch.log10, mode="reflect", per_frame=False
):
    def build(fe):
        from mmscratch import whisper

        def features(length, padding):
            x = wave(length)
            x = F.pad(x, (0, 480_000 - length)) if padding == "max_length" else x
            window = torch.hann_window(400, periodic=periodic)
            z = torch.stft(x, 400, 160, window=window, pad_mode=mode, return_complex=True)[:, :-1]
            power = z.abs() ** exponent
            x = log((whisper.mel_filters(fe.feature_size, scale) @ power).clamp(min=1e-10))
            if clamp is not None:
                x = torch.maximum(x, (x.amax(0) if per_frame else x.max()) - clamp)
            return (x + 4) / 4

        return features

    return build


EARS = {
    "HTK's mel scale": wrong_ears(scale="htk"),
    "no clamp": wrong_ears(clamp=None),
    "clamp at each frame's maximum": wrong_ears(per_frame=True),
    "symmetric window": wrong_ears(periodic=False),
    "magnitude for power": wrong_ears(exponent=1),
    "natural logarithm": wrong_ears(log=torch.log),
    "log(1 + x)": wrong_ears(log=torch.log1p),
    "zeros beyond the ends": wrong_ears(mode="constant"),
}


def ears_case(name, n_mels, length, padding="do_not_pad", **options):
    return Case(
        name, extractor(n_mels), ears, lambda: (length, padding), call_reference=extract,
        library="transformers WhisperFeatureExtractor", primitive="whisper.log_mel", **options,
    )  # fmt: skip


FEATURES = [
    ears_case("80 bands, 1.3 s", 80, 20_803, wrong=EARS),
    ears_case("128 bands, 0.7 s", 128, 11_333, wrong=EARS),
    ears_case("80 bands, the shortest", 80, 201),
    ears_case("80 bands, whole hops", 80, 16_000),
    ears_case("80 bands, one sample in a window of 30 s", 80, 1, "max_length"),
    ears_case("128 bands, 12.3 s in a window of 30 s", 128, 196_801, "max_length"),
    ears_case("80 bands, longer than a window", 80, 500_123),
    ears_case("80 bands, 30 s", 80, 480_000, bench="realistic"),
    ears_case("128 bands, 30 s", 128, 480_000, bench="realistic"),
]


# ---------------------------------------------------------------------------------------------------------
# The network

SMALL = dict(
    vocab_size=61, num_mel_bins=20, d_model=24, encoder_layers=3, encoder_attention_heads=4,
    encoder_ffn_dim=40, decoder_layers=2, decoder_attention_heads=3, decoder_ffn_dim=56,
    max_source_positions=15,
    max_target_positions=12, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
)  # fmt: skip


def model(**options):
    def build():
        from transformers import WhisperConfig, WhisperForConditionalGeneration

        return WhisperForConditionalGeneration(WhisperConfig(**SMALL | options))

    return build


def from_transformers(reference):
    from mmscratch import whisper

    return whisper.from_transformers(reference)


def sound_and_words(batch, words, *, bands=20, frames=30, vocab=61):
    def build():
        features = torch.randn(batch, bands, frames, generator=seeded(1))
        return features, torch.randint(4, vocab, (batch, words), generator=seeded(2))

    return build


def labelled(batch, words, skipped=((0, 8), (1, 7), (1, 8)), **options):
    """Labels of which some, at the ends of rows, do not count: the library's padding learns nothing."""

    def build():
        features, labels = sound_and_words(batch, words, **options)()
        for row, column in skipped:
            labels[row, column] = -100
        return features, labels

    return build


def logits(m, features, ids):
    return m(input_features=features, decoder_input_ids=ids).logits


def states(m, features):
    return m.model.encoder(features).last_hidden_state


def loss(m, features, labels):
    return m(input_features=features, labels=labels).loss


def our_loss(m, features, labels):
    from mmscratch import whisper

    return whisper.transcript_loss(m(features, whisper.shift_right(labels, 3, 0)), labels)


def all_blocks(m):
    return [*m.encoder.stack.blocks, *m.decoder.blocks]


def positions_interleaved(m):
    sines, cosines = m.encoder.positions.chunk(2, dim=1)
    m.encoder.positions = torch.stack([sines, cosines], dim=2).flatten(1)


def positions_one_late(m):
    m.encoder.positions = m.encoder.positions.roll(1, 0)


def convolutions_flipped(m):
    m.encoder.conv2.weight.copy_(m.encoder.conv2.weight.flip(2))


def stride_from_the_second(m):
    """The convolution with stride 2 begins one frame later."""
    conv = m.encoder.conv2
    conv.register_forward_pre_hook(lambda part, args: (args[0].roll(-1, 2),))


def tanh_gelu(m):
    for block in all_blocks(m):
        block.mlp.act = functools.partial(F.gelu, approximate="tanh")


def no_value_bias(m):
    for block in all_blocks(m):
        block.attention.qkv.v_bias.zero_()


def query_bias_on_values(m):
    for block in all_blocks(m):
        a = block.attention.qkv
        a.q_bias, a.v_bias = a.v_bias, a.q_bias


def scale_by_width(m):
    for block in all_blocks(m):
        a = block.attention
        inner, factor = a.num_heads * a.head_dim, a.num_heads**-0.5
        a.qkv.weight[:inner] *= factor
        a.qkv.q_bias *= factor


def no_final_norm(m):
    m.encoder.stack.norm = nn.Identity()


def decoder_norms_swapped(m):
    for block in m.decoder.blocks:
        block.norm1, block.norm_cross = block.norm_cross, block.norm1


def decoder_sees_ahead(m):
    m.decoder.config.causal = False


def cross_bias_missing(m):
    for block in m.decoder.blocks:
        block.cross.kv.v_bias.zero_()


def cross_keys_and_values_swapped(m):
    for block in m.decoder.blocks:
        block.cross.kv.weight.copy_(torch.cat(block.cross.kv.weight.chunk(2)[::-1]))


EAR_MUTANTS = (
    positions_interleaved, positions_one_late, convolutions_flipped, stride_from_the_second, tanh_gelu,
    no_value_bias, query_bias_on_values, scale_by_width, no_final_norm,
)  # fmt: skip
WRITING_MUTANTS = (
    decoder_norms_swapped, decoder_sees_ahead, cross_bias_missing, cross_keys_and_values_swapped,
)  # fmt: skip


def case(name, inputs, *changes, call_ours=None, call_reference=logits, config=None, **options):
    return Case(
        name, model(**config or {}), from_transformers, inputs, wrong=mutants(from_transformers, *changes),
        call_ours=call_ours, call_reference=call_reference, library="transformers Whisper",
        primitive="whisper.Whisper", **options,
    )  # fmt: skip


def skipped_labels_count(reference):
    """Ours, with -100 taken for a word."""
    ours = from_transformers(reference)
    return lambda features, labels: our_loss(ours, features, labels.clamp(min=0))


NETWORK = [
    case("logits", sound_and_words(2, 7), *EAR_MUTANTS, *WRITING_MUTANTS),
    case(
        "states of the encoder",
        lambda: sound_and_words(3, 1)()[0],
        *EAR_MUTANTS,
        call_ours="encode",
        call_reference=states,
    ),
    case(
        "loss, two labels skipped", labelled(3, 9), *WRITING_MUTANTS, call_ours=our_loss, call_reference=loss
    ),
    case(
        "one word, one head",
        sound_and_words(1, 1),
        config=dict(encoder_attention_heads=1, decoder_attention_heads=1),
    ),
    case("all positions used", sound_and_words(2, 12)),
    case("128 bands", sound_and_words(2, 5, bands=128), positions_interleaved, config=dict(num_mel_bins=128)),
    case(
        "deeper decoder, relu",
        sound_and_words(2, 6),
        decoder_norms_swapped,
        config=dict(decoder_layers=4, encoder_layers=1, activation_function="relu"),
    ),  # fmt: skip
    case(
        "whisper-tiny, 2 s, 20 words",
        sound_and_words(2, 20, bands=80, frames=200, vocab=5000),
        bench="realistic",
        config=dict(
            vocab_size=5000,
            num_mel_bins=80,
            d_model=384,
            encoder_layers=4,
            encoder_attention_heads=6,
            encoder_ffn_dim=1536,
            decoder_layers=4,
            decoder_attention_heads=6,
            decoder_ffn_dim=1536,
            max_source_positions=100,
            max_target_positions=64,
        ),
    ),  # fmt: skip
    case(
        "whisper-tiny's encoder, 30 s",
        lambda: sound_and_words(1, 1, bands=80, frames=3000)()[0],
        bench="realistic",
        call_ours="encode",
        call_reference=states,
        config=dict(
            num_mel_bins=80,
            d_model=384,
            encoder_layers=4,
            encoder_attention_heads=6,
            encoder_ffn_dim=1536,
            max_source_positions=1500,
            decoder_attention_heads=6,
        ),
    ),  # fmt: skip
]


# ---------------------------------------------------------------------------------------------------------
# Another rate


class Scipy:
    def __call__(self, length, rate, new_rate):
        from scipy.signal import resample_poly

        return torch.from_numpy(resample_poly(wave(length).double().numpy(), new_rate, rate))


def our_rate(reference):
    from mmscratch import whisper

    return lambda length, rate, new_rate: whisper.resample(wave(length).double(), rate, new_rate)


def nearest(reference):
    def call(length, rate, new_rate):
        count = -(-length * new_rate // rate)
        return F.interpolate(wave(length).double()[None, None], size=count)[0, 0]

    return call


def one_sample_late(reference):
    return lambda *inputs: our_rate(None)(*inputs).roll(1)


def half_as_loud(reference):
    return lambda *inputs: our_rate(None)(*inputs) / 2


def rate_case(name, length, rate, new_rate=16_000, **options):
    wrong = {"nearest sample": nearest, "one sample late": one_sample_late, "half as loud": half_as_loud}
    return Case(
        name, Scipy, our_rate, lambda: (length, rate, new_rate), wrong=wrong, bound=1e-9,
        library="scipy resample_poly", primitive="whisper.resample", **options,
    )  # fmt: skip


RATES = [
    rate_case("from a telephone", 1001, 8000),
    rate_case("from a compact disc", 4321, 44_100),
    rate_case("from a video", 3333, 48_000),
    rate_case("an odd rate", 2500, 11_025),
    rate_case("to a telephone", 777, 16_000, 8000),
    rate_case("10 s of a compact disc", 441_000, 44_100, bench="realistic"),
]

CASES = [*FEATURES, *NETWORK, *RATES]
