"""What `mmscratch.modalities` promises beyond equality with torch, which tests/test_parity.py checks."""

from __future__ import annotations

import itertools
import math

import pytest
import refusals
import torch
from torch import nn

from mmscratch import modalities as m


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(ours: torch.Tensor, theirs: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


# -- bytes and words

TEXTS = ["", "a", "Grüße", "नमस्ते", "早上好", "שלום", "👩🏽‍🚀 und 🚲", "line\nbreak\ttab\0null", "é" * 40]


def test_bytes_of_any_language_come_back_and_are_what_python_says():
    ids = m.encode_bytes(TEXTS)
    assert ids.dtype == torch.long and ids.shape == (len(TEXTS), 80)
    assert m.decode_bytes(ids) == TEXTS
    for text, row in zip(TEXTS, ids.tolist(), strict=True):
        raw = list(text.encode("utf-8"))
        assert row == raw + [m.BYTE_PAD] * (80 - len(raw))


@pytest.mark.parametrize("seed", range(5))
def test_random_characters_come_back(seed):
    g = torch.Generator().manual_seed(seed)
    points = torch.randint(1, 0x110000, (7, 23), generator=g).tolist()
    texts = ["".join(chr(p) for p in row if not 0xD800 <= p < 0xE000) for row in points]
    assert m.decode_bytes(m.encode_bytes(texts)) == texts


def test_bytes_are_padded_to_the_length_asked_for():
    assert m.encode_bytes(["ab", "é"], 5).tolist() == [[97, 98, 256, 256, 256], [195, 169, 256, 256, 256]]
    assert m.encode_bytes([]).shape == (0, 0) and m.encode_bytes([], 3).shape == (0, 3)
    assert m.encode_bytes(["", ""]).shape == (2, 0) and m.decode_bytes(m.encode_bytes(["", ""])) == ["", ""]


def test_bytes_that_are_no_text_become_the_replacement_character():
    assert m.decode_bytes(torch.tensor([[0xE5, 0xA5, 65]])) == ["\ufffdA"]


def test_words_know_what_they_have_seen():
    words = m.Words(["a red ring", "a red, red star!"])
    assert words.words[:3] == ["<pad>", "<unk>", "red"] and len(words) == 8
    ids = words.encode(["A RED star", "a blue ring!"])
    assert ids.shape == (2, 4) and ids[0, 3] == 0
    assert words.decode(ids) == ["a red star", "a <unk> ring !"]
    assert words.encode([], 4).shape == (0, 4) and words.encode(["red"], 3).shape == (1, 3)


def test_a_small_vocabulary_keeps_the_commonest_words():
    words = m.Words(["c c c b b a"], size=2)
    assert words.words == ["<pad>", "<unk>", "c", "b"]
    assert words.decode(words.encode(["a b c"])) == ["<unk> b c"]


def test_every_word_in_the_corpus_comes_back():
    corpus = ["one two three", "drei, vier.", "пять шесть"]
    words = m.Words(corpus)
    assert words.decode(words.encode(corpus)) == [" ".join(words.split(text)) for text in corpus]


# -- films and pictures

FILMS = [
    # (B, T, C, H, W), (t, p, q)
    ((2, 6, 3, 8, 10), (3, 4, 5)),
    ((1, 4, 1, 6, 4), (1, 2, 4)),
    ((3, 5, 2, 7, 9), (5, 7, 3)),
    ((2, 2, 4, 3, 3), (1, 1, 1)),
    ((0, 4, 3, 4, 4), (2, 2, 2)),
]


@pytest.mark.parametrize(("shape", "size"), FILMS)
def test_tubelets_go_in_order_of_time_row_column_and_back_again(shape, size):
    video, (t, p, q) = noise(*shape), size
    tokens, grid = m.cut_tubelets(video, size), m.tubelet_grid(shape[1], *shape[3:], size)
    assert tokens.shape == (shape[0], math.prod(grid), shape[2] * math.prod(size))
    for number, (a, b, c) in enumerate(itertools.product(*map(range, grid))):
        box = video[:, a * t : (a + 1) * t, :, b * p : (b + 1) * p, c * q : (c + 1) * q]
        assert torch.equal(tokens[:, number], box.transpose(1, 2).flatten(1))  # colour first
    if shape[0]:
        assert torch.equal(m.join_tubelets(tokens, size, grid), video)


@pytest.mark.parametrize("seed", range(20))
def test_random_sizes_come_back(seed):
    g = torch.Generator().manual_seed(seed)
    grid, size = (tuple(torch.randint(1, 5, (3,), generator=g).tolist()) for _ in range(2))
    B, C = torch.randint(1, 5, (2,), generator=g).tolist()
    T, H, W = (n * step for n, step in zip(grid, size, strict=True))
    video = noise(B, T, C, H, W, seed=seed)
    assert m.tubelet_grid(T, H, W, size) == grid
    assert torch.equal(m.join_tubelets(m.cut_tubelets(video, size), size, grid), video)


def test_patches_are_those_of_the_vision_transformer_and_tubelets_of_one_frame():
    from mmscratch import vit

    images = noise(2, 3, 12, 20)
    for size in (4, (6, 5), (12, 20), 1):
        assert torch.equal(m.cut_patches(images, size), vit.patchify(images, size))
    film = images[:, None].expand(-1, 3, -1, -1, -1)
    assert torch.equal(m.cut_tubelets(film, (1, 4, 4))[:, :15], m.cut_patches(images, 4))


def test_whole_numbers_and_double_precision_stay_what_they_are():
    video = torch.arange(48).reshape(1, 2, 1, 4, 6)
    assert m.cut_tubelets(video, (2, 2, 3)).dtype == torch.long
    assert m.cut_tubelets(video.double(), (2, 2, 3)).dtype == torch.float64


# -- sound


@pytest.mark.parametrize(
    ("samples", "size", "hop"), [(10, 4, 3), (11, 4, 3), (4, 4, 9), (50, 7, 1), (33, 8, 8)]
)
def test_frames_are_counted_as_they_are_cut(samples, size, hop):
    wave = noise(2, samples)
    frames = m.cut_frames(wave, size, hop)
    assert frames.shape == (2, m.count_frames(samples, size, hop), size)
    for i in range(frames.shape[1]):
        assert torch.equal(frames[:, i], wave[:, i * hop : i * hop + size])
    assert frames.shape[1] * hop + size > samples  # another frame would not have fitted


def test_a_pure_tone_is_loudest_in_its_own_bin():
    n = torch.arange(400)
    for k in (3, 57, 120):
        spectrum = m.log_spectrum(torch.cos(2 * math.pi * k * n / 400)[None], 400, 160)
        assert spectrum.shape == (1, 1, 201) and spectrum.argmax() == k


def test_silence_lies_on_the_floor_and_doubling_adds_the_log_of_four():
    assert torch.equal(m.log_spectrum(torch.zeros(1, 30), 8, 4, floor=1e-6), torch.full((1, 6, 5), -6.0))
    wave = noise(2, 500).double()
    close(m.log_spectrum(2 * wave, 50, 20), m.log_spectrum(wave, 50, 20) + math.log10(4), atol=1e-9)
    assert m.log_spectrum(wave, 50, 20).dtype == torch.float64


def test_a_delay_of_a_hop_moves_the_frames():
    wave = noise(1, 400)
    later = torch.cat([noise(1, 7, seed=2), wave], dim=1)
    close(m.log_spectrum(later, 20, 7)[:, 1:], m.log_spectrum(wave, 20, 7))


@pytest.mark.parametrize("samples", [160, 161, 400, 999])
def test_a_centred_spectrum_has_a_frame_for_every_hop(samples):
    assert m.log_spectrum(noise(1, samples), 40, 16, center=True).shape == (1, 1 + samples // 16, 21)


# -- embedding


def test_an_embedding_is_content_and_place_and_modality():
    embed, x = m.TokenEmbedding(5, dim=7, length=4), noise(2, 3, 5)
    close(embed(x), embed.content(x) + embed.position[:3] + embed.modality)
    listed, ids = m.TokenEmbedding(vocab_size=9, dim=7, length=4), torch.tensor([[0, 8, 3, 3]])
    close(listed(ids), listed.content.weight[ids] + listed.position + listed.modality)
    assert not torch.equal(listed(ids)[0, 2], listed(ids)[0, 3])  # the same token in two places


def test_a_picture_is_embedded_as_a_film_of_one_frame():
    embed, images = m.TubeletEmbedding((1, 4, 5), dim=6), noise(2, 3, 8, 10)
    assert torch.equal(embed(images), embed(images[:, None]))
    assert embed(images).shape == (2, 4, 6)


def test_a_loaded_embedding_owns_its_weights_and_follows_the_precision():
    conv = nn.Conv2d(3, 5, 4, stride=4).double()
    ours, before = m.tubelets_from_convolution(conv), conv.weight.clone()
    assert ours.linear.weight.dtype == torch.float64
    with torch.no_grad():
        ours.linear.weight.zero_()
    assert torch.equal(conv.weight, before)
    valid = m.tubelets_from_convolution(nn.Conv2d(3, 5, 4, stride=4, padding="valid", bias=False))
    assert valid.linear.bias is None and valid.size == (1, 4, 4)


# -- fusion

FUSIONS = [m.EarlyFusion, m.JointFusion, m.LateFusion]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_parameter_of_a_fusion_learns_and_both_sides_count(fusion):
    torch.manual_seed(0)
    net = fusion(16, num_classes=3, depth=2, num_heads=2)
    image, text = noise(2, 5, 16).requires_grad_(), noise(2, 4, 16, seed=2).requires_grad_()
    logits = net(image, text)
    assert logits.shape == (2, 3)
    (logits * noise(2, 3, seed=3)).sum().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle
    assert image.grad.abs().sum() > 0 and text.grad.abs().sum() > 0


@pytest.mark.parametrize("seed", range(4))
def test_late_fusion_is_additive_whatever_its_weights_and_the_others_are_not(seed):
    a, b = noise(1, 5, 16, seed=seed), noise(1, 5, 16, seed=seed + 10)
    A, B = noise(1, 4, 16, seed=seed + 20), noise(1, 4, 16, seed=seed + 30)

    def gap(net):
        return (net(a, A) + net(b, B) - net(a, B) - net(b, A)).abs().max()

    torch.manual_seed(seed)
    early, joint, late = (fusion(16, num_classes=2).double().eval() for fusion in FUSIONS)
    a, b, A, B = (x.double() for x in (a, b, A, B))
    assert gap(late) < 1e-12
    assert gap(early) > 1e-6 and gap(joint) > 1e-6


def test_one_picture_can_be_judged_beside_many_sentences():
    net = m.LateFusion(16, num_classes=2).eval()
    image, texts = noise(1, 5, 16), noise(6, 4, 16, seed=2)
    close(net(image, texts), net(image.expand(6, -1, -1), texts))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_pair_is_answered_alike_alone_and_in_a_batch(fusion):
    net, image, text = fusion(16, num_classes=3).eval(), noise(4, 5, 16), noise(4, 3, 16, seed=2)
    close(torch.cat([net(x[None], y[None]) for x, y in zip(image, text, strict=True)]), net(image, text))


def test_the_three_models_trace_into_graphs():
    for fusion in FUSIONS:
        graph = torch.fx.symbolic_trace(fusion(16, num_classes=2)).graph
        assert [node.name for node in graph.nodes][:2] == ["image", "text"]


# -- bad input

SETUP = """
import json, sys
from mmscratch.modalities import *
foreign = {"torchvision", "transformers", "open_clip", "matplotlib", "mmscratch.kit"} & sys.modules.keys()
assert not foreign, f"importing mmscratch.modalities also loads {foreign}"
import torch
from torch import nn, zeros
"""

CASES = {  # exported name: {wrong use: error and message, ".*" for anything between}
    "encode_bytes": {
        "encode_bytes('abc')": "TypeError: expected a list of texts, got one string 'abc'",
        "encode_bytes(['é'], 1)": "ValueError: expected at most 1 tokens, got a text of 2",
    },
    "decode_bytes": {
        "decode_bytes(zeros(3).long())": "ValueError: expected (B, T) whole numbers from 0 to 256, got (3,)",
        "decode_bytes(zeros(1, 3))": "ValueError: got (1, 3) torch.float32",
        "decode_bytes(torch.tensor([[257]]))": "ValueError: whole numbers from 0 to 256",
        "decode_bytes(torch.tensor([[-1]]))": "ValueError: whole numbers from 0 to 256",
    },
    "Words": {
        "Words('abc')": "TypeError: expected a list of texts, got one string 'abc'",
        "Words(['', ' '])": "ValueError: expected a corpus with at least one word",
        "Words(['a']).encode('a')": "TypeError: expected a list of texts, got one string 'a'",
        "Words(['a']).encode(['a a'], 1)": "ValueError: expected at most 1 tokens, got a text of 2",
        "Words(['a']).decode(torch.tensor([[3]]))": "ValueError: expected numbers from 0 to 2, got 3 to 3",
    },
    "tubelet_grid": {
        "tubelet_grid(4, 8, 8, (2, 4))": "ValueError: expected a tubelet of .*got (2, 4)",
        "tubelet_grid(4, 8, 8, (2, 4, 0))": "ValueError: got (2, 4, 0)",
        "tubelet_grid(4, 8, 8, (2, 4.0, 4))": "ValueError: got (2, 4.0, 4)",
        "tubelet_grid(3, 8, 8, (2, 4, 4))": "ValueError: frames 3 is not a positive multiple of 2",
        "tubelet_grid(4, 9, 8, (2, 4, 4))": "ValueError: height 9 is not a positive multiple of 4",
        "tubelet_grid(4, 8, 0, (2, 4, 4))": "ValueError: width 0 is not a positive multiple of 4",
    },
    "cut_tubelets": {
        "cut_tubelets(zeros(4, 3, 8, 8), (2, 4, 4))": "ValueError: (B, T, C, H, W), got (4, 3, 8, 8)",
        "cut_tubelets(zeros(1, 4, 3, 8, 9), (2, 4, 4))": "ValueError: width 9",
    },
    "join_tubelets": {
        "join_tubelets(zeros(1, 4, 96), (2, 4, 4), (1, 2, 3))": "ValueError: (B, 6, C*32), got (1, 4, 96)",
        "join_tubelets(zeros(1, 4, 95), (2, 4, 4), (1, 2, 2))": "ValueError: got (1, 4, 95)",
    },
    "cut_patches": {
        "cut_patches(zeros(3, 8, 8), 4)": "ValueError: expected images of shape (B, C, H, W), got (3, 8, 8)",
        "cut_patches(zeros(1, 3, 8, 8), 3)": "ValueError: height 8 is not a positive multiple of 3",
        "cut_patches(zeros(1, 3, 8, 8), -4)": "ValueError: got (1, -4, -4)",
    },
    "count_frames": {
        "count_frames(100, 0, 5)": "ValueError: size and hop .*positive whole numbers, got 0 and 5",
        "count_frames(100, 10, 2.5)": "ValueError: got 10 and 2.5",
        "count_frames(9, 10, 5)": "ValueError: expected at least 10 samples for one frame, got 9",
    },
    "cut_frames": {
        "cut_frames(zeros(100), 10, 5)": "ValueError: expected a waveform of shape (B, L), got (100,)",
        "cut_frames(zeros(1, 9), 10, 5)": "ValueError: expected at least 10 samples",
    },
    "log_spectrum": {
        "log_spectrum(zeros(100), 10, 5)": "ValueError: expected a waveform of shape (B, L), got (100,)",
        "log_spectrum(zeros(100), 10, 5, center=True)": "ValueError: (B, L), got (100,)",
        "log_spectrum(zeros(1, 5), 10, 5, center=True)": "ValueError: more than 5 samples to mirror, got 5",
        "log_spectrum(zeros(1, 100), 10, 0)": "ValueError: got 10 and 0",
        "log_spectrum(zeros(1, 100), 10, 5, floor=0)": "ValueError: expected a floor above 0, .*got 0",
        "log_spectrum(zeros(1, 100).long(), 10, 5)": "ValueError: a floating waveform, got torch.int64",
    },
    "TokenEmbedding": {
        "TokenEmbedding(dim=4, length=3)": "ValueError: expected features or vocab_size, got None and None",
        "TokenEmbedding(5, dim=4, length=3, vocab_size=6)": "ValueError: got 5 and 6",
        "TokenEmbedding(5, dim=4, length=3)(zeros(1, 4, 5))": "ValueError: expected at most 3 tokens, got 4",
        "TokenEmbedding(5, dim=4, length=3)(zeros(1, 3, 6))": "RuntimeError: 3x6 and 5x4",
        "TokenEmbedding(vocab_size=5, dim=4, length=3)(zeros(1, 2).long() + 5)": "IndexError: out of range",
    },
    "TubeletEmbedding": {
        "TubeletEmbedding((2, 4), dim=5)": "ValueError: expected a tubelet of .*got (2, 4)",
        "TubeletEmbedding((2, 4, 4), dim=5)(zeros(1, 3, 3, 8, 8))": "ValueError: frames 3",
        "TubeletEmbedding((1, 4, 4), dim=5)(zeros(3, 8, 8))": "ValueError: (B, T, C, H, W), got (3, 8, 8)",
        "TubeletEmbedding((1, 4, 4), dim=5)(zeros(1, 2, 8, 8))": "RuntimeError: 4x32 and 48x5",
    },
    "tubelets_from_convolution": {
        "tubelets_from_convolution(nn.Linear(2, 2))": "TypeError: expected Conv2d or Conv3d, got Linear",
        "tubelets_from_convolution(nn.Conv2d(3, 5, 4, stride=2))": "ValueError: stride equal to kernel",
        "tubelets_from_convolution(nn.Conv2d(3, 5, 4, 4, padding=1))": "ValueError: no padding",
        "tubelets_from_convolution(nn.Conv2d(3, 5, 1, 1, padding='same'))": "ValueError: no padding",
        "tubelets_from_convolution(nn.Conv2d(3, 6, 4, 4, groups=3))": "ValueError: groups",
        "tubelets_from_convolution(nn.Conv3d(3, 5, 2, 2, dilation=2))": "ValueError: dilation",
    },
    "build_encoder": {
        "build_encoder(10, num_heads=3)": "ValueError: dim 10 is not a multiple of num_heads 3",
        "build_encoder(10, num_heads=0)": "ValueError: dim 10 is not a multiple of num_heads 0",
    },
    "EarlyFusion": {
        "EarlyFusion(10, num_classes=2)": "ValueError: dim 10 is not a multiple of num_heads 4",
        "EarlyFusion(8, num_classes=2)(zeros(2, 3, 8), zeros(3, 4, 8))": "RuntimeError: 2 but got size 3",
    },
    "JointFusion": {
        "JointFusion(10, num_classes=2)": "ValueError: dim 10 is not a multiple of num_heads 4",
        "JointFusion(8, num_classes=2)(zeros(2, 3, 8), zeros(3, 4, 8))": "RuntimeError: 2 but got size 3",
    },
    "LateFusion": {
        "LateFusion(10, num_classes=2)": "ValueError: dim 10 is not a multiple of num_heads 4",
        "LateFusion(8, num_classes=2)(zeros(2, 3, 8), zeros(3, 4, 8))": "RuntimeError: (2) must match .*(3)",
    },
}
WITHOUT_CASE = {"BYTE_PAD": "a number"}

test_bad_input_is_refused, test_every_name_is_given_bad_input = refusals.tests(m, SETUP, CASES, WITHOUT_CASE)
