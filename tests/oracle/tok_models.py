"""Writes tokenizer folders for tok_compare.py and the fixtures of test_tok.c.

    tok_models.py small OUT                  small vocabularies trained here, with the settings of the real families
    tok_models.py odd OUT COUNT              the same vocabularies with random settings
    tok_models.py fixtures OUT               the fixtures of test_tok.c: small, two odd ones, and cases.json for each
    tok_models.py gemma OUT                  two more of them: Gemma's settings as tokenizer.json and as a SentencePiece file
    tok_models.py gguf FILE.gguf OUT         tokenizer keys of a GGUF file, and the library's tokenizer made from them
    tok_models.py spm tokenizer.model OUT    SentencePiece file (Llama-2, Mistral) as the field converts it
    tok_models.py tiktoken FILE OUT          Qwen's vocabulary file
"""
import base64
import glob
import json
import os
import random
import shutil
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders as D, models, normalizers as N, pre_tokenizers as P, processors, trainers

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tok_texts import CODE, WORDS, texts  # noqa: E402

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
GEMMA = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
GEMMA_RUNS = [c * n for c, most in (("\n", 31), ("▁", 31), ("\t", 31)) for n in range(1 + (c == "▁"), most)] + ["<table>", "</table>"]
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def added(texts_, special=True, **flags):
    return [AddedToken(t, special=special, **{"normalized": not special, **flags}) for t in texts_]


# ---- settings of the families, applied to any vocabulary ----

def smollm(t):
    t.pre_tokenizer = P.Sequence([P.Digits(individual_digits=True), P.ByteLevel(add_prefix_space=False)])
    t.decoder = D.ByteLevel()
    t.add_special_tokens(added(CHATML))


def llama3(t):
    t.pre_tokenizer = P.Sequence([P.Split(Regex(LLAMA3), "isolated"), P.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = D.ByteLevel()
    names = ["begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id"]
    t.add_special_tokens(added([f"<|{n}|>" for n in names] + [f"<|reserved_special_token_{i}|>" for i in range(20)]))
    bos = "<|begin_of_text|>"
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, t.token_to_id(bos))])])
    t.model.ignore_merges = True


def qwen2(t):
    t.normalizer = N.NFC()
    t.pre_tokenizer = P.Sequence([P.Split(Regex(QWEN2), "isolated"), P.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = D.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.add_special_tokens(added(CHATML))


def neox(t):
    t.normalizer = N.NFC()
    t.pre_tokenizer = P.ByteLevel(add_prefix_space=False, trim_offsets=True)
    t.decoder = D.ByteLevel(add_prefix_space=False, trim_offsets=True)
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    t.add_special_tokens(added(["<|endoftext|>", "<|padding|>"]))
    t.add_tokens(added([" " * n for n in range(24, 1, -1)], special=False))


def llama2_decoder():
    return D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])


def llama2(t, normalized=False):
    t.normalizer = N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")])
    t.decoder = llama2_decoder()
    t.add_special_tokens(added(["<unk>", "<s>", "</s>"], normalized=normalized))
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])


def llama2_old(t):
    llama2(t, normalized=True)


def gemma(t):
    t.normalizer = N.Replace(" ", "▁")
    t.pre_tokenizer = P.Split(" ", "merged_with_previous")
    t.decoder = D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse()])
    t.add_special_tokens(added(GEMMA))
    t.add_tokens(added(GEMMA_RUNS, special=False, normalized=False))
    t.post_processor = processors.TemplateProcessing(single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", 2)])


def llama2_modern(t):
    t.pre_tokenizer = P.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    t.decoder = llama2_decoder()
    t.add_special_tokens(added(["<unk>", "<s>", "</s>"]))
    t.add_tokens(added(["[INST]", "[/INST]"], special=False, normalized=False))
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])


