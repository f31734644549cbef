"""Writes folders with Unigram tokenizers for tok_compare.py, and the fixtures of test_tok_unigram.c.

    tok_unigram.py train TEXT.jsonl... OUT   trained here with sentencepiece (nmt_nfkc) on the "context" of LongBench files
    tok_unigram.py convert FILE.model OUT    the same settings around a SentencePiece model file (Unigram)
    tok_unigram.py odd FILE.model OUT COUNT  its vocabulary with random settings
    tok_unigram.py fixtures OUT              the fixtures: a small vocabulary and a small character map, cases.json for each
"""
import json
import os
import random
import shutil
import sys

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import AddedToken, Regex, Tokenizer, decoders as D, models, normalizers as N, pre_tokenizers as P, processors

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tok_models  # noqa: E402
from tok_texts import texts  # noqa: E402

NEW = [f"[NEW{i}]" for i in range(100)]


def train(lines, path, size, rules=None, coverage=0.9995):
    """A SentencePiece file as XLM-R's was made; `rules`: a small character map instead of nmt_nfkc."""
    plain = path + ".txt"
    with open(plain, "w") as f:
        f.writelines(line + "\n" for line in lines)
    rule = {"normalization_rule_tsv": rules} if rules else {"normalization_rule_name": "nmt_nfkc"}
    sentencepiece.SentencePieceTrainer.train(
        input=plain, model_prefix=path, vocab_size=size, model_type="unigram", character_coverage=coverage, max_sentence_length=20000,
        input_sentence_size=60000, shuffle_input_sentence=False, num_threads=1, minloglevel=2, hard_vocab_limit=False, **rule)
    os.remove(plain)
    os.remove(path + ".vocab")
    return path + ".model"


class Model:
    def __init__(self, path):
        self.proto = pb.ModelProto()
        self.proto.ParseFromString(open(path, "rb").read())
        assert self.proto.trainer_spec.model_type == 1
        self.charsmap = self.proto.normalizer_spec.precompiled_charsmap
        self.pieces = [(p.piece, p.score) for p in self.proto.pieces]

    def fairseq(self):
        """XLM-R's ids: four special tokens, the pieces without SentencePiece's own three, <mask>."""
        vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *self.pieces[3:], ("<mask>", 0.0)]
        return Tokenizer(models.Unigram(vocab, unk_id=3))

    def plain(self, **more):
        return Tokenizer(models.Unigram(self.pieces, unk_id=self.proto.trainer_spec.unk_id, **more))

    def normal(self):
        return [N.Precompiled(self.charsmap)] if self.charsmap else []


def template(t, before, after):
    names = before + after
    t.post_processor = processors.TemplateProcessing(
        single=" ".join([*before, "$A", *after]), pair=" ".join([*before, "$A", *after, "$B", *after]),
        special_tokens=[(n, t.token_to_id(n)) for n in dict.fromkeys(names)])


def xlmr(m):
    """The published tokenizer.json of XLM-R (and of LLMLingua-2 before its own tokens)."""
    t = m.fairseq()
    t.normalizer = m.normal()[0]
    t.pre_tokenizer = P.Sequence([P.WhitespaceSplit(), P.Metaspace("▁", "always")])
    t.decoder = D.Metaspace("▁", "always")
    template(t, ["<s>"], ["</s>"])
    t.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
    return t


def xlmr_new(m):
    t = xlmr(m)
    t.add_special_tokens([AddedToken(n, special=True, normalized=True) for n in NEW[:50]])
    t.add_tokens(NEW[50:])
    return t


def xlmr_llmlingua(m):
    """additional_special_tokens, as LLMLingua-2's prompt compressor adds them."""
    t = xlmr(m)
    t.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in NEW])
    return t


def xlmr_converted(m):
    """As transformers converts the model file since 4.40."""
    t = m.fairseq()
    t.normalizer = N.Sequence([*m.normal(), N.Strip(False, True), N.Replace(Regex(" {2,}"), "▁")])
    t.pre_tokenizer = P.Metaspace("▁", "always", split=True)
    t.decoder = D.Metaspace("▁", "always")
    template(t, ["<s>"], ["</s>"])
    t.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=True)])
    return t


def t5(m):
    t = m.plain()
    t.normalizer = m.normal()[0]
    t.pre_tokenizer = P.Sequence([P.WhitespaceSplit(), P.Metaspace("▁", "first")])
    t.decoder = D.Metaspace("▁", "first")
    template(t, [], ["</s>"])
    t.add_special_tokens(["</s>", "<unk>", *(f"<extra_id_{i}>" for i in range(20))])
    return t


def bytes_(m):
    """Byte fallback: byte tokens behind the pieces, one byte is missing."""
    pieces = m.pieces + [(f"<0x{b:02X}>", -20.0) for b in range(255)]
    t = Tokenizer(models.Unigram(pieces, unk_id=m.proto.trainer_spec.unk_id, byte_fallback=True))
    t.normalizer = N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")])
    t.decoder = D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
    t.add_special_tokens(["<unk>", "<s>", "</s>"])
    return t


