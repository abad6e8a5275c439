"""`mmscratch.ocr` against torch's CTC loss and transformers' TrOCR decoder, over awkward sizes.

Texts, columns, labels and states all differ in number; texts double their letters, are empty, or fill every
column. Scores go through a log-softmax on both sides, so that gradients are those of scores; the slope on the
log-probabilities themselves, which a log-softmax hides, is compared as an output. Each mutant breaks one rule
of CTC or of its arguments, or maps TrOCR correctly and then breaks our decoder in one way.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mmscratch.kit.reference import Case, mutants

# ---------------------------------------------------------------------------------------------------------
# CTC


def torch_loss():
    return F.ctc_loss


def loss_with(change=lambda scores, targets, frames, lengths: (scores, targets, frames, lengths), **options):
    """A mapping to our loss, with the arguments changed on the way."""

    def mapping(_reference):
        def run(scores, *rest):
            from mmscratch import ocr

            scores, *rest = change(scores, *rest)
            return ocr.ctc_loss(scores.log_softmax(-1), *rest, **options)

        return run

    return mapping


def merged_repeats(**options):
    """No blank is needed between equal letters: each label has a twin of the same probability, and every
    second letter of a text is a twin. For blank 0."""

    def mapping(_reference):
        def run(scores, targets, *rest):
            from mmscratch import ocr

            twice = torch.cat([scores.log_softmax(-1)] * 2, -1)
            odd = torch.arange(targets.shape[-1]) % 2 == 1
            targets = torch.where(odd & (targets > 0), targets + scores.shape[-1], targets)
            return ocr.ctc_loss(twice, targets, *rest, **options)

        return run

    return mapping


def all_frames(scores, targets, frames, lengths):
    return scores, targets, torch.full_like(frames, len(scores)), lengths


def turned(scores, targets, frames, lengths):
    return scores.flip(0), targets, frames, lengths


def shifted(scores, targets, frames, lengths):
    return scores.roll(1, -1), targets, frames, lengths


def wrong(reduction="none", blank=0, zero_infinity=False, *, repeats=True, uneven=True):
    options = dict(reduction=reduction, blank=blank, zero_infinity=zero_infinity)
    found = {
        "read from the end": loss_with(turned, **options),
        "labels shifted by one": loss_with(shifted, **options),
    }
    if repeats:
        found["repeats merge"] = merged_repeats(**options)
    if uneven:
        found["padding is read"] = loss_with(all_frames, **options)
    if reduction == "mean":
        found["not divided by lengths"] = loss_with(**options | {"reduction": "sum"})
    return found


def texts(*targets, columns, frames, labels, flat=False, seed=1, blank=0):
    """Scores (T, B, C), the targets padded or all in a row, numbers of columns and of letters."""

    def build():
        g = torch.Generator().manual_seed(seed)
        scores = torch.randn(columns, len(targets), labels, generator=g)
        lengths = torch.tensor([len(target) for target in targets])
        if flat:
            ids = torch.tensor([label for target in targets for label in target])
        else:
            ids = torch.full((len(targets), int(lengths.max()) + 2), blank)
            for row, target in zip(ids, targets, strict=True):
                row[: len(target)] = torch.tensor(target, dtype=torch.long)
        return scores, ids, torch.tensor(frames), lengths

    return build


def ctc_case(name, inputs, *, bench=False, mutants=None, bound=1e-5, **options):
    call = dict(reduction="none") | options
    return Case(
        name, torch_loss, loss_with(**call), inputs, wrong(**call) if mutants is None else mutants,
        call_reference=lambda f, scores, *rest: f(scores.log_softmax(-1), *rest, **call),
        bench=bench, bound=bound, primitive="ocr.ctc_loss", library="torch F.ctc_loss",
    )  # fmt: skip


def slope_of(loss_of, log_probs, *rest):
    """Gradient of the summed losses on log-probabilities that no log-softmax precedes."""
    with torch.enable_grad():
        leaf = log_probs.detach().clone().requires_grad_()
        return torch.autograd.grad(loss_of(leaf, *rest, reduction="sum"), leaf)[0]


def our_slope(change=lambda slope, log_probs, frames: slope):
    def mapping(_reference):
        def run(log_probs, targets, frames, lengths):
            from mmscratch import ocr

            slope = slope_of(ocr.ctc_loss, log_probs, targets, frames, lengths)
            return change(slope, log_probs, frames)

        return run

    return mapping


def only_share(slope, log_probs, frames):
    """-share in place of p - share: the same behind a log-softmax, and another slope without one."""
    used = torch.arange(len(slope))[:, None] < frames
    return slope - log_probs.exp() * used[..., None]


def every_frame(slope, log_probs, frames):
    """p in the padding, too."""
    used = torch.arange(len(slope))[:, None] < frames
    return slope + log_probs.exp() * ~used[..., None]


def slope_case(name, inputs):
    return Case(
        name, torch_loss, our_slope(), inputs,
        {"-share only": our_slope(only_share), "p in the padding": our_slope(every_frame)},
        call_reference=slope_of, primitive="ocr.ctc_loss", library="torch F.ctc_loss",
    )  # fmt: skip


def normalised(build):
    def built():
        scores, *rest = build()
        return scores.log_softmax(-1), *rest

    return built


def alone():
    scores = torch.randn(9, 6, generator=torch.Generator().manual_seed(2))
    return scores, torch.tensor([2, 2, 5]), torch.tensor(8), torch.tensor(3)


def many(batch, letters, columns, double=False):
    """A large batch of texts, all of one length, over up to `columns` columns."""
    some = [[1 + (7 * i + 3 * k) % 82 for k in range(letters)] for i in range(batch)]
    build = texts(
        *some, columns=columns, frames=[columns - i % (columns // 4) for i in range(batch)], labels=83
    )
    return (lambda: (build()[0].double(), *build()[1:])) if double else build


UNEVEN = texts([1, 2, 3, 4], [3, 3, 1], [5], columns=13, frames=[13, 7, 10], labels=6)
SINGLES = [[1, 2, 4], [5, 1]]
CTC = [
    ctc_case("uneven lengths", UNEVEN),
    ctc_case("uneven lengths, mean", UNEVEN, reduction="mean"),
    ctc_case("uneven lengths, sum", UNEVEN, reduction="sum"),
    ctc_case(
        "repeated letters",
        texts([2, 2, 2], [1, 1, 3, 3, 3], [4, 4], [2, 1, 2], columns=11, frames=[7, 11, 3, 9], labels=5),
    ),
    slope_case("slope on log-probabilities", normalised(UNEVEN)),
    slope_case("slope on any numbers", UNEVEN),
    ctc_case("empty texts", texts([], [1, 1], [], columns=8, frames=[8, 5, 3], labels=4)),
    ctc_case(
        "targets in a row",
        texts([3, 1], [], [2, 2, 4], columns=9, frames=[4, 9, 8], labels=7, flat=True),
    ),
    ctc_case(
        "the blank is the last label",
        texts([0, 1, 1], [3, 0], columns=10, frames=[10, 6], labels=5, blank=4),
        blank=4,
        mutants=wrong(blank=4, repeats=False) | {"another blank": loss_with(blank=2, reduction="none")},
    ),
    ctc_case(
        "just enough columns",
        texts([1, 1, 2], [3, 4], columns=4, frames=[4, 2], labels=5),
        mutants=wrong(uneven=False),
    ),
    ctc_case(
        "too few columns, left out of the mean",
        texts([1, 1, 1], [2, 3, 1, 1], [4], columns=6, frames=[4, 6, 5], labels=5),
        reduction="mean",
        zero_infinity=True,
    ),
    ctc_case(
        "one text, no batch",
        alone,
        mutants={"all columns": loss_with(lambda x, t, n, m: (x, t, n + 1, m), reduction="none")},
    ),
    ctc_case(
        "one label beside the blank, one column",
        texts([1], [], columns=1, frames=[1, 1], labels=2),
        mutants={"labels shifted by one": loss_with(shifted, reduction="none")},
    ),
    ctc_case(
        "128 texts of 24 letters in 160 columns, float64",
        many(128, 24, 160, double=True),
        reduction="mean",
        mutants={},
        bound=1e-10,
    ),
    # a loss of 700 nats has seven digits in float32, so shares of paths, its exponentials, have four
    ctc_case(
        "128 texts of 24 letters in 160 columns",
        many(128, 24, 160),
        reduction="mean",
        mutants={},
        bound=1e-3,
        bench=True,
    ),
    ctc_case(
        "64 texts of 20 letters in 100 columns",
        many(64, 20, 100),
        reduction="mean",
        mutants={},
        bound=1e-3,
        bench=True,
    ),
]

# ---------------------------------------------------------------------------------------------------------
# TrOCR's decoder


def from_transformers(model):
    from mmscratch import ocr

    return ocr.from_transformers(model)


SMALL = dict(
    vocab_size=53, d_model=40, decoder_layers=3, decoder_attention_heads=5, decoder_ffn_dim=52,
    max_position_embeddings=24, cross_attention_hidden_size=28, dropout=0.0, pad_token_id=1,
)  # fmt: skip


def trocr(**options):
    def build():
        import transformers

        return transformers.TrOCRForCausalLM(transformers.TrOCRConfig(**SMALL | options))

    return build


def ids_and_columns(batch=3, length=11, columns=7, width=28, vocabulary=53):
    def build():
        g = torch.Generator().manual_seed(3)
        ids = torch.randint(5, vocabulary, (batch, length), generator=g)  # no padding among them
        return ids, torch.randn(batch, columns, width, generator=g)

    return build


def ours_reads(model, ids, context):
    return model(ids, context=context)


def theirs_reads(model, ids, context):
    return model(input_ids=ids, encoder_hidden_states=context, use_cache=False).logits


def norms_before_branches(ours):
    for block in ours.blocks:
        block.post_norm = False


def every_word_sees_all(ours):
    ours.config.causal = False


def keys_are_values(ours):
    for block in ours.blocks:
        block.cross.kv.weight.copy_(block.cross.kv.weight.roll(len(block.cross.kv.weight) // 2, 0))


def positions_late_by_one(ours):
    if ours.positions.table is None:
        ours.positions.pad_id += 1
    else:
        ours.positions.table.copy_(ours.positions.table.roll(-1, 0))


def positions_from_row_0(ours):
    ours.positions.table.copy_(ours.positions.table.roll(2, 0))


def no_norm_of_embeddings(ours):
    ours.positions.norm = torch.nn.Identity()


def other_scale(ours):
    ours.positions.scale = 2.5


def fewer_heads(ours):
    for block in ours.blocks:
        block.cross.num_heads, block.cross.head_dim = 1, block.cross.q.out_features


COMMON = (norms_before_branches, every_word_sees_all, keys_are_values, positions_late_by_one, fewer_heads)


def trocr_case(name, inputs=None, *changes, bench=False, **options):
    return Case(
        name, trocr(**options), from_transformers, inputs or ids_and_columns(),
        mutants(from_transformers, *(() if bench else COMMON), *changes),
        call_ours=ours_reads, call_reference=theirs_reads, bench=bench,
        bound=5e-5 if bench else 1e-5,  # 256 wide, logits reach 50
        options={"attention": None},
        primitive="ocr.from_transformers", library="transformers TrOCRForCausalLM",
    )  # fmt: skip


TROCR = [
    trocr_case("3 layers, 5 heads", None, positions_from_row_0, no_norm_of_embeddings, other_scale),
    trocr_case("scaled embeddings", None, other_scale, scale_embedding=True),
    trocr_case("sinusoidal positions", None, use_learned_position_embeddings=False),
    trocr_case(
        "sinusoidal positions of odd width after padding 4",
        ids_and_columns(2, 5, 9, 28),
        d_model=45, pad_token_id=4, use_learned_position_embeddings=False,
    ),
    trocr_case("no norm of embeddings, untied", None, layernorm_embedding=False, tie_word_embeddings=False),
    trocr_case(
        "context as wide as the text, relu",
        ids_and_columns(1, 2, 13, 40),
        cross_attention_hidden_size=None, activation_function="relu", max_position_embeddings=3,
    ),
    trocr_case(
        "256 wide, 8 texts of 30 in 100 columns",
        ids_and_columns(8, 30, 100, 192, 500),
        bench=True, vocab_size=500, d_model=256, decoder_attention_heads=8, decoder_ffn_dim=1024,
        cross_attention_hidden_size=192, max_position_embeddings=64,
    ),
]  # fmt: skip

CASES = [*CTC, *TROCR]