def odd(t, rnd):
    """Random settings; every one of them is something that a tokenizer.json may hold."""
    norm = [N.NFC(), N.NFD(), N.NFKC(), N.NFKD(), N.Prepend("▁"), N.Replace(" ", "▁"), N.Replace(Regex(r"\s+"), " "), N.Strip(),
            N.Strip(True, False), N.Replace("a", ""), N.Replace("``", "\"")]
    behaviors = ["isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"]
    patterns = [" ", "▁", "ab", Regex(LLAMA3), Regex(QWEN2), Regex(r"\s+"), Regex(r"\w+|[^\w\s]+"), Regex(r"[\p{L}\p{M}]+"), Regex(r"\d"),
                Regex(r"\W"), Regex(r"\p{N}{1,3}"), Regex(r"\s+$"), Regex(r"^\w"), Regex(r"[A-Z]*[a-z]+(?i:'s|'t|'m)?"), Regex(r"\p{Han}"),
                Regex(r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?")]
    pre = [lambda: P.Digits(rnd.random() < 0.5), lambda: P.ByteLevel(rnd.random() < 0.5, use_regex=rnd.random() < 0.5),
           lambda: P.Split(rnd.choice(patterns), rnd.choice(behaviors), rnd.random() < 0.3),
           lambda: P.Split(rnd.choice(patterns), rnd.choice(behaviors), rnd.random() < 0.3),
           lambda: P.Metaspace("▁", rnd.choice(["always", "first", "never"]), split=rnd.random() < 0.5)]
    dec = [D.ByteLevel(), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0), D.Strip("▁", 2, 0), D.Replace("▁", " "),
           D.Metaspace("▁", rnd.choice(["always", "first", "never"]))]
    if rnd.random() < 0.7:
        t.normalizer = N.Sequence(rnd.sample(norm, rnd.choice((1, 1, 2, 3))))
    if rnd.random() < 0.9:
        t.pre_tokenizer = P.Sequence([rnd.choice(pre)() for _ in range(rnd.choice((1, 2, 3)))])
    if rnd.random() < 0.9:
        t.decoder = D.Sequence(rnd.sample(dec, rnd.choice((1, 2, 4))))
    for text in rnd.sample(["<mask>", "ab", "the", " x", "a b", "é", "e\u0301", "▁y", "\n", "Straße", "<s>", "<<", "<", "end", "12", "𝒳z"], 8):
        flags = {k: rnd.random() < 0.4 for k in ("lstrip", "rstrip", "single_word", "normalized")}
        token = AddedToken(text, special=rnd.random() < 0.5, **flags)
        t.add_special_tokens([token]) if token.special else t.add_tokens([token])
    a, b = t.token_to_id("a"), t.token_to_id("b")
    if rnd.random() < 0.5:
        t.post_processor = processors.TemplateProcessing(single="a b $A b", pair="$A $B", special_tokens=[("a", a), ("b", b)])
    if not isinstance(t.model, models.BPE):
        return
    t.model.fuse_unk = rnd.random() < 0.5
    t.model.byte_fallback = rnd.random() < 0.5
    t.model.ignore_merges = rnd.random() < 0.3
    if rnd.random() < 0.5:
        t.model.unk_token = "<unk>" if t.model.token_to_id("<unk>") is not None else "a"


# ---- vocabularies ----

def corpus():
    for path in sorted(glob.glob(os.path.join(os.path.dirname(os.__file__), "*.py")))[:60]:
        yield open(path, encoding="utf-8", errors="replace").read()
    for _ in range(30):
        yield " ".join(WORDS + CODE)
    yield from (t for t in texts(1, 400))


def train_byte_level(size):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = P.Sequence([P.Split(Regex(LLAMA3), "isolated"), P.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=P.ByteLevel.alphabet()))
    m = json.loads(t.to_str())["model"]
    return lambda: Tokenizer(models.BPE(vocab=m["vocab"], merges=[tuple(x) for x in m["merges"]]))


def train_spm(size, out, **more):
    import sentencepiece
    plain = os.path.join(out, "corpus.txt")
    with open(plain, "w") as f:
        f.writelines(line + "\n" for text in corpus() for line in text.replace("\x00", "").splitlines() if len(line) < 3000)
    sentencepiece.SentencePieceTrainer.train(
        input=plain, model_prefix=os.path.join(out, "m"), vocab_size=size, model_type="bpe", byte_fallback=True, character_coverage=0.995,
        normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, split_digits=True,
        max_sentence_length=20000, minloglevel=2, **more)
    os.remove(plain)
    os.remove(os.path.join(out, "m.vocab"))
    return os.path.join(out, "m.model")


def read_spm(path):
    """Pieces of the file and, as the field's converter does it, the merges that follow from the scores."""
    import sentencepiece
    sp = sentencepiece.SentencePieceProcessor(model_file=path)
    pieces = [(sp.id_to_piece(i), sp.get_score(i)) for i in range(sp.get_piece_size())]
    return pieces, score_merges(pieces)


def score_merges(pieces):
    vocab = {p: i for i, (p, _) in enumerate(pieces)}
    merges = []
    for piece, score in pieces:
        local = [(piece[:i], piece[i:], score) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab]
        merges += sorted(local, key=lambda m: (vocab[m[0]], vocab[m[1]]))
    merges.sort(key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)
    return [(a, b) for a, b, _ in merges]


def spm_base(pieces, merges):
    vocab = {p: i for i, (p, _) in enumerate(pieces)}
    return lambda: Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))


