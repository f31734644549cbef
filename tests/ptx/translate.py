#!/usr/bin/env python3
"""translate.py IN.ptx OUT.cc: the PTX of one translation unit as C++ for ptx.h.

Every .entry becomes a function of one thread: registers are its locals, basic blocks its labels, and every
instruction one call whose name is that of the instruction (add.s32: add_s32). What an instruction means stands
in ptx.h and beside it, nowhere here. An instruction that has no rule below ends the translation with its name.
"""
import math
import re
import sys

BITS = {"b8": 8, "u8": 8, "s8": 8, "b16": 16, "u16": 16, "s16": 16, "f16": 16, "b32": 32, "u32": 32, "s32": 32,
        "f32": 32, "b64": 64, "u64": 64, "s64": 64, "f64": 64}
C_TYPE = {"pred": "bool", "b8": "uint8_t", "u8": "uint8_t", "s8": "int8_t", "b16": "uint16_t", "u16": "uint16_t",
          "s16": "int16_t", "b32": "uint32_t", "u32": "uint32_t", "s32": "int32_t", "f32": "float", "b64": "uint64_t",
          "u64": "uint64_t", "s64": "int64_t", "f64": "double"}
INT = r"([bus](?:16|32|64))"
FLOAT = r"(f32|f64)"

# Instructions that only compute: pattern, type of the result, types of the operands (\1 and so on as in the
# pattern). PTX ISA 9.7.1 to 9.7.9.
RULES = [(re.compile(p + "$"), result, operands.split()) for p, result, operands in [
    (r"(?:add|sub|min|max|div|rem|and|or|xor)\." + INT, r"\1", r"\1 \1"),
    (r"mul\.lo\." + INT, r"\1", r"\1 \1"),
    (r"mad\.lo\." + INT, r"\1", r"\1 \1 \1"),
    (r"mul\.wide\.([us])16", r"\g<1>32", r"\g<1>16 \g<1>16"),
    (r"mul\.wide\.([us])32", r"\g<1>64", r"\g<1>32 \g<1>32"),
    (r"mad\.wide\.([us])32", r"\g<1>64", r"\g<1>32 \g<1>32 \g<1>64"),
    (r"(?:shl|shr)\." + INT, r"\1", r"\1 u32"),
    (r"(?:not|neg)\." + INT, r"\1", r"\1"),
    (r"bfi\.(b32|b64)", r"\1", r"\1 \1 u32 u32"),
    (r"prmt\.b32", "b32", "b32 b32 b32"),
    (r"lop3\.b32", "b32", "b32 b32 b32 u32"),
    (r"(?:and|or|xor)\.pred", "pred", "pred pred"),
    (r"(?:not|mov)\.pred", "pred", "pred"),
    (r"mov\.([busf](?:16|32|64))", r"\1", r"\1"),
    (r"selp\.([busf](?:16|32|64))", r"\1", r"\1 \1 pred"),
    (r"setp\.(?:eq|ne|lt|le|gt|ge)\." + INT, "pred", r"\1 \1"),
    (r"setp\.(?:eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|num|nan)\." + FLOAT, "pred", r"\1 \1"),
    (r"(?:add|sub|mul|div)\.rn\." + FLOAT, r"\1", r"\1 \1"),
    (r"add\.rz\.f32", "f32", "f32 f32"),
    (r"(?:min|max|copysign)\.f32", "f32", "f32 f32"),
    (r"(?:abs|neg)\." + FLOAT, r"\1", r"\1"),
    (r"fma\.rn\." + FLOAT, r"\1", r"\1 \1 \1"),
    (r"fma\.rm\.f32", "f32", "f32 f32 f32"),
    (r"fma\.rn\.f16x2", "b32", "b32 b32 b32"),
    (r"(?:add|mul)\.rn\.f16x2", "b32", "b32 b32"),
    (r"(?:rcp|sqrt)\.rn\.f32", "f32", "f32"),
    (r"ex2\.approx(?:\.ftz)?\.f32", "f32", "f32"),
    (r"rcp\.approx\.ftz\.f32", "f32", "f32"),
    (r"rcp\.approx\.ftz\.f64", "f64", "f64"),
    (r"cvt\.([us](?:8|16|32|64))\.([us](?:8|16|32|64))", r"\1", r"\2"),
    (r"cvt\.rn\." + FLOAT + r"\.([us](?:16|32|64))", r"\1", r"\2"),
    (r"cvt\.(?:rni|rzi)\.([us]32)\.f32", r"\1", "f32"),
    (r"cvt\.(?:sat|rni)\.f32\.f32", "f32", "f32"),
    (r"cvt\.f64\.f32", "f64", "f32"),
    (r"cvt\.rn\.f32\.f64", "f32", "f64"),
    (r"cvt\.f32\.f16", "f32", "b16"),
    (r"cvt\.rn\.(?:f16|bf16)\.f32", "b16", "f32"),
    (r"cvt\.rn\.(?:f16x2|bf16x2)\.f32", "b32", "f32 f32"),
    (r"cvta(?:\.to)?\.(?:shared|global|local)\.u64", "u64", "u64"),
]]

