#!/usr/bin/env python3
"""Files of torch.save, sound and hostile, for tests/test_torch_file.c.

    python tests/oracle/torch_files.py tests/fixtures/model/torch

state_dict.bin: an OrderedDict with _metadata (as state_dict() gives it), parameters, three dtypes, a tied pair, a slice.
plain.pth: a plain dict in bfloat16. values.txt: name, type, shape and SHA-256 of each tensor as float32.
The others must be refused: a pickle that calls os.system, one with a list, strides that are not row-major, int64 values.
"""
import collections
import hashlib
import os
import pickle
import struct
import sys
import zipfile

import torch

root = sys.argv[1]
os.makedirs(root, exist_ok=True)
g = torch.Generator().manual_seed(7)


def rnd(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=g).to(dtype)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = torch.nn.Embedding(11, 6, dtype=torch.float16)
        self.a = torch.nn.Linear(6, 5, dtype=torch.float16)
        self.A_log = torch.nn.Parameter(rnd(5, 3))
        self.conv = torch.nn.Conv1d(5, 5, 4, groups=5, dtype=torch.bfloat16)
        self.head = torch.nn.Linear(6, 11, bias=False, dtype=torch.float16)
        self.head.weight = self.emb.weight
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(rnd(*p.shape))


def note(out, file, d):
    for k, v in d.items():
        type_name = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[v.dtype]
        shape = "x".join(map(str, v.shape)) or "1"
        sha = hashlib.sha256(v.detach().float().contiguous().numpy().tobytes()).hexdigest()
        out.write(f"{file} {k} {type_name} {shape} {sha}\n")


def save(d, name):
    torch.save(d, os.path.join(root, name))


sd = Net().state_dict()
base = rnd(4, 7)
sd["slice.weight"] = base[1:3]  # offset into a storage
sd["scalar"] = torch.tensor(2.5)
sd["param"] = torch.nn.Parameter(rnd(3))
plain = {f"blocks.{i}.w": rnd(1, 1, 6, dtype=torch.bfloat16) for i in range(80)}  # memo numbers beyond one byte
with open(os.path.join(root, "values.txt"), "w") as out:
    save(sd, "state_dict.bin")
    note(out, "state_dict.bin", sd)
    save(plain, "plain.pth")
    note(out, "plain.pth", {k: plain[k] for k in list(plain)[:3] + list(plain)[-3:]})
    note(out, "zip64.bin", sd)
save({"w": rnd(3, 4).t()}, "strides.pth")
save({"w": torch.arange(3)}, "int64.pth")
save({"w": [rnd(2)]}, "list.pth")
save({"w": 3, "v": rnd(2)}, "number.pth")


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/kvsweep-was-here",)


with zipfile.ZipFile(os.path.join(root, "evil.pth"), "w") as z:
    z.writestr("evil/data.pkl", pickle.dumps({"w": Evil()}, protocol=2))
    z.writestr("evil/version", "3\n")


def zip64(source, target):
    """The same entries with every size and place in zip64 fields, as archives above 4 GiB have them."""
    body, central = b"", b""
    with zipfile.ZipFile(source) as z:
        names = z.namelist()
        for name in names:
            data, raw = z.read(name), name.encode()
            extra = struct.pack("<HHQQQ", 1, 24, len(data), len(data), len(body))
            central += struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 45, 45, 0, 0, 0, 0, 0, 2**32 - 1, 2**32 - 1,
                                   len(raw), len(extra), 0, 0, 0, 0, 2**32 - 1) + raw + extra
            body += struct.pack("<IHHHHHIIIHH", 0x04034B50, 45, 0, 0, 0, 0, 0, 2**32 - 1, 2**32 - 1, len(raw), 0)
            body += raw + data
    at = len(body)
    end64 = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, len(names), len(names), len(central), at)
    locator = struct.pack("<IIQI", 0x07064B50, 0, at + len(central), 1)
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    with open(target, "wb") as f:
        f.write(body + central + end64 + locator + end)


zip64(os.path.join(root, "state_dict.bin"), os.path.join(root, "zip64.bin"))
with zipfile.ZipFile(os.path.join(root, "deflated.pth"), "w", zipfile.ZIP_DEFLATED) as z:
    z.writestr("d/data.pkl", pickle.dumps({}, protocol=2) * 20)