def tiktoken_base(path):
    ranks = {base64.b64decode(a): int(b) for a, b in (line.split() for line in open(path))}
    letters = {}
    n = 0
    for b in range(256):
        plain = 0x21 <= b <= 0x7e or 0xa1 <= b <= 0xac or 0xae <= b
        letters[b] = chr(b if plain else 256 + n)
        n += not plain
    show = lambda token: "".join(letters[b] for b in token)  # noqa: E731
    merges = []
    for token, rank in ranks.items():
        local = [(token[:i], token[i:], rank) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        merges += sorted(local, key=lambda m: (ranks[m[0]], ranks[m[1]]))
    merges.sort(key=lambda m: m[2])
    return Tokenizer(models.BPE(vocab={show(t): r for t, r in ranks.items()}, merges=[(show(a), show(b)) for a, b, _ in merges]))


# ---- writing ----

def save(t, out, name, config=None, gguf=None):
    folder = os.path.join(out, name)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "tokenizer.json"), "w") as f:
        f.write(json.dumps(json.loads(t.to_str()), ensure_ascii=False, separators=(",", ":")))
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump({"clean_up_tokenization_spaces": False, **(config or {})}, f)
    if gguf:
        with open(os.path.join(folder, "gguf.json"), "w") as f:
            json.dump(gguf, f, ensure_ascii=False)
    return folder


