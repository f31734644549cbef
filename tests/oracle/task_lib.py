"""Builds src/task and src/base as one shared library and calls it from Python (for the oracle checks only)."""
import ctypes as C
import glob
import os
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Utext(C.Structure):
    _fields_ = [("cp", C.POINTER(C.c_uint32)), ("n", C.c_size_t)]


class Extra(C.Structure):
    _fields_ = [("name", C.c_char_p), ("value", C.c_double)]


class Example(C.Structure):
    _fields_ = [("id", C.c_char_p), ("before", C.c_char_p), ("context", C.c_char_p), ("after", C.c_char_p),
                ("compress_all", C.c_bool), ("gold", C.POINTER(C.c_char_p)), ("n_gold", C.c_int),
                ("classes", C.POINTER(C.c_char_p)), ("n_classes", C.c_int), ("n_words", C.c_int32),
                ("length", C.c_double), ("depth", C.c_double), ("iteration", C.c_int32)]

    def prompt(self):
        return self.before + self.context + self.after


class Traits(C.Structure):
    _fields_ = [("kind", C.c_int), ("chat", C.c_bool), ("newline_stops", C.c_bool), ("first_line_only", C.c_bool),
                ("max_new", C.c_int), ("metric", C.c_char_p), ("category", C.c_char_p)]


class Type(C.Structure):
    _fields_ = [("name", C.c_char_p), ("source", C.c_char_p), ("params", C.c_void_p), ("traits", Traits)]


COUNT = C.CFUNCTYPE(C.c_int64, C.c_void_p, C.c_void_p, C.c_size_t)


class Counter(C.Structure):
    _fields_ = [("count", COUNT), ("ctx", C.c_void_p)]


def build(folder=None):
    folder = folder or tempfile.mkdtemp()
    so = os.path.join(folder, "libtask.so")
    sources = sorted(glob.glob(f"{ROOT}/src/task/*.c") + glob.glob(f"{ROOT}/src/base/*.c"))
    subprocess.check_call(["gcc", "-shared", "-fPIC", "-O2", "-std=c11", "-D_GNU_SOURCE", "-ffp-contract=off",
                           f"-I{ROOT}/src", f"-I{ROOT}", *sources, "-ljansson", "-lutf8proc", "-lm", "-o", so])
    lib = C.CDLL(so)
    for name in ["qa_f1", "qa_exact", "retrieval", "count", "code_sim", "code_sim_indel", "contains", "partial_match"]:
        f = getattr(lib, "metric_" + name)
        f.argtypes, f.restype = [Utext, Utext], C.c_double
    lib.metric_rouge_l.argtypes, lib.metric_rouge_l.restype = [Utext, Utext, C.POINTER(C.c_bool)], C.c_double
    lib.metric_classification.argtypes = [Utext, Utext, C.POINTER(Utext), C.c_int]
    lib.metric_classification.restype = C.c_double
    lib.utext_lower.argtypes, lib.utext_lower.restype = [C.POINTER(Utext), Utext], None
    for name in ["is_space", "is_word", "is_decimal"]:
        f = getattr(lib, "ucp_" + name)
        f.argtypes, f.restype = [C.c_uint32], C.c_bool
    lib.score_round2.argtypes, lib.score_round2.restype = [C.c_double], C.c_double
    lib.task_type_find.restype = lib.task_type_at.restype = C.POINTER(Type)
    lib.task_example.restype = C.POINTER(Example)
    lib.task_source_sha256.restype = lib.err_text.restype = C.c_char_p
    lib.synthetic_essay.argtypes, lib.synthetic_essay.restype = [C.c_uint64, C.c_uint64], C.c_void_p
    return lib


def utext(s):
    """A str as borrowed code points (lone surrogates included)."""
    raw = (C.c_uint32 * max(1, len(s)))(*map(ord, s))
    return Utext(C.cast(raw, C.POINTER(C.c_uint32)), len(s))


def lower(lib, s):
    out = Utext()
    lib.utext_lower(C.byref(out), utext(s))
    return "".join(map(chr, out.cp[:out.n]))


class Task:
    """task_open with keys as text; raises ValueError with the program's message."""

    def __init__(self, lib, name, counter=None, **params):
        self.lib, self.t = lib, C.c_void_p()
        kind = lib.task_type_find(name.encode())
        table = C.c_void_p(kind.contents.params)
        block = C.create_string_buffer(256)
        lib.param_defaults(table, block)
        for key, value in params.items():
            if lib.param_set(table, block, key.encode(), str(value).encode(), b"task") < 0:
                raise ValueError(lib.err_text().decode())
        c = None
        if counter:
            c = Counter(COUNT(lambda ctx, text, n: counter(C.string_at(text, n).decode())), None)
        rc = lib.task_open(C.byref(self.t), kind, block, C.byref(c) if c else None)
        if rc < 0:
            raise ValueError(lib.err_text().decode(errors="replace"))

    def __len__(self):
        return self.lib.task_count(self.t)

    def __getitem__(self, i):
        return self.lib.task_example(self.t, i).contents

    def sha256(self):
        return self.lib.task_source_sha256(self.t).decode()

    def score(self, i, answer):
        score, extra = C.c_double(), (Extra * 4)()
        n = self.lib.task_score(self.t, i, answer.encode(), C.byref(score), extra)
        return score.value, {e.name.decode(): e.value for e in extra[:n]}

    def close(self):
        self.lib.task_close(self.t)