KINDS = {"xlmr": xlmr, "xlmr-new": xlmr_new, "xlmr-llmlingua": xlmr_llmlingua, "xlmr-converted": xlmr_converted, "t5": t5, "bytes": bytes_}
CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>", "cls_token": "<s>",
          "sep_token": "</s>"}


def convert(path, out, kinds=KINDS):
    m = Model(path)
    for name in kinds:
        tok_models.save(KINDS[name](m), out, name, CONFIG)


def write_odd(path, out, count):
    m = Model(path)
    for i in range(count):
        rnd = random.Random(1000 + i)
        vocab = list(m.pieces)
        if rnd.random() < 0.4:  # equal scores: ties everywhere
            vocab = [(p, rnd.choice((-1.5, -3.0, -4.5))) for p, _ in vocab]
        elif rnd.random() < 0.4:  # scores whose sums are rounded
            vocab = [(p, rnd.choice((-0.1, -0.2, -0.3, -1.1, -11.512925148010254, -5e-324, 30))) for p, _ in vocab]
        if rnd.random() < 0.3:
            vocab += rnd.sample(vocab, 20)  # equal texts
        t = Tokenizer(models.Unigram(vocab, unk_id=rnd.choice((0, 5, 300))))
        tok_models.odd(t, rnd)
        if rnd.random() < 0.6:
            t.normalizer = N.Sequence(m.normal() + ([t.normalizer] if t.normalizer else []))
        if rnd.random() < 0.5:
            t.pre_tokenizer = P.Sequence([P.WhitespaceSplit(), P.Metaspace("▁", rnd.choice(["always", "first", "never"]))])
        j = json.loads(t.to_str())
        j["model"]["byte_fallback"] = rnd.random() < 0.4
        tok_models.save(Tokenizer.from_str(json.dumps(j)), out, f"uodd{i:03d}")


# ---- fixtures ----

RULES = [("\ufb01", "fi"), ("\ufb00", "ff"), ("\u00bd", "1\u20442"), ("\u00a0", " "), ("\u3000", " "), ("\t", " "), ("\n", " "), ("\r", " "),
         ("\u200b", " "), ("\u00ad", ""), ("\u0007", ""), ("\u2026", "..."), ("\u212b", "\u00c5"), ("e\u0301", "\u00e9"), ("a\u030a", "\u00e5"),
         ("\u2460", "1"), ("\u017f", "s"), ("\u00b4", " \u0301"), ("\u338f", "kg"), ("\u1100\u1161", "\uac00"), ("\U0001f1e9", "D")]
RULES += [(chr(0xFEE0 + c), chr(c)) for c in range(0x21, 0x7F)]


def fixtures(out):
    os.makedirs(out, exist_ok=True)
    rules = os.path.join(out, "rules.tsv")
    with open(rules, "w") as f:
        for a, b in RULES:
            f.write(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n")
    lines = [line for text in tok_models.corpus() for line in text.replace("\x00", "").splitlines() if 0 < len(line) < 3000]
    path = train(lines, os.path.join(out, "m"), 1200, rules, 0.99)
    os.remove(rules)
    convert(path, out, ["xlmr-new", "xlmr-converted", "bytes"])
    for name in ("xlmr-new", "xlmr-converted", "bytes"):
        folder = os.path.join(out, "unigram-" + name)
        if os.path.exists(folder):
            shutil.rmtree(folder)
        os.rename(os.path.join(out, name), folder)
        write_cases(folder)
    os.remove(path)


def write_cases(folder, count=150):
    """tok_models.write_cases, and the tokens of texts and the text of tokens."""
    tok_models.write_cases(folder, count)
    t = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    path = os.path.join(folder, "cases.json")
    cases = json.load(open(path))
    cases["pieces"] = [[text, t.encode(text, add_special_tokens=False).tokens] for text, _ in cases["encode"][40:110]]
    cases["join"] = [[tokens, t.decoder.decode(tokens)] for _, tokens in cases["pieces"][:40]]
    with open(path, "w") as f:
        json.dump(cases, f, ensure_ascii=False, separators=(",", ":"))


def longbench(paths):
    for path in paths:
        for line in open(path):
            for part in json.loads(line)["context"].replace("\x00", "").splitlines():
                if 20 < len(part) < 3000:
                    yield part


def main():
    what, args = sys.argv[1], sys.argv[2:]
    if what == "train":
        os.makedirs(args[-1], exist_ok=True)
        convert(train(longbench(args[:-1]), os.path.join(args[-1], "m"), 8000), args[-1])
    elif what == "convert":
        convert(*args)
    elif what == "odd":
        write_odd(args[0], args[1], int(args[2]))
    elif what == "fixtures":
        fixtures(*args)


if __name__ == "__main__":
    main()