def byte_level_gguf(t, pre, **keys):
    tokens = [t.id_to_token(i) for i in range(t.get_vocab_size())]
    added_ = t.get_added_tokens_decoder()
    kinds = [(3 if added_[i].special else 4) if i in added_ else 1 for i in range(len(tokens))]
    merges = [" ".join(m) for m in json.loads(t.to_str())["model"]["merges"]]
    return {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": kinds, "merges": merges, **keys}


def spm_gguf(pieces):
    kinds = [2 if p == "<unk>" else 3 if p in ("<s>", "</s>") else 6 if len(p) == 6 and p.startswith("<0x") else 1 for p, _ in pieces]
    return {"model": "llama", "tokens": [p for p, _ in pieces], "token_type": kinds, "scores": [s for _, s in pieces],
            "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}


def make(base, settings, *args):
    t = base()
    settings(t, *args)
    return t


def write_spm(path, out, suffix=""):
    pieces, merges = read_spm(path)
    base = spm_base(pieces, merges)
    bos = {"bos_token": "<s>", "eos_token": "</s>"}
    folder = save(make(base, llama2), out, "llama2" + suffix, bos, spm_gguf(pieces))
    shutil.copy(path, os.path.join(folder, "tokenizer.model"))
    save(make(base, llama2_old), out, "llama2-old" + suffix, {**bos, "clean_up_tokenization_spaces": True})
    save(make(base, llama2_modern), out, "llama2-modern" + suffix, bos)


def small(out):
    base = train_byte_level(1600)
    chatml = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    t = make(base, smollm)
    save(t, out, "smollm", chatml, byte_level_gguf(t, "smollm", add_bos_token=False))
    t = make(base, llama3)
    bos, eos = t.token_to_id("<|begin_of_text|>"), t.token_to_id("<|eot_id|>")
    save(t, out, "llama3", {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "clean_up_tokenization_spaces": True},
         byte_level_gguf(t, "llama-bpe", bos_token_id=bos, eos_token_id=eos))
    t = make(base, qwen2)
    save(t, out, "qwen2", chatml, byte_level_gguf(t, "qwen2", add_bos_token=False))
    save(make(base, neox), out, "neox", {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "clean_up_tokenization_spaces": True})
    path = train_spm(1600, out)
    write_spm(path, out)
    os.remove(path)


def write_odd(out, count):
    byte_level = train_byte_level(900)
    path = train_spm(900, out)
    spm = spm_base(*read_spm(path))
    os.remove(path)
    for i in range(count):
        rnd = random.Random(i)
        save(make(spm if i % 2 else byte_level, odd, rnd), out, f"odd{i:03d}")


def write_cases(folder, count=170):
    """Texts with their ids ("special" alternates, true first), id lists with their texts ("skip" alternates, true first)."""
    import tok_compare
    t = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    clean = json.load(open(os.path.join(folder, "tokenizer_config.json")))["clean_up_tokenization_spaces"]
    specials = [x.content for x in t.get_added_tokens_decoder().values()]
    encode, decode = [], []
    for text in texts(5, 4 * count, specials[:8]):
        if len(text) > 90 and len(encode) % 40:
            continue
        try:
            encode.append([text[:700], t.encode(text[:700], add_special_tokens=len(encode) % 2 == 0).ids])
        except BaseException as e:  # some overlaps of added tokens make the library panic
            assert "Panic" in type(e).__name__, e
        if len(encode) == count:
            break
    for ids in tok_compare.id_lists(t, 6, count // 2):
        text = t.decode(ids[:25], skip_special_tokens=len(decode) % 2 == 0)
        decode.append([ids[:25], tok_compare.clean_up(text) if clean else text])
    with open(os.path.join(folder, "cases.json"), "w") as f:
        json.dump({"encode": encode, "decode": decode}, f, ensure_ascii=False, separators=(",", ":"))


def fixtures(out):
    small(out)
    write_odd(out, 40)
    keep = ("odd004", "odd017")
    for name in os.listdir(out):
        if name.startswith("odd") and name not in keep:
            shutil.rmtree(os.path.join(out, name))
    for name in sorted(os.listdir(out)):
        write_cases(os.path.join(out, name))
    alone = os.path.join(out, "llama2-spm")  # the SentencePiece file without a tokenizer.json
    os.makedirs(alone)
    shutil.move(os.path.join(out, "llama2", "tokenizer.model"), alone)
    for name in ("tokenizer_config.json", "cases.json"):
        shutil.copy(os.path.join(out, "llama2", name), alone)
    for name in ("smollm", "llama3", "qwen2"):  # the test takes these tables from tokenizer.json
        os.remove(os.path.join(out, name, "gguf.json"))


def write_spm_cases(path, folder, count=170):
    """The same from sentencepiece itself, which spells control pieces out: texts that hold none."""
    import sentencepiece
    sp = sentencepiece.SentencePieceProcessor(model_file=path)
    encode, rnd = [], random.Random(6)
    for text in texts(5, 6 * count, GEMMA_RUNS[:40:5] + ["<table>"]):
        if "\x00" in text or any(c in text for c in GEMMA) or (len(text) > 90 and len(encode) % 40):
            continue
        text = text[:700]
        encode.append([text, [2] * (len(encode) % 2 == 0) + sp.encode(text)])
        if len(encode) == count:
            break
    plain = [i for i in range(sp.get_piece_size()) if not sp.is_control(i) and not sp.is_unknown(i) and not sp.is_byte(i)]
    lists = [[rnd.choice(plain) for _ in range(rnd.choice((0, 1, 2, 3, 7, 20)))] for _ in range(count // 2)]
    with open(os.path.join(folder, "cases.json"), "w") as f:
        json.dump({"encode": encode, "decode": [[ids, sp.decode(ids)] for ids in lists]}, f, ensure_ascii=False, separators=(",", ":"))


def write_gemma(out):
    path = train_spm(1600, out, add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3, control_symbols=GEMMA[4:],
                     pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", user_defined_symbols=GEMMA_RUNS)
    names = {"bos_token": "<bos>", "eos_token": "<eos>"}
    write_cases(save(make(spm_base(*read_spm(path)), gemma), out, "gemma", names))
    alone = os.path.join(out, "gemma-spm")
    os.makedirs(alone, exist_ok=True)
    write_spm_cases(path, alone)
    shutil.move(path, os.path.join(alone, "tokenizer.model"))
    with open(os.path.join(alone, "tokenizer_config.json"), "w") as f:
        json.dump({"clean_up_tokenization_spaces": False, **names}, f)
    write_spm_gguf(alone)


def write_spm_gguf(folder):
    """The tables that llama.cpp's converter makes of the file: blanks in user-defined pieces, whose U+2581 it replaces."""
    import sentencepiece
    sp = sentencepiece.SentencePieceProcessor(model_file=os.path.join(folder, "tokenizer.model"))
    ids = range(sp.get_piece_size())
    kinds = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1 for i in ids]
    kinds = [4 if kind == 1 and sp.get_score(i) == 0 and sp.id_to_piece(i) in GEMMA_RUNS else kind for i, kind in zip(ids, kinds)]
    tokens = [sp.id_to_piece(i).replace("▁", " ") if kind == 4 else sp.id_to_piece(i) for i, kind in zip(ids, kinds)]
    with open(os.path.join(folder, "gguf.json"), "w") as f:
        json.dump({"model": "llama", "tokens": tokens, "scores": [sp.get_score(i) for i in ids], "token_type": kinds,
                   "bos_token_id": sp.bos_id(), "eos_token_id": sp.eos_id(), "unknown_token_id": sp.unk_id(),
                   "add_space_prefix": False}, f, ensure_ascii=False, separators=(",", ":"))


def write_gguf(path, out):
    from gguf import GGUFReader
    keys = {k.split(".")[-1]: f.contents() for k, f in GGUFReader(path).fields.items() if k.startswith("tokenizer.ggml.")}
    assert keys["pre"] == "smollm"
    t = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(keys["tokens"])}, merges=[tuple(m.split(" ")) for m in keys["merges"]]))
    smollm(t)
    t.add_special_tokens(added([p for p, kind in zip(keys["tokens"], keys["token_type"]) if kind == 3]))
    save(t, out, "smollm2", None, keys)


def write_tiktoken(path, out):
    t = tiktoken_base(path)
    qwen2(t)
    save(t, out, "qwen2-full", None, byte_level_gguf(t, "qwen2"))


def main():
    what, args = sys.argv[1], sys.argv[2:]
    os.makedirs(args[0] if what in ("small", "odd", "fixtures", "gemma") else args[1], exist_ok=True)
    if what == "small":
        small(*args)
    elif what == "fixtures":
        fixtures(*args)
    elif what == "gemma":
        write_gemma(*args)
    elif what == "odd":
        write_odd(args[0], int(args[1]))
    elif what == "gguf":
        write_gguf(*args)
    elif what == "spm":
        write_spm(*args, "-full")
    elif what == "tiktoken":
        write_tiktoken(*args)


if __name__ == "__main__":
    main()