SPECIAL = re.compile(r"%(tid|ntid|ctaid|nctaid)\.([xyz])$")
MEMORY = re.compile(r"(ld|st)(?:\.(global|shared|local|param))?((?:\.(?:nc|cs|cg|ca))*)(?:\.v([24]))?\.([busf]\d+)$")


class Entry:
    """What is known of one .entry while it is read."""

    def __init__(self, name, line):
        self.name, self.line = name, line
        self.params, self.param_bytes = {}, 0  # name -> offset; sizes in order
        self.param_sizes = []
        self.shared, self.shared_bytes = {}, 0
        self.local, self.local_bytes = {}, 0
        self.max_threads = 0
        self.registers = {}  # C++ name -> type
        self.scopes = []  # of the braces: {PTX name: C++ name}
        self.n_scopes = 0
        self.out = []
        self.locs = []
        self.flow = []  # of instructions, for check_wgmma: (line, kind, registers, what more)
        self.touched = set()  # registers of the instruction that is being translated


class Translator:
    def __init__(self, path):
        self.path = path
        with open(path, encoding="utf-8") as f:
            self.text = f.read()
        self.files = {}
        self.tables = {}
        self.dynamic = None
        self.entries = []
        self.entry = None
        self.line = 0

    def fail(self, what):
        sys.exit(f"{self.path}:{self.line}: {what}")

    # ---------------------------------------------------------------- statements

    def statements(self):
        """(line, statement) with braces and labels as statements of their own."""
        text = re.sub(r"//[^\n]*", "", self.text).rstrip()
        token = re.compile(r"\s*(?:(\.loc\s[^\n]*\n)|(\.file[^\n]*)|(\.section[^{]*\{[^}]*\})|(\.pragma[^;]*;)"
                           r"|(\.(?:version|target|address_size)[^\n]*)|(\.(?:maxntid|minnctapersm)[^\n]*)"
                           r"|([{}])|([$\w]+:)(?!:)|(\.entry[^)]*\))|([^;{}]*(?:\{[^}]*\}[^;{}]*)*;))")
        at, line = 0, 1
        while at < len(text):
            found = token.match(text, at)
            if not found:
                self.line = line
                self.fail("no statement: " + text[at:at + 60].strip())
            start = found.start(found.lastindex)
            line += text.count("\n", at, start)
            yield line, found.group(found.lastindex).strip()
            line += text.count("\n", start, found.end())
            at = found.end()

    def run(self):
        for self.line, s in self.statements():
            if s == "{":
                self.open()
            elif s == "}":
                self.close()
            elif s.startswith(".file"):
                number, name = re.match(r'\.file\s+(\d+)\s+"([^"]*)"', s).groups()
                self.files[int(number)] = name
            elif re.match(r"\.loc\s", s):
                self.loc(s)
            elif s.startswith(".entry"):
                self.start(s)
            elif s.startswith(".maxntid"):
                self.entry.max_threads = math.prod(int(n) for n in s.split(None, 1)[1].split(","))
            elif s.startswith((".version", ".target", ".address_size", ".minnctapersm", ".pragma", ".section")):
                pass
            elif s.startswith(".global"):
                self.constant(s)
            elif s.startswith((".reg", ".shared", ".local", ".extern")):
                self.declare(s[:-1])
            elif s.endswith(":"):
                self.entry.out.append(f"{self.label(s[:-1], True)}:;")
                self.entry.flow.append((self.line, "label", set(), self.label(s[:-1])))
            else:
                self.instruction(s[:-1].strip())

    def open(self):
        self.entry.scopes.append({})
        self.entry.n_scopes += 1

    def close(self):
        self.entry.scopes.pop()
        if not self.entry.scopes:
            self.check_wgmma()
            self.entries.append(self.entry)
            self.entry = None

    def start(self, s):
        self.entry = e = Entry(re.match(r"\.entry\s+(\w+)", s).group(1), self.line)
        parameter = r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(\w+)(?:\[(\d+)\])?"
        for align, kind, name, count in re.findall(parameter, s):
            size = BITS[kind] // 8 * int(count or 1)
            step = int(align or size)
            e.param_bytes = -(-e.param_bytes // step) * step
            e.params[name] = e.param_bytes
            e.param_bytes += size
            e.param_sizes.append(size)

    def loc(self, s):
        number, row = re.match(r"\.loc\s+(\d+)\s+(\d+)", s).groups()
        inlined = re.search(r"inlined_at\s+(\d+)\s+(\d+)", s)
        if int(row):  # 0: no line of the source
            self.entry.locs.append((self.line, number, row) + (inlined.groups() if inlined else ("0", "0")))

    def declare(self, s):
        e = self.entry
        found = re.match(r"(?:\.extern )?\.(shared|local)\s+\.align\s+(\d+)\s+\.b8\s+(\w+)\[(\d*)\]$", s)
        if s.startswith(".reg"):
            kind, names = re.match(r"\.reg\s+\.(\w+)\s+(.*)$", s).groups()
            for name in re.split(r"\s*,\s*", names.strip()):
                self.registers(kind, name)
        elif found and s.startswith(".extern"):
            self.dynamic = found.group(3)
        elif found:
            space, align, name, size = found.groups()
            used = e.shared_bytes if space == "shared" else e.local_bytes
            used = -(-used // int(align)) * int(align)
            (e.shared if space == "shared" else e.local)[name] = used
            if space == "shared":
                e.shared_bytes = used + int(size)
            else:
                e.local_bytes = used + int(size)
        else:
            self.fail("no such declaration: " + s)

    def constant(self, s):
        """A table in device memory that comes with the code."""
        found = re.match(r"\.global\s+\.align\s+(\d+)\s+\.b8\s+(\w+)\[(\d+)\]\s*=\s*\{([\d,\s]*)\};$", s)
        if not found:
            self.fail("no such table: " + s)
        self.tables[found.group(2)] = found.groups()

    def registers(self, kind, name):
        e = self.entry
        many = re.match(r"(%\w+)<(\d+)>$", name)
        if many:
            e.scopes[-1][many.group(1)] = ("many", many.group(1)[1:], kind)
            return
        c_name = re.sub(r"\W", "", name) + "_" + str(e.n_scopes)
        e.scopes[-1][name] = ("one", c_name, kind)

    def label(self, name, here=False):
        """Labels inside braces belong to these braces alone."""
        e = self.entry
        if name.startswith("$"):
            return name[1:].replace("$", "_")
        if here:
            e.scopes[-1][name] = ("label", f"{name}_{e.n_scopes}", None)
        for scope in reversed(e.scopes):
            if name in scope:
                return scope[name][1]
        self.fail("no such label: " + name)

    # ---------------------------------------------------------------- operands

    def register(self, name):
        """(C++ name, type) of a register, None if it is none."""
        e = self.entry
        stem, number = re.match(r"(.*?)(\d*)$", name).groups()
        for scope in reversed(e.scopes):
            if name in scope and scope[name][0] == "one":
                c_name, kind = scope[name][1:]
            elif number and scope.get(stem, ("",))[0] == "many":
                c_name, kind = scope[stem][1] + number, scope[stem][2]
            else:
                continue
            e.registers[c_name] = kind
            e.touched.add(c_name)
            return c_name, kind
        return None

    def operand(self, text, want):
        """The C++ of an operand that the instruction takes as `want`."""
        found = self.register(text)
        if found:
            return self.cast(found[0], found[1], want)
        if re.match(r"0f[0-9A-Fa-f]{8}$", text):
            return self.cast(f"f32_of(0x{text[2:]}u)", "f32", want)
        if re.match(r"0d[0-9A-Fa-f]{16}$", text):
            return self.cast(f"f64_of(0x{text[2:]}ull)", "f64", want)
        if re.match(r"-?\d+$", text) or re.match(r"0x[0-9a-fA-F]+$", text):
            return self.integer(int(text, 0), want)
        special = SPECIAL.match(text)
        if special:
            name, axis = special.groups()
            return f"me->tid.{axis}" if name == "tid" else f"ptx_block.{name}.{axis}"
        return f"{self.symbol(text)}"

    def integer(self, value, want):
        if want == "pred":
            return "true" if value else "false"
        bits = BITS[want]
        value &= (1 << bits) - 1
        return f"{value}ull" if bits == 64 else f"{value}u"

    def symbol(self, name):
        e = self.entry
        if name in e.shared:
            return f"(PTX_SHARED_BASE + {e.shared[name]}u)"
        if name in self.tables:
            return f"(uint64_t)(uintptr_t){name}"
        if name == self.dynamic:
            return "PTX_DYNAMIC(SHARED)"
        if name in e.local:
            return f"(uint64_t)(uintptr_t)(depot + {e.local[name]})"
        self.fail("no such operand: " + name)

    @staticmethod
    def cast(text, kind, want):
        """Bits go over as they are between registers of numbers and of bits (PTX ISA 9.4)."""
        if kind == want or "pred" in (kind, want) or (kind[0] != "f" and want[0] != "f"):
            return text
        if kind[0] == "f" and want[0] == "f":
            return text
        if want[0] == "f":
            return f"{want}_of({text})"
        return f"u{BITS[kind]}_of({text})"

    def assign(self, name, value, kind):
        if name == "_":
            return f"(void){value};"
        c_name, have = self.register(name)
        return f"{c_name} = {self.cast(value, kind, have)};"

    @staticmethod
    def split(text):
        """Operands; a list in braces is one."""
        return [t.strip() for t in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,])+", text)]

    @staticmethod
    def names(braces):
        return [n.strip() for n in braces.strip("{} ").split(",")]

    def address(self, text, want):
        base, step = re.match(r"\[\s*([^\]+]+?)\s*(?:\+\s*(-?\d+))?\s*\]$", text).groups()
        value = self.operand(base, want)
        return value if step is None or step == "0" else f"{value} + {self.integer(int(step), want)}"

    # ---------------------------------------------------------------- instructions

    def instruction(self, s):
        found = re.match(r"(?:@(!?[%\w]+)\s+)?([a-z]\w*(?:(?:\.|::)\w+)*)\s*(.*)$", s, re.S)
        if not found:
            self.fail("no instruction: " + s)
        guard, name, rest = found.groups()
        self.entry.touched = set()
        args = self.split(rest.replace("\n", " "))
        code = self.translate(name, args)
        kind = next((k for k in ("bra", "ret", "wgmma.fence", "wgmma.mma_async") if name.startswith(k)), "other")
        more = self.label(args[0]) if kind == "bra" else args[0] if kind == "wgmma.mma_async" else None
        self.entry.flow.append((self.line, kind, self.entry.touched, (more, guard)))
        if guard:
            no = guard.startswith("!")
            code = f"if ({'!' if no else ''}{self.operand(guard.lstrip('!'), 'pred')}) {{ {code} }}"
        self.entry.out.append(code)

    def translate(self, name, args):
        if name in ("bra", "bra.uni"):
            return f"goto {self.label(args[0])};"
        if name == "ret":
            return "return;"
        memory = MEMORY.match(name)
        if memory:
            return self.memory(memory, args)
        if name.startswith("mov.b") and "{" in args[0] + args[1]:
            return self.pack(name, args)
        for handler, pattern in self.HANDLERS:
            found = re.match(pattern + "$", name)
            if found:
                return handler(self, found, args)
        for pattern, result, operands in RULES:
            found = pattern.match(name)
            if found:
                c_name = re.sub(r"\W+", "_", name)
                kinds = [found.expand(o) for o in operands]
                if len(kinds) != len(args) - 1:
                    self.fail(f"{name} with {len(args)} operands")
                values = ", ".join(self.operand(a, k) for a, k in zip(args[1:], kinds))
                return self.assign(args[0], f"{c_name}({values})", found.expand(result))
        self.fail(f"no rule for the instruction {name}")

    def check_wgmma(self):
        """Between the last access of a wgmma's registers and the wgmma there must be a wgmma.fence, unless that
        access was a wgmma on the same accumulators (PTX ISA 9.7.15.7.1): every way back is followed."""
        flow = self.entry.flow
        labels = {more: i for i, (_, kind, _, more) in enumerate(flow) if kind == "label"}
        before = [[] for _ in flow]
        for i, (_, kind, _, more) in enumerate(flow):
            if kind == "bra":
                before[labels[more[0]]].append(i)
            if i + 1 < len(flow) and (kind not in ("bra", "ret") or more[1]):
                before[i + 1].append(i)
        for i, (line, kind, registers, more) in enumerate(flow):
            if kind != "wgmma.mma_async":
                continue
            fragments = {r for r in registers if self.entry.registers[r] in ("f32", "b32")}
            ways, been = list(before[i]), set()
            while ways:
                at = ways.pop()
                other_line, other, touched, what = flow[at]
                if at in been or other == "wgmma.fence":
                    continue
                been.add(at)
                if touched & fragments and not (other == "wgmma.mma_async" and what[0] == more[0]):
                    self.line = line
                    self.fail(f"no wgmma.fence since line {other_line}, which has {sorted(touched & fragments)[0]}")
                if not before[at]:
                    self.line = line
                    self.fail("wgmma without a wgmma.fence before it")
                ways += before[at]

    def memory(self, found, args):
        """ld and st (PTX ISA 9.7.9.8, 9.7.9.11): the address is checked, then C++ loads or stores."""
        op, space, cache, count, kind = found.groups()
        at, values = (args[1], args[0]) if op == "ld" else (args[0], args[1])
        names = self.names(values)
        if len(names) != int(count or 1):
            self.fail("a vector of another length")
        bytes_each = BITS[kind] // 8
        if space == "param":
            base, step = re.match(r"\[\s*(\w+)(?:\+(\d+))?\s*\]$", at).groups()
            where = f"param + {self.entry.params[base] + int(step or 0)}"
        else:
            call = f"{op}_{space or 'generic'}" + ("_cs" if (op, space, cache) == ("ld", "global", ".cs") else "")
            place = self.address(at, "u32" if space == "shared" else "u64")
            where = f"{call}(me, {place}, {bytes_each * len(names)}, {self.line})"
            if space == "local":
                where = where.replace("(me,", "(me, depot, sizeof depot,")
        c_type = f"ptx_{kind}"
        if op == "ld":
            values = " ".join(self.assign(n, f"at[{i}]", kind) for i, n in enumerate(names))
            return f"{{ auto at = (const {c_type} *)({where}); {values} }}"
        values = " ".join(f"at[{i}] = {self.stored(n, kind)};" for i, n in enumerate(names))
        return f"{{ auto at = ({c_type} *){where}; {values} }}"

    def stored(self, name, kind):
        value = self.operand(name, kind)
        return f"({C_TYPE[kind]}){value}" if kind[0] != "f" else value

    def pack(self, name, args):
        """mov between a wide register and a list of its parts, the lowest first (PTX ISA 9.7.9.4)."""
        wide = BITS[name[4:]]
        parts = self.names(args[0] if "{" in args[0] else args[1])
        each = f"b{wide // len(parts)}"
        if "{" in args[0]:
            takes = " ".join(self.assign(p, f"({C_TYPE[each]})(all >> {i * BITS[each]})", each)
                             for i, p in enumerate(parts))
            return f"{{ const uint{wide}_t all = {self.operand(args[1], f'b{wide}')}; {takes} }}"
        value = " | ".join(f"(uint{wide}_t)({C_TYPE[each]}){self.operand(p, each)} << {i * BITS[each]}"
                           for i, p in enumerate(parts))
        return self.assign(args[0], f"(uint{wide}_t)({value})", f"b{wide}")

    def list_of(self, braces, kind, variable, const="const "):
        values = ", ".join(self.operand(n, kind) for n in self.names(braces))
        return f"{const}{C_TYPE[kind]} {variable}[] = {{{values}}};"

    def give_out(self, braces, variable, kind):
        return " ".join(self.assign(n, f"{variable}[{i}]", kind) for i, n in enumerate(self.names(braces)))

    def mma(self, found, args):
        d, a, b, c = args
        lists = f"{self.list_of(a, 'b32', 'a')} {self.list_of(b, 'b32', 'b')} {self.list_of(c, 'f32', 'c')}"
        return (f"{{ float d[4]; {lists} mma_m16n8k16_{found.group(1)}(me, d, a, b, c, {self.line}); "
                f"{self.give_out(d, 'd', 'f32')} }}")

    def ldmatrix(self, found, args):
        trans = "true" if found.group(1) else "false"
        return (f"{{ uint32_t d[4]; ldmatrix_x4(me, d, {self.address(args[1], 'u32')}, {trans}, {self.line}); "
                f"{self.give_out(args[0], 'd', 'b32')} }}")

    def movmatrix(self, _, args):
        return self.assign(args[0], f"movmatrix(me, {self.operand(args[1], 'b32')}, {self.line})", "b32")

    def shfl(self, found, args):
        d, _, p = args[0].partition("|")
        a, b, c, mask = (self.operand(x, "b32") for x in args[1:])
        code = f"bool in; const uint32_t got = shfl_sync_{found.group(1)}(me, {a}, {b}, {c}, {mask}, &in, {self.line});"
        code += " " + self.assign(d, "got", "b32")
        return f"{{ {code} {self.assign(p, 'in', 'pred') if p else ''} }}"

    def ballot(self, _, args):
        p, mask = self.operand(args[1], "pred"), self.operand(args[2], "b32")
        return self.assign(args[0], f"vote_sync_ballot(me, {p}, {mask}, {self.line})", "b32")

    def bar_sync(self, _, args):
        count = self.operand(args[1], "u32") if len(args) > 1 else "0"
        return f"bar_sync(me, {self.operand(args[0], 'u32')}, {count}, {self.line});"

    def cp_async(self, found, args):
        size = self.operand(args[3], "u32") if len(args) > 3 else args[2]
        return (f"cp_async(me, {self.address(args[0], 'u32')}, {self.address(args[1], 'u64')}, {args[2]}, {size}, "
                f"{self.line});")

    def mbarrier_wait(self, found, args):
        return self.assign(args[0], f"mbarrier_{found.group(1)}_parity(me, {self.address(args[1], 'u32')}, "
                                    f"{self.operand(args[2], 'u32')}, {self.line})", "pred")

    def mbarrier_arrive(self, _, args):
        if args[0] != "_":
            self.fail("mbarrier.arrive with a state")
        return f"mbarrier_arrive(me, {self.address(args[1], 'u32')}, {self.line});"

    def mbarrier_init(self, _, args):
        return f"mbarrier_init(me, {self.address(args[0], 'u32')}, {self.operand(args[1], 'u32')}, {self.line});"

    def wgmma(self, found, args):
        """The accumulators go over by address: they are written when the thread waits, not here."""
        n, kind = found.groups()
        d, a, b, scale_d, *immediate = args
        names = self.names(d)
        pointers = ", ".join("&" + self.register(x)[0] for x in names)
        if a.startswith("{"):
            registers = ", ".join("&" + self.register(x)[0] for x in self.names(a))
            code, where = f"uint32_t *const a[] = {{{registers}}};", "a, 0"
            immediate.insert(2, "0")  # A in registers has no transpose
        else:
            code, where = "", f"nullptr, {self.operand(a, 'b64')}"
        scale_a, scale_b, trans_a, trans_b = immediate
        return (f"{{ float *const d[] = {{{pointers}}}; {code} const wgmma_shape shape = {{{n}, {len(names)}, "
                f"{'true' if kind == 'bf16' else 'false'}, {scale_a}, {scale_b}, {trans_a}, {trans_b}}}; "
                f"wgmma_mma_async(me, shape, d, {where}, {self.operand(b, 'b64')}, {self.operand(scale_d, 'pred')}, "
                f"{self.line}); }}")

    def plain(self, found, args):
        """Instructions of numbers alone."""
        values = "".join(f"{self.operand(a, 'u32')}, " for a in args)
        return f"{re.sub(r'[^a-z0-9]+', '_', found.group(1))}(me, {values}{self.line});"

    HANDLERS = [
        (mma, r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.(f16|bf16)\.\1\.f32"),
        (ldmatrix, r"ldmatrix\.sync\.aligned\.m8n8\.x4(\.trans)?\.shared\.b16"),
        (movmatrix, r"movmatrix\.sync\.aligned\.m8n8\.trans\.b16"),
        (shfl, r"shfl\.sync\.(bfly|idx)\.b32"),
        (ballot, r"vote\.sync\.ballot\.b32"),
        (bar_sync, r"bar\.sync"),
        (cp_async, r"cp\.async\.cg\.shared\.global(?:\.L2::128B)?"),
        (plain, r"(cp\.async\.commit_group)"),
        (plain, r"(cp\.async\.wait_group)"),
        (mbarrier_init, r"mbarrier\.init\.shared::cta\.b64"),
        (mbarrier_arrive, r"mbarrier\.arrive\.shared::cta\.b64"),
        (mbarrier_wait, r"mbarrier\.(test_wait|try_wait)\.parity\.shared::cta\.b64"),
        (plain, r"(fence\.proxy\.async)\.shared::cta"),
        (plain, r"(wgmma\.fence)\.sync\.aligned"),
        (plain, r"(wgmma\.commit_group)\.sync\.aligned"),
        (plain, r"(wgmma\.wait_group)\.sync\.aligned"),
        (plain, r"(griddepcontrol\.(?:wait|launch_dependents))"),
        (plain, r"(setmaxnreg\.(?:inc|dec))\.sync\.aligned\.u32"),
        (wgmma, r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k16\.f32\.(f16|bf16)\.\2"),
    ]

    # ---------------------------------------------------------------- output

    def emit(self, out):
        write = lambda *lines: out.write("\n".join(lines) + "\n")
        write(f"// From {self.path} by translate.py.", '#include "ptx.h"', "", "namespace", "{", "")
        for align, name, size, values in self.tables.values():
            write(f"alignas({align}) const uint8_t {name}[{size}] = {{{values}}};",
                  f"const ptx_table table_{name}({name}, sizeof {name});")
        for i, e in enumerate(self.entries):
            write(f"constexpr uint32_t SHARED_{i} = {e.shared_bytes};", f"const ptx_loc locs_{i}[] = {{")
            write("    " + " ".join(f"{{{a},{','.join(rest)}}}," for a, *rest in e.locs) or "{}", "};")
            write(f"void run_{i}(ptx_thread *me, const char *param)", "{")
            by_type = {}
            for name, kind in e.registers.items():
                by_type.setdefault(C_TYPE[kind], []).append(name)
            for c_type, names in by_type.items():
                write(f"    {c_type} {', '.join(names)};")
            if e.local_bytes:
                write(f"    alignas(16) char depot[{e.local_bytes}];")
            dynamic = f"ptx_dynamic(SHARED_{i})"
            write("    " + "\n    ".join(line.replace("PTX_DYNAMIC(SHARED)", dynamic) for line in e.out), "}", "")
        write("const char *const files[] = {" + ", ".join(
            f'"{self.files.get(i, "")}"' for i in range(max(self.files, default=0) + 1)) + "};")
        for i, e in enumerate(self.entries):
            sizes = ", ".join(map(str, e.param_sizes))
            at = ", ".join(map(str, e.params.values()))
            write(f"const ptx_module module_{i}({{\"{e.name}\", run_{i}, {{{sizes}}}, {{{at}}}, {e.param_bytes}, "
                  f"SHARED_{i}, {e.max_threads}, \"{self.path.rsplit('/', 1)[-1]}\", "
                  f"locs_{i}, sizeof locs_{i} / sizeof *locs_{i}, files}});")
        write("", "} // namespace")


def main():
    unit = Translator(sys.argv[1])
    unit.run()
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        unit.emit(out)


if __name__ == "__main__":
    main()
