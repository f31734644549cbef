# judge.awk LOG…: the rows of bench logs in short, one a line, with the target that a row has and whether it is met; what
# compares rows of several logs (kivi beside full, wgmma beside the default, transformers) stands at the end.
# -v gpu=0: targets are left out (no timings on CPUs).

function say(text, target, ok) {
    if (target == "" || !gpu) printf "    %s\n", text
    else printf "    %-74s %s: %s\n", text, target, ok ? "ok" : "BELOW"
}
function least(text, value, want, what) { say(text, sprintf(">= %.4g%s", want, what), value >= want) }
function most(text, value, want, what) { say(text, sprintf("<= %.4g%s", want, what), value <= want) }
function compare(text, a, b, want) {
    if (a > 0 && b > 0) least(sprintf("%s: %.4g over %.4g = %.2f", text, a, b, a / b), a / b, want, " times")
}
function better(a, b) { return a > b ? a : b }

BEGIN { FS = "  +"; if (gpu == "") gpu = 1 }
FNR == 1 { file = FILENAME; sub(/.*\//, "", file); context = longest = mixed = 0 }
{ sub(/^ +/, ""); sub(/ +$/, ""); value = $2 + 0; ratio = $3 + 0 > 0 ? value / ($3 + 0) : $NF + 0 }

/^decode at / {
    split($1, part, /, /)
    context = substr(part[1], 11) + 0
    compressed = $1 !~ /, full, /
    mixed = mixed || compressed || $1 !~ /, 1 sequence$/
    if (context > longest) longest = context
    text = sprintf("%s: %s, %.3f of the copy rate", $1, $2, ratio)
    if (file ~ /serial/) say(text " (serial)")
    else if ($1 ~ /, 1 sequence$/) {
        key = compressed ? ($1 ~ /kivi:bits=2, / ? "kivi" : "") : "full"
        if (key != "") decode[key, context] = value
        if (compressed) least(text, ratio, 0.80, "")
        else if (context == 8192) least(text, ratio, 0.85, "")
        else if (context >= 32768) least(text, ratio, 0.80, "")
        else say(text)
    } else say(text)
    next
}
/ sequences over 1/ {
    if (context == 8192 && !compressed) least("  " $1 ": " $2, value, 6.5, " times")
    else say("  " $1 ": " $2)
    next
}
/sequences: no memory/ { say("  " $1); next }
/^cache / { if (!compressed) full[context] = value; next }
/^peak on the device, weights aside/ { # a prompt is compressed from a plain pass: both are there for a moment
    both = compressed ? full[context] : 0
    text = sprintf("  peak on the device by the program's count, less cache%s: %.0f MiB", both ? " and plain pass" : "", value - ($3 + 0) - both)
    if (context == 32768 && (both || !compressed)) most(text, value - ($3 + 0) - both, 1536, " MiB"); else say(text)
    next
}
/^GPU memory at most/ { # by the driver, of a whole program: judged where it held one full cache at a time
    if (file ~ /decode/ && !mixed && split($0, word, " ") && weights > 0 && full[longest] > 0) {
        rest = word[5] - weights - full[longest]
        text = sprintf("  GPU memory by nvidia-smi, less weights and full cache, at %d: %.0f MiB", longest, rest)
        if (longest == 32768) most(text, rest, 1536, " MiB"); else say(text)
    } else say("  by nvidia-smi: " $0)
    next
}
/^prefill of / {
    split($1, word, " ")
    where = file ~ /wgmma/ ? "wgmma" : "default"
    prefill[where, word[3]] = value
    text = sprintf("%s, %s: %s, %.3f of the product rate", $1, where, $2, ratio)
    if (word[3] == 8192) least(text, ratio, 0.60, ""); else say(text)
    next
}
/^attention [0-9].*TFLOP/ {
    split($0, word, " ")
    match($0, /, [0-9]+ TFLOP/)
    rate = substr($0, RSTART + 2) + 0
    if (word[2] + 0 == 16384) least($0, rate, 335, ""); else say($0)
    next
}
/^decode attention [0-9]/ { say($0); next }
/ rows( |$)/ && $2 ~ /FLOP|B\/s/ { say(sprintf("%s: %s, %.2f", $1, $2, ratio)); next }
/^device copy / { say($1 ": " $2); next }
/^time together over one by one/ {
    if (settings == 20) most("twenty settings together over one by one: " value, value, 0.25, ""); else say($1 ": " value)
    next
}
/^(prompt passes|decoding|units)/ { say("  " $1 ": " $2); next }
/^(copy|product) [0-9]/ { say("GPU: " $0); next }
/^transformers at / {
    split($0, word, " ")
    context = word[3] + 0
    say($0)
    peer[context] = 1
    peer_prefill[context] = word[5] + 0
    peer_decode[context] = word[8] + 0
}
END {
    compare("kivi:bits=2 over full, decode at 131072", decode["kivi", 131072], decode["full", 131072], 1.4)
    for (i = 2048; i <= 131072; i *= 2) {
        if (!peer[i]) continue
        compare("decode over transformers at " i, decode["full", i], peer_decode[i], 3)
        compare("prefill over transformers at " i, better(prefill["default", i], prefill["wgmma", i]), peer_prefill[i], 1.3)
    }
}
