"""Texts for comparing tokenizers: random and adversarial, reproducible by seed."""
import random
import sys
import unicodedata

SPACES = [chr(c) for c in (9, 10, 11, 12, 13, 32, 0x85, 0xA0, 0x1680, 0x180E, *range(0x2000, 0x200E), 0x2028, 0x2029, 0x202F,
                           0x205F, 0x2060, 0x3000, 0xFEFF)]
CONTRACTIONS = ["'s", "'S", "'t", "'re", "'VE", "'Ll", "'d", "'M", "’s", "'ſ", "''s", "'", "n't", " 'm", " 've", " ' "]
WORDS = ("the of model cache Transformer naïve façade Straße ὈΔΥΣΣΕΎΣ москва 東京都 漢字 かな 한국어 ภาษาไทย हिन्दी العربية עברית "
         "ﬁne ﬀ Å Å Å é e\u0301 q\u0323\u0307 q\u0307\u0323 ｆｕｌｌ １２３ ٣٤٥ ४५ Ⅷ ½ ² ① 𝟘𝟙 𝒳 🇩🇪 👩‍👩‍👧 👍🏽 ☃️ ﷽ \u200d \u00ad").split(" ")
CODE = ["def f(x):\n    return x**2 + 1\n", "for (int i = 0; i < n; i++)\n\t\ta[i] += b[i];\r\n", "<div class=\"a b\">&nbsp;</div>",
        "SELECT * FROM t WHERE a<=3 AND b!='x';", "x = {\"k\": [1, 2.5e-3]}", "https://example.org/a?b=c&d=%20#e", "\\frac{a}{b}",
        "#!/bin/sh\n\n\n\necho $HOME\n", "    \n\n  \t\t\n"]


def _assigned():
    """Code points assigned in Python's own Unicode version (not newer than any library's), surrogates left out."""
    return [c for c in range(1, sys.maxunicode + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]


def texts(seed, count, specials=()):
    rnd = random.Random(seed)
    assigned = _assigned()
    small = [c for c in assigned if c < 0x3000]
    digits = [c for c in assigned if unicodedata.category(chr(c))[0] == "N"]
    marks = [c for c in assigned if unicodedata.category(chr(c))[0] == "M"]
    specials = list(specials)

    def atom():
        k = rnd.randrange(14)
        if k == 0:
            return chr(rnd.choice(assigned))
        if k == 1:
            return chr(rnd.choice(small))
        if k == 2:
            return chr(rnd.choice(digits))
        if k == 3:
            return rnd.choice("abcde") + chr(rnd.choice(marks))
        if k == 4:
            return rnd.choice(SPACES) * rnd.choice((1, 1, 1, 2, 3, 9))
        if k == 5:
            return rnd.choice(CONTRACTIONS)
        if k == 6:
            return rnd.choice(CODE)
        if k == 7 and specials:
            s = rnd.choice(specials)
            return s if rnd.random() < 0.7 else s[:rnd.randrange(len(s) + 1)]
        if k == 8:
            return str(rnd.randrange(10 ** rnd.randrange(1, 12)))
        if k == 9:
            return chr(rnd.randrange(1, 128))
        if k == 10:
            return " "
        if k == 11:
            return rnd.choice(".,!?;:()[]{}<>|_-+=*/\\@#$%^&~`\"'▁Ġ�")
        return rnd.choice(WORDS)

    fixed = ["", " ", "  ", "\n", "\r\n", "a", " a", "a ", "\x00", "a\x00b", "Hello, world!", "I'm you're he'd WE'LL", "▁", "▁a ▁ b", "<0x41>",
             "a" * 3000, " " * 1000, "\n" * 500, "1" * 1000, "ab" * 1500, "字" * 700, "👍" * 300, "é" * 500 + " " * 77,
             "e" + "\u0301\u0323" * 200, "\U0010ffff\U000f0000", "\ue000\uf8ff", "= " * 500, "don't  can't   won't", "tokens\u3000\u3000x"]
    fixed += specials + [f"x{s}y" for s in specials] + [f" {s} " for s in specials] + [s + s for s in specials]
    fixed += ["\n \t" + s + "\u3000\n" for s in specials[:40]]
    if len(fixed) > count // 2:
        fixed = fixed[:29] + rnd.sample(fixed[29:], max(0, count // 2 - 29))
    yield from fixed
    for i in range(count - len(fixed)):
        n = rnd.choice((1, 2, 3, 5, 8, 13, 40)) if i % 50 else 400
        joint = rnd.choice(("", "", " ", None))
        yield "".join(atom() + (rnd.choice(("", " ", "  ")) if joint is None else joint) for _ in range(n))
